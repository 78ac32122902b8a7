"""Choose hands for save/styles/ among lines that the network makes up, and measure the hands that are there.

    python benchmarks/styles.py --make 12     # writes save/styles/alma.json and so on, some ten minutes
    python benchmarks/styles.py               # the table of the hands that are there

A hand is a line of the network's own, read without a mistake, as it is or sheared and stretched. What the network
writes after it is measured: slant, x-height to width, letter spacing, speed and joins (`measures`).
Those hands are chosen whose lines are furthest apart, and of them only hands that the network writes well in: at most
`MAX_RATE` of the characters of `SENTENCES` sentences are read wrong. The table tells that rate, and whether the lines
written in a hand are, on the mean, nearer to it than to the other hands.
"""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
from handwriting.checks import check_lines, find_recogniser
from handwriting.hands import STYLES, list_styles, load_style
from handwriting.ink.formats import Ink
from handwriting.ink.geometry import find_level, find_slant, hand_aspect, segments
from handwriting.program import InputError, Parser, run_cli
from handwriting.recogniser import edit_distance
from handwriting.seeds import derived_seed
from handwriting.writer import Writer

HERE = Path(__file__).parent
TEXTS = ("We saw her again in a warm room.", "I am never sure when summer comes.", "A new sun rose over our river.")
NAMES = ("alma", "ben", "clara", "david", "ella", "fred", "greta", "hugo", "irma", "leo", "mona", "nils")
CANDIDATES = 300  # lines that are written to choose from
BIASES = (0.15, 0.3, 0.5)
FORMS = ((0.0, 1.0), (0.4, 1.0), (-0.4, 1.0), (0.0, 1.3), (0.0, 0.8))  # shear to the right, and width
TRIED = 150  # hands of which it is measured what the network writes in them
SENTENCES, FEW = 40, 8  # that a hand is tried with, and at first
MAX_RATE = 0.03
MAX_RESTING = 3  # steps in a row: as in recorded lines
BIAS = 0.75  # that the hands are tried at


def measures(ink: Ink) -> np.ndarray:
    """What tells one hand from another, (5,).

    The slant, in degrees from the vertical, positive to the right; the x-height by the mean advance of a character; the
    median gap between neighbouring letters of a word, in x-heights, NaN if it is not known which points are a letter's;
    the mean step within strokes, in x-heights; strokes a letter: 1 and more for print, less for joined letters.
    """
    level = find_level(ink.strokes)
    moved = [level.apply(stroke) for stroke in ink.strokes]
    x = np.concatenate(moved)[:, 0]
    own = [x[ink.characters == place] if letter != " " else x[:0] for place, letter in enumerate(ink.text)]
    gaps = [after.min() - before.max() for before, after in pairwise(own) if len(before) and len(after)]
    spacing = np.median(gaps) / level.x_height if gaps else np.nan
    lengths = np.hypot(*segments(ink.strokes)[1].T)
    speed = lengths.mean() / level.x_height if len(lengths) else np.nan
    joins = len(ink.strokes) / len(ink.text.replace(" ", ""))
    return np.array([find_slant(moved), hand_aspect(ink.strokes, ink.text), spacing, speed, joins])


