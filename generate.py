"""Write with a trained network: a text that you give, or at random.

    python generate.py "Some text"
    python generate.py "A line." "Another line."
    python generate.py --file letter.txt --page A4 --output letter.pdf
    python generate.py --batch texts.txt --output folder
    python generate.py --task rand_write

From Python: `Writer`, `generate_conditionally` and `generate_unconditionally`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from handwriting.bulk import MANIFEST, write_many
from handwriting.figures import density_map, draw_attention, draw_density, save_figure
from handwriting.ink.formats import ENDINGS, Ink, Page, check_ending, encode_latin, save
from handwriting.ink.gcode import PENS, Plotter
from handwriting.ink.pictures import Drawing
from handwriting.pages import PageFormat, lay_out, parse_margins, parse_page, stack_lines
from handwriting.program import InputError, Parser, ResultError, check_writable, note, run_cli
from handwriting.sampling import Line, default_steps
from handwriting.writer import (
    MOST_ATTEMPTS,
    RETRIES,
    STYLES,
    USUAL_BIAS,
    Network,
    Writer,
    check_numbers,
    derived_seed,
    list_styles,
    load_hand,
    load_writer,
    no_styles,
    prepare_line,
    write_checked,
)
from model import Model

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`: Ctrl-C in the seconds of the imports just ends it

__all__ = ["Writer", "generate_conditionally", "generate_unconditionally"]

FORMATS = (".png", ".svg", ".pdf")  # of the pictures of window and densities
PAGE_FORMAT = PageFormat()
RANDOM_STEPS = 700  # of a line without a text
LINE_BIAS = 0.5  # of lines that are not laid out
MOST_TOLD = 10  # lines that a message names


def generate_unconditionally(
    samples: int = 1, steps: int = RANDOM_STEPS, bias: float = 0.0, seed: int = 0, checkpoint: Path | str | None = None,
    retries: int = RETRIES, with_outputs: bool = False,
) -> list[Line]:  # fmt: skip
    """Write at random (section 4): `samples` lines of `steps` steps each, the shipped network's by default.

    `bias` >= 0 makes the hand more even (section 5.4). Line number i has the seed `seed` + i: the same seed gives the
    same ink. A line in which the pen rests is written again with seeds derived from its own, up to `retries` times;
    what is still wrong then is in `Line.fault`. `with_outputs` keeps what the network said at each point, some 120
    numbers. Raises InputError (a ValueError) for a checkpoint that cannot be used and for numbers out of range.
    """
    check_numbers(samples=samples, steps=steps, bias=bias, seed=seed, retries=retries)
    network = load_writer(checkpoint, "rand_write")
    seeds = [seed + i for i in range(samples)]
    return write_checked(network, None, seeds, bias, [steps] * samples, retries, with_outputs)


def generate_conditionally(
    text: str | list[str], samples: int = 1, steps: int | None = None, bias: float = LINE_BIAS, seed: int = 0,
    checkpoint: Path | str | None = None, retries: int = RETRIES, with_outputs: bool = False,
) -> list[Line]:  # fmt: skip
    """Write a text, or each of several (section 5), `samples` times; each line holds its window weights too.

    The text that is written is what `Alphabet.prepare` makes of `text`, without its accents, see `Line.text`: `Writer`
    draws them. `steps` is the most steps of a line, by default plenty for its text; the others and the errors are as
    for `generate_unconditionally`, and characters that cannot be written are an InputError that names them. Lines are
    written again, too, if `steps` cut them off or more than a tenth is read wrong; with `retries` 0 they are not read.
    """
    network = load_writer(checkpoint, "synthesis")
    given = [text] if isinstance(text, str) else text
    prepared = [prepare_line(network.alphabet, t) for t in given]
    check_numbers(samples=samples, steps=1 if steps is None else steps, bias=bias, seed=seed, retries=retries)
    texts = [t for t in prepared for _ in range(samples)]
    caps = [default_steps(t) if steps is None else steps for t in texts]
    return write_checked(network, texts, [seed + i for i in range(len(texts))], bias, caps, retries, with_outputs)


def write_figures(options: argparse.Namespace, line: Line, model: Model) -> None:
    """Write pictures of a line's window and densities, if they are wanted, beside the output."""
    from matplotlib.figure import Figure  # takes a second, and not all formats need it

    figures = {}
    if options.attention:
        figures["attention"] = Figure(figsize=(10, max(2.5, 0.16 * len(line.text))), layout="constrained")
        draw_attention(figures["attention"].subplots(), np.asarray(line.phi)[:, :-1], line.text)
    if options.density:
        density, extent = density_map(model, line, options.bias)
        figures["density"] = Figure(figsize=(12, 12 * density.shape[0] / density.shape[1]))
        draw_density(figures["density"].add_axes((0, 0, 1, 1)), density, extent)
    ending = options.output.suffix if options.output.suffix in FORMATS else ".png"
    for name, figure in figures.items():
        path = options.output.with_name(f"{options.output.stem}_{name}{ending}")
        save_figure(figure, path)
        print(f"wrote {path}")


