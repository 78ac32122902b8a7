"""Recorded lines cut into words and single characters, where their strokes are their own.

A trained network tells which character each recorded point belongs to, by its window (section 5.1). Lengths are in
x-heights of a line, measured from its baseline, unless said otherwise.
"""

import string
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from tqdm import tqdm

from handwriting.data.dataset import Dataset
from handwriting.recogniser import Recogniser, align
from handwriting.strokes import to_strokes
from handwriting.training.batches import collate, make_batches, pad_codes
from handwriting.writer import Network
from model import Window, window_weights

FLAT_LETTERS = set("acemnorsuvwxz")  # they reach from the baseline to the x-height
TOKEN_CHARACTERS = set(string.digits + string.ascii_uppercase + ":/.,-+()")  # what new words are made of
MIN_OWN = 0.6  # share of the points of a stroke that its character or word must have: the window runs a little ahead
ALIGN_BATCH = 32
SIGNS = {  # limits on a sign's height, top and bottom, y downwards from the baseline, and its number of strokes
    ".": (0.5, -0.6, 0.4, 1), ",": (1.5, -0.6, 1.5, 1), ":": (1.8, -1.8, 0.5, 2), "-": (0.6, -1.3, 0.0, 1),
    "/": (5.0, -3.5, 1.5, 1), "(": (5.0, -3.5, 1.5, 1), ")": (5.0, -3.5, 1.5, 1), "+": (2.0, -2.0, 0.4, 2),
}  # fmt: skip


@dataclass(frozen=True)
class Cutting:
    """Ink of a character or word."""

    text: str
    strokes: list[np.ndarray]  # (n, 2) each; x from the left edge, y downwards from the baseline
    slant: float  # of the line that it comes from: x a unit of y upwards

    @property
    def width(self) -> float:
        """From the left edge to the right one."""
        return max(stroke[:, 0].max() for stroke in self.strokes)


@dataclass(frozen=True)
class CutLine:
    """A training line in pieces."""

    words: list[Cutting]  # none if they share strokes
    gaps: list[float]  # between the words
    glyphs: list[Cutting]  # characters whose strokes are their own
    slope: float  # of the baseline
    x_height: float  # whiteboard units
    slant: float


def cut_lines(network: Network, recogniser: Recogniser, dataset: Dataset, lines: np.ndarray) -> list[CutLine]:
    """Lines of a data set, by number, cut; those that cannot be measured are left out.

    A line's glyphs are characters that the recogniser reads as what they are, of the usual size and place.
    """
    characters = align_characters(network, dataset, lines)
    points, texts = [dataset.points(line) for line in lines], dataset.texts[lines].tolist()
    found = []
    for line, ink, text, read in zip(lines.tolist(), points, texts, recogniser.read(points), strict=True):
        found.append(cut_line(ink, characters[line], text, places_read_right(text, read)))
    return [cut for cut in found if cut]


@torch.inference_mode()
def align_characters(network: Network, dataset: Dataset, lines: np.ndarray) -> dict[int, np.ndarray]:
    """For each line, by its number, the place in its text of the character that each point belongs to, (T,).

    That is the one on which the network's window is strongest before the point.
    """
    found, model = {}, network.model
    lengths = np.diff(dataset.starts)[lines]
    for batch in tqdm(make_batches(lengths, ALIGN_BATCH), unit=" batches", desc="aligning", disable=None):
        codes = [torch.from_numpy(network.alphabet.encode(str(text))) for text in dataset.texts[lines[batch]]]
        points, _, _ = collate([dataset.points(line) for line in lines[batch]])
        _, _, windows = model(model.normalise(points[:-1]), model.one_hot(pad_codes(codes)))
        for b, line in enumerate(lines[batch]):
            window = Window(*(parameter[: lengths[batch[b]] - 1, b] for parameter in windows))
            phi = window_weights(window, len(dataset.texts[line]))  # (T - 1, U)
            found[int(line)] = np.append(0, phi.argmax(1).numpy())
    return found


def measure_line(positions: np.ndarray, characters: np.ndarray, text: str) -> tuple[float, float, float] | None:
    """Slope and height at x = 0 of the baseline, and x-height, in the unit of positions (T, 2); None if unclear."""
    letters = []  # of each flat one: middle, bottom, height
    for place, character in enumerate(text):
        ink = positions[characters == place]
        if character in FLAT_LETTERS and len(ink) > 3:
            letters.append((np.ptp(ink[:, 0]) / 2 + ink[:, 0].min(), ink[:, 1].max(), np.ptp(ink[:, 1])))
    if len(letters) < 6:
        return None
    x, bottom, height = np.array(letters).T
    keep = np.ones(len(x), dtype=bool)
    for _ in range(3):  # least squares without the letters that are far off
        slope, base = np.polyfit(x[keep], bottom[keep], 1)
        error = np.abs(bottom - slope * x - base)
        keep = error <= max(2 * np.median(error), 1e-6)
        if keep.sum() < 4:
            return None
    x_height = float(np.median(height))
    return (float(slope), float(base), x_height) if x_height > 10 and abs(slope) < 0.3 else None


