"""Choose hands for save/styles/ among lines that the network makes up, and measure the hands that are there.

    python benchmarks/styles.py --make 12     # writes save/styles/hand-01.json and so on, some five minutes
    python benchmarks/styles.py               # the table of the hands that are there

A hand is a line of the network's own, read without a mistake. Of many, those are chosen that are furthest apart in
slant, x-height to width, letter spacing, speed and joins (`ink.geometry.hand_measures`), and of those only the ones
that the network writes well in: at most `MAX_RATE` of the characters of `SENTENCES` sentences are read wrong.
The table tells that rate, and whether lines primed by a hand are nearer to it than to the others.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from checks import check_lines, find_reader
from ink.formats import Ink
from ink.geometry import hand_measures
from reader import edit_distance
from utils import InputError, run_cli
from writer import STYLES, Writer, derived_seed, list_styles, load_style

HERE = Path(__file__).parent
TEXTS = ("We saw her again in a warm room.", "I am never sure when summer comes.", "A new sun rose over our river.")
CANDIDATES = 360  # lines that are written to choose from
BIASES = (0.4, 0.6, 0.8, 1.0)
SENTENCES = 40
MAX_RATE = 0.03
MAX_RESTING = 3  # steps in a row: as in recorded lines
BIAS = 0.75  # that the hands are tried at


def measures(ink: Ink) -> np.ndarray:
    """The measures of a hand, (5,)."""
    found = hand_measures(ink.strokes, ink.text, ink.characters)
    return np.array([found.slant, found.aspect, found.spacing, found.speed, found.joins])


def write_candidates(seed: int) -> list[Ink]:
    """Lines that are read without a mistake, in hands that the network makes up."""
    inks = []
    for number, bias in enumerate(BIASES):
        writer = Writer(bias=bias, seed=seed, retries=0)
        texts = [TEXTS[n % len(TEXTS)] for n in range(CANDIDATES // len(BIASES))]
        seeds = [derived_seed(seed, number, n) for n in range(len(texts))]
        lines = writer.write_raw(texts, seeds)
        verdicts = check_lines(lines, with_reader=True)
        for line, line_seed, verdict in zip(lines, seeds, verdicts, strict=True):
            if verdict.finished and not verdict.errors and verdict.resting <= MAX_RESTING:
                inks.append(writer.to_ink(line, line_seed))
    return [ink for ink in inks if np.isfinite(measures(ink)).all()]


def read_sentences() -> list[str]:
    """Every fifth sentence of the quality benchmark."""
    texts = (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()
    return texts[:: len(texts) // SENTENCES][:SENTENCES]


def try_hand(hand: Ink | str, seed: int) -> tuple[float, np.ndarray]:
    """Write the sentences in a hand. Returns the share of characters read wrong and the lines' measures (n, 5)."""
    writer = Writer(style=hand, bias=BIAS, seed=seed, retries=0)
    texts = read_sentences()
    inks = writer.write_lines(texts, [derived_seed(seed, n) for n in range(len(texts))])
    reader = find_reader()
    if reader is None:
        raise InputError("hands are chosen by what the reader reads; save/reader.pt is missing")
    said = reader.read([ink.points for ink in inks])
    errors = sum(edit_distance(ink.text, text.strip()) for ink, text in zip(inks, said, strict=True))
    found = np.array([measures(ink) for ink in inks])
    return errors / sum(len(ink.text) for ink in inks), found[np.isfinite(found).all(1)]


def choose_hands(inks: list[Ink], count: int, seed: int) -> list[Ink]:
    """Hands that are far apart and well written: each the furthest from those before it (Gonzalez 1985)."""
    found = np.array([measures(ink) for ink in inks])
    scaled = (found - np.median(found, 0)) / (np.percentile(found, 90, 0) - np.percentile(found, 10, 0))
    scaled = scaled.clip(-1.5, 1.5)  # one odd measure is not five
    distance = np.full(len(inks), np.inf)
    distance[:] = np.hypot(*scaled.T[:2]) + 100  # the first is the one with the most slant and width
    chosen: list[Ink] = []
    while len(chosen) < count and np.isfinite(distance).any() and distance.max() > 0:
        place = int(distance.argmax())
        rate, _ = try_hand(inks[place], seed)
        print(f"candidate {place}: {rate:.1%} of characters wrong", flush=True)
        if rate <= MAX_RATE:
            chosen.append(inks[place])
            distance = np.minimum(distance, np.linalg.norm(scaled - scaled[place], axis=1))
        distance[place] = -1
    return chosen


def print_table(names: list[str], seed: int) -> None:
    """The measures and the rate of each hand, and of how many its lines' mean is nearest to its own."""
    hands = np.array([measures(load_style(name)) for name in names])
    tried = [try_hand(name, seed) for name in names]
    means = np.array([found.mean(0) for _, found in tried])
    within = np.mean([found.std(0) for _, found in tried], axis=0)  # how much lines of one hand differ
    print("| style | slant, degrees | x-height / width | spacing | speed | strokes a letter | wrong | nearest |")
    print("|---|---|---|---|---|---|---|---|")
    own = 0
    for n, name in enumerate(names):
        nearest = int(np.linalg.norm((hands - means[n]) / within, axis=1).argmin())
        own += nearest == n
        values = " | ".join(f"{value:.2f}" for value in hands[n])
        print(f"| {name} | {values} | {tried[n][0]:.1%} | {names[nearest]} |")
    print(f"{own} of {len(names)} hands are the nearest to what is written in them")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Choose hands, or measure those that there are.")
    parser.add_argument("--make", type=int, metavar="COUNT", help="choose so many, in place of those that there are")
    parser.add_argument("--seed", type=int, default=0, help="of the lines to choose from (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.make:
        inks = write_candidates(options.seed)
        print(f"{len(inks)} of {CANDIDATES} lines are read without a mistake")
        hands = choose_hands(inks, options.make, options.seed)
        for path in STYLES.glob("*.json"):
            path.unlink()
        for number, ink in enumerate(hands, 1):
            ink.save(STYLES / f"hand-{number:02}.json")
    if not list_styles():
        raise InputError("there are no styles; make some with --make 12")
    print_table(list_styles(), options.seed)


if __name__ == "__main__":
    run_cli(main)
