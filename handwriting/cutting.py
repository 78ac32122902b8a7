"""Lines cut into words and characters, by the network's window and where the pen is lifted."""

import string
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from handwriting.checks import missing_marks
from handwriting.data.dataset import Dataset
from handwriting.program import progress_bar
from handwriting.recogniser import Recogniser, align
from handwriting.sampling import Line, pad_codes
from handwriting.strokes import ends_of
from handwriting.training.tasks import collate, make_batches
from handwriting.writer import Network
from model import Window, window_weights

FLAT_LETTERS = set("acemnorsuvwxz")
TOKEN_CHARACTERS = set(string.digits + string.ascii_uppercase + ":/.,-+()")  # what new words are made of
MIN_OWN = 0.6  # share of the points of a stroke that its character or word must have: the window runs a little ahead
ALIGN_BATCH = 32
SIGNS = {  # limits on a sign's height, top and bottom in x-heights, y downwards, and its number of strokes
    ".": (0.5, -0.6, 0.4, 1), ",": (1.5, -0.6, 1.5, 1), ":": (1.8, -1.8, 0.5, 2), "-": (0.6, -1.3, 0.0, 1),
    "/": (5.0, -3.5, 1.5, 1), "(": (5.0, -3.5, 1.5, 1), ")": (5.0, -3.5, 1.5, 1), "+": (2.0, -2.0, 0.4, 2),
}  # fmt: skip
AS_CAPITALS = {"x": ("X", 1.9)}  # recorded lines have three X; an x is like them, and so much smaller
FLAG_REACH = 0.3  # how far apart the flag of a 5 and its body start at most, by the height of the body
CROSS_REACH = 0.3  # how far the middle of an x's rising stroke is from the other at most, by its height
LEAST_DIGITS = 1.6  # x-heights; in recorded lines the median is 1.85


class Cutting(NamedTuple):
    """Ink of a character, a word or a line."""

    text: str
    positions: np.ndarray  # (n, 2), in x-heights: y downwards from the baseline
    ends: np.ndarray  # (n,) bool: the pen is lifted after this point
    slant: float  # of the line that it comes from: x a unit of y upwards


class CutLine(NamedTuple):
    """A line in pieces."""

    words: list[Cutting]  # none if they share strokes
    gaps: list[float]  # between the words, in x-heights
    glyphs: list[Cutting]  # characters whose strokes are their own
    slope: float  # of the baseline
    x_height: float  # whiteboard units
    name: str  # in the data set


@torch.inference_mode()
def cut_lines(network: Network, recogniser: Recogniser, dataset: Dataset, lines: np.ndarray) -> list[CutLine]:
    """Lines of a data set, by number, cut; those that cannot be measured are left out.

    A point belongs to the character on which the network's window is strongest before it.
    """
    found, model, lengths = {}, network.model, np.diff(dataset.starts)[lines]
    for batch in progress_bar(make_batches(lengths, ALIGN_BATCH), unit=" batches", desc="cutting"):
        inks, texts = [dataset.points(line) for line in lines[batch]], dataset.texts[lines[batch]].tolist()
        points, *_ = collate(inks)
        codes = pad_codes([network.alphabet.encode(text) for text in texts])
        _, _, windows = model(model.normalise(points[:-1]), model.one_hot(codes))
        for b, (ink, text, read) in enumerate(zip(inks, texts, recogniser.read(inks), strict=True)):
            window = Window(*(parameter[: len(ink) - 1, b] for parameter in windows))
            characters = np.append(0, window_weights(window, len(text)).argmax(1).numpy())  # (T,) from phi (T - 1, U)
            found[batch[b]] = cut_line(ink, characters, text, read, str(dataset.names[lines[batch[b]]]))
    return [cut for _, cut in sorted(found.items()) if cut]


