"""How near the network comes to a given hand, and how many hands it has of its own.

    python train.py --task hand --model_dir save/judge --seed 7 --hand_size 48 --cell_size 128 --num_epochs 16
    python benchmarks/hands.py --judge save/judge/hand_best.pt --data data/iam-ondb.npz

The judge is an encoder of another seed and size that no network has learned from; forms are those of the validation
split, which no network has seen. Of each form two lines are given as the hand, and the others are what its hand is. A
line that is written has its place among the forms by its distance from the mean vectors of these others:

- rank: the share of the other forms that are further away than its own. Top 5: its own is among the nearest five.
- spread: one minus the cosine of two lines of different forms, or of different seeds, on the mean.
- reached: to how many of the forms a line is the nearest one, of as many lines as there are forms.
- wrong: the share of characters that the recogniser of save/ reads wrong; nothing is written twice.
- slopes: how well the slopes of the lines agree with those of the given lines, a correlation.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from handwriting.checks import load_recogniser
from handwriting.data.dataset import Dataset, load_dataset
from handwriting.encoder import HandEncoder
from handwriting.ink.formats import Ink, save, stack_lines
from handwriting.ink.geometry import find_level, resample, to_writing_scale
from handwriting.program import InputError, Parser, run_cli
from handwriting.recogniser import edit_distance
from handwriting.seeds import derived_seed
from handwriting.strokes import USUAL_STEP, to_points
from handwriting.writer import Writer
from utils import load_encoder

HERE = Path(__file__).parent
FORMS, GIVEN, PICTURED = 96, 2, 20
LEAST_LINES = 4  # of a form: those that are given and two that they are compared with


class Gallery(NamedTuple):
    """Forms to find a line's place among."""

    given: list[list[Ink]]  # of each form
    own: list[Ink]  # a recorded line of each form that is in no mean
    means: np.ndarray  # (FORMS, D), the judge's, of the form's other lines


def make_gallery(dataset: Dataset, judge: HandEncoder) -> Gallery:
    """The first `FORMS` forms of the validation split that have enough lines."""
    lines_of = defaultdict(list)
    for line in dataset.lines("validation", with_text=True):
        lines_of[str(dataset.names[line]).rpartition("-")[0]].append(line)
    forms = [lines for lines in lines_of.values() if len(lines) >= LEAST_LINES]
    forms = [forms[n] for n in np.linspace(0, len(forms) - 1, min(FORMS, len(forms))).round().astype(int)]
    if len(forms) < FORMS // 4:
        raise InputError(f"the validation split has only {len(forms)} forms with {LEAST_LINES} lines")
    inks = [[Ink(dataset.points(line), str(dataset.texts[line])) for line in lines] for lines in forms]
    means = [judge.encode([ink.points for ink in lines[GIVEN + 1 :]]).mean(0) for lines in inks]
    return Gallery([lines[:GIVEN] for lines in inks], [lines[GIVEN] for lines in inks], np.array(means))


def places(vectors: np.ndarray, gallery: Gallery) -> dict[str, float]:
    """Rank, top 5 and spread of a line's vector for each form, (FORMS, D)."""
    distances = np.linalg.norm(vectors[:, None] - gallery.means, axis=2)
    own = np.diag(distances)[:, None]
    return {"rank": (distances > own).sum(1).mean() / (len(own) - 1), "top 5": ((distances < own).sum(1) < 5).mean()}


def spread(vectors: np.ndarray) -> float:
    """One minus the cosine of two of the vectors (n, D), of length 1, on the mean."""
    return float((1 - vectors @ vectors.T)[np.triu_indices(len(vectors), 1)].mean())


def reached(vectors: np.ndarray, gallery: Gallery) -> int:
    """To how many forms one of the vectors (n, D) is nearer than to the other forms."""
    return len(set(np.linalg.norm(vectors[:, None] - gallery.means, axis=2).argmin(1).tolist()))


