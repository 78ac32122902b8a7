"""Pages: a text broken into lines by the width of its ink, and the written lines placed on paper, in millimetres."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from handwriting.ink.formats import Ink, Page, Placed
from handwriting.ink.geometry import find_level, split_like
from handwriting.program import InputError, check_range
from handwriting.seeds import derived_seed

PAPERS = {
    "a3": (297.0, 420.0), "a4": (210.0, 297.0), "a5": (148.0, 210.0), "a6": (105.0, 148.0), "a7": (74.0, 105.0),
    "letter": (215.9, 279.4), "legal": (215.9, 355.6),
}  # fmt: skip # mm
PAPER = re.compile(r"(\d+(?:\.\d+)?)\s*[x×]\s*(\d+(?:\.\d+)?)\s*(mm|cm|in|)")
UNITS = {"": 1.0, "mm": 1.0, "cm": 10.0, "in": 25.4}  # mm
USUAL_MARGIN, USUAL_X_HEIGHT = 20, 2.5  # mm, on a page as wide as A4; smaller ones have less
ALIGN, VERTICAL = ("left", "center", "right"), ("top", "center", "bottom")
BASELINE = 0.7  # where the baseline is in the height of a line: tall letters need more room than descenders

# A character's usual advance, as a share of the mean one: from the recorded lines by least squares, to one digit.
ADVANCES = dict.fromkeys(".,:;'!|`", 0.3) | dict.fromkeys("iljtz", 0.7) | dict.fromkeys("mw ", 1.3)
CAPITAL, OTHER = 1.7, 1.0
USUAL_ADVANCE = 1.4  # the mean advance in x-heights, of recorded lines
PROBE = 150  # characters that are written before the rest of a text, to see how wide the hand is
SPREAD = 0.06  # deviation of a line's width from what the advances give, as a share
LOOSE = 0.7  # of the width: a shorter line is written again with its next word, if at this share of its width it fits
SHRINK, LEAST = 0.97, 1.0  # of the letters for a text that does not fit on a page, and mm, of their x-height


@dataclass(frozen=True)
class PageFormat:
    """Paper and where the writing goes on it, in millimetres. Raises InputError for what leaves no room to write."""

    width: float = 210.0
    height: float = 297.0
    margins: tuple[float, ...] = ()  # as `parse_margins` takes them; none: as the paper's size has them
    x_height: float = None  # type: ignore[assignment] # of small letters; None: as the paper's size has it
    line_spacing: float | None = None  # from baseline to baseline; None: 3.6 times the x-height
    align: str = "left"  # one of ALIGN
    vertical: str = "top"  # where a page that is not full has its lines: one of VERTICAL
    fit: bool = False  # smaller letters, where the text needs them to fit on one page
    ruled: bool = False  # a faint line under each line
    plots_rules: bool = False  # whether a plotter draws them too
    jitter: float = 0.0  # deviation of the baselines; the left margin's is three times that

    def __post_init__(self) -> None:
        for name, size in (("page width", self.width), ("page height", self.height)):
            check_range(name, size, 10, 5000, " mm")
        share = min(self.width, self.height) / PAPERS["a4"][0]
        margins = (int(USUAL_MARGIN * share),) if isinstance(self.margins, tuple) and not self.margins else self.margins
        object.__setattr__(self, "margins", parse_margins(margins))
        if self.x_height is None:
            object.__setattr__(self, "x_height", round(USUAL_X_HEIGHT * share**0.5, 1))
        for name, value, least, most in (
            ("x-height", self.x_height, 0.2, 500), ("line spacing", self.spacing, 0.2, 5000),
            ("jitter", self.jitter, 0, 50),
            *(("margin", margin, 0, 5000) for margin in self.margins),
        ):  # fmt: skip
            check_range(name, value, least, most, " mm")
        for place, places in ((self.align, ALIGN), (self.vertical, VERTICAL)):
            if place not in places:
                raise InputError(f"lines cannot be aligned {place!r}; give one of {', '.join(places)}")
        if self.text_width < 2 * self.x_height or self.lines_per_page < 1:
            raise InputError(
                f"a page of {self.width:g}x{self.height:g} mm has no room for a line within its margins; "
                "give a larger page, smaller margins or a smaller x-height"
            )

    @property
    def spacing(self) -> float:
        """From baseline to baseline, mm."""
        return 3.6 * self.x_height if self.line_spacing is None else self.line_spacing

    @property
    def text_width(self) -> float:
        """Between the left and the right margin, mm."""
        return self.width - self.margins[1] - self.margins[3]

    @property
    def lines_per_page(self) -> int:
        """How many lines there are between the margins."""
        return int((self.height - self.margins[0] - self.margins[2]) / self.spacing + 1e-9)

    def smaller(self) -> "PageFormat":
        """The same in letters a little smaller. Raises InputError if they were too small to read."""
        if self.x_height * SHRINK < LEAST:
            size = f"{self.width:g}x{self.height:g} mm"
            raise InputError(f"the text does not fit on a page of {size} even in small letters; give a larger page")
        spacing = self.line_spacing and self.line_spacing * SHRINK
        return replace(self, x_height=self.x_height * SHRINK, line_spacing=spacing)

    def baseline(self, number: int) -> float:
        """The y of baseline `number` of a page, from 0, mm."""
        return self.margins[0] + (number + BASELINE) * self.spacing


def parse_page(text: str, landscape: bool = False) -> tuple[float, float]:
    """Width and height in mm of a paper of `PAPERS`, or of 100x150, 148 x 105 mm, 5x7in. InputError for all else."""
    name = text.strip().lower()
    size = PAPERS.get(name)
    if match := PAPER.fullmatch(name):
        size = float(match[1]) * UNITS[match[3]], float(match[2]) * UNITS[match[3]]
    if not size:
        names = ", ".join(name.upper() if len(name) == 2 else name for name in PAPERS)
        raise InputError(f"{text!r} is no page; give {names}, or a size such as 100x150 (mm), 10x15cm or 5x7in")
    return (max(size), min(size)) if landscape else size


def parse_margins(given: str | float | Sequence[float]) -> tuple[float, float, float, float]:
    """Margins in mm, top, right, bottom and left: four numbers, two (top, right), or one for all; a text has commas."""
    try:
        parts = given.split(",") if isinstance(given, str) else np.ravel(given)
        numbers = [float(part) for part in parts]
    except (ValueError, TypeError):
        numbers = []
    if len(numbers) not in (1, 2, 4):
        raise InputError(f"margins cannot be {given!r}; give one, two or four numbers in mm, such as 20 or 25,20,25,30")
    top, right, bottom, left = (numbers * 4)[:4]
    return top, right, bottom, left


@dataclass(frozen=True)
class TextLine:
    """A line of a text as it is to be written; a blank line has the text ""."""

    text: str
    paragraph: int  # from 0: a line of the text as it was given
    start: int  # where in its paragraph the line begins
    indent: float = field(compare=False, default=0.0)  # mm, from the left margin


def paragraph_seeds(text: str) -> list[int]:
    """A seed for each paragraph that follows from its words, and from how often they came before: from nothing else."""
    paragraphs, seen = [" ".join(given.split()) for given in text.splitlines()], Counter[str]()
    seeds = []
    for words in paragraphs:
        seeds.append(derived_seed(f"paragraph {words}", seen[words]))
        seen[words] += 1
    return seeds


class WidthEstimate:
    """How wide a text's ink will be, in mm: by what its characters usually take, and by the ink seen so far."""

    def __init__(self, x_height: float) -> None:
        self.advance = USUAL_ADVANCE * x_height  # mm, of a mean character
        self._shares, self._widths = 0.0, 0.0

    def shares(self, text: str) -> float:
        """A text's width in mean characters."""
        return sum(CAPITAL if c.isupper() else ADVANCES.get(c, OTHER) for c in text)

    def learn(self, text: str, width: float) -> None:
        """Take account of ink: `text` came out `width` mm wide."""
        self._shares += self.shares(text)
        self._widths += width
        self.advance = self._widths / self._shares if self._shares else self.advance

    def measure(self, text: str) -> float:
        """The width in mm that five lines in six stay within."""
        return self.shares(text) * self.advance * (1 + SPREAD)


