"""Line files of IAM-OnDB: reading them, and mending what went wrong in recording."""

import math
import re
from collections import Counter
from contextlib import suppress
from typing import NamedTuple
from xml.parsers import expat

import numpy as np
from lxml import etree

from handwriting.data.dataset import MAX_POSITION
from handwriting.strokes import PERIOD, SHORTEST_STEP, USUAL_STEP, ends_of

# A step within a stroke that takes longer lost two readings or more, which are filled in (none where the pen rests).
GAP = 0.045  # s
GREATEST_GAP = 0.5  # s; ten of 1.5 million steps took longer or went back in time: the clock, or a pen at rest
# 99.98 % of the steps within a stroke are shorter. At a longer one the pen was lifted or lost, and nobody recorded it.
# The stroke is cut in two, and what follows keeps its place. Jumps between strokes are longer by nature and stay.
LONGEST_STEP = 200.0  # whiteboard units
LINE_NAME = re.compile(r"([\w.-]{1,60})-([0-9]{1,3})")  # a01-000u-03: the third line of form a01-000u
# No entities and nothing from the network; lxml's limits on sizes stand. The last two only save time.
PARSER = etree.XMLParser(resolve_entities=False, no_network=True, collect_ids=False, remove_blank_text=True)
# XPath hands out attributes without making a Python object of each of eight million elements.
POINT_COLUMNS = [etree.XPath(f"//Stroke/Point/@{name}", smart_strings=False) for name in ("x", "y", "time")]


class Recording(NamedTuple):
    """A line as it goes into the data set."""

    offsets: np.ndarray  # (T, 2) int16: x and y from the point before, whiteboard units
    ends: np.ndarray  # (T,) bool: the pen is lifted after this point
    mended: Counter  # how many points were "filled" in, steps "cut", and "rests" dropped


def read_recording(data: bytes, keep_rests: bool) -> Recording:
    """Read and clean a line file. Raises ValueError, which says why, if it cannot be used."""
    if b"<Form" in data or b"<TextLine" in data:
        raise ValueError("a whole page of IAM-OnDB's original files, not a line; take that from lineStrokes")
    positions, ends, mended = clean_strokes(*read_strokes(data))
    offsets, ends = to_offsets(positions, ends, keep_rests)
    return Recording(offsets, ends, mended + Counter(rests=len(positions) - len(offsets)))


def parse_xml(data: bytes) -> etree._Element:
    """The root of an XML file. Raises ValueError for one that is no XML, or that has another DOCTYPE than that of SVG.

    A DOCTYPE can make lxml read other local files, whatever the parser's flags. Expat reads none, and looks first.
    """
    ends = []  # of a DOCTYPE, which lxml is not to see

    def check(_: str, system: str | None, public: str | None, has_more: int) -> None:
        if has_more or not (public or "").startswith("-//W3C//DTD SVG"):
            raise ValueError("has a DOCTYPE, which could name other files to read; delete it from the file")
        ends.append(parser.CurrentByteIndex)

    def accept(*_: object) -> None:
        raise StopIteration

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = check
    parser.StartElementHandler = accept  # no DOCTYPE can follow the first element
    try:
        with suppress(StopIteration):
            parser.Parse(data, True)
        for end in ends:
            code = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(data[:2], "ascii")
            start = data.rindex("<!DOCTYPE".encode(code), 0, end)
            data = data[:start] + "<?doctype?".encode(code) + data[end:]
        return etree.fromstring(data, PARSER)
    except (expat.ExpatError, LookupError, etree.XMLSyntaxError) as error:  # LookupError: an unknown encoding
        raise ValueError(f"XML error: {error}") from None


def read_strokes(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Points of a line file (n, 3): x, y, time in seconds; and which are the last of a stroke (n,).

    Raises ValueError if the file cannot be read.
    """
    root = parse_xml(data)
    try:
        points = np.array([column(root) for column in POINT_COLUMNS], dtype=np.float64).T
    except ValueError:  # not a number, or columns of different lengths
        raise ValueError("a point without a number for x, y or time") from None
    if not np.isfinite(points).all() or (np.abs(points[:, :2]) > MAX_POSITION).any():
        raise ValueError("a point far outside the whiteboard")
    if len(points) < 2:
        raise ValueError("fewer than two points")
    counts = [len(stroke) for stroke in root.iter("Stroke") if len(stroke)]
    if sum(counts) != len(points):
        raise ValueError("a stroke with something else than points in it")
    return points, ends_of(counts)


def clean_strokes(points: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray, Counter]:
    """Mend recording errors (section 4: missing readings interpolated, steps above a threshold removed).

    Takes what `read_strokes` returns. Returns positions (T, 2) in whole whiteboard units, end-of-stroke bits (T,), and
    how many points were filled in and how many steps cut.
    """
    step, gap = np.hypot(*np.diff(points[:, :2], axis=0).T), np.diff(points[:, 2])  # (n - 1,)
    lost = ~last[:-1] & (gap > GAP) & (gap <= GREATEST_GAP)
    pieces = np.minimum(np.rint(gap / PERIOD), np.ceil(step / USUAL_STEP))
    lost &= step <= LONGEST_STEP * pieces  # else it is no ink, and is cut below
    pieces = np.where(lost, np.maximum(pieces, 1), 1).astype(int)  # a step of k pieces gets k - 1 new points
    place = np.concatenate([[0], np.cumsum(pieces)])  # of the recorded points among the new ones
    at = np.arange(place[-1] + 1)
    positions = np.rint(np.column_stack([np.interp(at, place, points[:, axis]) for axis in (0, 1)]))
    ends = np.zeros(len(positions), dtype=bool)
    ends[place] = last
    cut = ~ends[:-1] & (np.hypot(*np.diff(positions, axis=0).T) > LONGEST_STEP)
    ends[:-1] |= cut
    return positions, ends, Counter(filled=len(positions) - len(points), cut=int(cut.sum()))


def to_offsets(positions: np.ndarray, ends: np.ndarray, keep_rests: bool) -> tuple[np.ndarray, np.ndarray]:
    """Positions (T, 2) and end-of-stroke bits (T,) -> offsets and ends as a `Recording` has them, (U, 2) and (U,).

    Unless `keep_rests`, points where the pen rests go: within a stroke those nearer than `SHORTEST_STEP` to the last
    one that stayed. A stroke's first and last points stay.
    """
    positions = np.rint(positions)
    if not keep_rests:
        places, bits, stays, last = positions.tolist(), ends.tolist(), [True], 0  # the last one that stayed
        for i in range(1, len(places)):
            stays.append(bits[i - 1] or bits[i] or math.dist(places[i], places[last]) >= SHORTEST_STEP)
            last = i if stays[i] else last
        positions, ends = positions[stays], ends[stays]
    return np.diff(positions, axis=0, prepend=positions[:1]).astype(np.int16), ends