def write_in_hands(checkpoint: Path | None, gallery: Gallery, bias: float, **hand: float) -> list[Ink]:
    """A sentence in the hand of each form, or without `given` lines in hands that follow from the seeds.

    `primed`: it goes on from the last given line.
    """
    texts = (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()
    given, strength = int(hand.get("given", GIVEN)), hand.get("strength", 1.0)
    inks = []
    for n, lines in enumerate(gallery.given):
        style = [Ink(ink.points) for ink in lines[:given]] or None
        prime = lines[given - 1] if hand.get("primed") else None
        writer = Writer(checkpoint, style, bias, 0, retries=0, strength=strength, prime=prime)
        inks += writer.write_lines([texts[n % len(texts)]], [derived_seed("hands", n)])
    return inks


def measure(inks: list[Ink], judge: HandEncoder, gallery: Gallery, is_given: bool) -> dict[str, float]:
    """The columns of the table for a line of ink for each form."""
    vectors, read = judge.encode([ink.points for ink in inks]), load_recogniser().read([ink.points for ink in inks])
    errors = sum(edit_distance(ink.text, said) for ink, said in zip(inks, read, strict=True))
    found = {"spread": spread(vectors), "reached": reached(vectors, gallery)}
    found["wrong"] = errors / sum(len(ink.text) for ink in inks)
    if is_given:
        given = [np.mean([find_level(ink.strokes).slope for ink in lines]) for lines in gallery.given]
        found["slopes"] = float(np.corrcoef(given, [find_level(ink.strokes).slope for ink in inks])[0, 1])
    return (places(vectors, gallery) if is_given else {}) | found


def print_row(name: str, found: dict[str, float]) -> None:
    """A row of the table."""
    forms = {
        "rank": "{:.3f}",
        "top 5": "{:.0%}",
        "spread": "{:.2f}",
        "reached": "{}",
        "wrong": "{:.1%}",
        "slopes": "{:.2f}",
    }
    cells = (forms[column].format(found[column]) if column in found else "" for column in forms)
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description="Measure how near the network comes to given hands, and how many it has of its own.")
    add = parser.add_argument
    add("--judge", type=Path, required=True, help="an encoder that no network has learned from")
    add("--data", type=Path, default=Path("data/iam-ondb.npz"), help="prepared data (default: %(default)s)")
    add("--checkpoint", type=Path, help="the network (default: save/synthesis.pt)")
    add("--picture", type=Path, help=f"draw {PICTURED} hands that follow from seeds")
    options = parser.parse_args(arguments)
    judge, dataset, checkpoint = load_encoder(options.judge), load_dataset(options.data), options.checkpoint
    gallery = make_gallery(dataset, judge)
    print("| ink | rank | top 5 | spread | reached | characters wrong | slopes |\n|---|---|---|---|---|---|---|")
    print_row("another recorded line of the form", measure(gallery.own, judge, gallery, True))
    for name, change in (
        ("resampled at equal steps", lambda ink: to_points([resample(s, USUAL_STEP) for s in ink.strokes])),
        ("brought to the usual x-height", lambda ink: to_writing_scale(ink.strokes)),
    ):  # fmt: skip
        print_row(f"that line, {name}", places(judge.encode([change(ink) for ink in gallery.own]), gallery))
    for name, hand in (
        ("two given lines", {}), ("one given line", {"given": 1}), ("two, strength 1.4", {"strength": 1.4}),
        ("two, going on from one of them", {"primed": True}),
    ):  # fmt: skip
        print_row(f"{name}, bias 0.5", measure(write_in_hands(checkpoint, gallery, 0.5, **hand), judge, gallery, True))
    for bias in (0.5, 1.0):
        inks = write_in_hands(checkpoint, gallery, bias, given=0)
        print_row(f"no given hand, bias {bias:g}", measure(inks, judge, gallery, False))
    if options.picture:
        inks = write_in_hands(checkpoint, gallery, 0.5, given=0)[:PICTURED]
        save([stack_lines(inks)], options.picture)


if __name__ == "__main__":
    run_cli(main)
