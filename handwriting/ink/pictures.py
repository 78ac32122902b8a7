"""Pages of strokes as pictures, through matplotlib: .pdf, .png, and the pen at work as .gif and .webp."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from handwriting.program import InputError
from handwriting.strokes import PERIOD

if TYPE_CHECKING:  # they take a second, and not all formats need them
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from PIL.Image import Image

MM_PER_INCH = 25.4
POINTS_PER_INCH = 72
MAX_PIXELS = 50_000_000  # of one page
FRAME = 0.04  # s, the least time that a frame is shown
MAX_FRAMES, MAX_FILM_BYTES = 500, 500_000_000  # of a film, all of it in memory: longer ones show each frame longer
LAST_FRAME = 2.0  # s


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
                raise InputError(f"{name} {value!r} is none; give a name such as navy, or #rrggbb")
        for name, number, least, most in (
            ("pen width", self.pen_width, 0.01, 20),
            ("dpi", 200 if self.dpi is None else self.dpi, 10, 2400),
            ("speed", self.speed, 0.01, 1000),
        ):
            if not least <= number <= most:
                raise InputError(f"{name} must be from {least} to {most}, not {number}")


@dataclass(frozen=True)
class Sheet:
    """What is to be drawn: strokes (n, 2), n >= 2, in mm from the top left corner, in the order of writing."""

    width: float  # mm
    height: float  # mm
    strokes: list[np.ndarray]
    rules: list[np.ndarray]  # (2, 2) in mm: faint lines on the paper


def page_figure(sheet: Sheet, drawing: Drawing, with_ink: bool = True) -> Figure:
    """A figure of the size of a sheet. It has no axes, which take longer to make than all strokes to draw."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(sheet.width / MM_PER_INCH, sheet.height / MM_PER_INCH))
    figure.patch.set_visible(drawing.paper is not None)
    figure.set_facecolor(drawing.paper or "none")
    if sheet.rules:
        add_lines(figure, sheet.rules, "#b8c4d6", 0.1, "butt")
    if with_ink and sheet.strokes:
        add_ink(figure, sheet.strokes, drawing)
    return figure


def add_ink(figure: Figure, strokes: list[np.ndarray], drawing: Drawing) -> LineCollection:
    """`add_lines` with the pen of a drawing, which is round."""
    return add_lines(figure, strokes, drawing.colour, drawing.pen_width, "round")


def add_lines(
    figure: Figure, strokes: list[np.ndarray], colour: str, width: float, cap: Literal["butt", "round"]
) -> LineCollection:
    """Add strokes (n, 2), in mm from the top left corner, to a figure, drawn with a pen `width` mm wide."""
    from matplotlib.collections import LineCollection
    from matplotlib.transforms import Affine2D

    to_inches = Affine2D().scale(1 / MM_PER_INCH, -1 / MM_PER_INCH).translate(0, figure.get_figheight())
    points = width * POINTS_PER_INCH / MM_PER_INCH  # typographic ones, in which matplotlib has the width of lines
    lines = LineCollection(strokes, colors=colour, linewidths=points, capstyle=cap, joinstyle="round")
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


def num_pixels(sheet: Sheet, dpi: int) -> float:
    """Pixels of a sheet at so many to the inch."""
    return sheet.width * sheet.height * (dpi / MM_PER_INCH) ** 2


def resolution(sheet: Sheet, drawing: Drawing, usual: int) -> int:
    """Pixels to the inch. Raises InputError if the picture would be too large."""
    dpi = drawing.dpi or usual
    pixels = num_pixels(sheet, dpi)
    if pixels > MAX_PIXELS:
        raise InputError(
            f"{dpi} dpi give {pixels / 1e6:.0f} million pixels a page; at most {MAX_PIXELS // 10**6} can be"
        )
    return dpi


def png_bytes(sheet: Sheet, drawing: Drawing) -> bytes:
    """A sheet as pixels."""
    file = io.BytesIO()
    page_figure(sheet, drawing).savefig(file, format="png", dpi=resolution(sheet, drawing, 200))
    return file.getvalue()


def film_bytes(sheet: Sheet, points: list[int], drawing: Drawing, kind: str) -> bytes:
    """The pen at work: a film that repeats, `kind` "gif" or "webp", by Pillow, which comes with matplotlib.

    points[k] is how many points stroke k was written with: a pen's position is read some 75 times a second. It takes
    as long to go from one stroke to the next as ten points. The film has white paper where there is none.
    """
    from PIL.Image import Dither

    length = sum(n + 10 for n in points) * PERIOD / drawing.speed
    pixel_bytes = 1 if kind == "gif" else 4  # in Pillow
    most = MAX_FILM_BYTES // (pixel_bytes * num_pixels(sheet, resolution(sheet, drawing, 80)))
    count = int(np.clip(np.ceil(length / FRAME), 1, np.clip(most, 1, MAX_FRAMES)))
    shown = max(length / count, FRAME)
    durations = [round(1000 * shown)] * (count - 1) + [round(1000 * LAST_FRAME)]
    frames = film_frames(sheet, points, count, drawing)
    if kind == "gif":
        palette = shades(drawing)
        frames = (frame.quantize(palette=palette, dither=Dither.NONE) for frame in frames)
    first, file = next(frames), io.BytesIO()
    first.save(
        file, format=kind, save_all=True, append_images=frames, duration=durations, loop=0, disposal=1, lossless=True
    )
    return file.getvalue()


def film_frames(sheet: Sheet, points: list[int], count: int, drawing: Drawing) -> Iterator[Image]:
    """`count` pictures of the ink at equal times; each is the one before, with what has been written since."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    paper = replace(drawing, paper=drawing.paper or "white")
    figure = page_figure(sheet, paper, with_ink=False)
    figure.set_dpi(resolution(sheet, drawing, 80))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    begins = np.cumsum([0] + [n + 10 for n in points])  # of each stroke, in points
    for number in range(1, count + 1):
        since, now = (begins[-1] * k / count for k in (number - 1, number))
        parts = [
            part
            for stroke, begin, n in zip(sheet.strokes, begins, points, strict=False)
            if begin < now
            and begin + n > since
            and len(part := part_of(stroke, (since - begin) / n, (now - begin) / n))
        ]
        if parts:
            lines = add_ink(figure, parts, drawing)
            figure.draw_artist(lines)
            lines.remove()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def shades(drawing: Drawing) -> Image:
    """A picture whose palette goes from the paper's colour to the ink's: one for all frames, or they would flicker."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    ends = np.array([to_rgb(drawing.paper or "white"), to_rgb(drawing.colour)])  # (2, 3)
    share = np.linspace(0, 1, 32)[:, None]
    image = Image.new("P", (1, 1))
    image.putpalette(np.rint(255 * ((1 - share) * ends[0] + share * ends[1])).astype(np.uint8).tobytes())
    return image


def part_of(stroke: np.ndarray, begin: float, end: float) -> np.ndarray:
    """The part of a stroke (n, 2) from share `begin` to share `end` of its points, at least two points."""
    last = len(stroke) - 1
    first, final = (int(np.clip(round(share * last), 0, last)) for share in (begin, end))
    return stroke[min(first, last - 1) : max(final, first + 1) + 1]
