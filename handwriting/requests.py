"""What can be asked for on the command line: lines, random lines, pages, a sheet of styles, a batch.

Each is a class that checks all its flags before any work. Its methods are the stations that follow: `prepare` texts,
`write` ink, `place` it on pages, `save` files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from handwriting.alphabet import Prepared, read_text, read_texts
from handwriting.bulk import LABELS, LEFT_OUT, MANIFEST, Form, ManifestRow, Plan, make_plans, write_all
from handwriting.figures import (
    FIGURE_ENDINGS,
    attention_figure,
    density_figure,
    proof_figure,
    save_figure,
    travel_figure,
)
from handwriting.hands import list_styles, load_hand, look_at, parse_style, style_path
from handwriting.ink.formats import (
    FORMATS,
    Ink,
    Page,
    check_ending,
    encode_latin,
    files_of,
    numbered,
    save,
    stack_lines,
)
from handwriting.ink.gcode import MACHINES, Plotter, pen_test_bytes
from handwriting.ink.pictures import Drawing, check_pixels
from handwriting.pages import PageFormat, WrittenText, lay_out, parse_page
from handwriting.program import (
    InputError,
    ResultError,
    atomic_write,
    check_range,
    check_writable,
    escaped,
    note,
    progress_bar,
)
from handwriting.sampling import Line
from handwriting.seeds import derived_seed
from handwriting.writer import (
    LINE_BIAS,
    PAGE_BIAS,
    RETRIES,
    Writer,
    check_numbers,
    generate_unconditionally,
    load_network,
)

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.figure import Figure

MOST_TOLD = 10  # lines that a message names
MACHINE_FLAGS = "machine pen_up pen_down feed travel feed_z origin bed"
# Flags that only some formats of the output have a use for.
FORMAT_FLAGS = {
    "dpi": "png gif webp", "height": "png", "grey": "png", "speed": "gif webp", "transparent": "png pdf svg",
    **dict.fromkeys(("pen_width", "colour"), "svg pdf png gif webp"),
    **dict.fromkeys(MACHINE_FLAGS.split(), "gcode"), **dict.fromkeys(("plot_rules", "preview"), "svg gcode"),
    **dict.fromkeys(("smooth", "simplify", "ruled"), "svg pdf png gif webp gcode"),
}  # fmt: skip
COMMON = (
    "task bias seed output checkpoint retries pen_width colour transparent dpi speed smooth simplify preview device "
    + MACHINE_FLAGS
)
OF_HANDS = "style strength save_hand prime prime_text show_prime force recogniser"


class Sheets(NamedTuple):
    """Pages, and pictures to go with them by what they show."""

    pages: list[Page]
    figures: Mapping[str, Figure] = {}


class Request:
    """What the flags ask for, checked before any work. Each kind has the stations of `generate.main`."""

    subject: str  # how messages begin that tell of a flag that does not fit
    own_flags: str  # flags beside `COMMON`
    usual_bias: Any  # None: each line has its own
    usual_output: str  # within examples/
    hint = ""  # what else to say of a flag that does not fit
    line_name = "line {n} (seed {ink.seed})"  # in messages
    redo = ""  # how to write single lines anew: a flag, for their numbers
    prepare: Callable[[], Any]
    write: Callable[[Any], Any]
    place: Callable[[Any], Any]

    def __init__(self, given: dict[str, Any]):
        """`given` has the flags that are given, and no others."""
        for name in sorted(given.keys() - f"{COMMON} {self.own_flags}".split()):
            flag = name if name == "text" else f"--{name}"
            raise InputError(f"{self.subject} takes no {flag}; leave one of them out{self.hint}")
        self.given, self.seed, self.retries = given, given.get("seed", 0), given.get("retries", RETRIES)
        self.checkpoint, self.bias = given.get("checkpoint"), given.get("bias", self.usual_bias)
        self.device = given.get("device", "cpu")
        check_numbers(seed=self.seed, retries=self.retries, bias=self.bias)
        self.output = given.get("output", Path("examples") / self.usual_output)
        kind = self.check_output()
        for name in given:
            if kind not in FORMAT_FLAGS.get(name, kind).split():
                raise InputError(f"--{name} is for .{FORMAT_FLAGS[name].replace(' ', ', .')}, not for .{kind}")
        paper: dict[str, Any] = {"paper": None} if "transparent" in given else {}
        drawn = self.pick("pen_width", "colour", "dpi", "height", "grey", "speed", "smooth", "simplify")
        self.drawing = Drawing(**drawn, **paper)
        settings = self.pick("machine", "feed", "travel", "feed_z", "origin", up="pen_up", down="pen_down")
        self.plotter = Plotter(**settings, bed=parse_page(given["bed"]) if "bed" in given else None)
        if kind == "gcode" and "machine" not in given:
            note(f"the program is for {self.plotter.machine}; --machine names others: {', '.join(MACHINES)}")
        if "preview" in given:
            if given["preview"].suffix.lower() not in FIGURE_ENDINGS:
                raise InputError(f"{given['preview']}: give a name that ends with {' or '.join(FIGURE_ENDINGS)}")
            check_writable(given["preview"])

    def pick(self, *names: str, **renamed: str) -> dict[str, Any]:
        """Those of some flags that are given; `renamed` has other names for them."""
        flags = dict(zip(names, names, strict=True)) | renamed
        return {name: self.given[flag] for name, flag in flags.items() if flag in self.given}

    def check_output(self) -> str:
        """The format of the output. Raises InputError for one that cannot be written."""
        kind = check_ending(self.output)
        pictures = [self.figure_path(name) for name in ("attention", "density", "proof") if name in self.given]
        for path in [*pictures, *files_of(self.output)]:
            check_writable(path)
        return kind

    def figure_path(self, name: str) -> Path:
        """The file of a picture that goes with the output."""
        ending = self.output.suffix if self.output.suffix in FIGURE_ENDINGS else ".png"
        return self.output.with_name(f"{self.output.stem}_{name}{ending}")

    def texts(self) -> list[str]:
        """The texts among the arguments. Raises InputError if there is none."""
        if not self.given.get("text"):
            raise InputError('there is no text; give one: python generate.py "Some text"')
        return self.given["text"]

    def make_writer(self) -> Writer:
        """A writer in the hand that the flags name."""
        given = self.given
        if "prime_text" in given and "prime" not in given:
            raise InputError("--prime_text is what the ink of --prime says; give that, too")
        style = given.get("style")
        if style == "random":
            names = list_styles()
            style = names[derived_seed("style", self.seed) % len(names)]
        if "show_prime" in given:
            self.show_prime(style)
        force = "force" in given
        prime = load_hand(given["prime"], given.get("prime_text"), force) if "prime" in given else None
        bias, strength = PAGE_BIAS if self.bias is None else self.bias, given.get("strength", 1.0)
        others = prime, given.get("recogniser"), force, self.device
        writer = Writer(self.checkpoint, style, bias, self.seed, self.retries, strength, *others)
        if "save_hand" in given:
            writer.save_hand(given["save_hand"])
        return writer

    def show_prime(self, style: str | None) -> None:
        """Draw the ink of the prime, or else of the style, as it is understood. Raises InputError without any."""
        given, shown = self.given, self.given["show_prime"]
        paths = (
            [given["prime"]] if "prime" in given else [style_path(str(part)) for part, _ in parse_style(style or [])]
        )
        if not paths:
            raise InputError("--show_prime draws ink that you give; give it with --prime or --style")
        inks = [ink for path in paths for ink in look_at(path, given.get("prime_text"), "force" in given)]
        for path in stack_lines(inks).save(shown, self.drawing):
            print(f"wrote {escaped(path)}")

    def tell(self, notes: Iterable[str], texts: Iterable[str]) -> None:
        """Tell what is written in place of what. Raises InputError for texts that the output's format cannot hold."""
        if self.output.suffix.lower() == ".xml":
            encode_latin("".join(texts))
        for message in dict.fromkeys(notes):
            note(message)

    def save(self, sheets: Any) -> None:
        """Write the files, and tell which lines are wrong."""
        paths = save(sheets.pages, self.output, self.drawing, self.plotter)
        for name, figure in sheets.figures.items():
            paths.append(self.figure_path(name))
            save_figure(figure, paths[-1])
        if preview := self.given.get("preview"):
            for name, page in zip(numbered(preview, len(sheets.pages)), sheets.pages, strict=True):
                save_figure(travel_figure(page, self.drawing, self.plotter), name)
                paths.append(name)
        for path in paths:
            print(f"wrote {escaped(path)}")
        inks = [placed.ink for page in sheets.pages for placed in page.lines]
        faults = {self.line_name.format(n=n, ink=ink): ink.fault for n, ink in enumerate(inks, 1)}
        tell_faults(faults, self.retries, self.redo)