MARKER = re.compile(r"(?:[-*\u2022]|\d{1,3}[.)])\s+(?=\S)")  # of an item of a list


def break_text(
    text: str, measure: Callable[[str], float], width: float, written: Mapping[TextLine, float] | None = None
) -> tuple[list[TextLine], list[str]]:
    """Break a text into lines that are at most `width` mm wide. Returns them, and the words broken with a hyphen.

    Each line of `text` is a paragraph; blank lines stay, and blanks at its beginning set it in. What follows the mark
    of a list's item (`- ` or `1. `) is set in by the mark's width. `measure` estimates the width of a piece in mm;
    `written` has the widths of lines that have been written: one that fits is kept, another is made shorter. Raises
    InputError if the page is too narrow for a single character of the text.
    """
    lines, broken, written = [], [], written or {}
    for number, given in enumerate(text.expandtabs(4).splitlines()):
        paragraph = " ".join(given.split())
        if not paragraph:
            lines.append(TextLine("", number, 0))
            continue
        needed = written.get(TextLine(paragraph, number, 0), measure(paragraph))
        room = width - needed if needed <= width else width / 2  # so that a date on the right stays one line
        indent = min(measure(" " * (len(given) - len(given.lstrip()))), room)
        marker = MARKER.match(paragraph)
        hang = min(measure(marker[0]), width / 2) if marker else 0.0
        start = 0
        while start < len(paragraph):
            set_in = indent + (hang if start else 0.0)
            line, start = next_line(paragraph, start, number, set_in, measure, width, written)
            lines.append(line)
            if line.text != paragraph[line.start : start].strip():  # a hyphen was added
                broken.append(paragraph[paragraph.rfind(" ", 0, start) + 1 :].partition(" ")[0])
    return lines, list(dict.fromkeys(broken))


