"""Pages of strokes as pictures, through matplotlib: .pdf, .png, and the pen at work as .gif and .webp."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from handwriting.program import InputError
from handwriting.strokes import PERIOD

if TYPE_CHECKING:  # they take a second, and not all formats need them
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from PIL.Image import Image

MM_PER_INCH = 25.4
POINTS_PER_MM = 72 / MM_PER_INCH  # typographic ones, in which matplotlib has the width of lines
MAX_PIXELS = 50_000_000  # of one page
FRAME = 0.04  # s, the least time that a frame is shown
MAX_FRAMES, MAX_FILM_BYTES = 500, 500_000_000  # of a film, all of it in memory: longer ones show each frame longer
LAST_FRAME = 2.0  # s
LIFT = 10  # points that a pen could write in the time that it takes from one stroke to the next
RULE_COLOUR, RULE_WIDTH = "#b8c4d6", 0.1  # faint; mm


@dataclass(frozen=True)
class Drawing:
    """How strokes are drawn. Raises InputError for values that cannot be used."""

    pen_width: float = 0.35  # mm
    colour: str = "black"  # the ink's: a name or #rrggbb
    paper: str | None = "white"  # None: transparent
    dpi: int | None = None  # pixels to the inch; None: 200, or 80 for films
    speed: float = 1.0  # of films: how many times as fast as a pen writes

    def __post_init__(self) -> None:
        from matplotlib.colors import is_color_like

        for name, value in (("colour", self.colour), ("paper", self.paper)):
            if value is not None and not is_color_like(value):
                raise InputError(f"there is no {name} {value!r}; give a name such as navy, or #rrggbb")
        for name, number, least, most in (
            ("pen width", self.pen_width, 0.01, 20),
            ("dpi", 200 if self.dpi is None else self.dpi, 10, 2400),
            ("speed", self.speed, 0.01, 1000),
        ):
            if not least <= number <= most:
                raise InputError(f"{name} must be from {least} to {most}, not {number}")


class Sheet(NamedTuple):
    """A page as it is drawn, in mm from the top left corner, y downwards. All strokes are in the order of writing."""

    width: float
    height: float
    groups: list[tuple[str | None, list[np.ndarray]]]  # what a pen draws: titles and strokes (n, 2), n >= 2
    strokes: list[np.ndarray]  # (n, 2), n >= 2: the ink, for pictures
    counts: list[int]  # how many points each of `strokes` was written with
    rules: list[np.ndarray]  # (2, 2): faint lines on the paper, in pictures


def page_figure(sheet: Sheet, drawing: Drawing, with_ink: bool = True) -> Figure:
    """A figure of the size of a sheet. It has no axes, which take longer to make than all strokes to draw."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(sheet.width / MM_PER_INCH, sheet.height / MM_PER_INCH))
    figure.patch.set_visible(drawing.paper is not None)
    figure.set_facecolor(drawing.paper or "none")
    if sheet.rules:
        draw_lines(figure, sheet.rules, RULE_COLOUR, RULE_WIDTH, "butt")
    if with_ink and sheet.strokes:
        draw_lines(figure, sheet.strokes, drawing.colour, drawing.pen_width)
    return figure


def draw_lines(
    figure: Figure, strokes: list[np.ndarray], colour: str, width: float, cap: Literal["butt", "round"] = "round"
) -> LineCollection:
    """Add strokes (n, 2), in mm from the top left corner, to a figure, drawn with a pen `width` mm wide."""
    from matplotlib.collections import LineCollection
    from matplotlib.transforms import Affine2D

    to_inches = Affine2D().scale(1 / MM_PER_INCH, -1 / MM_PER_INCH).translate(0, figure.get_figheight())
    lines = LineCollection(strokes, colors=colour, linewidths=width * POINTS_PER_MM, capstyle=cap, joinstyle="round")
    lines.set_transform(to_inches + figure.dpi_scale_trans)
    figure.add_artist(lines)
    return lines


