"""Read ink from a file, by its ending: .json and .npz of this project, .xml of IAM-OnDB, .svg, .inkml and others."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from lxml import etree

from handwriting.data.recordings import LINE_NAME, clean_strokes, parse_xml, read_strokes
from handwriting.data.transcriptions import read_transcription, tidy_texts
from handwriting.ink.formats import DETAILS, INK_VERSION, Ink
from handwriting.ink.read_inkml import read_inkml
from handwriting.ink.read_svg import read_numbers, read_svg
from handwriting.ink.rows import join_pieces, split_rows, without_paper
from handwriting.program import InputError
from handwriting.strokes import to_points

MAX_INK_BYTES, MAX_UNPACKED_BYTES = 32 << 20, 256 << 20  # of a file, and of the arrays in an .npz
MAX_TAGS, MAX_STROKES = 50_000, 5_000
MAX_COORDINATE = 1e6  # from the origin, in the file's units: float32 keeps a sixteenth of a unit there


def split_name(path: Path | str) -> tuple[Path, int | None]:
    """A file's name, and the number of a line in it that follows as in page.inkml#2."""
    match = re.fullmatch(r"(.+)#([0-9]{1,4})", str(path))
    return (Path(match[1]), int(match[2])) if match and not Path(path).exists() else (Path(path), None)


def read_ink(path: Path | str) -> Ink:
    """Read a file that holds one line of ink. Raises InputError for one that holds several; else as `read_lines`."""
    inks = read_lines(path)
    if len(inks) > 1:
        raise InputError(f"{path}: holds {len(inks)} lines of ink; give one of them, as {path}#1")
    return inks[0]


def read_lines(path: Path | str) -> list[Ink]:
    """Read all lines of ink in a file, or the one whose number the name has: positions in its own unit, y downwards.

    Their text is an annotation in .inkml, the `<title>` of a group in .svg, what stands beside an .xml, else "". Paper
    is left out, and ink without a text is split into rows. Raises InputError for an unknown ending, a file that cannot
    be read, a DOCTYPE that says more than which SVG it is, and less than two points.
    """
    name, number = split_name(path)
    if not (reader := READERS.get(name.suffix.lower())):
        raise InputError(f"{path}: ink is not read from such files; give one that ends with {', '.join(READERS)}")
    if not name.is_file():
        raise InputError(f"{path}: no such file of ink")
    with name.open("rb") as file:
        data = file.read(MAX_INK_BYTES + 1)
    try:
        if data.startswith(b"\x1f\x8b"):
            data = unpack(data)
        if len(data) > MAX_INK_BYTES:
            raise ValueError(f"larger than {MAX_INK_BYTES >> 20} MiB")
        if not data.strip():
            raise ValueError("the file is empty")
        inks = list(reader(name, data))
        if sum(len(ink.points) for ink in inks) < 2:
            raise ValueError("fewer than two points, which is no writing" if inks else "there are no strokes in it")
        if not all(np.abs(np.cumsum(ink.points[:, :2], axis=0)).max() <= MAX_COORDINATE for ink in inks):
            raise ValueError(f"a coordinate beyond {MAX_COORDINATE:g}")
        if number is not None and not 1 <= number <= len(inks):
            raise ValueError(f"it has {len(inks)} lines")
    except ValueError as error:
        raise InputError(f"{path}: not ink that can be read: {error}") from None
    return inks if number is None else [inks[number - 1]]


def unpack(data: bytes) -> bytes:
    """What a gzip file holds, at most a byte more than is allowed. Raises ValueError for a damaged one."""
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_INK_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"a damaged gzip file ({error})") from None


def parse(data: bytes) -> etree._Element:
    """The root of an XML file. Raises ValueError for one that is none, or that has too many elements."""
    if data.count(b"<") > MAX_TAGS:
        raise ValueError(f"more than {MAX_TAGS} tags")
    return parse_xml(data)


