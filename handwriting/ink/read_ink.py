"""Read ink from a file, by its ending: .json and .npz of this project, .xml of IAM-OnDB, .inkml and .svg."""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from lxml import etree

from handwriting.data.recordings import LINE_NAME, clean_strokes, parse_xml, read_strokes
from handwriting.data.transcriptions import read_transcription, tidy_texts
from handwriting.ink.formats import DETAILS, INK_VERSION, Ink
from handwriting.ink.svg import read_svg
from handwriting.program import InputError
from handwriting.strokes import to_points

MAX_INK_BYTES, MAX_UNPACKED_BYTES = 32 << 20, 256 << 20  # of a file, and of the arrays in an .npz
MAX_COORDINATE = 1e6  # from the origin, in the file's units: float32 keeps a sixteenth of a unit there


def read_ink(path: Path | str) -> Ink:
    """Read a file that holds one line of ink. Raises InputError for one that holds several; else as `read_lines`."""
    inks = read_lines(path)
    if len(inks) > 1:
        raise InputError(f"{path}: holds {len(inks)} lines of ink; give a file with one")
    return inks[0]


def read_lines(path: Path | str) -> list[Ink]:
    """Read all lines of ink in a file: positions in the file's own unit, y downwards.

    Their text is a `truth` annotation in .inkml, the `<title>` of a group in .svg, what stands beside an .xml, else "".
    Raises InputError for an unknown ending, a file that cannot be read, a DOCTYPE, and less than two points.
    """
    path = Path(path)
    if not (reader := READERS.get(path.suffix.lower())):
        raise InputError(f"{path}: ink is not read from such files; give one that ends with {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file of ink")
    with path.open("rb") as file:
        data = file.read(MAX_INK_BYTES + 1)
    try:
        if len(data) > MAX_INK_BYTES:
            raise ValueError(f"larger than {MAX_INK_BYTES >> 20} MiB")
        if not data.strip():
            raise ValueError("the file is empty")
        inks = list(reader(path, data))
        if sum(len(ink.points) for ink in inks) < 2:
            raise ValueError("fewer than two points, which is no writing" if inks else "there are no strokes in it")
    except ValueError as error:
        raise InputError(f"{path}: not ink that can be read: {error}") from None
    return inks


def make_ink(strokes: list[np.ndarray], text: str = "") -> Ink:
    """Ink of strokes (n, 2) from a file. Raises ValueError for numbers that are not finite or too large."""
    if not all((np.abs(stroke) <= MAX_COORDINATE).all() for stroke in strokes):  # false for NaN
        raise ValueError(f"a coordinate that is not finite, or beyond {MAX_COORDINATE:g}")
    return Ink(to_points(strokes), text)


def read_json(path: Path, data: bytes) -> Iterator[Ink]:
    """Lines as `formats.json_bytes` writes them."""
    try:
        content = json.loads(data)
        if content["version"] != INK_VERSION:
            raise ValueError("it is of another version of this project")
        for line in content["lines"]:
            strokes = [np.array(stroke, dtype=np.float64).reshape(-1, 2) for stroke in line["strokes"] if stroke]
            if strokes:
                characters = np.array([place for stroke in line["characters"] for place in stroke])
                points = make_ink(strokes).points
                points[0, :2] = strokes[0][0]  # it has the offset of the first point, which `to_points` leaves out
                yield Ink(points, characters=characters, **{name: line[name] for name in DETAILS if name in line})
    except (KeyError, TypeError, IndexError, RecursionError, OverflowError) as error:
        raise ValueError(f"it is not of the form that this project writes ({error!r})") from None


