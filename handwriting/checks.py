"""What can be wrong with a written line: it was cut off, the pen rests, or a recogniser reads another text.

The recogniser forgives a bar that is a dot or missing, a dot that is missing, stray dots, and an x like a t;
`judge_marks` sees them.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handwriting.encoder import HandEncoder
from handwriting.ink.accents import Frame
from handwriting.ink.geometry import split_like
from handwriting.program import InputError, note
from handwriting.recogniser import Recogniser, align, edit_distance
from handwriting.strokes import SHORTEST_STEP, to_strokes
from utils import SHIPPED, load_checkpoint

CPU = torch.device("cpu")
SHIPPED_RECOGNISER = SHIPPED / "recogniser.pt"
# Steps shorter than `SHORTEST_STEP` in a row. Recorded lines have at most 3 where rests were dropped, and with rests
# more than 20 in one line of 250. Where a network rests, it is for 25 to 500.
MOST_RESTING = 20
# The share of characters read wrong. A line that loses 30 % is hard to read, and some are the recogniser's mistakes.
MOST_WRONG = 0.25
LIKE = str.maketrans("+/", "tl")  # in a formula the recogniser cannot tell them from letters
DOTS = {**dict.fromkeys("ij.!?;", 1), ":": 2}  # how many dots a character has
DOT_SIZE, MOST_STRAY = 0.2, 1  # x-heights; dots that no character has: one recorded line in ten has more
# Bars are at least so wide and at most so steep, and dots of letters smaller than that, in x-heights. Where they are: a
# bar reaches between two x beside its letter's top; then its highest and lowest y from there, and its lowest from the
# baseline. The middle of a dot is so far left and right of its letter's ink at most; then its highest and lowest y.
BAR_WIDTH, BAR_STEEPNESS, LARGEST_DOT = 0.3, 0.8, 0.7
BAR_PLACES = {"t": (-0.05, 0.12, -0.3, 9.0, -0.4), "5": (-0.4, 0.4, -9.0, 0.4, 9.0)}
DOT_PLACES = {**dict.fromkeys("ij", (-0.5, 0.9, -9.0, -0.95)), **dict.fromkeys("?!", (-0.5, 0.9, -0.45, 9.0))}
# In x-heights, the least ink of an x that rises and that falls to the right, between so steep: nine in ten recorded
# ones have it. One whose strokes are upright and level looks like a t.
CROSSED, LEAST_SLANTING, SLANTING = "xX", 0.3, (0.47, 3.7)


@dataclass(frozen=True)
class Verdict:
    """What is known of a line. `finished` is as in `sampling.Line`; `read` is None if nobody has read it."""

    finished: bool | None
    resting: int  # the longest run of steps shorter than `SHORTEST_STEP`
    text: str = ""
    read: str | None = None
    stray: int = 0  # dots that no character has
    lacking: int = 0  # marks that are not there, see `missing_marks`
    distance: float | None = None  # of the hand from the one that was asked for, see `HandEncoder`
    has_signs: bool = False  # as in `sampling.Line`

    @cached_property
    def errors(self) -> int:
        """How many characters are read wrong, the number of blanks aside: the edit distance.

        Where signs are to be drawn, blanks say nothing, and single letters beside them may be capitals.
        """
        if self.read is None:
            return 0
        said = [" ".join(text.split()) for text in (self.text, self.read)]
        return edit_distance(*(t.replace(" ", "").translate(LIKE).casefold() if self.has_signs else t for t in said))

    @property
    def wrong(self) -> float | None:
        """The share of the text's characters that are read wrong; None if nobody has read it."""
        return None if self.read is None else round(self.errors / max(len(self.text), 1), 4)

    @property
    def fault(self) -> str:
        """What is wrong with the line, "" if nothing. One wrong character is none, however short the text."""
        length = len(self.text.strip())
        faults = {
            "the cap on steps came before the end of the text": self.finished is False,
            f"the pen rests for {self.resting} steps": self.resting > MOST_RESTING,
            f"it reads {self.read!r}": self.errors > max(1, MOST_WRONG * length),
        }
        return ", ".join(fault for fault, is_found in faults.items() if is_found)

    @property
    def is_doubtful(self) -> bool:
        """Whether another try may improve it: it has a fault or stray dots, lacks marks, or anything is read wrong."""
        return bool(self.fault or self.errors or self.lacking) or self.stray > MOST_STRAY

    @property
    def sort_key(self) -> tuple:
        """Sorts the tries at a line, the best first."""
        marks, distance = max(self.stray - MOST_STRAY, 0) + self.lacking, round(self.distance or 0.0, 1)
        return bool(self.fault), self.errors, self.finished is False, marks, distance, self.resting