def make_lines(strokes: list[np.ndarray], *texts: str) -> Iterator[Ink]:
    """Ink of strokes (n, 2) from a drawing, without paper: rows with their texts, or one line if there is one text."""
    if not strokes:
        return
    if len(strokes) > MAX_STROKES:
        raise ValueError(f"more than {MAX_STROKES} strokes")
    if not all(np.isfinite(stroke).all() for stroke in strokes):
        raise ValueError("a coordinate that is not finite")
    ink = without_paper(strokes)
    rows = [ink] if len(texts) == 1 and texts[0] else split_rows(ink)
    for n, row in enumerate(rows):
        yield make_ink(row, texts[n] if len(texts) == len(rows) else "")


def make_ink(strokes: list[np.ndarray], text: str = "") -> Ink:
    """Ink of strokes (n, 2) from a file. Raises ValueError for numbers that are not finite or too large."""
    if not all((np.abs(stroke) <= MAX_COORDINATE).all() for stroke in strokes):  # false for NaN
        raise ValueError(f"a coordinate that is not finite, or beyond {MAX_COORDINATE:g}")
    return Ink(to_points(strokes), text)


def read_json(path: Path, data: bytes) -> Iterator[Ink]:
    """Lines as `formats.json_bytes` writes them."""
    try:
        content = json.loads(data)
        if "hand" in content:
            raise ValueError("it is a hand that --save_hand kept, without ink, for --style and the network it is from")
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


def read_drawing(path: Path, data: bytes) -> Iterator[Ink]:
    """Lines of .svg: a group with a title is one, other strokes are split into rows."""
    for title, strokes in read_svg(parse(data)):
        yield from make_lines(join_pieces(strokes), title)


def read_ink_markup(path: Path, data: bytes) -> Iterator[Ink]:
    """Lines of .inkml: what has a text is one, other traces are split into rows."""
    for text, strokes in read_inkml(parse(data)):
        yield from make_lines(strokes, text)


def read_xml(path: Path, data: bytes) -> Iterator[Ink]:
    """InkML, as in parts of Word's files, or recorded lines of IAM-OnDB: a form with its texts, or a line file."""
    root = parse(data)
    if etree.QName(root).localname == "ink":
        yield from read_ink_markup(path, data)
    elif texts := [str(line.get("text", "")) for line in root.iterfind(".//Transcription/TextLine")]:
        positions, ends, _ = clean_strokes(*read_strokes(data))
        yield from make_lines(np.split(positions, np.flatnonzero(ends[:-1]) + 1), *texts)
    else:
        yield from read_iam(path, data)


def read_xournal(path: Path, data: bytes) -> Iterator[Ink]:
    """The rows on each page of Xournal++'s notes, where strokes are x and y in turn."""
    for page in parse(data).iterfind("page"):
        found = [np.array(read_numbers(stroke.text or "")) for stroke in page.iterfind(".//stroke[@tool='pen']")]
        if any(len(numbers) % 2 for numbers in found):
            raise ValueError("a stroke with an x and no y")
        yield from make_lines([numbers.reshape(-1, 2) for numbers in found if len(numbers)])


def read_quick_draw(path: Path, data: bytes) -> Iterator[Ink]:
    """The first drawing of a file of Quick, Draw!: of each stroke all x, and all y."""
    try:
        drawing = json.loads(data.strip().partition(b"\n")[0])
        strokes = [np.array(stroke[:2], dtype=np.float64).T.reshape(-1, 2) for stroke in drawing["drawing"]]
        yield from make_lines([stroke for stroke in strokes if len(stroke)], " ".join(drawing.get("word", "").split()))
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"it is not of the form of Quick, Draw! ({error!r})") from None


READERS: dict[str, Callable[[Path, bytes], Iterable[Ink]]] = {
    ".svg": read_drawing, ".svgz": read_drawing, ".inkml": read_ink_markup, ".ink": read_ink_markup, ".xml": read_xml,
    ".json": read_json, ".npz": read_npz, ".xopp": read_xournal, ".ndjson": read_quick_draw,
}  # fmt: skip