def write_candidates(seed: int) -> list[Ink]:
    """Lines that are read without a mistake, in hands that the network makes up."""
    inks = []
    for number, bias in enumerate(BIASES):
        writer = Writer(bias=bias, seed=seed, retries=0)
        texts = [writer.prepare(TEXTS[n % len(TEXTS)]) for n in range(CANDIDATES // len(BIASES))]
        seeds = [derived_seed("candidate", seed, number, n) for n in range(len(texts))]
        lines = writer.write_raw(texts, seeds)
        verdicts = check_lines(lines, with_recogniser=True)
        for line, text, line_seed, verdict in zip(lines, texts, seeds, verdicts, strict=True):
            if verdict.finished and not verdict.errors and verdict.resting <= MAX_RESTING:
                inks.append(writer.to_ink(line, text, line_seed))
    return [ink for ink in inks if np.isfinite(measures(ink)).all()]


def reshaped(ink: Ink, shear: float, width: float) -> Ink:
    """Ink with x + `shear` to the right for each unit upwards, and made wider by the factor `width`."""
    matrix = np.array([[width, 0], [-shear, 1]])  # of (x, y) as a row, y downwards
    points = np.column_stack([ink.points[:, :2] @ matrix, ink.points[:, 2]]).astype(np.float32)
    return replace(ink, points=points)


def read_sentences(count: int) -> list[str]:
    """Sentences of the quality benchmark, evenly spread."""
    texts = (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()
    return texts[:: len(texts) // count][:count]


def try_hand(hand: Ink | str, seed: int, count: int) -> tuple[float, np.ndarray]:
    """Write sentences in a hand. Returns the share of characters read wrong and the lines' measures (n, 5)."""
    writer = Writer(style=hand, bias=BIAS, seed=seed, retries=0)
    texts = read_sentences(count)
    inks = writer.write_lines(texts, [derived_seed("sentence", seed, n) for n in range(len(texts))])
    recogniser = find_recogniser()
    if recogniser is None:
        raise InputError("hands are chosen by what the recogniser reads; save/recogniser.pt is missing")
    said = recogniser.read([ink.points for ink in inks])
    errors = sum(edit_distance(ink.text, text.strip()) for ink, text in zip(inks, said, strict=True))
    found = np.array([measures(ink) for ink in inks])
    return errors / sum(len(ink.text) for ink in inks), found[np.isfinite(found).all(1)]


def nearest_hands(hands: np.ndarray, means: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Which of n hands, by its own measures (n, 5), is nearest to the mean of the lines written in each, (n, 5).

    Differences are divided by `within` (5,), how much lines of one hand differ. Returns indices (n,).
    """
    return np.linalg.norm((hands[None] - means[:, None]) / within, axis=2).argmin(1)


def choose_hands(inks: list[Ink], count: int, seed: int) -> list[Ink]:
    """Hands whose lines are far apart and well written: each the furthest from those before it (Gonzalez 1985)."""
    hands = [reshaped(ink, *FORMS[n % len(FORMS)]) for n, ink in enumerate(inks)][:TRIED]
    tried = [try_hand(hand, seed, FEW) for hand in tqdm(hands)]
    kept = [n for n, (rate, found) in enumerate(tried) if rate <= 2 * MAX_RATE and len(found) > FEW // 2]
    means, within = (np.array([tried[n][1].mean(0) for n in kept]), np.mean([tried[n][1].std(0) for n in kept], axis=0))
    own = np.array([measures(hands[n]) for n in kept])
    distance = np.linalg.norm((means - np.median(means, 0)) / within, axis=1)  # the first is the oddest
    chosen: list[int] = []
    while len(chosen) < count and distance.max(initial=-1) > 0:
        place = int(distance.argmax())
        group = [*chosen, place]
        are_nearest = (nearest_hands(own[group], means[group], within) == np.arange(len(group))).all()
        rate = try_hand(hands[kept[place]], seed, SENTENCES)[0] if are_nearest else 1.0
        if rate <= MAX_RATE:
            print(f"hand {len(chosen) + 1}: {distance[place]:.1f} from the others, {rate:.1%} wrong", flush=True)
            chosen.append(place)
            apart = np.linalg.norm((means - means[place]) / within, axis=1)
            distance = np.where(distance < 0, -1, apart) if len(chosen) == 1 else np.minimum(distance, apart)
        distance[place] = -1
    return [hands[kept[place]] for place in chosen]


def print_table(names: list[str], seed: int) -> None:
    """The measures and the rate of each hand, and of how many its lines' mean is nearest to its own."""
    hands = np.array([measures(load_style(name)) for name in names])
    tried = [try_hand(name, seed, SENTENCES) for name in names]
    means = np.array([found.mean(0) for _, found in tried])
    within = np.mean([found.std(0) for _, found in tried], axis=0)  # how much lines of one hand differ
    print("| style | slant, degrees | x-height / width | spacing | speed | strokes a letter | wrong | nearest |")
    print("|---|---|---|---|---|---|---|---|")
    nearest, own = nearest_hands(hands, means, within), 0
    for n, name in enumerate(names):
        own += nearest[n] == n
        values = " | ".join(f"{hand:.2f} {mean:.2f}" for hand, mean in zip(hands[n], means[n], strict=True))
        print(f"| {name} | {values} | {tried[n][0]:.1%} | {names[nearest[n]]} |")
    print(f"{own} of {len(names)} hands are the nearest to what is written in them")


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