def doubted_places(text: str, read: str | None) -> tuple[int, ...]:
    """Where in a text characters are read as others, or where more are read; blanks aside; none if nobody read it."""
    places, place = set(), 0
    for said, seen in align(text, text if read is None else read):
        if said != seen and (said + seen).strip():
            places.add(min(place, len(text) - 1))
        place += len(said)
    return tuple(sorted(places))


def longest_rest(points: np.ndarray) -> int:
    """The most steps in a row that are shorter than `SHORTEST_STEP`, for points (T + 1, 3) with T steps."""
    is_short = np.hypot(*points[1:, :2].T) < SHORTEST_STEP  # (T,), False for NaN
    changes = np.flatnonzero(np.diff(is_short, prepend=False, append=False))
    return int(max(changes[1::2] - changes[::2], default=0))


def upright(points: np.ndarray, text: str) -> list[np.ndarray]:
    """The strokes (n, 2) of a line, points (T, 3), in the `Frame` of its text: level, without slant, in x-heights."""
    strokes = to_strokes(points)
    return split_like(Frame(strokes, text).enter(np.concatenate(strokes)), strokes)


def count_dots(strokes: list[np.ndarray]) -> int:
    """How many of the strokes of a line, from `upright`, are dots."""
    return sum(bool(np.ptp(stroke, axis=0).max() < DOT_SIZE) for stroke in strokes)


def missing_marks(strokes: list[np.ndarray], characters: np.ndarray, text: str) -> list[int]:
    """The places in a text of t that nothing flat crosses, of x whose ink does not rise and fall slantwise, of 5
    without a flag, and of i, j, ? and ! without a dot.

    `strokes` are from `upright`, and `characters` (T,) are the places in `text` of their points' characters. A bar may
    be part of any stroke: many are joined to their letters. A letter without ink lacks its mark, too.
    """
    ink, marked = np.concatenate(strokes), {*BAR_PLACES, *DOT_PLACES, *CROSSED}
    steps = np.concatenate([np.diff(stroke, axis=0, append=stroke[-1:]) for stroke in strokes])
    flat = [(*np.sort(part[[0, -1], 0]), part[:, 1].mean()) for stroke in strokes for part in flat_parts(stroke)]
    bars = [(left, right, y) for left, right, y in flat if right - left >= BAR_WIDTH]
    dots = [(dot[:, 0].mean(), dot[:, 1].max()) for dot in strokes if np.ptp(dot, axis=0).max() < LARGEST_DOT]

    def is_marked(own: np.ndarray, character: str) -> bool:
        letter = ink[own]
        if character in CROSSED:
            return slanting(steps[own]) >= LEAST_SLANTING
        if character in DOT_PLACES:
            first, last, high, low = DOT_PLACES[character]
            first, last = letter[:, 0].min() + first, letter[:, 0].max() + last
            return any(first < middle < last and high < bottom < low for middle, bottom in dots)
        (x, top), (first, last, high, low, most) = letter[letter[:, 1].argmin()], BAR_PLACES[character]
        return any(a < x + last and b > x + first and top + high < y < min(top + low, most) for a, b, y in bars)

    found = {place: characters == place for place, character in enumerate(text) if character in marked}
    return [place for place, own in found.items() if not (own.any() and is_marked(own, text[place]))]


def slanting(steps: np.ndarray) -> float:
    """How long the ink is that rises to the right, or that falls if that is shorter, in steps (n, 2) within strokes."""
    steepness = np.abs(steps[:, 1]) / np.maximum(np.abs(steps[:, 0]), 1e-9)
    lengths = np.hypot(*steps.T) * ((SLANTING[0] < steepness) & (steepness < SLANTING[1]))
    return float(min(lengths[way * steps.prod(1) > 0].sum() for way in (1, -1)))