def next_line(
    paragraph: str, start: int, number: int, indent: float, measure: Callable[[str], float], width: float,
    written: Mapping[TextLine, float],
) -> tuple[TextLine, int]:  # fmt: skip
    """The longest line that fits, from `start` on, or one that is written and fits; and where the next one starts."""

    def choose(ends: Iterable[int], hyphen: str = "") -> tuple[TextLine, int] | None:
        """Of lines with some ends, the shortest first, the one to write."""
        chosen, known, base, share = None, 0.0, 0.0, 1.0  # mm of a shorter line's ink, and as estimated
        for end in ends:
            text = paragraph[start:end]
            line = TextLine(text if text.endswith("-") else text + hyphen, number, start, indent)
            after = end + (paragraph[end : end + 1] == " ")
            if line in written:
                if written[line] <= width - indent:
                    chosen = line, after
                if written[line] > LOOSE * (width - indent):
                    return chosen
                known, base, share = written[line], measure(line.text), LOOSE
                continue
            estimated, share = known + share * (measure(line.text) - base), 1.0
            if estimated <= width - indent:
                chosen = line, after
            elif estimated > 2 * (width - indent):  # a longer one that is written and fits is not to be expected
                break
        return chosen

    word = paragraph[start:].partition(" ")[0]
    words = (match.start() for match in re.compile(r" |\Z").finditer(paragraph, start + 1))
    # A broken word keeps two characters or more on either side, if it has as many, and its own hyphens are the best.
    least = 2 if len(word) > 3 else 1
    pieces = [n for n in range(least, len(word) - least + 1) if word[n - 1].isalnum() or word[n - 1] == "-"]
    own = [start + n for n in pieces if word[n - 1] == "-"]
    if found := choose(words) or choose(own) or choose((start + n for n in pieces), "-"):
        return found
    raise InputError(
        f"the page is too narrow for {word!r}, even broken with a hyphen: {width - indent:.1f} mm; "
        "give a larger page, smaller margins or a smaller x-height"
    )


@dataclass(frozen=True, eq=False)
class WrittenText:
    """A text that has been written, line by line."""

    lines: list[TextLine]
    inks: list[Ink | None]  # of each line; None for a blank one
    scale: float  # mm for a whiteboard unit
    broken: list[str]  # words that were broken with a hyphen
    page_format: PageFormat = field(default_factory=PageFormat)  # as asked for, but for the letters that fit on a page


class HandSize(NamedTuple):
    """How large a hand is, in whiteboard units."""

    x_height: float
    advance: float  # of a mean character

    @classmethod
    def of(cls, inks: Sequence[Ink]) -> "HandSize":
        """The size of the hand that lines are in. Raises InputError if there is nothing to measure."""
        x_height, estimate = median_x_height(inks), WidthEstimate(1.0)
        for ink in inks:
            estimate.learn(ink.text, ink_width(ink, x_height))
        return cls(x_height, estimate.advance)


