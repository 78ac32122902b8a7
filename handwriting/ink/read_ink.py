"""Read ink from a file, by its ending: .json and .npz of this project, .xml of IAM-OnDB, .inkml and .svg."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from handwriting.ink.formats import DETAILS, INK_VERSION, Ink
from handwriting.program import InputError
from handwriting.strokes import to_points

MAX_INK_BYTES = 32 << 20
MAX_UNPACKED_BYTES = 256 << 20
MAX_COORDINATE = 1e6  # from the origin, in the file's units: float32 keeps a sixteenth of a unit there


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


def make_ink(strokes: list[np.ndarray], text: str) -> Ink:
    """Ink of strokes (n, 2) from a file. Raises ValueError for numbers that are not finite or too large."""
    if not all(np.isfinite(stroke).all() and (np.abs(stroke) <= MAX_COORDINATE).all() for stroke in strokes):
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
                characters = [place for stroke in line["characters"] for place in stroke]
                points = make_ink(strokes, "").points
                points[0, :2] = strokes[0][0]  # it has the offset of the first point, which `to_points` leaves out
                details = {name: line[name] for name in DETAILS if name in line}
                yield Ink(points, characters=np.array(characters), **details)
    except (KeyError, TypeError, IndexError, RecursionError, OverflowError) as error:
        raise ValueError(f"it is not of the form that this project writes ({error!r})") from None


def read_npz(path: Path, data: bytes) -> Iterator[Ink]:
    """Lines as `formats.npz_bytes` writes them."""
    arrays = load_arrays(data)
    try:
        if arrays["version"] != INK_VERSION:
            raise ValueError("it is of another version of this project")
        for number, (start, end) in enumerate(pairwise(arrays["starts"].tolist())):
            details: dict[str, Any] = {name: arrays[name][number].item() for name in DETAILS if name in arrays}
            details |= {"seed": None} if details.get("seed", -1) < 0 else {}
            details |= {"bias": None} if np.isnan(details.get("bias", np.nan)) else {}
            yield Ink(arrays["points"][start:end], characters=arrays["characters"][start:end], **details)
    except (TypeError, IndexError) as error:
        raise ValueError(f"it is not of the form that this project writes ({error})") from None


def load_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz of ink. Raises ValueError for a file that is damaged, or of other arrays."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            if sum(entry.file_size for entry in file.zip.infolist()) > MAX_UNPACKED_BYTES:
                raise ValueError(f"larger than {MAX_UNPACKED_BYTES >> 20} MiB when unpacked")
            names = ("version", "points", "characters", "starts", *(name for name in DETAILS if name in file))
            return {name: file[name] for name in names}
    except KeyError as error:
        raise ValueError(f"it has no array {error}; a data set is not ink, give a line of it") from None
    except Exception as error:  # a damaged archive makes zipfile and numpy raise nearly anything
        raise ValueError(f"it is damaged, or no .npz ({error})") from None


def from_xml(path: Path, data: bytes) -> Iterator[Ink]:
    """Lines of .xml, .svg or .inkml."""
    from handwriting.ink.read_xml import XML_READERS

    for strokes, text in XML_READERS[path.suffix.lower()](path, data):
        yield make_ink(strokes, text)


READERS = {".xml": from_xml, ".npz": read_npz, ".json": read_json, ".svg": from_xml, ".inkml": from_xml}
