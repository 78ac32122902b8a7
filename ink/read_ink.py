"""Read ink from a file, by its ending: .json and .npz of this project, .xml of IAM-OnDB, .inkml and .svg."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from lxml import etree

from data_preprocessing import (
    LINE_NAME,
    PARSER,
    clean_strokes,
    read_strokes,
    read_transcription,
    refuse_doctype,
    tidy_texts,
)
from ink.formats import DETAILS, VERSION, Ink
from ink.geometry import to_points
from ink.svg import local_name, read_svg
from utils import InputError

MAX_FILE_BYTES = 32 << 20
MAX_UNPACKED_BYTES = 256 << 20
FARTHEST = 1e6  # from the origin, in the file's units: float32 keeps a sixteenth of a unit there


def read_ink(path: Path | str) -> Ink:
    """Read a file that holds one line of ink. Raises InputError for one that holds several; else as `read_lines`."""
    inks = read_lines(path)
    if len(inks) > 1:
        raise InputError(f"{path}: holds {len(inks)} lines of ink; give a file with one")
    return inks[0]


def read_lines(path: Path | str) -> list[Ink]:
    """Read all lines of ink in a file: positions in the file's own unit, y downwards.

    The text is the one that the file knows: in .json and .npz, a `truth` annotation in .inkml, the `<title>` of a group
    in .svg, the transcription beside an .xml of IAM-OnDB; else "". Raises InputError that names the file for one that
    cannot be read or holds no ink: an unknown ending, a damaged file, a DOCTYPE, less than two points.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: ink is not read from such files; give one that ends with {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file of ink")
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    try:
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        if not data.strip():
            raise ValueError("the file is empty")
        inks = list(reader(path, data))
        if sum(len(ink.points) for ink in inks) < 2:
            raise ValueError("fewer than two points, which is no writing" if inks else "there are no strokes in it")
    except ValueError as error:
        raise InputError(f"{path}: not ink that can be read: {error}") from None
    return inks


def make_ink(strokes: list[np.ndarray], text: str) -> Ink:
    """Ink of strokes (n, 2) from a file. Raises ValueError for numbers that are not finite or too large."""
    if not all(np.isfinite(stroke).all() and (np.abs(stroke) <= FARTHEST).all() for stroke in strokes):
        raise ValueError(f"a coordinate that is not finite, or beyond {FARTHEST:g}")
    return Ink(to_points(strokes), text)


def read_xml(path: Path, data: bytes) -> Iterator[Ink]:
    """A line file of IAM-OnDB, recording errors mended as data_preprocessing.py does."""
    positions, ends, _ = clean_strokes(*read_strokes(data))
    strokes = np.split(positions, np.flatnonzero(ends[:-1]) + 1)
    yield make_ink(strokes, read_text_beside(path))


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


def read_json(path: Path, data: bytes) -> Iterator[Ink]:
    """Lines as `formats.json_bytes` writes them."""
    try:
        content = json.loads(data)
        if content["version"] != VERSION:
            raise ValueError("it is of another version of this project")
        for line in content["lines"]:
            strokes = [np.array(stroke, dtype=np.float64).reshape(-1, 2) for stroke in line["strokes"] if stroke]
            if strokes:
                characters = [place for stroke in line["characters"] for place in stroke]
                points = make_ink(strokes, "").points
                yield Ink(points, characters=np.array(characters), **{name: line[name] for name in DETAILS})
    except (KeyError, TypeError, IndexError, RecursionError, OverflowError) as error:
        raise ValueError(f"it is not of the form that this project writes ({error!r})") from None


def read_npz(path: Path, data: bytes) -> Iterator[Ink]:
    """Lines as `formats.npz_bytes` writes them."""
    arrays = load_arrays(data)
    try:
        if arrays["version"] != VERSION:
            raise ValueError("it is of another version of this project")
        for number, (start, end) in enumerate(pairwise(arrays["starts"].tolist())):
            details: dict[str, Any] = {name: arrays[name][number].item() for name in DETAILS}
            details["seed"] = None if details["seed"] < 0 else details["seed"]
            details["bias"] = None if np.isnan(details["bias"]) else details["bias"]
            yield Ink(arrays["points"][start:end], characters=arrays["characters"][start:end], **details)
    except (TypeError, IndexError) as error:
        raise ValueError(f"it is not of the form that this project writes ({error})") from None


def load_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz of ink. Raises ValueError for a file that is damaged, or of other arrays."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            if sum(entry.file_size for entry in file.zip.infolist()) > MAX_UNPACKED_BYTES:
                raise ValueError(f"larger than {MAX_UNPACKED_BYTES >> 20} MiB when unpacked")
            return {name: file[name] for name in ("version", "points", "characters", "starts", *DETAILS)}
    except KeyError as error:
        raise ValueError(f"it has no array {error}; a data set is not ink, give a line of it") from None
    except Exception as error:  # a damaged archive makes zipfile and numpy raise nearly anything
        raise ValueError(f"it is damaged, or no .npz ({error})") from None


def read_root(data: bytes) -> etree._Element:
    """The root of an XML file. Raises ValueError for one with a DOCTYPE, or that is no XML."""
    try:
        refuse_doctype(data)
    except ValueError as error:
        raise ValueError(f"{error}; delete it from the file" if "DOCTYPE" in str(error) else str(error)) from None
    try:
        return etree.fromstring(data, PARSER)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"XML error: {error}") from None


def read_svg_lines(path: Path, data: bytes) -> Iterator[Ink]:
    """The strokes of a drawing: those of each titled group are a line, those in none another."""
    for title, strokes in read_svg(read_root(data)):
        yield make_ink(strokes, title)


def read_inkml(path: Path, data: bytes) -> Iterator[Ink]:
    """Traces of InkML: those of each outermost traceGroup are a line, those in none another."""
    root = read_root(data)
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
            yield make_ink(strokes, truth(annotated))


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


READERS = {".xml": read_xml, ".npz": read_npz, ".json": read_json, ".svg": read_svg_lines, ".inkml": read_inkml}