def cut_line(points: np.ndarray, characters: np.ndarray, text: str, read: str, name: str = "") -> CutLine | None:
    """Cut a line, points (T, 3) in whiteboard units, where the pen is lifted; None if it cannot be measured.

    `characters` (T,) are the places in `text` of the points' characters. Glyphs must be `read` as what they are.
    """
    positions, ends = np.cumsum(points[:, :2], axis=0, dtype=np.float64), points[:, 2] > 0.5
    positions, ends, characters = marks_first(positions, ends, characters, text)
    letters = []  # that reach from the baseline to the x-height; of each: middle, bottom, height
    for place, character in enumerate(text):
        ink = positions[characters == place]
        if character in FLAT_LETTERS and len(ink) > 3:
            letters.append((np.ptp(ink[:, 0]) / 2 + ink[:, 0].min(), ink[:, 1].max(), np.ptp(ink[:, 1])))
    if len(letters) < 6:
        return None
    x, bottom, height = np.array(letters).T
    (slope, base), x_height = np.polyfit(x, bottom, 1).tolist(), float(np.median(height))
    if x_height <= 10 or abs(slope) >= 0.3:
        return None
    positions[:, 1] -= positions[:, 0] * slope + base
    positions /= x_height
    dx, dy = np.diff(positions, axis=0)[~ends[:-1]].T
    steep = np.abs(dy) > np.abs(dx)
    slant = float(-(dx * np.sign(dy))[steep].sum() / max(np.abs(dy[steep]).sum(), 1e-6))
    line = Cutting(text, positions, ends, slant)
    strokes = np.cumsum(ends) - ends  # the number of each point's stroke
    counts = np.zeros((strokes[-1] + 1, len(text)))  # how many points of each stroke each character has
    np.add.at(counts, (strokes, characters), 1)
    counts = give_back(counts, positions[:, 0] + slant * positions[:, 1], strokes)
    owners, shares = counts.argmax(1), counts / counts.sum(1, keepdims=True)
    is_read = [a == b for a, b in align(text, read) if a]
    glyphs = []
    for place, character in enumerate(text):
        own = owners == place
        is_whole = own.any() and (shares[own, place] >= MIN_OWN).all() and (shares[~own, place] <= 1 - MIN_OWN).all()
        glyph, scale = AS_CAPITALS.get(character, (character, 1.0))
        if glyph in TOKEN_CHARACTERS and is_read[place] and is_whole:
            glyphs.append(Cutting(glyph, scale * positions[own[strokes]], ends[own[strokes]], slant))
    return CutLine(*cut_words(line, strokes, counts), [*filter(is_usual, glyphs)], slope, x_height, name)