def read_npz(path: Path, data: bytes) -> Iterator[Ink]:
    """Lines as `formats.npz_bytes` writes them."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            if sum(entry.file_size for entry in file.zip.infolist()) > MAX_UNPACKED_BYTES:
                raise ValueError(f"larger than {MAX_UNPACKED_BYTES >> 20} MiB when unpacked")
            arrays = {name: file[name] for name in ("version", "points", "characters", "starts")}
            arrays |= {name: file[name] for name in DETAILS if name in file}
        if arrays["version"] != INK_VERSION:
            raise ValueError("it is of another version of this project")
        for number, (start, end) in enumerate(pairwise(arrays["starts"].tolist())):
            details: dict[str, Any] = {name: arrays[name][number].item() for name in DETAILS if name in arrays}
            details |= {"seed": None} if details.get("seed", -1) < 0 else {}
            details |= {"bias": None} if np.isnan(details.get("bias", np.nan)) else {}
            yield Ink(arrays["points"][start:end], characters=arrays["characters"][start:end], **details)
    except KeyError as error:
        raise ValueError(f"it has no array {error}; a data set is not ink, give a line of it") from None
    except Exception as error:  # a damaged archive makes zipfile and numpy raise nearly anything
        raise ValueError(f"it is damaged, or not of the form that this project writes ({error})") from None


def read_iam(path: Path, data: bytes) -> Iterator[Ink]:
    """A line file of IAM-OnDB, recording errors mended as data_preprocessing.py does.

    Its text is NAME.txt for NAME.xml, or line n of form.txt for form-n.xml: beside it, or in ascii/ for lineStrokes/.
    """
    positions, ends, _ = clean_strokes(*read_strokes(data))
    places = [(path.with_suffix(".txt"), 1)]
    if match := LINE_NAME.fullmatch(path.stem):
        beside = path.with_name(f"{match[1]}.txt")
        parts = ["ascii" if part == "lineStrokes" else part for part in beside.absolute().parts]
        places += [(beside, int(match[2])), (Path(*parts), int(match[2]))]
    text = ""
    for place, number in places:
        if not text and place.is_file():
            texts = tidy_texts(read_transcription(place.read_bytes()))
            text = texts[number - 1] if 1 <= number <= len(texts) else ""
    yield make_ink(np.split(positions, np.flatnonzero(ends[:-1]) + 1), text)


def read_inkml(path: Path, data: bytes) -> Iterator[Ink]:
    """Traces of InkML: those of each outermost traceGroup are a line, those in none another."""
    root = parse_xml(data)
    if etree.QName(root).localname != "ink":
        raise ValueError("not InkML")
    order = 0, 1, np.array([1, 1])
    for form in root.iter("{*}traceFormat"):
        channels = {channel.get("name"): (n, channel) for n, channel in enumerate(form.iter("{*}channel"))}
        if {"X", "Y"} <= channels.keys():
            (x, first), (y, second) = channels["X"], channels["Y"]
            order = x, y, np.array([-1 if channel.get("orientation") == "-ve" else 1 for channel in (first, second)])
            break
    groups = [(group, group.iter("{*}trace")) for group in root.iterfind("{*}traceGroup")]
    for annotated, traces in [(root, root.iterfind("{*}trace")), *groups]:
        strokes = [read_trace("".join(trace.itertext()), order) for trace in traces if trace.get("type") != "penUp"]
        if strokes := [stroke for stroke in strokes if len(stroke)]:
            said = annotated.xpath("normalize-space(*[local-name() = 'annotation'][@type = 'truth'])")
            yield make_ink(strokes, str(said))


# A value of a trace (InkML, 3.2.1): explicit (!), a difference (') or a difference of differences ("), which hold for
# the values that follow in the channel; * for an unchanged one. X and Y cannot be ? (none), T, F or a hexadecimal.
VALUE = re.compile(r"""\s*([!'"]?)\s*(?:([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|\*)|\#[0-9a-fA-F]+|[?TF])""")


def read_trace(text: str, order: tuple[int, int, np.ndarray]) -> np.ndarray:
    """The positions (n, 2) of a trace, which is points apart by commas. Raises ValueError for one that is not.

    `order`: where X and Y stand among the channels, and their directions (2,): 1 for right and down, else -1.
    """
    x, y, signs = order
    mode, value, change, positions = {x: "!", y: "!"}, {x: 0.0, y: 0.0}, {x: 0.0, y: 0.0}, []
    for point in filter(str.strip, text.split(",")):
        found = list(VALUE.finditer(point))
        is_read = "".join(match[0] for match in found) == point.rstrip() and len(found) > max(x, y)
        if not (is_read and found[x][2] and found[y][2]):
            raise ValueError(f"a trace with a point that cannot be read: {point.strip()[:40]!r}")
        for channel in (x, y):
            mode[channel], number = found[channel][1] or mode[channel], found[channel][2]
            base = {"!": -value[channel], "'": 0.0, '"': change[channel]}[mode[channel]]
            change[channel] = 0.0 if number == "*" else float(number) + base
            value[channel] += change[channel]
        positions.append((value[x], value[y]))
    return np.array(positions).reshape(-1, 2) * signs


READERS: dict[str, Callable[[Path, bytes], Iterable[Ink]]] = {
    ".xml": read_iam, ".npz": read_npz, ".json": read_json, ".inkml": read_inkml,
    ".svg": lambda path, data: (make_ink(strokes, title) for title, strokes in read_svg(parse_xml(data))),
}  # fmt: skip
