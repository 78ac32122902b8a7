"""Lines of one's own for a data set: read from files of ink, brought to scale, and split."""

import json
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handwriting.data.dataset import MAX_POSITION
from handwriting.data.recordings import Recording, to_offsets
from handwriting.data.transcriptions import MAX_LINE_CHARACTERS
from handwriting.ink.geometry import USUAL_X_HEIGHT, find_level, resample
from handwriting.ink.read_ink import MAX_INK_BYTES, READERS, make_ink, read_lines
from handwriting.program import printable
from handwriting.strokes import USUAL_STEP

ENDINGS = (".jsonl", *READERS)
LONGEST_WAY = 100 * MAX_POSITION  # of the pen in a line
VALIDATION_SHARE = 8  # one line, or one writer, in so many


class OwnLine(NamedTuple):
    """A line as it was found."""

    text: str
    writer: str
    split: str  # "" if the file does not tell
    strokes: list[np.ndarray]  # (n, 2), in any unit
    x_height: float  # in that unit


def make_line(text: str, writer: str, split: str, strokes: list[np.ndarray]) -> OwnLine:
    """A line that has been measured. Raises ValueError, which says why, if it cannot be used."""
    if split not in ("", "train", "validation"):
        raise ValueError("its split is neither train nor validation")
    if sum(map(len, strokes)) < 2:
        raise ValueError("fewer than two points")
    text = " ".join(unicodedata.normalize("NFC", make_ink(strokes, text).text).split())
    if len(text) > MAX_LINE_CHARACTERS or not text.isprintable():
        raise ValueError(f"a text of more than {MAX_LINE_CHARACTERS} characters, or with some that cannot be printed")
    return OwnLine(text, printable(writer, 60), split, strokes, find_level(strokes).x_height)


def parse_row(row: bytes, writer: str) -> list[OwnLine]:
    """A line of .jsonl, as data/README.md has it; `writer` where it names none. Raises ValueError for another one."""
    if not row.strip():
        return []
    try:
        content: dict[str, Any] = json.loads(row.decode("utf-8-sig"))
        strokes = [np.array([point[:2] for point in stroke], float) for stroke in content["strokes"] if stroke]
        if not all(stroke.shape[1:] == (2,) for stroke in strokes):
            raise TypeError
        text, writer, split = content.get("text", ""), str(content.get("writer", writer)), content.get("split", "")
    except UnicodeDecodeError:
        raise ValueError("not in UTF-8") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise ValueError("not JSON with strokes as lists of [x, y]") from None
    return [make_line(text, writer, split, strokes)]


def find_files(source: Path) -> list[Path]:
    """The files of ink that a source is or holds."""
    paths = sorted(source.rglob("*")) if source.is_dir() else [source]
    return [path for path in paths if path.suffix.lower() in ENDINGS and path.is_file()]


def read_own_lines(source: Path) -> Iterator[tuple[str, OwnLine | str]]:
    """All lines of a source, each with the name of its place, or what is wrong there.

    Where a file does not tell, a line's writer is the folder of the source that it is in, or else its file.
    """
    for path in find_files(source):
        parts = path.relative_to(source).parts or (path.name,)
        name, writer = "/".join(parts), parts[0] if len(parts) > 1 else path.stem
        for number, read in enumerate(open_file(path, writer), 1):
            try:
                yield from ((f"{name}, line {n}", line) for n, line in enumerate(read(), number))
            except ValueError as error:
                yield f"{name}, line {number}", str(error).removeprefix(f"{path}: ")


def open_file(path: Path, writer: str) -> Iterator[Callable[[], list[OwnLine]]]:
    """What reads each line of a .jsonl, or all lines of another file. They raise ValueError if they cannot."""
    if path.suffix.lower() != ".jsonl":
        yield lambda: [make_line(ink.text, writer, "", ink.strokes) for ink in read_lines(path)]
        return
    with path.open("rb") as file:
        for row in iter(lambda: file.readline(MAX_INK_BYTES), b""):
            yield partial(parse_row, row, writer)


def record(lines: list[OwnLine], keep_scale: bool, keep_rests: bool) -> list[Recording | None]:
    """Lines as they go into the data set; None for one that is longer than a whiteboard.

    Unless `keep_scale`, all lines of a writer are made larger or smaller by one factor, so that their median x-height
    is the usual one, and their points are set as far apart as in recorded lines.
    """
    heights: dict[str, list[float]] = defaultdict(list)
    found: list[Recording | None] = []
    for line in lines:
        heights[line.writer].append(line.x_height)
    for line in lines:
        factor = 1.0 if keep_scale else USUAL_X_HEIGHT / float(np.median(heights[line.writer]))
        strokes = [stroke * factor for stroke in line.strokes]
        way = sum(np.hypot(*np.diff(stroke, axis=0).T).sum() for stroke in strokes)
        if np.ptp(np.concatenate(strokes), axis=0).max() > MAX_POSITION or way > LONGEST_WAY:
            found.append(None)
            continue
        strokes = strokes if keep_scale else [resample(stroke, USUAL_STEP) for stroke in strokes]
        positions = np.concatenate(strokes)
        ends = np.concatenate([np.arange(len(stroke)) == len(stroke) - 1 for stroke in strokes])
        offsets, kept = to_offsets(positions, ends, keep_rests)
        found.append(Recording(offsets, kept, Counter(rests=len(positions) - len(offsets))))
    return found


def choose_splits(lines: list[OwnLine], by_writer: bool) -> list[str]:
    """What each line is for. If no file tells, one line in `VALIDATION_SHARE` is validation, or all of one writer."""
    if any(line.split for line in lines):
        return [line.split or "train" for line in lines]
    keys = [line.writer if by_writer else f"{line.writer} {n}" for n, line in enumerate(lines)]
    drawn = sorted(set(keys), key=lambda key: zlib.crc32(key.encode()))
    chosen = set(drawn[: max(len(drawn) > 1, len(drawn) // VALIDATION_SHARE)])
    return ["validation" if key in chosen else "train" for key in keys]
