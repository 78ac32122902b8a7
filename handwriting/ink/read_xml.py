"""Read the strokes and texts of lines of ink from files of XML: .xml of IAM-OnDB, .svg and .inkml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from lxml import etree

from handwriting.data.recordings import LINE_NAME, clean_strokes, parse_xml, read_strokes
from handwriting.data.transcriptions import read_transcription, tidy_texts
from handwriting.ink.svg import local_name, read_svg

InkLine = tuple[list[np.ndarray], str]  # strokes (n, 2) in the file's unit, y downwards, and the text or ""


def read_iam(path: Path, data: bytes) -> Iterator[InkLine]:
    """A line file of IAM-OnDB, recording errors mended as data_preprocessing.py does."""
    positions, ends, _ = clean_strokes(*read_strokes(data))
    strokes = np.split(positions, np.flatnonzero(ends[:-1]) + 1)
    yield strokes, read_text_beside(path)


def read_text_beside(path: Path) -> str:
    """The transcription of a line file: line n of form.txt for form-n.xml, or NAME.txt for NAME.xml; "" without one.

    It may stand beside the file, or where IAM-OnDB has it: ascii/.../form.txt for lineStrokes/.../form-n.xml.
    """
    places = [(path.with_suffix(".txt"), 1)]
    if match := LINE_NAME.fullmatch(path.stem):
        beside = path.with_name(f"{match[1]}.txt")
        parts = ["ascii" if part == "lineStrokes" else part for part in beside.absolute().parts]
        places += [(beside, int(match[2])), (Path(*parts), int(match[2]))]
    for place, number in places:
        if place.is_file():
            texts = tidy_texts(read_transcription(place.read_bytes()))
            if 1 <= number <= len(texts):
                return texts[number - 1]
    return ""


def read_svg_lines(path: Path, data: bytes) -> Iterator[InkLine]:
    """The strokes of a drawing: those of each titled group are a line, those in none another."""
    for title, strokes in read_svg(parse_xml(data)):
        yield strokes, title


def read_inkml(path: Path, data: bytes) -> Iterator[InkLine]:
    """Traces of InkML: those of each outermost traceGroup are a line, those in none another."""
    root = parse_xml(data)
    if etree.QName(root).localname != "ink":
        raise ValueError("not InkML")
    order = channel_order(root)
    lines = [(root, [child for child in root if local_name(child) == "trace"])]
    for group in (child for child in root if local_name(child) == "traceGroup"):
        lines.append((group, [child for child in group.iter() if local_name(child) == "trace"]))
    for annotated, traces in lines:
        strokes = [read_trace("".join(trace.itertext()), order) for trace in traces if trace.get("type") != "penUp"]
        strokes = [stroke for stroke in strokes if len(stroke)]
        if strokes:
            yield strokes, truth(annotated)


def truth(element: etree._Element) -> str:
    """What was written, if an annotation of type "truth" tells it."""
    for child in element:
        if local_name(child) == "annotation" and child.get("type") == "truth":
            return " ".join("".join(child.itertext()).split())
    return ""


def channel_order(root: etree._Element) -> tuple[int, int, np.ndarray]:
    """Where X and Y stand among a trace's channels, and their directions (2,): 1 as is usual, right and down, or -1."""
    for element in root.iter():
        if local_name(element) == "traceFormat":
            channels = [child for child in element.iter() if local_name(child) == "channel"]
            names = [channel.get("name") for channel in channels]
            if {"X", "Y"} <= set(names):
                x, y = names.index("X"), names.index("Y")
                signs = [-1 if channels[place].get("orientation") == "-ve" else 1 for place in (x, y)]
                return x, y, np.array(signs)
    return 0, 1, np.array([1, 1])


# A value of a trace (InkML, 3.2.1): explicit (!), a difference (') or a difference of differences ("), which hold for
# the values that follow in the channel; * for an unchanged one, ? for none, T and F for booleans.
VALUE = re.compile(r"""\s*([!'"]?)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|\#[0-9a-fA-F]+|[*?TF])""")


def read_trace(text: str, order: tuple[int, int, np.ndarray]) -> np.ndarray:
    """The positions (n, 2) of a trace, which is points apart by commas. Raises ValueError for one that is not."""
    x, y, signs = order
    value, speed, mode = {}, {}, {}  # of the channels X and Y
    positions = []
    for point in filter(str.strip, text.split(",")):
        found = list(VALUE.finditer(point))
        if "".join(match[0] for match in found) != point.rstrip() or len(found) <= max(x, y):
            raise ValueError(f"a trace with a point that cannot be read: {point.strip()[:40]!r}")
        for channel in (x, y):
            mark, number = found[channel].groups()
            mode[channel] = mark or mode.get(channel, "!")
            before = value.get(channel, 0.0)
            if number in "?TF" or number.startswith("#"):
                raise ValueError("a trace with a point without a number for X or Y")
            if number == "*":
                change = 0.0
            elif mode[channel] == "!":
                change = float(number) - before
            else:
                change = float(number) + (speed.get(channel, 0.0) if mode[channel] == '"' else 0.0)
            value[channel], speed[channel] = before + change, change
        positions.append((value[x], value[y]))
    return np.array(positions).reshape(-1, 2) * signs


XML_READERS = {".xml": read_iam, ".svg": read_svg_lines, ".inkml": read_inkml}
