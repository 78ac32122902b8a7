"""Ink and its files: a written line (`Ink`), a page of placed lines (`Page`), and `save`, which goes by the ending.

Pages in mm are .svg, .pdf, .png, .gif, .webp and .gcode. Lines as they were written, in whiteboard units, are .json and
.npz, which hold all of an `Ink`, .xml as IAM-OnDB has it, and .inkml (https://www.w3.org/TR/InkML/).
"""

import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lxml import etree

from handwriting.data.dataset import MAX_POSITION
from handwriting.ink.gcode import Plotter, gcode_bytes
from handwriting.ink.geometry import simplify
from handwriting.ink.pictures import Drawing, Sheet, film_bytes, pdf_bytes, png_bytes
from handwriting.ink.svg import svg_bytes
from handwriting.program import InputError, atomic_write
from handwriting.strokes import PERIOD, to_strokes

FORMATS = ("svg", "pdf", "png", "gif", "webp", "gcode", "xml", "json", "npz", "inkml")  # endings of files
DOT = 0.3  # mm: what is smaller is drawn as a stroke of this length, for pens that need to move
MM_PER_UNIT = 0.02  # of a line that is drawn without a page: letters are some 2.5 mm high
MARGIN = 5.0  # mm around such a line
MIN_LINE, LINE_GAP = 4.0, 2.4  # mm, of lines that are not laid out: the least height of one, and what is between two
INK_VERSION = 1  # of .json and .npz
DETAILS = ("text", "seed", "bias", "style", "checkpoint", "fault")  # of a line, in .json and .npz


@dataclass(frozen=True, eq=False)
class Ink:
    """One written line, as a network writes it or as it was read from a file. Raises ValueError for wrong shapes."""

    points: np.ndarray = field(repr=False)  # (T, 3) float32: x and y offset in whiteboard units, y down; end of stroke
    text: str = ""
    # (T,) int64: the place in `text` of each point's character, -1: none
    characters: np.ndarray | None = field(default=None, repr=False)
    seed: int | None = None
    bias: float | None = None
    style: str = ""
    checkpoint: str = ""  # a hash of the network that wrote it
    fault: str = ""  # what the checks found wrong with it, "" if nothing
    doubts: tuple[int, ...] = ()  # places in `text` of characters that a recogniser reads as others; not kept in files

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float32)
        if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
            raise ValueError(f"points of shape {points.shape}, or not finite; they must be (T, 3)")
        # Not in a text: control characters, halves of characters, and what is none in Unicode.
        if not isinstance(self.text, str) or any(unicodedata.category(c) in ("Cc", "Cs", "Cn") for c in self.text):
            raise ValueError(f"{self.text!r} is not the text of a line")
        characters = np.full(len(points), -1) if self.characters is None else self.characters
        characters = np.asarray(characters, dtype=np.int64)
        if characters.shape != (len(points),) or characters.min() < -1 or characters.max() >= max(len(self.text), 1):
            raise ValueError("the characters of the points do not fit the points or the text")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "characters", characters)

    @property
    def strokes(self) -> list[np.ndarray]:
        """Positions (n, 2) of each stroke, in whiteboard units, y downwards."""
        return to_strokes(self.points)

    def page(self) -> "Page":
        """The line alone on a page that just holds it."""
        return stack_lines([self])

    def save(self, path: Path | str, drawing: Drawing | None = None, plotter: Plotter | None = None) -> list[Path]:
        """Write a file as its ending says, see `save`."""
        return self.page().save(path, drawing, plotter)

    def _repr_svg_(self) -> str:
        return self.page()._repr_svg_()


class Placed(NamedTuple):
    """A written line on a page."""

    ink: Ink
    strokes: list[np.ndarray]  # (n, 2) each: mm from the page's top left corner, y downwards; those of `ink`, in order


@dataclass(frozen=True, eq=False)
class Page:
    """A page of written lines."""

    width: float  # mm
    height: float  # mm
    lines: list[Placed] = field(repr=False)
    rules: list[np.ndarray] = field(default_factory=list, repr=False)  # (2, 2) in mm: lines on the paper
    plots_rules: bool = False  # whether a plotter is to draw the rules too, before all else

    def sheet(self, tolerance: float = 0.0) -> Sheet:
        """The page as it is drawn, without points that strokes stay within `tolerance` (mm) of."""
        dot, lines = np.array([[-DOT / 2, 0], [DOT / 2, 0]]), []
        for ink, strokes in self.lines:
            spans = [(stroke.min(0), stroke.max(0), stroke) for stroke in strokes]
            pens = [(low + high) / 2 + dot if np.hypot(*(high - low)) < DOT else stroke for low, high, stroke in spans]
            lines.append((ink.text, [simplify(stroke, tolerance) for stroke in pens] if tolerance else pens))
        groups: list[tuple[str | None, list]] = [(None, self.rules)] if self.rules and self.plots_rules else []
        strokes = [stroke for _, pens in lines for stroke in pens]
        counts = [len(stroke) for ink, _ in self.lines for stroke in ink.strokes]
        return Sheet(self.width, self.height, [*groups, *lines], strokes, counts, self.rules)

    def save(self, path: Path | str, drawing: Drawing | None = None, plotter: Plotter | None = None) -> list[Path]:
        """Write a file as its ending says, see `save`."""
        return save([self], path, drawing, plotter)

    def _repr_svg_(self) -> str:
        return svg_bytes(self.sheet(), Drawing()).decode().partition("?>")[2].strip()  # a part of the notebook's page


