"""What can be asked for on the command line: lines, random lines, pages, a sheet of styles, a batch.

Each is a class that checks all its flags before any work. Its methods are the stations of writing, each of which takes
what the one before returned: the texts made ready (`prepare`), their ink (`write`), its place on pages (`place`), files
(`save`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from handwriting.alphabet import Prepared
from handwriting.bulk import MANIFEST, ManifestRow, Plan, done_rows, make_plans, make_writers, save_inks, write_inks
from handwriting.figures import FIGURE_ENDINGS, attention_figure, density_figure, save_figure
from handwriting.hands import choose_style, list_styles, load_hand
from handwriting.ink.formats import FORMATS, Ink, Page, check_ending, encode_latin, save
from handwriting.ink.gcode import Plotter
from handwriting.ink.pictures import Drawing
from handwriting.pages import PageFormat, WrittenText, lay_out, parse_margins, parse_page, stack_lines
from handwriting.program import InputError, ResultError, check_writable, note
from handwriting.sampling import Line
from handwriting.writer import (
    LINE_BIAS,
    PAGE_BIAS,
    RANDOM_STEPS,
    RETRIES,
    Network,
    Writer,
    check_ink,
    check_numbers,
    generate_unconditionally,
    load_network,
)

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.figure import Figure

MOST_TOLD = 10  # lines that a message names
# Flags that only some formats of the output have a use for.
FORMAT_FLAGS = {
    "dpi": "png gif webp", "speed": "gif webp", "transparent": "png pdf svg",
    **dict.fromkeys(("pen_width", "colour"), "svg pdf png gif webp"),
    **dict.fromkeys(("pen", "pen_up", "pen_down", "feed", "origin"), "gcode"),
    **dict.fromkeys(("smooth", "ruled"), "svg pdf png gif webp gcode"), "plot_rules": "svg gcode",
}  # fmt: skip
COMMON = (
    "task bias seed output checkpoint retries pen_width colour transparent dpi speed pen pen_up pen_down feed origin"
)


class Sheets(NamedTuple):
    """Pages, and pictures to go with them by what they show."""

    pages: list[Page]
    figures: Mapping[str, Figure] = {}


class Request:
    """What the flags ask for, checked before any work. Each kind has the stations of `main`."""

    told: str  # how messages begin that tell of a flag that does not fit
    takes: str  # flags beside `COMMON`
    usual_bias: float | None
    usual_output: str  # within examples/
    hint = ""  # what else to say of a flag that does not fit

    def __init__(self, given: dict[str, Any]):
        """`given` has the flags that are given, and no others."""
        for name in given:
            if name not in f"{COMMON} {self.takes}".split():
                raise InputError(f"{self.told} takes no {flag(name)}; leave one of them out{self.hint}")
        self.seed, self.retries = given.get("seed", 0), given.get("retries", RETRIES)
        self.checkpoint, self.bias = given.get("checkpoint"), given.get("bias", self.usual_bias)
        check_numbers(seed=self.seed, retries=self.retries, bias=self.bias)
        self.output = given.get("output", Path("examples") / self.usual_output)
        kind = self.check_output(given)
        for name in given:
            if kind not in FORMAT_FLAGS.get(name, kind).split():
                raise InputError(f"--{name} is for .{FORMAT_FLAGS[name].replace(' ', ', .')}, not for .{kind}")
        paper = {"paper": None} if "transparent" in given else {}
        self.drawing = Drawing(**pick(given, "pen_width", "colour", "dpi", "speed"), **paper)
        self.plotter = Plotter(**pick(given, "pen", "feed", "origin", up="pen_up", down="pen_down"))

    def check_output(self, given: dict[str, Any]) -> str:
        """The format of the output. Raises InputError for one that cannot be written."""
        kind = check_ending(self.output)
        check_writable(self.output)
        return kind

    def make_writer(self, given: dict[str, Any]) -> Writer:
        """A writer in the hand that the flags name."""
        if "style" in given and "prime" in given:
            raise InputError("--style and --prime: give one of them")
        if "prime_text" in given and "prime" not in given:
            raise InputError("--prime_text is what the ink of --prime says; give that, too")
        hand = given.get("style")
        if hand == "random":
            hand = choose_style(self.seed)
        if "prime" in given:
            hand = load_hand(given["prime"], given.get("prime_text"))
        return Writer(self.checkpoint, hand, self.bias, self.seed, self.retries)

    def given_texts(self, given: dict[str, Any]) -> list[str]:
        """The texts among the arguments. Raises InputError if there is none."""
        if "text" not in given:
            raise InputError('there is no text; give one: python generate.py "Some text"')
        return given["text"]

    def tell(self, notes: Iterable[str], texts: Iterable[str]) -> None:
        """Tell what is written in place of what. Raises InputError for texts that the output's format cannot hold."""
        if self.output.suffix.lower() == ".xml":
            encode_latin("".join(texts))
        for message in dict.fromkeys(notes):
            note(message)

    def save(self, sheets: Sheets) -> None:
        """Write the files, and tell which lines are wrong."""
        paths = save(sheets.pages, self.output, self.drawing, self.plotter)
        ending = self.output.suffix if self.output.suffix in FIGURE_ENDINGS else ".png"
        for name, figure in sheets.figures.items():
            paths.append(self.output.with_name(f"{self.output.stem}_{name}{ending}"))
            save_figure(figure, paths[-1])
        for path in paths:
            print(f"wrote {path}")
        inks = [placed.ink for page in sheets.pages for placed in page.lines]
        tell_faults({self.name(*line): line[1].fault for line in enumerate(inks, 1)}, self.retries, self.advice(inks))

    def advice(self, inks: list[Ink]) -> str:
        """What to do about lines that are wrong."""
        return "try another --seed or --bias"

    def name(self, number: int, ink: Ink) -> str:
        """A line's name in messages."""
        return f"line {number} (seed {ink.seed})"