def report_faults(faults: dict[str, str], retries: int, advice: str = "try another --seed or --bias") -> None:
    """Tell which lines are wrong and why, by name: as a note if they were to come as they are, else by ResultError."""
    message = list_faults(faults)
    if message and retries:
        raise ResultError(f"{still_wrong(message, retries)}; {advice}, or more --retries")
    if message:
        note(f"{message}; {advice}, or --retries")


def still_wrong(message: str, retries: int) -> str:
    """What to say of lines that were written again in vain."""
    return f"still wrong after {retries + 1} tries: {message}"


def list_faults(faults: dict[str, str]) -> str:
    """Faults by the names of what has them, the first few of many."""
    told = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    return "; ".join(told[:MOST_TOLD] + more)


def print_notes(options: argparse.Namespace, texts: list[str]) -> None:
    """Tell what is written in place of what, once each. Raises InputError for what cannot be written."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    text, messages = load_writer(options.checkpoint, "synthesis").alphabet.prepare("".join(lines))
    if check_ending(options.output) == "xml":
        encode_latin(text)
    for message in messages:
        note(message)


def write_files(options: argparse.Namespace, pages: list[Page]) -> None:
    """Write pages as the ending of the output says."""
    for path in save(pages, options.output, options.drawing, options.plotter):
        print(f"wrote {path}")


def make_drawing(options: argparse.Namespace) -> Drawing:
    """How the flags want pictures to be."""
    paper = None if options.transparent else "white"
    return Drawing(options.pen_width, options.colour, paper, options.dpi, options.speed)


def make_plotter(options: argparse.Namespace) -> Plotter:
    """What the flags say of a plotter."""
    return Plotter(pen=options.pen, up=options.pen_up, down=options.pen_down, feed=options.feed, origin=options.origin)


def choose_style(options: argparse.Namespace) -> str | None:
    """The hand that `--style` asks for. Raises InputError for a random one where there are none."""
    if options.style != "random":
        return options.style
    names = list_styles()
    if not names:
        raise InputError(no_styles("--style random"))
    return names[derived_seed(options.seed) % len(names)]


def make_writer(options: argparse.Namespace) -> Writer:
    """The writer that the flags describe."""
    style = load_hand(options.prime, options.prime_text) if options.prime else choose_style(options)
    return Writer(options.checkpoint, style, options.bias, options.seed, options.retries)


def write_random(options: argparse.Namespace) -> None:
    """Write lines at random, below each other."""
    given = {name: getattr(options, name) for name in ("samples", "bias", "seed", "checkpoint", "retries")}
    steps = RANDOM_STEPS if options.steps is None else options.steps
    lines = generate_unconditionally(steps=steps, with_outputs=options.density, **given)
    seeds = range(options.seed, options.seed + len(lines))
    inks = [Ink(line.points, seed=seed, bias=options.bias) for line, seed in zip(lines, seeds, strict=True)]
    write_lines(options, inks, lines, load_writer(options.checkpoint, "rand_write"))


def write_texts(options: argparse.Namespace) -> None:
    """Write each text as a line, below each other."""
    check_numbers(samples=options.samples, steps=1 if options.steps is None else options.steps)
    print_notes(options, options.text)
    writer = make_writer(options)
    texts = [text for text in options.text for _ in range(options.samples)]
    seeds = range(options.seed, options.seed + len(texts))
    lines = writer.write_raw(texts, seeds, options.steps, options.density)
    inks = [writer.to_ink(line, seed, text=text) for line, seed, text in zip(lines, seeds, texts, strict=True)]
    write_lines(options, inks, lines, writer.network)


def write_lines(options: argparse.Namespace, inks: list[Ink], lines: list[Line], network: Network) -> None:
    """Write lines below each other, with the pictures of the first, and tell what is wrong with them."""
    write_files(options, [stack_lines(inks)])
    write_figures(options, lines[0], network.model)
    faults = {
        f"line {n} (seed {ink.seed})": line.fault for n, (ink, line) in enumerate(zip(inks, lines, strict=True), 1)
    }
    report_faults(faults, options.retries)


def write_pages(options: argparse.Namespace) -> None:
    """Write a text of any length on pages."""
    page_format = make_page_format(options)
    text = read_text(options)
    print_notes(options, [text])
    writer = make_writer(options)
    with tqdm(unit=" lines", disable=not options.progress) as bar:

        def report(ink: Ink) -> None:
            bar.update()
            if options.progress:
                bar.write(ink.text, file=sys.stderr)

        written = writer.write_text(text, page_format, options.redo, report)
    for word in written.broken:
        note(f"broke {word!r} with a hyphen: it is wider than a line")
    write_files(options, lay_out(written, page_format, options.seed, options.smooth))
    inks = [ink for ink in written.inks if ink is not None]
    wrong = [str(n) for n, ink in enumerate(inks, 1) if ink.fault]
    faults = {f"line {n} {ink.text!r}": ink.fault for n, ink in enumerate(inks, 1)}
    report_faults(faults, options.retries, f"try --redo {','.join(wrong[:MOST_TOLD])}, another --seed or --bias")


def write_styles(options: argparse.Namespace) -> None:
    """Draw a sheet of the hands that there are: each writes its name."""
    names = list_styles()
    if not names:
        raise InputError(f"there are no styles in {STYLES}")
    inks = []
    for name in names:
        writer = Writer(options.checkpoint, name, options.bias, options.seed, options.retries)
        inks.append(writer.write(f"{name}: the quick brown fox jumps over 12 dogs"))
    write_files(options, [stack_lines(inks)])
    report_faults({name: ink.fault for name, ink in zip(names, inks, strict=True)}, options.retries)


def write_batch(options: argparse.Namespace) -> None:
    """Write each line of a text file into a file of its own, with a manifest; what is written already is skipped."""
    texts = read_text(options).splitlines()
    alphabet = load_writer(options.checkpoint, "synthesis").alphabet
    choose_style(options)  # that there are any, if a random one is wanted: each line draws its own
    style = None if options.style == "random" else options.style
    rows = write_many(
        texts, options.output, options.format, options.seed, style, options.bias, options.checkpoint, options.retries,
        options.drawing, options.plotter,
    )  # fmt: skip
    notes, missing, faults = {}, {}, {}
    with tqdm(total=sum(bool(text.strip()) for text in texts), unit=" lines", disable=None) as bar:
        for row in rows:
            bar.update()
            (faults if row["file"] else missing)[f"line {row['number']}"] = row["fault"]
            notes |= dict.fromkeys(alphabet.prepare(row["text"])[1] if row["file"] else [])
    for message in notes:
        note(message)
    print(f"wrote {options.output / MANIFEST}: {len(faults)} lines, and {len(missing)} could not be written")
    report_batch(missing, faults, options)


def report_batch(missing: dict[str, str], faults: dict[str, str], options: argparse.Namespace) -> None:
    """Tell which lines of a batch could not be written, by ResultError, and which are wrong; see `report_faults`."""
    if not missing:
        return report_faults(faults, options.retries)
    problems = [f"not written: {list_faults(missing)}"]
    if message := list_faults(faults):
        problems.append(still_wrong(message, options.retries) if options.retries else message)
    raise ResultError(f"{'; '.join(problems)}; {options.output / MANIFEST} has all of them")


def read_text(options: argparse.Namespace) -> str:
    """The text to write: of the arguments, each a paragraph, of a file, or of standard input. Raises InputError."""
    path = options.file or options.batch
    if not path and options.text != ["-"]:
        return "\n".join(options.text)
    if path and str(path) != "-":
        if not path.exists() or path.is_dir():
            raise InputError(f"{path}: no such file; name a text in UTF-8")
        name, data = str(path), path.read_bytes()
    else:
        name, data = "standard input", sys.stdin.buffer.read() if sys.stdin else b""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a text in UTF-8; save it as UTF-8") from None
    if not text.strip():
        raise InputError(f"{name}: there is no text in it")
    return text


def make_page_format(options: argparse.Namespace) -> PageFormat:
    """The page that the flags describe."""
    width, height = parse_page(options.page or "A4", options.landscape)
    return PageFormat(
        width, height, parse_margins(options.margins), options.x_height, options.line_spacing, options.align,
        options.ruled, options.plot_rules, options.jitter,
    )  # fmt: skip


def parse_redo(text: str) -> dict[int, int]:
    """`7` or `7,9:2` -> for lines 7 and 9 the number of the other try, 1 by default."""
    redo = {}
    for part in text.split(","):
        line, _, attempt = part.partition(":")
        redo[int(line)] = int(attempt or 1)
        if not 0 <= redo[int(line)] < MOST_ATTEMPTS:
            raise ValueError("the number of a try is too large")
    return redo


parse_redo.__name__ = "line numbers such as 7 or 7,9:2"


@cache  # the flags' defaults are asked for several times
def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = Parser(description="Write with a trained network: a text that you give, or at random.")
    add = parser.add_argument_group("what").add_argument
    add("text", nargs="*", help="what to write, each text as a line or, on a page, as a paragraph; -: standard input")
    add("--file", type=Path, help="a text to write on pages, in UTF-8")
    add("--batch", type=Path, metavar="FILE", help="write each line of this text into a file of its own, in --output")
    add("--task", choices=("synthesis", "rand_write"), default="synthesis", help="default: %(default)s")
    add("--samples", type=int, default=1, help="lines of each text, each with the next seed (default: %(default)s)")
    add = parser.add_argument_group("hand").add_argument
    add("--style", help="a hand by its name, random, or a file of ink with its text; see --list_styles")
    add("--list_styles", action="store_true", help="draw a sheet of the hands that there are")
    add("--prime", type=Path, metavar="FILE", help="write in the hand of this ink: .xml, .svg, .inkml, .npz or .json")
    add("--prime_text", help="what that ink says, where the file does not tell")
    help_bias = (
        "0: as varied as people write, 1: even and legible (default: 0.5 for lines, 0.75 for pages, 0 at random)"
    )
    add("--bias", type=float, help=help_bias)
    add("--seed", type=int, default=0, help="same seed, same ink (default: %(default)s)")
    add = parser.add_argument_group("page").add_argument
    add("--page", help="write on pages: A4, A5, letter, or WIDTHxHEIGHT in mm (--file and -: A4)")
    add("--landscape", action="store_true", help="the page lies on its side")
    add("--margins", default="20", help="mm: all, or top and bottom,sides, or top,right,bottom,left (default: 20)")
    add("--x_height", type=float, default=PAGE_FORMAT.x_height, help="mm, of small letters (default: %(default)s)")
    add("--line_spacing", type=float, help="mm from line to line (default: 3.6 times the x-height)")
    add("--align", choices=("left", "center", "right"), default="left", help="default: %(default)s")
    add("--ruled", action="store_true", help="faint lines on the paper")
    add("--plot_rules", action="store_true", help="a plotter draws them, too")
    add("--jitter", type=float, default=0.0, help="mm that lines are off their places by, more or less (default: 0)")
    add("--smooth", action="store_true", help="draw strokes as smooth curves through their points")
    add("--redo", type=parse_redo, metavar="LINES", help="write these lines anew, as 7, or 7,9:2 for another try at 9")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, help=f"file to write: .{', .'.join(ENDINGS)} (default: examples/TASK.png)")
    add("--format", default="png", help="ending of the files of --batch (default: %(default)s)")
    add("--pen_width", type=float, default=Drawing.pen_width, help="mm (default: %(default)s)")
    add("--colour", default=Drawing.colour, help="of the ink: a name or #rrggbb (default: %(default)s)")
    add("--transparent", action="store_true", help="no paper in a picture")
    add("--dpi", type=int, help="pixels to the inch of a picture (default: 200, or 80 for films)")
    add("--speed", type=float, default=Drawing.speed, help="of .gif and .webp: times as fast as people write")
    add("--pen", choices=tuple(PENS), default=Plotter.pen, help="of .gcode: what lifts the pen (default: %(default)s)")
    add("--pen_up", type=float, help="of .gcode: where the pen is up (default: 60, or 5 mm for z)")
    add("--pen_down", type=float, help="of .gcode: where it is down (default: 30, or 0 mm for z)")
    add("--feed", type=float, default=Plotter.feed, help="of .gcode: mm a minute (default: %(default)s)")
    add("--origin", default=Plotter.origin, help="of .gcode: 'bottom left' or 'top left' (default: %(default)s)")
    add("--attention", action="store_true", help="write a picture of the window over the text too (paper, figure 13)")
    add("--density", action="store_true", help="write a picture of the predicted densities too (paper, figure 10)")
    add("--progress", action="store_true", help="tell each line when it is written")
    add = parser.add_argument_group("network").add_argument
    add("--checkpoint", type=Path, help="as train.py saves it (default: save/TASK.pt beside this script)")
    add("--steps", type=int, help="most steps of a line (default: 50 a character and 100, or 700 at random)")
    help_retries = "how often to write a line again that is cut off, rests or is read wrong (default: %(default)s)"
    add("--retries", type=int, default=RETRIES, help=help_retries + "; 0: lines as they come")
    return parser


# What is written, with the words that tell it; the flags that not all of these take; and those that only some files do.
MODES = {
    "texts": "a line takes", "pages": "a page takes", "random": "--task rand_write takes", "batch": "--batch takes",
    "styles": "--list_styles takes",
}  # fmt: skip
FLAG_MODES = {
    "text": "texts pages", "samples": "texts random", "steps": "texts random", "density": "texts random",
    "attention": "texts", "style": "texts pages batch", "prime": "texts pages", "prime_text": "texts pages",
    "batch": "batch", "format": "batch", "task": "random",
    **dict.fromkeys(
        ("file", "page", "landscape", "margins", "x_height", "line_spacing", "align", "ruled", "plot_rules", "jitter",
         "smooth", "redo", "progress"), "pages",
    ),
}  # fmt: skip
FLAG_ENDINGS = {
    "dpi": "png gif webp", "speed": "gif webp", "transparent": "png pdf svg",
    **dict.fromkeys(("pen_width", "colour"), "svg pdf png gif webp"),
    **dict.fromkeys(("pen", "pen_up", "pen_down", "feed", "origin"), "gcode"),
    **dict.fromkeys(("smooth", "ruled"), "svg pdf png gif webp gcode"), "plot_rules": "svg gcode",
}  # fmt: skip


def choose_mode(options: argparse.Namespace) -> str:
    """What the flags ask for, one of `MODES`. Raises InputError for flags that do not fit it."""
    if options.list_styles:
        mode = "styles"
    elif options.task == "rand_write":
        mode = "random"
    elif options.batch:
        mode = "batch"
    else:
        mode = "pages" if options.page or options.file or options.text == ["-"] else "texts"
    for name in given_flags(options, FLAG_MODES):
        if mode not in FLAG_MODES[name].split():
            hint = "; --page writes on pages" if mode == "texts" else ""
            raise InputError(f"{MODES[mode]} no {flag(name)}; leave one of them out{hint}")
    if mode in ("pages", "texts") and not options.text and not options.file:
        raise InputError('there is no text; give one: python generate.py "Some text"')
    for one, other in (("text", "file"), ("style", "prime")):
        if len(given_flags(options, (one, other))) > 1:
            raise InputError(f"{flag(one)} and {flag(other)}: give one of them")
    if options.prime_text is not None and not options.prime:
        raise InputError("--prime_text is what the ink of --prime says; give that, too")
    return mode


def given_flags(options: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of some flags that are not as they are by default."""
    parser = make_parser()
    return [name for name in names if getattr(options, name) not in (parser.get_default(name), [])]


