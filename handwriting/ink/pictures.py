"""Pages of strokes as pictures, through matplotlib: .pdf, .png, and the pen at work as .gif and .webp."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from handwriting.ink.geometry import beziers, smooth
from handwriting.program import InputError, check_range
from handwriting.strokes import PERIOD

if TYPE_CHECKING:  # they take a second, and not all formats need them
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

MM_PER_INCH = 25.4
FIGURE_ENDINGS = (".png", ".svg", ".pdf")  # of pictures that go with the output
MAX_PIXELS = 50  # millions, of one page
USUAL_COLOURS = {"black": "#000000", "white": "#ffffff"}  # matplotlib, which knows all, takes a while to import
FRAME = 0.04  # s: the least time that a frame of a film is shown
MAX_FRAMES, MAX_FILM_BYTES = 500, 500_000_000  # of a film, all of it in memory: longer ones show each frame longer


def to_hex(colour: str) -> str:
    """A colour as #rrggbb. Raises ValueError for what is none."""
    if colour in USUAL_COLOURS:
        return USUAL_COLOURS[colour]
    from matplotlib import colors

    return colors.to_hex(colour)


@dataclass(frozen=True)
class Drawing:
    """How strokes are drawn. Raises InputError for values that cannot be used."""

    pen_width: float = 0.35  # mm
    colour: str = "black"  # the ink's: a name or #rrggbb
    paper: str | None = "white"  # None: transparent
    dpi: int | None = None  # pixels to the inch; None: 200, or 80 for films
    height: int | None = None  # pixels of a .png, in place of dpi
    grey: bool = False  # a .png of grey levels alone
    speed: float = 1.0  # of films: how many times as fast as a pen writes
    smooth: bool = False  # smooth curves through the points of strokes
    simplify: float = 0.0  # mm that strokes may be off for having fewer points

    def __post_init__(self) -> None:
        for name, value in (("colour", self.colour), ("paper", self.paper)):
            try:
                to_hex("white" if value is None else value)
            except (ValueError, TypeError):
                raise InputError(f"there is no {name} {value!r}; give a name such as navy, or #rrggbb") from None
        check_range("pen width", self.pen_width, 0.01, 20)
        check_range("dpi", self.dpi, 10, 2400)
        check_range("height", self.height, 8, 2400)
        if self.height and self.dpi:
            raise InputError("--height and --dpi: give one of them")
        if self.grey and self.paper is None:
            raise InputError("--grey and --transparent: a picture of grey levels has paper; leave one of them out")
        check_range("speed", self.speed, 0.01, 1000)
        check_range("simplify", self.simplify, 0, 10, " mm")

    def resolution(self, height: float, kind: str = "png") -> float:
        """Pixels to the inch of a picture `height` mm high, as a file of some kind; 0 if that has no pixels."""
        usual = {"png": 200, "gif": 80, "webp": 80}.get(kind, 0)
        return self.height * MM_PER_INCH / height if self.height else usual and (self.dpi or usual)


def check_pixels(width: float, height: float, dpi: float | None) -> None:
    """Raise InputError for a page in mm that has too many pixels at `dpi`; None or 0: the format has none."""
    if dpi and (pixels := width * height * (dpi / MM_PER_INCH) ** 2 / 1e6) > MAX_PIXELS:
        raise InputError(f"{dpi:.0f} dpi give {pixels:.0f} million pixels a page; {MAX_PIXELS} are allowed")


class Sheet(NamedTuple):
    """A page as it is drawn, in mm from the top left corner, y downwards. All strokes are in the order of writing."""

    width: float
    height: float
    groups: list[tuple[str | None, list[np.ndarray]]]  # what a pen draws: titles and strokes (n, 2), n >= 2
    strokes: list[np.ndarray]  # (n, 2), n >= 2: the ink, for pictures
    counts: list[int]  # how many points each of `strokes` was written with
    rules: list[np.ndarray]  # (2, 2): faint lines on the paper, in pictures


def page_figure(sheet: Sheet, drawing: Drawing, dpi: float | None = None) -> "Figure":
    """A figure of a sheet. Raises InputError if it has too many pixels at `dpi`, which is for pictures of pixels."""
    from matplotlib.figure import Figure

    check_pixels(sheet.width, sheet.height, dpi)
    # It has no axes, which take longer to make than all strokes to draw.
    figure = Figure(figsize=(sheet.width / MM_PER_INCH, sheet.height / MM_PER_INCH), dpi=dpi)
    figure.patch.set_visible(drawing.paper is not None)
    figure.set_facecolor(drawing.paper or "none")
    if sheet.rules:
        draw_lines(figure, sheet.rules, "#b8c4d6", 0.1, "butt")
    if sheet.strokes:
        draw_lines(figure, sheet.strokes, drawing.colour, drawing.pen_width, is_smooth=drawing.smooth)
    return figure