def write_text(
    text: str, write: Callable[[list[TextLine]], list[Ink]], page_format: PageFormat, hand: HandSize | None = None
) -> WrittenText:
    """Break a text into lines and have them written by `write`, until no line is wider than the page allows.

    How large the `hand` is may be known already; else what is written first, a few lines, tells it. A line that turns
    out too wide is written again with less text, one that is too short with more, and so is what follows it in its
    paragraph; the other lines stay. No paragraph has an effect on another, if the hand is known and the letters need
    not be smaller to fit on the page. Raises InputError as `break_text` does, for a text without any characters, and
    for one that does not fit.
    """
    if not text.strip():
        raise InputError("the text is empty; give some characters to write")
    text = text.rstrip() if page_format.fit else text
    inks: dict[TextLine, Ink] = {}
    widths: dict[TextLine, float] = {}  # whiteboard units
    while True:
        estimate, scale = WidthEstimate(page_format.x_height), 0.0
        if hand:
            scale = page_format.x_height / hand.x_height
            estimate.advance = scale * hand.advance
        known = {line: scale * width for line, width in widths.items()}
        lines, broken = break_text(text, estimate.measure, page_format.text_width, known)
        if hand and page_format.fit and len(lines) > page_format.lines_per_page:
            page_format = page_format.smaller()
            continue
        missing = [line for line in lines if line.text and line not in inks]
        if not missing:
            return WrittenText(lines, [inks.get(line) for line in lines], scale, broken, page_format)
        if not hand:
            missing = missing[: 1 + int(np.searchsorted(np.cumsum([len(line.text) for line in missing]), PROBE))]
        new = dict(zip(missing, write(missing), strict=True))
        hand = hand or HandSize.of(list(new.values()))
        inks |= new
        widths |= {line: ink_width(ink, hand.x_height) for line, ink in new.items()}


def median_x_height(inks: Sequence[Ink]) -> float:
    """The x-height of the median character of some lines, in whiteboard units."""
    heights = [find_level(ink.strokes).x_height if has_extent(ink) else np.nan for ink in inks]
    known = np.repeat(heights, [max(len(ink.text.replace(" ", "")), 1) for ink in inks])
    known = known[np.isfinite(known)]
    if not len(known):
        raise InputError("there is no ink on the page whose size could be measured; give a longer text")
    return float(np.median(known))


def has_extent(ink: Ink) -> bool:
    """Whether the ink is more than a dot."""
    return bool(np.ptp(np.concatenate(ink.strokes), axis=0).any())


def leveled(ink: Ink, x_height: float) -> list[np.ndarray]:
    """Strokes (n, 2) of a line with its baseline at y = 0, in whiteboard units, where `x_height` is the page's."""
    strokes = ink.strokes
    if not has_extent(ink):  # a full stop alone
        return [stroke - strokes[0][0] for stroke in strokes]
    return split_like(find_level(strokes, x_height).apply(np.concatenate(strokes)), strokes)


def ink_width(ink: Ink, x_height: float) -> float:
    """How wide a line of ink is when it is level, in whiteboard units."""
    return float(np.ptp(np.concatenate(leveled(ink, x_height))[:, 0]))


def lay_out(written: WrittenText, page_format: PageFormat, seed: int = 0) -> list[Page]:
    """Place written lines, each made level, on as many pages as they need. Further pages begin without a blank line.

    `seed` is the jitter's, which follows from a line's text too. Raises InputError for a line that is wider than the
    page allows.
    """
    _, right, _, left = page_format.margins
    heights = [page_format.baseline(row) for row in range(page_format.lines_per_page)]
    rules = [np.array([[left, y], [page_format.width - right, y]]) for y in heights if page_format.ruled]
    pages, row, seen, ends = [], page_format.lines_per_page, Counter[str](), [0]
    for line, ink in zip(written.lines, written.inks, strict=True):
        if row == page_format.lines_per_page:
            if ink is None and pages:
                continue
            pages.append(Page(page_format.width, page_format.height, [], rules, page_format.plots_rules))
            row = 0
            ends.append(row)
        if ink is not None:
            random = np.random.default_rng(derived_seed(f"place of {line.text}", seed, seen[line.text]))
            dx, dy = np.clip(random.standard_normal(2), -2, 2) * page_format.jitter * [3, 1]
            seen[line.text] += 1
            strokes = [stroke * written.scale for stroke in leveled(ink, page_format.x_height / written.scale)]
            x = np.concatenate(strokes)[:, 0]
            room = page_format.text_width - float(np.ptp(x))
            if room < -1e-6:
                raise InputError(f"the line {line.text!r} is {-room:.1f} mm wider than the page allows; break it anew")
            start = {"left": min(line.indent, room), "center": room / 2, "right": room}[page_format.align]
            place = [left + max(0.0, min(start + dx, room)) - float(x.min()), heights[row] + dy]
            pages[-1].lines.append(Placed(ink, [stroke + place for stroke in strokes]))
            ends[-1] = row + 1
        row += 1
    for page, end in zip(pages, ends[1:], strict=True):
        rows = (page_format.height - page_format.margins[0] - page_format.margins[2]) / page_format.spacing - end
        down = {"top": 0.0, "center": rows / 2, "bottom": rows}[page_format.vertical]
        down = page_format.spacing * (int(down) if page_format.ruled else down)
        page.lines[:] = [Placed(ink, [stroke + [0.0, down] for stroke in strokes]) for ink, strokes in page.lines]
    return pages