class Lines(Request):
    """Texts, each as a line, below each other."""

    subject, own_flags = "a line", f"text samples steps attention density {OF_HANDS}"
    usual_bias, usual_output = LINE_BIAS, "synthesis.png"
    hint = "; --page writes on pages"
    has_text = True

    def __init__(self, given: dict[str, Any]):
        super().__init__(given)
        self.samples, self.steps = given.get("samples", 1), given.get("steps")
        check_numbers(samples=self.samples, steps=self.steps)
        if self.has_text:
            self.given_texts, self.writer = self.texts(), self.make_writer()

    def prepare(self) -> list[Prepared]:
        """The texts as the network can write them, each as often as there are samples."""
        prepared, notes = self.writer.network.alphabet.prepare(self.given_texts)
        self.tell(notes, (text.text for text in prepared))
        return [text for text in prepared for _ in range(self.samples)]

    def write(self, prepared: list[Prepared]) -> list[tuple[Ink, Line]]:
        """Each line as ink, and as the sampler wrote it."""
        seeds = range(self.seed, self.seed + len(prepared))
        lines = self.writer.write_raw(prepared, seeds, self.steps, "density" in self.given)
        made = zip(lines, prepared, seeds, strict=True)
        return [(self.writer.to_ink(line, text, seed), line) for line, text, seed in made]

    def place(self, written: list[tuple[Ink, Line]]) -> Sheets:
        """The lines below each other, and pictures of the first."""
        inks, (first, *_) = zip(*written, strict=True)
        figures = {"attention": attention_figure(first)} if "attention" in self.given else {}
        if "density" in self.given:
            network = load_network(self.checkpoint, "synthesis" if first.text else "rand_write")
            figures["density"] = density_figure(network.model, first, self.bias)
        return Sheets([stack_lines(inks)], figures)