class Lines(Request):
    """Texts, each as a line, below each other."""

    told, takes = "a line", "text samples steps style prime prime_text attention density"
    usual_bias, usual_output = LINE_BIAS, "synthesis.png"
    hint = "; --page writes on pages"

    def __init__(self, given: dict[str, Any]):
        super().__init__(given)
        self.samples, self.steps = given.get("samples", 1), given.get("steps")
        check_numbers(samples=self.samples, steps=self.steps)
        self.attention, self.density = "attention" in given, "density" in given
        self.texts, self.writer = self.given_texts(given), self.make_writer(given)

    def prepare(self) -> list[Prepared]:
        """The texts as the network can write them, each as often as there are samples."""
        prepared, notes = zip(*map(self.writer.network.alphabet.prepare, self.texts), strict=True)
        self.tell(chain(*notes), (text.text for text in prepared))
        return [text for text in prepared for _ in range(self.samples)]

    def write(self, prepared: list[Prepared]) -> list[tuple[Ink, Line]]:
        """Each line as ink, and as the sampler wrote it."""
        seeds = range(self.seed, self.seed + len(prepared))
        lines = self.writer.write_raw(prepared, seeds, self.steps, self.density)
        made = zip(lines, prepared, seeds, strict=True)
        return [(self.writer.to_ink(line, text, seed), line) for line, text, seed in made]

    def place(self, written: list[tuple[Ink, Line]]) -> Sheets:
        """The lines below each other, and pictures of the first."""
        inks, (first, *_) = zip(*written, strict=True)
        figures = {}
        if self.attention:
            figures["attention"] = attention_figure(first)
        if self.density:
            figures["density"] = density_figure(self.writer.network.model, first, self.bias)
        return Sheets([stack_lines(inks)], figures)


class Random(Request):
    """Lines at random, below each other."""

    told, takes = "--task rand_write", "samples steps density"
    usual_bias, usual_output = 0.0, "rand_write.png"

    def __init__(self, given: dict[str, Any]):
        super().__init__(given)
        self.samples, self.steps = given.get("samples", 1), given.get("steps", RANDOM_STEPS)
        self.density = "density" in given

    def prepare(self) -> Network:
        """There is no text: the network alone."""
        return load_network(self.checkpoint, "rand_write")

    def write(self, network: Network) -> list[tuple[Ink, Line]]:
        """Each line as ink, and as the sampler wrote it."""
        lines = generate_unconditionally(
            self.samples, self.steps, self.bias, self.seed, self.checkpoint, self.retries, self.density
        )
        for line in lines:
            check_ink(line)
        return [(Ink(line.points, seed=self.seed + n, bias=self.bias), line) for n, line in enumerate(lines)]

    def place(self, written: list[tuple[Ink, Line]]) -> Sheets:
        """The lines below each other, and a picture of the first."""
        inks, (first, *_) = zip(*written, strict=True)
        model = load_network(self.checkpoint, "rand_write").model
        figures = {"density": density_figure(model, first, self.bias)} if self.density else {}
        return Sheets([stack_lines(inks)], figures)