def flat_parts(ink: np.ndarray) -> list[np.ndarray]:
    """The parts (n, 2) of a stroke (m, 2) in which the pen goes to one side, nearly level."""
    dx, dy = np.diff(ink, axis=0).T
    is_flat = np.abs(dy) < BAR_STEEPNESS * np.abs(dx)
    ways = np.sign(dx) * is_flat  # (m - 1,): 1 to the right, -1 to the left, 0 neither
    edges = np.flatnonzero(np.diff(ways, prepend=0, append=0))
    return [ink[first : last + 1] for first, last in pairwise(edges) if ways[first]]


def load_recogniser(path: Path | str | None = None, device: str | torch.device = "cpu") -> Recogniser:
    """The recogniser in a checkpoint, by default the one that ships. Raises InputError for a file that has none."""
    path = SHIPPED_RECOGNISER if path is None else Path(path)
    recogniser, content = load_checkpoint(path, device)
    if content["task"] != "read":
        raise InputError(f"{path}: its contents do not fit together (it is a network that writes, not a recogniser)")
    return recogniser


@lru_cache(maxsize=2)
def find_recogniser(device: torch.device) -> Recogniser | None:
    """The recogniser that the project ships, kept in memory; None, and a note on stderr once, where it is missing."""
    if not SHIPPED_RECOGNISER.exists():
        note(f"{SHIPPED_RECOGNISER} is missing: whether lines say their text is not checked")
        return None
    return load_recogniser(None, device)


@lru_cache(maxsize=1)
def tell_unread() -> None:
    """Tell once, on stderr, that some lines cannot be read."""
    note(
        "the recogniser does not know all characters: whether lines with others say their text is not checked; "
        "--recogniser takes one that train.py --task read has trained on the same data"
    )


def check_lines(
    lines: list, with_recogniser: bool, encoder: HandEncoder | None = None, hands: np.ndarray | None = None,
    own: Recogniser | None = None, device: torch.device = CPU,
) -> list[Verdict]:  # fmt: skip
    """A verdict on each of the lines (`sampling.Line`), `with_recogniser` by the `own` or else that of the project.

    See `judge_lines`. Lines with characters that it does not know are not read.
    """
    is_asked = with_recogniser and any(line.text for line in lines)
    recogniser = (own or find_recogniser(device)) if is_asked else None
    if recogniser and not {*"".join(line.text for line in lines)} <= {*recogniser.config.charset}:
        tell_unread()
    return judge_lines(lines, recogniser, encoder, hands)


def judge_lines(
    lines: list, recogniser: Recogniser | None, encoder: HandEncoder | None = None, hands: np.ndarray | None = None
) -> list[Verdict]:
    """A verdict on each of the lines. Those with a text that the recogniser knows are read, and looked at for marks.

    With an `encoder` it is measured, too, how far they are from `hands` (B, D).
    """
    known = set(recogniser.config.charset) if recogniser else set()
    can_tell = [n for n, line in enumerate(lines) if line.text.strip() and set(line.text) <= known]
    said = recogniser.read([lines[n].points for n in can_tell]) if recogniser else []
    found: dict[int, dict[str, Any]] = {n: {"read": read} for n, read in zip(can_tell, said, strict=True)}
    have_ink = [n for n in can_tell if len(lines[n].points) > 1 and np.isfinite(lines[n].points).all()]
    for n in have_ink:
        found[n] |= judge_marks(lines[n])
    if encoder and hands is not None and have_ink:
        vectors = encoder.encode([lines[n].points for n in have_ink])
        for n, distance in zip(have_ink, np.linalg.norm(vectors - hands[have_ink], axis=1).tolist(), strict=True):
            found[n]["distance"] = distance
    return [
        Verdict(line.finished, longest_rest(line.points), line.text, **found.get(n, {}), has_signs=line.has_signs)
        for n, line in enumerate(lines)
    ]


def judge_marks(line: Any) -> dict[str, int]:
    """How many dots of a line (`sampling.Line`) are stray, and how many marks it lacks."""
    strokes = upright(line.points, line.text)
    stray = count_dots(strokes) - sum(DOTS.get(character, 0) for character in line.text)
    return {"stray": max(0, stray), "lacking": len(missing_marks(strokes, line.characters, line.text))}
