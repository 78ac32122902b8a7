"""What can be asked for on the command line.

Each kind is a class that checks all its flags before any work. Its methods are the stations that follow: `prepare`
texts, `write` ink, `place` it on pages, `save` files. What needs PyTorch, which takes a second to import, is imported
where it is used: flags that cannot be used are told at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from handwriting.ink.formats import Page, check_ending, encode_latin, files_of, numbered, save, stack_lines
from handwriting.ink.gcode import MACHINES, Plotter
from handwriting.ink.pictures import FIGURE_ENDINGS, Drawing
from handwriting.limits import PAGE_BIAS, RETRIES, check_numbers
from handwriting.pages import parse_page
from handwriting.program import InputError, ResultError, check_writable, escaped, note
from handwriting.seeds import derived_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from handwriting.writer import Writer

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
        drawn = self.pick("pen_width", "colour", "dpi", "height", "grey", "speed", "smooth", "simplify")
        self.drawing = Drawing(**drawn, paper=None if "transparent" in given else Drawing.paper)
        settings = self.pick("machine", "feed", "travel", "feed_z", "origin", up="pen_up", down="pen_down")
        self.plotter = Plotter(**settings, bed=parse_page(given["bed"]) if "bed" in given else None)
        if kind == "gcode" and "machine" not in given:
            note(f"the program is for {self.plotter.machine}; --machine names others: {', '.join(MACHINES)}")
        if "preview" in given:
            if given["preview"].suffix.lower() not in FIGURE_ENDINGS:
                raise InputError(f"{given['preview']}: give a name that ends with {' or '.join(FIGURE_ENDINGS)}")
            check_writable(given["preview"])
        self.refuse_clashes(self.pick("file").values())

    def refuse_clashes(self, read: Iterable[Path]) -> None:
        """Raise InputError if a file that is written is one of those that are read, or written as another, too."""
        written = [self.output, *(self.pick("preview", "save_hand", "show_prime").values())]
        counts = Counter(path.resolve() for path in [*{*read}, *written])
        if clashes := [path for path in written if counts[path.resolve()] > 1]:
            raise InputError(f"{clashes[0]}: would be written over; give each file another name")

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
        from handwriting.hands import list_styles, load_prime, split_name, style_paths
        from handwriting.writer import Writer

        style = given.get("style")
        if style == "random":
            names = list_styles()
            style = names[derived_seed("style", self.seed) % len(names)]
        self.refuse_clashes(split_name(path)[0] for path in [*self.pick("prime").values(), *style_paths(style)])
        if "show_prime" in given:
            self.show_prime(style)
        force = "force" in given
        prime = load_prime(given["prime"], given.get("prime_text"), force) if "prime" in given else None
        bias, strength = PAGE_BIAS if self.bias is None else self.bias, given.get("strength", 1.0)
        others = prime, given.get("recogniser"), force, self.device
        writer = Writer(self.checkpoint, style, bias, self.seed, self.retries, strength, *others)
        if "save_hand" in given:
            writer.save_hand(given["save_hand"])
        return writer

    def show_prime(self, style: str | None) -> None:
        """Draw the ink of the prime, or else of the style, as it is understood. Raises InputError without any."""
        from handwriting.hands import look_at, style_paths

        given, shown = self.given, self.given["show_prime"]
        paths = [given["prime"]] if "prime" in given else style_paths(style)
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
        from handwriting.figures import save_figure, travel_figure

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