class Random(Lines):
    """Lines at random, below each other."""

    subject, own_flags, hint = "--task rand_write", "samples steps density", ""
    usual_bias, usual_output = 0.0, "rand_write.png"
    has_text = False

    def prepare(self) -> Any:
        """A seed for each line."""
        return range(self.seed, self.seed + self.samples)

    def write(self, seeds: Any) -> list[tuple[Ink, Line]]:
        """Each line as ink, and as the sampler wrote it."""
        given = {"bias": self.bias, "seed": self.seed, "checkpoint": self.checkpoint, "device": self.device}
        given |= {"retries": self.retries, "with_outputs": "density" in self.given} | self.pick("samples", "steps")
        lines = generate_unconditionally(**given)
        made = zip(lines, seeds, strict=True)
        return [(Ink(line.points, seed=seed, bias=self.bias, fault=line.fault), line) for line, seed in made]


class Pages(Request):
    """A text of any length on pages."""

    subject = "a page"
    own_flags = (
        "text file page landscape margins x_height line_spacing align vertical fit ruled plot_rules jitter redo proof "
        + "from_line "
        + OF_HANDS
    )
    usual_bias, usual_output = PAGE_BIAS, "synthesis.png"
    line_name, redo = "line {n} {ink.text!r}", "--redo {}, "

    def __init__(self, given: dict[str, Any]):
        super().__init__(given)
        width, height = parse_page(given.get("page", "A4"), "landscape" in given)
        shape = self.pick("margins", "x_height", "line_spacing", "align", "vertical", "fit", "ruled", "jitter")
        self.page_format = PageFormat(width, height, **shape, **self.pick(plots_rules="plot_rules"))
        check_pixels(width, height, self.drawing.resolution(height, self.output.suffix.lower()[1:]))
        top, right, bottom, left = self.page_format.margins
        self.plotter.check_reach(np.array([[left, top], [width - right, height - bottom]]), width, height)
        if "text" in given and "file" in given:
            raise InputError("text and --file: give one of them")
        is_file = "file" in given or given.get("text") == ["-"]
        self.text = read_text(given.get("file", Path("-"))) if is_file else "\n".join(self.texts())
        self.writer = self.make_writer()

    def prepare(self) -> str:
        """The text with what the network lacks replaced."""
        text, notes = self.writer.network.alphabet.prepare_page(self.text)
        self.tell(notes, text.splitlines())
        return text

    def write(self, text: str) -> WrittenText:
        """The text in lines of ink that fit the page."""
        written = self.writer.write_text(text, self.page_format, self.given.get("redo"))
        for word in written.broken:
            note(f"broke {word!r} with a hyphen: it is wider than a line")
        return written

    def place(self, written: WrittenText) -> Sheets:
        """The lines on as many pages as they need."""
        pages, first = lay_out(written, written.page_format, self.seed), self.given.get("from_line", 1)
        if first > 1:
            numbers = count(1)
            pages = [replace(page, lines=[line for line in page.lines if next(numbers) >= first]) for page in pages]
            pages = [page for page in pages if page.lines]
            if not pages:
                raise InputError(f"--from_line {first}: the text has {next(numbers) - 1} lines; give a smaller number")
        return Sheets(pages, self.proof(pages, first) if "proof" in self.given else {})

    def proof(self, pages: list[Page], first: int) -> dict[str, Figure]:
        """Pages to be looked over, whose lines are numbered from `first`; tells how to write anew what is doubted."""
        numbers = np.cumsum([first] + [len(page.lines) for page in pages]).tolist()
        names = ["proof"] + [f"proof-{n}" for n in range(2, len(pages) + 1)]
        inks, before = [placed.ink for page in pages for placed in page.lines], self.given.get("redo", {})
        again = before | {n: before.get(n, 0) + 1 for n, ink in enumerate(inks, first) if ink.fault or ink.doubts}
        told = ",".join(f"{n}:{attempt}" if attempt > 1 else str(n) for n, attempt in sorted(again.items()))
        note(f"--redo {told} writes anew what may be wrong" if again != before else "no word is doubted")
        return {name: proof_figure(*each) for name, *each in zip(names, pages, numbers, strict=False)}