def pdf_bytes(sheets: list[Sheet], drawing: Drawing) -> bytes:
    """All sheets as one document of as many pages, in vectors and of the sheets' exact size.

    White paper is not drawn: that is what pages are printed on.
    """
    from matplotlib.backends.backend_pdf import PdfPages

    drawing = replace(drawing, paper=None if drawing.paper == "white" else drawing.paper)
    file = io.BytesIO()
    with PdfPages(file, metadata={"CreationDate": None}) as document:
        for sheet in sheets:
            document.savefig(page_figure(sheet, drawing))
    return file.getvalue()


def resolution(sheet: Sheet, drawing: Drawing, usual: int) -> tuple[int, float]:
    """Pixels to the inch, and on the sheet. Raises InputError if the picture would be too large."""
    dpi = drawing.dpi or usual
    pixels = sheet.width * sheet.height * (dpi / MM_PER_INCH) ** 2
    if pixels > MAX_PIXELS:
        raise InputError(
            f"{dpi} dpi give {pixels / 1e6:.0f} million pixels a page; at most {MAX_PIXELS // 10**6} can be"
        )
    return dpi, pixels


def png_bytes(sheet: Sheet, drawing: Drawing) -> bytes:
    """A sheet as pixels."""
    dpi, _ = resolution(sheet, drawing, 200)
    file = io.BytesIO()
    page_figure(sheet, drawing).savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def film_bytes(sheet: Sheet, drawing: Drawing, kind: str) -> bytes:
    """The pen at work: a film that repeats, `kind` "gif" or "webp", by Pillow, which comes with matplotlib.

    It takes the time that people need, by `Sheet.counts`, and has white paper where there is none.
    """
    from matplotlib.colors import to_rgb
    from PIL import Image

    paper = drawing.paper or "white"
    drawing = replace(drawing, paper=paper)
    dpi, pixels = resolution(sheet, drawing, 80)
    length = sum(count + LIFT for count in sheet.counts) * PERIOD / drawing.speed
    most = MAX_FILM_BYTES // (pixels * (1 if kind == "gif" else 4))  # bytes of a pixel in Pillow
    count = int(np.clip(np.ceil(length / FRAME), 1, np.clip(most, 1, MAX_FRAMES)))
    durations = [round(1000 * max(length / count, FRAME))] * (count - 1) + [round(1000 * LAST_FRAME)]
    frames = film_frames(sheet, drawing, dpi, count)
    if kind == "gif":  # one palette for all frames, or they would flicker: shades from the paper to the ink
        palette = Image.new("P", (1, 1))
        shades = np.linspace(to_rgb(paper), to_rgb(drawing.colour), 32)
        palette.putpalette(np.rint(255 * shades).astype(np.uint8).tobytes())
        frames = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first, file = next(frames), io.BytesIO()
    first.save(
        file, format=kind, save_all=True, append_images=frames, duration=durations, loop=0, disposal=1, lossless=True
    )
    return file.getvalue()


def film_frames(sheet: Sheet, drawing: Drawing, dpi: int, count: int) -> Iterator[Image]:
    """`count` pictures of the ink at equal times; each is the one before, with what has been written since."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure = page_figure(sheet, drawing, with_ink=False)
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    begins = np.cumsum([0] + [n + LIFT for n in sheet.counts])  # of each stroke, in points
    for since, now in pairwise(np.linspace(0, begins[-1], count + 1)):
        parts = []
        for stroke, begin, n in zip(sheet.strokes, begins[:-1], sheet.counts, strict=True):
            if begin < now and begin + n > since:
                last = len(stroke) - 1  # the stroke on the page may have more points than were written
                first, final = np.clip(np.rint((np.array([since, now]) - begin) / n * last).astype(int), 0, last)
                parts.append(stroke[min(first, last - 1) : max(final, first + 1) + 1])  # at least two points
        if parts:
            lines = draw_lines(figure, parts, drawing.colour, drawing.pen_width)
            figure.draw_artist(lines)
            lines.remove()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
