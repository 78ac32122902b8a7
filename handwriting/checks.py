"""What can be wrong with a written line: it was cut off, the pen rests, or a recogniser reads another text."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from handwriting.program import InputError, note
from handwriting.recogniser import Recogniser, edit_distance
from handwriting.strokes import SHORTEST_STEP
from utils import SHIPPED, load_checkpoint

SHIPPED_RECOGNISER = SHIPPED / "recogniser.pt"
# Steps shorter than `SHORTEST_STEP` in a row. Recorded lines have at most 3 where rests were dropped, and with rests
# more than 20 in one line of 250. Where a network rests, it is for 25 to 500.
MOST_RESTING = 20
# The share of characters read wrong. A line that loses 30 % is hard to read, and some are the recogniser's mistakes.
MOST_WRONG = 0.25
# With a larger share wrong than this, a line is worth another try: a mistake in a time or a price, two in a long date.
MOST_DOUBTED = 0.1


@dataclass(frozen=True)
class Verdict:
    """What is known of a line. `finished` is as in `sampling.Line`; `read` is None if nobody has read it."""

    finished: bool | None
    resting: int  # the longest run of steps shorter than `SHORTEST_STEP`
    text: str = ""
    read: str | None = None

    @cached_property
    def errors(self) -> int:
        """How many characters are read wrong, the number of blanks aside: the edit distance."""
        return 0 if self.read is None else edit_distance(*(" ".join(t.split()) for t in (self.text, self.read)))

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
        """True for a line that another try may improve: it has a fault, or more than a tenth is read wrong."""
        return bool(self.fault) or self.errors > MOST_DOUBTED * len(self.text.strip())

    @property
    def sort_key(self) -> tuple:
        """Sorts the tries at a line, the best first."""
        return bool(self.fault), self.errors, self.finished is False, self.resting


def longest_rest(points: np.ndarray) -> int:
    """The most steps in a row that are shorter than `SHORTEST_STEP`, for points (T + 1, 3) with T steps."""
    is_short = np.hypot(*points[1:, :2].T) < SHORTEST_STEP  # (T,), False for NaN
    changes = np.flatnonzero(np.diff(is_short, prepend=False, append=False))
    return int(max(changes[1::2] - changes[::2], default=0))


def load_recogniser(path: Path | str | None = None, device: str | torch.device = "cpu") -> Recogniser:
    """The recogniser in a checkpoint, by default the one that ships. Raises InputError for a file that has none."""
    path = SHIPPED_RECOGNISER if path is None else Path(path)
    recogniser, content = load_checkpoint(path, device)
    if content["task"] != "read":
        raise InputError(f"{path}: its contents do not fit together (it is a network that writes, not a recogniser)")
    return recogniser


@lru_cache(maxsize=1)
def find_recogniser() -> Recogniser | None:
    """The recogniser that the project ships, kept in memory; None, and a note on stderr once, where it is missing."""
    if not SHIPPED_RECOGNISER.exists():
        note(f"{SHIPPED_RECOGNISER} is missing: whether lines say their text is not checked")
        return None
    return load_recogniser()


def check_lines(lines: list, with_recogniser: bool) -> list[Verdict]:
    """A verdict on each of the lines (`sampling.Line`). `with_recogniser`: lines with a text that it knows are read."""
    recogniser = find_recogniser() if with_recogniser and any(line.text for line in lines) else None
    known = set(recogniser.config.charset) if recogniser else set()
    can_tell = [n for n, line in enumerate(lines) if line.text.strip() and set(line.text) <= known]
    said = recogniser.read([lines[n].points for n in can_tell]) if recogniser else []
    read = dict(zip(can_tell, said, strict=True))
    return [Verdict(line.finished, longest_rest(line.points), line.text, read.get(n)) for n, line in enumerate(lines)]