def stack_lines(inks: Sequence[Ink], margin: float = MARGIN) -> Page:
    """Lines below each other, left-aligned and as they were written, on a page that just holds them and a margin."""
    placed, y, right = [], margin, 0.0
    for ink in inks:
        strokes = [stroke * MM_PER_UNIT for stroke in ink.strokes]
        low, high = (f(np.concatenate(strokes), axis=0) for f in (np.min, np.max))
        placed.append(Placed(ink, [stroke - low + [margin, y] for stroke in strokes]))
        right, y = max(right, high[0] - low[0]), y + max(high[1] - low[1], MIN_LINE) + LINE_GAP
    return Page(float(right) + 2 * margin, float(y) - LINE_GAP + margin, placed)


def check_ending(path: Path) -> str:
    """The format that a name's ending asks for. Raises InputError for one that cannot be written."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise InputError(f"{path}: cannot be written; give a name that ends with .{', .'.join(FORMATS)}")
    return kind


def save(
    pages: Sequence[Page], path: Path | str, drawing: Drawing | None = None, plotter: Plotter | None = None
) -> list[Path]:
    """Write pages in the format that the ending of `path` names. Returns the files that were written.

    Of several pages each is a file, letter-1.svg, letter-2.svg and so on, but .pdf, .json, .npz and .inkml hold all. In
    .xml each line is a file, letter-01.xml and so on, with one letter.txt. No file is written before all are ready.
    Raises InputError for an unknown ending and for what the format cannot hold.
    """
    path = Path(path)
    kind = check_ending(path)
    inks = [placed.ink for page in pages for placed in page.lines]
    if not inks:
        raise InputError(f"{path}: there is no ink to write")
    sheets, files = [page.sheet(drawing.simplify if drawing else 0.0) for page in pages], {}
    match kind:
        case "json" | "npz" | "inkml":
            contents = [{"json": json_bytes, "npz": npz_bytes, "inkml": inkml_bytes}[kind](inks)]
        case "xml":
            *_, beside = files_of(path)
            if not all(ink.text.strip() for ink in inks):
                raise InputError("a line without a text cannot be written as .xml; give it one, or write .json")
            body = encode_latin("\n".join(ink.text for ink in inks))
            files[beside] = b"\n\n".join([b"OCR:", body, b"CSR:", body + b"\n"])
            contents = [iam_bytes(ink) for ink in inks]
        case "pdf":
            contents = [pdf_bytes(sheets, drawing or Drawing())]
        case "svg" | "png":
            draw = svg_bytes if kind == "svg" else png_bytes
            contents = [draw(sheet, drawing or Drawing()) for sheet in sheets]
        case "gcode":
            contents = [gcode_bytes(sheet, plotter or Plotter(), drawing) for sheet in sheets]
        case _:  # gif or webp
            contents = [film_bytes(sheet, drawing or Drawing(), kind) for sheet in sheets]
    digits = 2 if kind == "xml" else 0
    files |= zip(numbered(path, len(contents), digits), contents, strict=True)
    for name, data in files.items():
        with atomic_write(name) as file:  # whole or not at all
            file.write(data)
    return list(files)


def numbered(path: Path, count: int, digits: int = 0) -> list[Path]:
    """The names of `count` files: the path itself, or, of several, with numbers of as many `digits` as they need."""
    digits = digits or len(str(count))
    return [path.with_stem(f"{path.stem}-{n:0{digits}}") for n in range(1, count + 1)] if count > 1 else [path]


def files_of(path: Path) -> list[Path]:
    """The output at `path`, what is there of the numbered files that it may become, and the transcription beside .xml.

    Raises InputError for a text there that is no transcription.
    """
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    name = re.compile(re.escape(path.stem) + r"-\d+" + re.escape(path.suffix))
    files = [path, *sorted(other for other in siblings if name.fullmatch(other.name))]
    if path.suffix.lower() == ".xml":
        files.append(beside := path.with_suffix(".txt"))
        if beside.is_file() and not beside.read_bytes().startswith(b"OCR:"):
            raise InputError(f"{beside}: a transcription would be written over it; name another file than {path}")
    return files


def json_bytes(inks: list[Ink]) -> bytes:
    """Lines as JSON: of each its strokes as [x, y] in whiteboard units, and for each point its character's place."""
    lines = []
    for ink in inks:
        strokes = ink.strokes
        characters = np.split(np.asarray(ink.characters), np.cumsum([len(stroke) for stroke in strokes])[:-1])
        line = {name: getattr(ink, name) for name in DETAILS}
        line |= {"strokes": [np.round(stroke, 3).tolist() for stroke in strokes]}
        lines.append(line | {"characters": [part.tolist() for part in characters]})
    return json.dumps({"version": INK_VERSION, "lines": lines}, ensure_ascii=False, default=np.generic.item).encode()