def measure_slant(strokes: list[np.ndarray]) -> float:
    """The mean x a unit of y upwards over the steep steps of strokes (n, 2)."""
    steps = np.concatenate([np.diff(stroke, axis=0) for stroke in strokes])
    steep = np.abs(steps[:, 1]) > np.abs(steps[:, 0])
    dx, dy = steps[steep].T
    return float(-(dx * np.sign(dy)).sum() / max(np.abs(dy).sum(), 1e-6))


def places_read_right(text: str, read: str) -> set[int]:
    """The places in `text` of the characters that are read as what they are."""
    pairs = align(text, read)
    places = np.cumsum([bool(a) for a, _ in pairs]) - 1
    return {int(place) for place, (a, b) in zip(places, pairs, strict=True) if a == b}


def cut_line(points: np.ndarray, characters: np.ndarray, text: str, right: set[int]) -> CutLine | None:
    """Cut a line, points (T, 3) in whiteboard units, where the pen is lifted; None if it cannot be measured.

    Glyphs are those at the places in `right` only.
    """
    strokes, ends = to_strokes(points), np.flatnonzero(points[:, 2] > 0.5) + 1
    owners = np.split(characters, ends)[: len(strokes)]
    measures = measure_line(np.concatenate(strokes), characters, text)
    if measures is None:
        return None
    slope, base, x_height = measures
    strokes = [(stroke - np.outer(stroke[:, 0] * slope + base, [0, 1])) / x_height for stroke in strokes]
    slant = measure_slant(strokes)
    main = [int(np.bincount(owner).argmax()) for owner in owners]  # the character of each stroke
    words, gaps = cut_words(strokes, owners, main, text, slant)
    places = [place for place, character in enumerate(text) if character in TOKEN_CHARACTERS and place in right]
    chosen = [(own_strokes(owners, main, place), text[place]) for place in places]
    glyphs = [make_cutting([strokes[s] for s in own], character, slant) for own, character in chosen if own]
    return CutLine(words, gaps, glyphs, slope, x_height, slant)


def make_cutting(strokes: list[np.ndarray], text: str, slant: float) -> Cutting:
    """A cutting of strokes (n, 2), which are moved so that it begins at x = 0."""
    left = min(stroke[:, 0].min() for stroke in strokes)
    return Cutting(text, [stroke - [left, 0] for stroke in strokes], slant)


def cut_words(
    strokes: list[np.ndarray], owners: list[np.ndarray], main: list[int], text: str, slant: float
) -> tuple[list[Cutting], list[float]]:
    """The words of a line and the gaps between them; none if words share strokes or come in another order.

    strokes (n, 2) and, for each point of them, its character, owners (n,); `main` is that of most points of a stroke.
    """
    word_of = np.cumsum([character == " " for character in text])
    words = [int(word_of[place]) for place in main]
    is_shared = any((word_of[owner] == word).mean() < MIN_OWN for owner, word in zip(owners, words, strict=True))
    if is_shared or words != sorted(words):
        return [], []
    for s in range(1, len(strokes)):  # a bar that is written when the window is on the next word already
        last = max(strokes[r][:, 0].max() for r in range(s) if words[r] == words[s - 1])
        if words[s] > words[s - 1] and strokes[s][:, 0].mean() < last:
            words[s] = words[s - 1]
    groups = [[stroke for stroke, word in zip(strokes, words, strict=True) if word == n] for n in range(max(words) + 1)]
    if not all(groups) or len(groups) != len(text.split(" ")):
        return [], []
    edges = [(min(s[:, 0].min() for s in group), max(s[:, 0].max() for s in group)) for group in groups]
    pieces = [make_cutting(group, word, slant) for group, word in zip(groups, text.split(" "), strict=True)]
    return pieces, [right[0] - left[1] for left, right in pairwise(edges)]


def own_strokes(owners: list[np.ndarray], main: list[int], place: int) -> list[int]:
    """The strokes, by number, of the character at a place of the text; none if it shares one with another character."""
    own = [s for s in range(len(owners)) if main[s] == place]
    is_whole = all((owners[s] == place).mean() >= MIN_OWN for s in own)
    has_more = any((owner == place).mean() > 1 - MIN_OWN for s, owner in enumerate(owners) if s not in own)
    return own if is_whole and not has_more else []


def is_usual(glyph: Cutting) -> bool:
    """Whether a glyph has the size and the place of its kind: most that have not were cut wrongly."""
    y = np.concatenate(glyph.strokes)[:, 1]
    height, top, bottom = np.ptp(y), y.min(), y.max()
    ends = sorted((stroke[:, 0].min(), stroke[:, 0].max()) for stroke in glyph.strokes)
    if any(right[0] - left[1] > 0.3 for left, right in pairwise(ends)):
        return False  # a stroke that stands apart is another character's
    if glyph.text in SIGNS:
        most, highest, lowest, count = SIGNS[glyph.text]
        return height <= most and top >= highest and bottom <= lowest and len(ends) == count and glyph.width < 3
    widest = 0.9 if glyph.text in "1I" else 1.6
    return 1.0 < height < 4 and glyph.width < widest * height and -0.6 < bottom < 0.8
