"""Choose hands for save/styles/ among those that follow from seeds, and measure the hands that are there.

    python benchmarks/styles.py --make 12 --seed 1    # writes save/styles/alma.json and so on, some minutes
    python benchmarks/styles.py                       # the table of the hands that are there

A hand is a line that the network has written without a mistake in a random hand, as it is or sheared and stretched. Of
`CANDIDATES` lines those are chosen whose hands are far apart by the encoder, and of them only hands that the network
writes well in: at most `MAX_RATE` of the characters of `SENTENCES` sentences are read wrong, and letters keep their
size along the line. The table tells that rate, slant, x-height to width, strokes a letter, how the size changes, and
how often the hand is the nearest to a line that is written in it.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
from handwriting.checks import CPU, check_lines, find_recogniser
from handwriting.hands import STYLES, list_styles, load_style
from handwriting.ink.formats import Ink
from handwriting.ink.geometry import find_level, find_slant, hand_aspect
from handwriting.program import InputError, Parser, run_cli
from handwriting.recogniser import edit_distance
from handwriting.seeds import derived_seed
from handwriting.writer import Writer

HERE = Path(__file__).parent
TEXTS = ("We saw her again in a warm room.", "I am never sure when summer comes.", "A new sun rose over our river.")
NAMES = ("alma", "ben", "clara", "david", "ella", "fred", "greta", "hugo", "irma", "leo", "mona", "nils")
CANDIDATES = 240  # lines that are written to choose from
STRENGTHS = (1.1, 1.45, 1.8)  # of their hands, which the bias weakens: to 1, 1.3 and 1.6
FORMS = ((0.0, 1.0), (0.35, 1.0), (-0.3, 1.0), (0.0, 1.25), (0.0, 0.85))  # shear to the right, and width
FLAT_LETTERS = "acemnorsuvwxz"
SENTENCES, FEW = 40, 8  # that a hand is tried with, and at first
MAX_RATE = 0.02
MAX_CHANGE = 0.12  # of the letters' height from the first half of the lines to the second
BIAS = 0.75  # that the hands are tried at


class Tried(NamedTuple):
    """What the network writes in a hand."""

    rate: float  # share of characters that are read wrong
    change: float  # of the letters' height along the line, as a share
    vectors: np.ndarray  # (n, D), the encoder's, of the lines


def measures(ink: Ink) -> np.ndarray:
    """What tells one hand from another by eye, (3,).

    The slant, in degrees from the vertical, positive to the right; the x-height by the mean advance of a character;
    strokes a letter: 1 and more for print, less for joined letters.
    """
    level = find_level(ink.strokes)
    moved = [level.apply(stroke) for stroke in ink.strokes]
    joins = len(ink.strokes) / len(ink.text.replace(" ", ""))
    return np.array([find_slant(moved), hand_aspect(ink.strokes, ink.text), joins])


def letter_heights(ink: Ink) -> tuple[list[float], list[float]]:
    """The heights of the flat letters in the first and in the second half of a line, in whiteboard units."""
    y = np.cumsum(ink.points[:, 1], dtype=float)
    halves: tuple[list[float], list[float]] = ([], [])
    for place, character in enumerate(ink.text):
        if character in FLAT_LETTERS and np.sum(ink.characters == place) > 2:
            halves[2 * place >= len(ink.text)].append(float(np.ptp(y[ink.characters == place])))
    return halves


def reshaped(ink: Ink, shear: float, width: float) -> Ink:
    """Ink with x + `shear` to the right for each unit upwards, and made wider by the factor `width`."""
    matrix = np.array([[width, 0], [-shear, 1]])  # of (x, y) as a row, y downwards
    points = np.column_stack([ink.points[:, :2] @ matrix, ink.points[:, 2]]).astype(np.float32)
    return replace(ink, points=points)


def write_candidates(seed: int) -> list[Ink]:
    """Lines that are read without a mistake, in hands that follow from seeds."""
    inks = []
    for strength in STRENGTHS:
        writer = Writer(bias=BIAS, seed=seed, retries=0, strength=strength)
        count = CANDIDATES // len(STRENGTHS)
        texts = [writer.prepare(TEXTS[n % len(TEXTS)]) for n in range(count)]
        seeds = [derived_seed("candidate", seed, n) for n in range(count)]
        lines = writer.write_raw(texts, seeds)
        for line, text, line_seed, verdict in zip(lines, texts, seeds, check_lines(lines, True), strict=True):
            if verdict.finished and not verdict.is_doubtful:
                inks.append(reshaped(writer.to_ink(line, text, line_seed), *FORMS[len(inks) % len(FORMS)]))
    return inks


def try_hand(hand: Ink | str, seed: int, count: int) -> Tried:
    """Write `count` sentences in a hand."""
    writer = Writer(style=hand, bias=BIAS, seed=seed, retries=0)
    if writer.network.encoder is None or (recogniser := find_recogniser(CPU)) is None:
        raise InputError("hands are chosen by an encoder and a recogniser; the network or save/recogniser.pt has none")
    texts = (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()
    texts = texts[:: len(texts) // count][:count]
    inks = writer.write_lines(texts, [derived_seed("sentence", seed, n) for n in range(count)])
    said = recogniser.read([ink.points for ink in inks])
    errors = sum(edit_distance(ink.text, text.strip()) for ink, text in zip(inks, said, strict=True))
    first, second = (np.concatenate(each) for each in zip(*map(letter_heights, inks), strict=True))
    change = float(np.median(second) / np.median(first) - 1)
    vectors = writer.network.encoder.encode([ink.points for ink in inks])
    return Tried(errors / sum(len(ink.text) for ink in inks), change, vectors)


def is_good(tried: Tried, most: float = MAX_RATE) -> bool:
    """Whether a hand is legible and keeps its size."""
    return tried.rate <= most and abs(tried.change) <= MAX_CHANGE


def choose_hands(inks: list[Ink], count: int, seed: int) -> list[Ink]:
    """Good hands whose lines are far apart: each the furthest from those before it (Gonzalez 1985)."""
    tried = [try_hand(ink, seed, FEW) for ink in tqdm(inks, disable=None)]
    kept = [n for n, each in enumerate(tried) if is_good(each, 2 * MAX_RATE)]
    means = np.array([tried[n].vectors.mean(0) for n in kept])
    distance, chosen = np.linalg.norm(means - means.mean(0), axis=1), []  # the first is the oddest
    while len(chosen) < count and distance.max(initial=-1) > 0:
        place = int(distance.argmax())
        found = try_hand(inks[kept[place]], seed, SENTENCES)
        if is_good(found):
            print(f"hand {len(chosen) + 1}: {distance[place]:.2f} from the others, {found.rate:.1%} wrong", flush=True)
            apart = np.linalg.norm(means - means[place], axis=1)
            distance = np.where(distance < 0, -1, apart if not chosen else np.minimum(distance, apart))
            chosen.append(place)
        distance[place] = -1
    return [inks[kept[place]] for place in chosen]


def print_table(names: list[str], seed: int) -> None:
    """The measures of each hand, and of what is written in it."""
    tried = [try_hand(name, seed, SENTENCES) for name in names]
    means = np.array([each.vectors.mean(0) for each in tried])
    print("| style | slant, degrees | x-height / width | strokes a letter | wrong | size along the line | nearest |")
    print("|---|---|---|---|---|---|---|")
    for n, (name, each) in enumerate(zip(names, tried, strict=True)):
        slant, aspect, joins = measures(load_style(name))
        is_nearest = np.linalg.norm(each.vectors[:, None] - means, axis=2).argmin(1) == n
        print(
            f"| {name} | {slant:.0f} | {aspect:.2f} | {joins:.2f} | {each.rate:.1%} | {each.change:+.0%} | "
            f"{is_nearest.mean():.0%} |"
        )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description="Choose hands, or measure those that there are.")
    counts = range(1, len(NAMES) + 1)
    help_make = f"choose so many, {len(NAMES)} at most, in place of those that there are"
    parser.add_argument("--make", type=int, metavar="COUNT", choices=counts, help=help_make)
    parser.add_argument("--seed", type=int, default=0, help="of the lines to choose from (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.make:
        inks = write_candidates(options.seed)
        print(f"{len(inks)} of {CANDIDATES} lines are read without a mistake")
        hands = choose_hands(inks, options.make, options.seed)
        for path in STYLES.glob("*.json"):
            path.unlink()
        for name, ink in zip(NAMES, hands, strict=False):  # there may be fewer good ones than asked for
            ink.save(STYLES / f"{name}.json")
    if not list_styles():
        raise InputError("there are no styles; make some with --make 12")
    print_table(list_styles(), options.seed)


if __name__ == "__main__":
    run_cli(main)
