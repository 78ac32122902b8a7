"""Whether a line can be cut into its letters by `Ink.characters`, which follows the window over the text.

    python benchmarks/segmentation.py    # some two minutes on two cores

The judge is the recogniser, which knows nothing of the window. Lines that it reads without a mistake are aligned with
their text: the likeliest way to read the text in them (Viterbi, over the labels of CTC) has for each letter a frame
where it is surest of it. The network's character of the point in the frame's middle should be that letter. Beside it
stands the same for a line that is cut into equal pieces, one for each character.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from handwriting.checks import CPU, find_recogniser
from handwriting.ink.formats import Ink
from handwriting.ink.geometry import resample
from handwriting.program import InputError, Parser, run_cli
from handwriting.recogniser import BLANK, MAX_POINTS, SPACING, Recogniser, collate_features, features, straighten
from handwriting.seeds import derived_seed
from handwriting.strokes import to_strokes
from handwriting.writer import Writer

SENTENCES = Path(__file__).parent / "sentences.txt"


def forced_alignment(log_probabilities: np.ndarray, labels: list[int]) -> np.ndarray:
    """Where the likeliest alignment of labels (U,) has each one at its surest, (U,): frames of (S, C + 1).

    An alignment gives each frame a label or a blank, in the labels' order, and between two equal ones a blank
    (Graves et al. 2006). Raises ValueError if there are too few frames.
    """
    states = [BLANK, *(state for label in labels for state in (label, BLANK))]  # (2U + 1,)
    skips = np.array([n > 1 and state != BLANK and state != states[n - 2] for n, state in enumerate(states)])
    scores = np.full(len(states), -np.inf)  # of the best way that ends in a state
    scores[:2] = log_probabilities[0, states[:2]]
    came_from = np.zeros((len(log_probabilities), len(states)), dtype=int)  # how many states back
    for t, frame in enumerate(log_probabilities[1:], 1):
        ways = np.full((3, len(states)), -np.inf)
        ways[0], ways[1, 1:], ways[2, 2:] = scores, scores[:-1], np.where(skips[2:], scores[:-2], -np.inf)
        came_from[t] = ways.argmax(0)
        scores = ways.max(0) + frame[states]
    state = len(states) - 1 if scores[-1] >= scores[-2:][0] else len(states) - 2
    if not np.isfinite(scores[state]):
        raise ValueError(f"{len(log_probabilities)} frames are too few for {len(labels)} labels")
    path = np.empty(len(log_probabilities), dtype=int)
    for t in reversed(range(len(path))):
        path[t] = state
        state -= came_from[t, state]
    runs = [np.flatnonzero(path == 2 * n + 1) for n in range(len(labels))]
    return np.array([run[log_probabilities[run, label].argmax()] for run, label in zip(runs, labels, strict=True)])


def resampled_places(points: np.ndarray) -> np.ndarray:
    """Which of the points (T, 3) is nearest to each point that the recogniser sees, (N,): see `recogniser.features`."""
    strokes = straighten(to_strokes(points))
    lengths = [np.hypot(*np.diff(stroke, axis=0).T).cumsum() for stroke in strokes]  # to each point but the first
    spacing = max(SPACING, sum(length[-1] for length in lengths if len(length)) / MAX_POINTS)
    places, first = [], 0
    for stroke, length in zip(strokes, lengths, strict=True):
        ways = np.append(0.0, length)
        wanted = np.linspace(0, ways[-1], max(2, len(resample(stroke, spacing))))  # a dot is two points
        places.append(first + np.abs(ways - wanted[:, None]).argmin(1))
        first += len(stroke)
    return np.concatenate(places)


def letter_points(ink: Ink, recogniser: Recogniser) -> tuple[np.ndarray, np.ndarray]:
    """The letters of a line, blanks left out: their places in the text (n,), and the point where each is read (n,)."""
    places = np.array([place for place, character in enumerate(ink.text) if character != " "])
    with torch.no_grad():
        log_probabilities, _ = recogniser(*collate_features([features(ink.points)]))
    labels = [recogniser.config.charset.index(character) + 1 for character in ink.text]
    frames = forced_alignment(log_probabilities[:, 0].numpy(), labels)[places]
    seen = resampled_places(ink.points)
    return places, seen[4 * frames]


def shares(found: np.ndarray, places: np.ndarray) -> tuple[float, float]:
    """Of letters at `places` (n,) of a text: the share found there (n,), and there or at a neighbour."""
    distance = np.abs(found - places)
    return float((distance == 0).mean()), float((distance <= 1).mean())


def main(arguments: list[str] | None = None) -> None:
    """Write, read, and print the table."""
    parser = Parser(description="Compare the window's letters with the recogniser's.")
    parser.add_argument("--lines", type=int, default=200, help="that are written (default: %(default)s)")
    options = parser.parse_args(arguments)
    recogniser = find_recogniser(CPU)
    if recogniser is None:
        raise InputError("letters are compared with what the recogniser reads; save/recogniser.pt is missing")
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()[: options.lines]
    inks = Writer(retries=0).write_lines(texts, [derived_seed("segmentation", number) for number in range(len(texts))])
    said = recogniser.read([ink.points for ink in inks])
    read = [ink for ink, text in zip(inks, said, strict=True) if ink.text == text]
    if not read:
        raise InputError(f"none of {len(inks)} lines is read without a mistake; write more --lines")
    by_window, by_width, all_places = [], [], []
    for ink in read:
        places, points = letter_points(ink, recogniser)
        x = np.cumsum(ink.points[:, 0])
        all_places.append(places)
        by_window.append(np.asarray(ink.characters)[points])
        by_width.append(np.floor((x[points] - x.min()) / np.ptp(x) * len(ink.text)))
    places = np.concatenate(all_places)
    print(f"{len(read)} of {len(inks)} lines are read without a mistake: {len(places)} letters")
    print("| cut by | at its own letter | or a neighbour |\n|---|---|---|")
    for name, found in (("the window", by_window), ("equal pieces", by_width)):
        own, near = shares(np.concatenate(found), places)
        print(f"| {name} | {own:.1%} | {near:.1%} |")


if __name__ == "__main__":
    run_cli(main)