class Pages(Request):
    """A text of any length on pages."""

    told = "a page"
    takes = (
        "text file page landscape margins x_height line_spacing align ruled plot_rules jitter smooth redo progress "
        "style prime prime_text"
    )
    usual_bias, usual_output = PAGE_BIAS, "synthesis.png"

    def __init__(self, given: dict[str, Any]):
        super().__init__(given)
        width, height = parse_page(given.get("page", "A4"), "landscape" in given)
        self.page_format = PageFormat(
            width, height, parse_margins(given.get("margins", "20")),
            **pick(given, "x_height", "line_spacing", "align", "ruled", "jitter", plots_rules="plot_rules"),
        )  # fmt: skip
        self.smooth, self.redo, self.progress = "smooth" in given, given.get("redo", {}), "progress" in given
        if "text" in given and "file" in given:
            raise InputError("text and --file: give one of them")
        if "file" in given or given.get("text") == ["-"]:
            self.text = read_text(given.get("file", Path("-")))
        else:
            self.text = "\n".join(self.given_texts(given))
        self.writer = self.make_writer(given)

    def prepare(self) -> str:
        """The text with what the network lacks replaced."""
        text, notes = self.writer.network.alphabet.prepare_page(self.text)
        self.tell(notes, text.splitlines())
        return text

    def write(self, text: str) -> WrittenText:
        """The text in lines of ink that fit the page."""
        with tqdm(unit=" lines", disable=not self.progress) as bar:

            def report(ink: Ink) -> None:
                bar.update()
                if self.progress:
                    bar.write(ink.text, file=sys.stderr)

            written = self.writer.write_text(text, self.page_format, self.redo, report)
        for word in written.broken:
            note(f"broke {word!r} with a hyphen: it is wider than a line")
        return written

    def place(self, written: WrittenText) -> Sheets:
        """The lines on as many pages as they need."""
        return Sheets(lay_out(written, self.page_format, self.seed, self.smooth))

    def advice(self, inks: list[Ink]) -> str:
        """What to do about lines that are wrong."""
        wrong = [str(n) for n, ink in enumerate(inks, 1) if ink.fault]
        return f"try --redo {','.join(wrong[:MOST_TOLD])}, another --seed or --bias"

    def name(self, number: int, ink: Ink) -> str:
        """A line's name in messages."""
        return f"line {number} {ink.text!r}"


class Styles(Request):
    """A sheet of the hands that there are: each writes its name."""

    told, takes = "--list_styles", "list_styles"
    usual_bias, usual_output = PAGE_BIAS, "styles.png"

    def prepare(self) -> list[tuple[Writer, Prepared]]:
        """A writer for each hand, with what it is to write."""
        names = list_styles()
        writers = [Writer(self.checkpoint, name, self.bias, self.seed, self.retries) for name in names]
        texts = [f"{name}: the quick brown fox jumps over 12 dogs" for name in names]
        return [(writer, writer.prepare(text)) for writer, text in zip(writers, texts, strict=True)]

    def write(self, prepared: list[tuple[Writer, Prepared]]) -> list[Ink]:
        """The lines, one in each hand."""
        return [writer.write_lines([text], [self.seed])[0] for writer, text in prepared]

    def place(self, inks: list[Ink]) -> Sheets:
        """The lines below each other."""
        return Sheets([stack_lines(inks)])

    def name(self, number: int, ink: Ink) -> str:
        """A line's name in messages."""
        return ink.style