def npz_bytes(inks: list[Ink]) -> bytes:
    """Lines as an .npz of N points in L lines: points (N, 3), characters (N,), starts (L + 1,), and details (L,)."""
    none = {"seed": -1, "bias": np.nan}  # instead of None
    values = {name: [getattr(ink, name) for ink in inks] for name in DETAILS}
    arrays: dict[str, Any] = {name: np.array([none[name] if v is None else v for v in values[name]]) for name in values}
    arrays |= {name: np.concatenate([getattr(ink, name) for ink in inks]) for name in ("points", "characters")}
    arrays |= {"starts": np.cumsum([0] + [len(ink.points) for ink in inks]), "version": np.array(INK_VERSION)}
    np.savez_compressed(data := io.BytesIO(), **arrays)
    return data.getvalue()


def inkml_bytes(inks: list[Ink]) -> bytes:
    """Lines as InkML: traces under the root, with ids; X and Y in whiteboard units, y downwards.

    The text of a single line is an annotation of the whole; each of several has a traceView of its traces.
    """
    root = etree.Element("ink", nsmap={None: "http://www.w3.org/2003/InkML"})
    channels = etree.SubElement(etree.SubElement(root, "definitions"), "traceFormat")
    for name in "XY":
        etree.SubElement(channels, "channel", name=name, type="decimal")
    views = [root if len(inks) == 1 else etree.Element("traceView") for _ in inks]
    for ink, view in zip(inks, views, strict=True):
        etree.SubElement(view, "annotation", type="truth").text = ink.text
    traces = [(view, stroke) for ink, view in zip(inks, views, strict=True) for stroke in ink.strokes]
    for number, (view, stroke) in enumerate(traces):
        trace = etree.SubElement(root, "trace", id=str(number))
        trace.text = ", ".join(f"{x:.3f} {y:.3f}" for x, y in stroke.tolist())
        if view is not root:
            etree.SubElement(view, "traceView", traceDataRef=f"#{number}")
    root.extend(view for view in views if view is not root)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def encode_latin(text: str) -> bytes:
    """A text as a transcription of IAM-OnDB holds it. Raises InputError for one that it cannot hold."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        lacking = error.object[error.start]
        raise InputError(f"{lacking!r} is not in Latin-1, which transcriptions of IAM-OnDB are in") from None


def iam_bytes(ink: Ink) -> bytes:
    """A line file of IAM-OnDB, in whole whiteboard units from its top left corner. Raises InputError if too long."""
    low = np.concatenate(ink.strokes).min(0)
    strokes = [np.rint(stroke - low).astype(int) for stroke in ink.strokes]
    width, height = np.concatenate(strokes).max(0).tolist()
    if (size := max(width, height)) > MAX_POSITION:
        raise InputError(f"{ink.text[:40]!r} is {size} whiteboard units long; IAM-OnDB has {MAX_POSITION}")
    board = etree.SubElement(root := etree.Element("WhiteboardCaptureSession"), "WhiteboardDescription")
    etree.SubElement(board, "SensorLocation", corner="top_left")
    for name, x, y in (("Diagonally", width, height), ("Vertically", 0, height), ("Horizontally", width, 0)):
        etree.SubElement(board, f"{name}OppositeCoords", x=str(x), y=str(y))
    group, time = etree.SubElement(root, "StrokeSet"), 0.0
    for stroke in strokes:
        times = [f"{time + PERIOD * n:.2f}" for n in range(len(stroke))]
        element = etree.SubElement(group, "Stroke", colour="black", start_time=times[0], end_time=times[-1])
        for (x, y), when in zip(stroke.tolist(), times, strict=True):
            etree.SubElement(element, "Point", x=str(x), y=str(y), time=when)
        time += PERIOD * len(stroke) + 0.2  # s, to the next stroke
    return etree.tostring(root, xml_declaration=True, encoding="ISO-8859-1", pretty_print=True)