class Styles(Request):
    """A sheet of the hands that there are: each writes its name."""

    subject, own_flags = "--list_styles", "list_styles"
    usual_bias, usual_output, line_name = PAGE_BIAS, "styles.png", "{ink.style}"

    def prepare(self) -> list[tuple[Writer, Prepared]]:
        """A writer for each hand, with what it is to write."""
        given = {name: getattr(self, name) for name in ("checkpoint", "bias", "seed", "retries", "device")}
        writers = [Writer(style=name, **given) for name in list_styles()]
        return [
            (writer, writer.prepare(f"{writer.style}: the quick brown fox jumps over 12 dogs")) for writer in writers
        ]

    def write(self, prepared: list[tuple[Writer, Prepared]]) -> list[Ink]:
        """The lines, one in each hand."""
        return [writer.write_lines([text], [self.seed])[0] for writer, text in prepared]

    def place(self, inks: list[Ink]) -> Sheets:
        """The lines below each other."""
        return Sheets([stack_lines(inks)])


class PenTest(Request):
    """A program that finds out where the pen is up and down. It needs no network."""

    subject, own_flags = "--pen_test", "pen_test"
    usual_bias, usual_output = PAGE_BIAS, "pen_test.gcode"

    def check_output(self) -> str:
        """The format of the output. Raises InputError for another than .gcode."""
        if (kind := super().check_output()) != "gcode":
            raise InputError(f"{self.output}: --pen_test is G-code; give a name that ends with .gcode")
        return kind

    def prepare(self) -> bytes:
        """The program."""
        return pen_test_bytes(self.plotter)

    def write(self, program: bytes) -> bytes:
        """The program; it has no ink."""
        return program

    place = write

    def save(self, sheets: bytes) -> None:
        """Write the program."""
        with atomic_write(self.output) as file:
            file.write(sheets)
        print(f"wrote {escaped(self.output)}: the shortest line is with the pen up, the longest with the pen down")