def flag(name: str) -> str:
    """A flag as it is given on the command line."""
    return name if name == "text" else f"--{name}"


def check_output(options: argparse.Namespace, mode: str) -> None:
    """Raise InputError for an output that cannot be written, and for flags that it has no use for."""
    if mode == "batch":
        kind = options.format
        if kind not in ENDINGS:
            raise InputError(f"--format {kind}: cannot be written; give {', '.join(ENDINGS)}")
        if options.output.exists() and not options.output.is_dir():
            raise InputError(f"{options.output}: is no folder; name one for the files of --batch")
        check_writable(options.output / MANIFEST)
    else:
        kind = check_ending(options.output)
        check_writable(options.output)
    for name in given_flags(options, FLAG_ENDINGS):
        if kind not in FLAG_ENDINGS[name].split():
            endings = ", .".join(FLAG_ENDINGS[name].split())
            raise InputError(f"--{name} is for .{endings}, not for .{kind}; leave it out")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = make_parser().parse_args(arguments)
    mode = choose_mode(options)
    write, output, bias = {
        "texts": (write_texts, "synthesis.png", LINE_BIAS), "random": (write_random, "rand_write.png", 0.0),
        "pages": (write_pages, "synthesis.png", USUAL_BIAS), "styles": (write_styles, "styles.png", USUAL_BIAS),
        "batch": (write_batch, "batch", None),  # each line has a bias of its own
    }[mode]  # fmt: skip
    options.output = options.output or Path("examples") / output
    options.bias = bias if options.bias is None else options.bias
    check_output(options, mode)
    options.drawing, options.plotter = make_drawing(options), make_plotter(options)
    write(options)


if __name__ == "__main__":
    run_cli(main)