class Batch(Request):
    """Each line of a text in a file of its own, with a manifest; what is written already is skipped."""

    told, takes = "--batch", "batch format style"
    usual_bias, usual_output = None, "batch"  # each line has a bias of its own

    def __init__(self, given: dict[str, Any]):
        self.format = given.get("format", "png")
        super().__init__(given)
        self.style = given.get("style")
        if self.style == "random":
            list_styles()  # that there are any: each line has its own without --style
            self.style = None
        self.texts = read_text(given["batch"]).splitlines()

    def check_output(self, given: dict[str, Any]) -> str:
        """The format of the files. Raises InputError for one, or a folder, that cannot be written."""
        if self.format not in FORMATS:
            raise InputError(f"--format {self.format}: cannot be written; give {', '.join(FORMATS)}")
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"{self.output}: is no folder; name one for the files of --batch")
        check_writable(self.output / MANIFEST)
        return self.format

    def prepare(self) -> list[Plan]:
        """How each text is to be written."""
        self.network = load_network(self.checkpoint, "synthesis")
        plans, notes = make_plans(self.texts, self.network, self.seed, self.style, self.bias)
        self.tell(notes, [])
        self.done = done_rows(self.output, plans, self.format, self.network.hash)
        self.total = len(plans)
        numbers = {row["number"] for row in self.done}
        return [plan for plan in plans if plan.number not in numbers]

    def write(self, plans: list[Plan]) -> Iterator[tuple[Plan, Ink | None, str]]:
        """Each plan with its ink, or with the reason why there is none: as they come."""
        return write_inks(plans, make_writers(plans, self.checkpoint, self.retries))

    def place(self, inks: Iterator[tuple[Plan, Ink | None, str]]) -> Iterator[ManifestRow]:
        """The lines alone on their pages, each saved at once, so that a batch that is stopped can go on."""
        return save_inks(inks, self.output, self.format, self.network.hash, self.done, self.drawing, self.plotter)

    def save(self, rows: Iterator[ManifestRow]) -> None:
        """Have all of it done, and tell which lines could not be written and which are wrong."""
        rows = list(tqdm(rows, total=self.total, unit=" lines", disable=None))
        missing = {f"line {row['number']}": row["fault"] for row in rows if not row["file"]}
        faults = {f"line {row['number']}": row["fault"] for row in rows if row["file"]}
        print(f"wrote {self.output / MANIFEST}: {len(faults)} lines, and {len(missing)} could not be written")
        if missing:
            wrong = still_wrong(faults, self.retries)
            problems = [f"not written: {list_faults(missing)}", *([wrong] if wrong else [])]
            raise ResultError(f"{'; '.join(problems)}; {self.output / MANIFEST} has all of them")
        tell_faults(faults, self.retries, self.advice([]))


def pick(given: dict[str, Any], *names: str, **renamed: str) -> dict[str, Any]:
    """Those of some flags that are given; `renamed` has other names for them."""
    flags = dict(zip(names, names, strict=True)) | renamed
    return {name: given[flag] for name, flag in flags.items() if flag in given}


def flag(name: str) -> str:
    """A flag as it is given on the command line."""
    return name if name == "text" else f"--{name}"


def read_text(path: Path) -> str:
    """The text in a file, or on standard input for `-`. Raises InputError for one that cannot be read."""
    if str(path) == "-":
        name, data = "standard input", sys.stdin.buffer.read() if sys.stdin else b""
    elif not path.exists() or path.is_dir():
        raise InputError(f"{path}: no such file; name a text in UTF-8")
    else:
        name, data = str(path), path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a text in UTF-8; save it as UTF-8") from None
    if not text.strip():
        raise InputError(f"{name}: there is no text in it")
    return text


# ------------------------------------------------------------------------------------------------------ what is wrong


def tell_faults(faults: dict[str, str], retries: int, advice: str) -> None:
    """Tell which lines are wrong and why, by name: as a note if they were to come as they are, else by ResultError."""
    message = still_wrong(faults, retries)
    if message and retries:
        raise ResultError(f"{message}; {advice}, or more --retries")
    if message:
        note(f"{message}; {advice}, or --retries")


def still_wrong(faults: dict[str, str], retries: int) -> str:
    """What is wrong, and after how many tries; "" for nothing."""
    message = list_faults(faults)
    return f"still wrong after {retries + 1} tries: {message}" if message and retries else message


def list_faults(faults: dict[str, str]) -> str:
    """Faults by the names of what has them, the first few of many."""
    told = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    return "; ".join(told[:MOST_TOLD] + more)