def marks_first(
    positions: np.ndarray, ends: np.ndarray, characters: np.ndarray, text: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ink with each 5 in one stroke, from the right end of its flag on, and each x begun at the upper right.

    Most people draw these strokes last, and that of the x from above or from below. But then the window is on the next
    character, and networks forget the flag, and cross the x half way up, as if it were a t. `positions` (n, 2) and
    `ends` (n,) are the ink, `characters` (n,) the places in `text` of its points' characters, all returned in the new
    order. An x that is joined to other letters is begun with them.
    """
    first, *others = np.split(np.arange(len(ends)), np.flatnonzero(ends[:-1]) + 1)  # the numbers of their points
    order, characters = [first], characters.copy()
    for stroke in others:
        body = order[-1]
        ink, below = positions[stroke], positions[body]
        owner = int(np.median(characters[body]))
        letter = text[owner] if (characters[body] == owner).mean() >= MIN_OWN else ""
        crossed = [place for place in np.unique(characters[body]) if text[place] in "xX"]
        if letter == "5" and body[0] <= body[-1] and is_flag(ink, below):  # else it has its flag already
            order[-1] = np.concatenate([stroke[::-1], body])
            characters[stroke] = owner
        elif crossed and is_cross(ink, below):
            place = len(order) - (letter in ("x", "X"))  # a body that has other letters, too, stays first
            order.insert(place, stroke if ink[0, 0] > ink[-1, 0] else stroke[::-1])
            characters[stroke] = crossed[-1]
        else:
            order.append(stroke)
    points = np.concatenate(order)
    return positions[points], ends_of([len(stroke) for stroke in order]), characters[points]


def is_flag(stroke: np.ndarray, body: np.ndarray) -> bool:
    """Whether a stroke (n, 2) is level, and goes to the right from about where the `body` (m, 2) of a 5 starts."""
    (width, height), reach = np.ptp(stroke, axis=0), FLAG_REACH * np.ptp(body[:, 1])
    return stroke[-1, 0] - stroke[0, 0] > max(2 * height, 0.8 * width) and np.linalg.norm(stroke[0] - body[0]) < reach


def is_cross(stroke: np.ndarray, body: np.ndarray) -> bool:
    """Whether a stroke (n, 2) goes from the lower left to the upper right or back, across the `body` (m, 2) of an x."""
    (dx, dy), height = stroke[-1] - stroke[0], np.ptp(stroke[:, 1])
    reach = np.linalg.norm(body - (stroke[0] + stroke[-1]) / 2, axis=1).min()
    return dx * dy < 0 and 2 * abs(dy) > max(abs(dx), height) and reach < CROSS_REACH * height


def give_back(counts: np.ndarray, x: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    """`counts` (S, U) of `cut_words` with flags and bars, which come last, given to the character that they stand over.

    The window is on the next one already. `x` (n,) is of the points when the slant is out, `strokes` as there.
    """
    counts, owners = counts.copy(), counts.argmax(1)
    for s in range(1, len(owners)):
        before = (owners[strokes] == owners[s - 1]) & (strokes < s)
        if owners[s] > owners[s - 1] and x[strokes == s].mean() < x[before].max():
            owners[s] = owners[s - 1]
            counts[s] = counts[s].sum() * (np.arange(counts.shape[1]) == owners[s])
    return counts


def cut_words(line: Cutting, strokes: np.ndarray, counts: np.ndarray) -> tuple[list[Cutting], list[float]]:
    """The words of a line and the gaps between them; none if words share strokes or come in another order.

    `strokes` (n,) is the number of each point's stroke, and `counts` (S, U) how many of its points each character has.
    """
    texts, x = line.text.split(" "), line.positions[:, 0]
    word_of = np.cumsum([character == " " for character in line.text])  # (U,)
    words = word_of[counts.argmax(1)]  # (S,)
    own = (counts * (word_of == words[:, None])).sum(1) / counts.sum(1)
    if (own < MIN_OWN).any() or (np.diff(words) < 0).any() or len(np.unique(words)) < len(texts):
        return [], []
    parts = [words[strokes] == n for n in range(len(texts))]
    gaps = [float(x[right].min() - x[left].max()) for left, right in pairwise(parts)]
    pieces = zip(texts, parts, strict=True)
    return [Cutting(text, line.positions[part], line.ends[part], line.slant) for text, part in pieces], gaps


def is_usual(glyph: Cutting) -> bool:
    """Whether a glyph has the size, place, mark and cross of its kind: most that have not were cut wrongly."""
    (x, y), strokes = glyph.positions.T, np.split(glyph.positions, np.flatnonzero(glyph.ends[:-1]) + 1)
    width, height, top, bottom = np.ptp(x), np.ptp(y), y.min(), y.max()
    edges = sorted((stroke[:, 0].min(), stroke[:, 0].max()) for stroke in strokes)
    if any(right[0] - left[1] > 0.3 for left, right in pairwise(edges)):
        return False  # a stroke that stands apart is another character's
    if glyph.text in SIGNS:
        most, highest, lowest, count = SIGNS[glyph.text]
        return height <= most and top >= highest and bottom <= lowest and len(edges) == count and width < 3
    upright = [stroke @ [[1, 0], [glyph.slant, 1]] for stroke in strokes]
    if missing_marks(upright, np.zeros(len(x), int), glyph.text) or (glyph.text == "X" and len(strokes) == 1):
        return False
    return 1.0 < height < 4 and width < (0.9 if glyph.text in "1I" else 1.6) * height and -0.6 < bottom < 0.8


def has_small_digits(line: Line) -> bool:
    """Whether the digits of a written line that have strokes of their own are smaller than in most recorded lines."""
    cut = cut_line(line.points, line.characters, line.text, line.text) if {*line.text} & {*string.digits} else None
    heights = [np.ptp(glyph.positions[:, 1]) for glyph in cut.glyphs if glyph.text in string.digits] if cut else []
    return bool(heights) and float(np.median(heights)) < LEAST_DIGITS