class Batch(Request):
    """Each line of a text in a file of its own, with a manifest; what is written already is skipped."""

    subject = "--batch"
    own_flags = "batch format style strength force recogniser labels height grey max_cer processes shard"
    usual_bias, usual_output = None, "batch"

    def __init__(self, given: dict[str, Any]):
        self.shard, self.processes = given.get("shard", (1, 1)), given.get("processes", 1)
        super().__init__(given)
        max_cer, labels = given.get("max_cer"), given.get("labels", "")
        check_range("max_cer", max_cer, 0, 1)
        if max_cer is not None and not self.retries:
            raise InputError("--max_cer is of lines that are read, and --retries 0 has none read; leave one out")
        if labels == "box" and self.format != "png":
            raise InputError(f"--labels box is for .png, not for .{self.format}")
        check_range("processes", self.processes, 1, 1000)
        self.form = Form(self.format, self.drawing, self.plotter, labels, max_cer)
        self.writer, self.lines = self.make_writer(), read_texts(given["batch"])

    def check_output(self) -> str:
        """The format of the files. Raises InputError for one, or a folder, that cannot be written."""
        self.format = self.given.get("format", "png")
        if self.format not in FORMATS:
            raise InputError(f"--format {self.format}: cannot be written; give {', '.join(FORMATS)}")
        if "shard" in self.given:
            self.output /= "{}-of-{}".format(*self.shard)
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"{self.output}: is no folder; name one for the files of --batch")
        check_writable(self.output / MANIFEST)
        source, own = self.given["batch"].resolve(), (MANIFEST, *LABELS.values())
        if source.parent == self.output.resolve() and (source.name in own or source.name[:6].isdigit()):
            raise InputError(f"{self.given['batch']}: could be written over; name another folder for --output")
        return self.format

    def prepare(self) -> list[Plan]:
        """How each text is to be written."""
        style, network = self.writer.style or None, self.writer.network
        plans, notes = make_plans(self.lines, network, self.seed, style, self.bias, self.shard)
        self.tell(notes, [])
        return plans

    def write(self, plans: list[Plan]) -> Iterator[ManifestRow]:
        """The rows of the manifest, as texts are written, each alone on its page and saved at once."""
        return write_all(plans, self.writer, self.output, self.form, self.processes)

    def place(self, rows: Iterator[ManifestRow]) -> Iterator[ManifestRow]:
        """The rows: all is in its place already."""
        return rows

    def save(self, sheets: Iterator[ManifestRow]) -> None:
        """Have all of it done, and tell which lines could not be written and which are wrong."""
        rows = sorted(progress_bar(sheets, unit=" lines"), key=lambda row: row["number"])
        left_out = sum(row["fault"].startswith(LEFT_OUT) for row in rows)
        rows = [row for row in rows if not row["fault"].startswith(LEFT_OUT)]
        missing = {f"line {row['number']}": row["fault"] for row in rows if not row["file"]}
        faults = {f"line {row['number']}": row["fault"] for row in rows if row["file"]}
        manifest, told = self.output / MANIFEST, f", {left_out} left out by --max_cer" if left_out else ""
        print(f"wrote {escaped(manifest)}: {len(faults)} lines{told}, and {len(missing)} could not be written")
        if missing:
            problems = f"not written: {list_faults(missing)}", list_faults(faults, self.retries)
            raise ResultError(f"{'; '.join(filter(None, problems))}; {manifest} has all of them")
        tell_faults(faults, self.retries)


def tell_faults(faults: dict[str, str], retries: int, redo: str = "") -> None:
    """Tell which lines are wrong and why, by name: as a note if they were to come as they are, else by ResultError."""
    message = list_faults(faults, retries)
    wrong = [str(n) for n, fault in enumerate(faults.values(), 1) if fault]
    advice = f"try {redo.format(','.join(wrong[:MOST_TOLD]))}another --seed or --bias"
    if message and retries:
        raise ResultError(f"{message}; {advice}, or more --retries")
    if message:
        note(f"{message}; {advice}, or --retries")


def list_faults(faults: dict[str, str], retries: int = 0) -> str:
    """Faults by the names of what has them, the first few of many, and after how many tries; "" for none."""
    told = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    tries = f"still wrong after {retries + 1} tries: " if told and retries else ""
    return tries + "; ".join(told[:MOST_TOLD] + more)