def draw_lines(
    figure: "Figure", strokes: list[np.ndarray], colour: str, width: float, cap: str = "round", is_smooth: bool = False
) -> "Artist":
    """Add strokes (n, 2), in mm from the top left corner, to a figure, drawn with a pen `width` mm wide."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D

    def path(stroke: np.ndarray) -> Path:
        curves = beziers(stroke) if is_smooth else stroke
        return Path(curves, [Path.MOVETO] + [Path.CURVE4] * (len(curves) - 1) if is_smooth else None)

    to_inches = Affine2D().scale(1 / MM_PER_INCH, -1 / MM_PER_INCH).translate(0, figure.get_figheight())
    points = width * (72 / MM_PER_INCH)  # typographic ones
    pen: dict[str, Any] = {"edgecolors": colour, "linewidths": points, "capstyle": cap, "joinstyle": "round"}
    lines = PathCollection([path(stroke) for stroke in strokes], facecolors="none", **pen)
    lines.set_transform(to_inches + figure.dpi_scale_trans)
    return figure.add_artist(lines)


def pdf_bytes(sheets: list[Sheet], drawing: Drawing) -> bytes:
    """All sheets as one document, of their exact size. White paper is not drawn: that is what pages are printed on."""
    from matplotlib.backends.backend_pdf import PdfPages

    drawing = replace(drawing, paper=None if drawing.paper == "white" else drawing.paper)
    with PdfPages(file := io.BytesIO(), metadata={"CreationDate": None}) as document:
        for sheet in sheets:
            document.savefig(page_figure(sheet, drawing))
    return file.getvalue()


def png_bytes(sheet: Sheet, drawing: Drawing) -> bytes:
    """A sheet as pixels. Raises InputError if they are too many."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    # A little more, or whole pixels are cut off by rounding.
    figure, file = page_figure(sheet, drawing, drawing.resolution(sheet.height) * (1 + 1e-9)), io.BytesIO()
    if drawing.grey:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("L").save(file, "png")
    else:
        figure.savefig(file, format="png")
    return file.getvalue()


def film_bytes(sheet: Sheet, drawing: Drawing, kind: str) -> bytes:
    """The pen at work, as fast as people write: a film that repeats, "gif" or "webp". Raises as `png_bytes`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from PIL import Image

    drawing = replace(drawing, paper=drawing.paper or "white")  # films cannot be transparent
    figure = page_figure(sheet._replace(strokes=[]), drawing, drawing.resolution(sheet.height, kind))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    strokes = [smooth(stroke) if drawing.smooth else stroke for stroke in sheet.strokes]
    begins = np.cumsum([0] + [n + 10 for n in sheet.counts])  # of each stroke, in points; to lift the pen takes 10
    length = begins[-1] * PERIOD / drawing.speed
    most = MAX_FILM_BYTES // (figure.bbox.width * figure.bbox.height * (1 if kind == "gif" else 4))  # bytes in Pillow
    count = int(np.clip(np.ceil(length / FRAME), 1, np.clip(most, 1, MAX_FRAMES)))

    def frames() -> Iterator[Image.Image]:
        """Pictures of the ink at equal times; each is the one before, with what has been written since."""
        for since, now in pairwise(np.linspace(0, begins[-1], count + 1)):
            parts = []
            for stroke, begin, n in zip(strokes, begins[:-1], sheet.counts, strict=True):
                if begin < now and begin + n > since:
                    last = len(stroke) - 1  # the stroke on the page may have more points than were written
                    first, final = np.clip(np.rint((np.array([since, now]) - begin) / n * last).astype(int), 0, last)
                    parts.append(stroke[min(first, last - 1) : max(final, first + 1) + 1])  # at least two points
            if parts:
                lines = draw_lines(figure, parts, drawing.colour, drawing.pen_width)
                figure.draw_artist(lines)
                lines.remove()
            yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    pictures = frames()
    if kind == "gif":  # one palette for all frames, or they would flicker: shades from the paper to the ink
        palette = Image.new("P", (1, 1))
        shades = np.linspace(to_rgb(drawing.paper or "white"), to_rgb(drawing.colour), 32)
        palette.putpalette(np.rint(255 * shades).astype(np.uint8).tobytes())
        pictures = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    durations = [round(1000 * max(length / count, FRAME))] * (count - 1) + [2000]  # ms
    options = {"save_all": True, "append_images": pictures, "duration": durations, "loop": 0}
    next(pictures).save(file := io.BytesIO(), format=kind, disposal=1, lossless=True, **options)
    return file.getvalue()
