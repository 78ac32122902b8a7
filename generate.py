"""Write with a trained network: a text that you give, or at random.

    python generate.py "Some text"
    python generate.py "A line." "Another line."
    python generate.py --file letter.txt --page A4 --output letter.pdf
    python generate.py --batch texts.txt --output folder
    python generate.py --task rand_write

From Python: `Writer`, `generate_conditionally` and `generate_unconditionally`.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`: Ctrl-C in the seconds of the imports just ends it

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from handwriting.bulk import LABELS
from handwriting.ink.formats import FORMATS
from handwriting.ink.gcode import MACHINES, ORIGINS, Plotter
from handwriting.ink.pictures import Drawing
from handwriting.ink.read_ink import READERS
from handwriting.limits import MOST_ATTEMPTS, RETRIES
from handwriting.pages import ALIGN, USUAL_X_HEIGHT, VERTICAL, PageFormat
from handwriting.program import Parser, run_cli
from handwriting.requests.batches import Batch
from handwriting.requests.letters import Pages
from handwriting.requests.lines import Lines, Random, Styles
from handwriting.requests.plotters import PenTest
from handwriting.requests.request import Request

if TYPE_CHECKING:
    from handwriting.writer import Writer, generate_conditionally, generate_unconditionally

__all__ = ["Writer", "generate_conditionally", "generate_unconditionally"]


def __getattr__(name: str) -> object:  # of `__all__`: PyTorch takes a second to import, and --help needs none
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from handwriting import writer

    return getattr(writer, name)


def main(arguments: list[str] | None = None) -> None:
    """Write, in five stations: what is asked for, the texts made ready, their ink, its place on pages, files."""
    request = read_request(arguments)
    prepared = request.prepare()
    written = request.write(prepared)
    sheets = request.place(written)
    request.save(sheets)


def read_request(arguments: list[str] | None) -> Request:
    """What the command line asks for. Raises InputError for flags that cannot be used, or not together."""
    given = vars(make_parser().parse_args(arguments))
    if given.get("task") == "rand_write":
        return Random(given)
    if "list_styles" in given:
        return Styles(given)
    if "pen_test" in given:
        return PenTest(given)
    if "batch" in given:
        return Batch(given)
    is_page = "page" in given or "file" in given or given.get("text") == ["-"]
    return Pages(given) if is_page else Lines(given)


def make_parser() -> argparse.ArgumentParser:
    """The flags. Those that are not given are not in the result: their defaults are known where they are used."""
    about = "Write with a trained network: a text that you give, or at random."
    parser = Parser(description=about, argument_default=argparse.SUPPRESS)
    add = parser.add_argument_group("what").add_argument
    add("text", nargs="*", help="what to write, each text as a line or, on a page, as a paragraph; -: standard input")
    add("--file", type=Path, help="a text to write on pages, in UTF-8")
    each = "write each line of this text, or column `text` of a .csv or .tsv, into a file of its own, in --output"
    add("--batch", type=Path, metavar="FILE", help=each)
    add("--task", choices=("synthesis", "rand_write"), help="write a text (default), or at random")
    add("--samples", type=int, help="lines of each text, each with the next seed (default: 1)")
    add = parser.add_argument_group("hand").add_argument
    add("--style", help="a hand by its name (see --list_styles), a file of ink, or several as clara:0.5,mine.svg:0.5")
    add("--strength", type=float, help="0: the mean of all hands, 1: the hand as it is, more: overdone (default: 1)")
    add("--save_hand", type=Path, metavar="FILE", help="keep the hand as .json, for --style")
    add("--list_styles", action="store_true", help="draw a sheet of the hands that there are")
    add("--prime", type=Path, metavar="FILE", help=f"go on from ink: {', '.join(READERS)}; FILE#2: its second line")
    add("--prime_text", help="what that ink says, where the file does not tell")
    add("--show_prime", type=Path, metavar="FILE", help="draw the ink of --prime or --style as it is understood")
    add("--force", action="store_true", help="take that ink even if it reads as something else")
    add("--bias", type=float, help="0: as varied as people write, 1: even (default: lines 0.5, pages 0.75, random 0)")
    add("--seed", type=int, help="same seed, same ink (default: 0)")
    add = parser.add_argument_group("page").add_argument
    add("--page", help="write on pages: A3 to A7, letter, legal, or a size such as 100x150 or 5x7in (--file and -: A4)")
    add("--landscape", action="store_true", help="the page lies on its side")
    add("--margins", help="mm: all, or top and bottom,sides, or top,right,bottom,left (default: 20, less below A4)")
    add("--x_height", type=float, help=f"mm, of small letters (default: {USUAL_X_HEIGHT} on A4, less on smaller pages)")
    add("--fit", action="store_true", help="smaller letters, where the text needs them to fit on one page")
    add("--line_spacing", type=float, help="mm from line to line (default: 3.6 times the x-height)")
    add("--align", choices=ALIGN, help=f"default: {PageFormat.align}")
    add("--vertical", choices=VERTICAL, help=f"where the lines of a page are (default: {PageFormat.vertical})")
    add("--ruled", action="store_true", help="faint lines on the paper")
    add("--plot_rules", action="store_true", help="a plotter draws them, too")
    add("--jitter", type=float, help="mm that lines are off their places by, more or less (default: 0)")
    add("--redo", type=parse_redo, metavar="LINES", help="write these lines anew, as 7, or 7,9:2 for another try at 9")
    add("--from_line", type=int, metavar="LINE", help="leave out the lines before this one, for a plot that stopped")
    add("--proof", action="store_true", help="a picture with numbers of lines and doubted words; tells their --redo")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, help=f"file to write: .{', .'.join(FORMATS)} (default: examples/TASK.png)")
    add("--format", help="ending of the files of --batch (default: png)")
    add("--labels", choices=tuple(LABELS), help="of --batch: texts as .gt.txt, characters as .box beside each file, or "
        "all as metadata.jsonl or labels.tsv")  # fmt: skip
    add("--height", type=int, help="of --batch: pixels of each .png, cropped to 1 mm around the ink")
    add("--grey", action="store_true", help="of --batch: each .png has grey levels alone")
    add("--max_cer", type=float, metavar="SHARE", help="of --batch: leave out lines with more characters read wrong")
    add("--processes", type=int, help="of --batch: that share the work, each with one thread (default: 1)")
    add("--shard", type=parse_shard, metavar="K/N", help="of --batch: every Nth line from the Kth, in OUTPUT/K-of-N")
    add("--pen_width", type=float, help=f"mm (default: {Drawing.pen_width})")
    add("--colour", help=f"of the ink: a name or #rrggbb (default: {Drawing.colour})")
    add("--smooth", action="store_true", help="smooth curves through the points of strokes")
    add("--simplify", type=float, metavar="MM", help="leave out points that strokes stay this near to; 0.05 is little")
    add("--transparent", action="store_true", help="no paper in a picture")
    add("--dpi", type=int, help="pixels to the inch of a picture (default: 200, or 80 for films)")
    add("--speed", type=float, help="of .gif and .webp: times as fast as people write (default: 1)")
    add = parser.add_argument_group("plotter, for .gcode").add_argument
    add("--machine", choices=tuple(MACHINES), help=f"firmware, and what lifts the pen (default: {Plotter.machine})")
    add("--pen_up", type=float, help="where the pen is up: M3's S, degrees, or mm of Z (default: 60; z: 5)")
    add("--pen_down", type=float, help="where it is down (default: 30; z: 0)")
    add("--pen_test", action="store_true", help="write a program that finds these two out, and no text")
    add("--feed", type=float, help=f"mm a minute with the pen down (default: {Plotter.feed:g})")
    add("--travel", type=float, help=f"mm a minute with the pen up; GRBL has its own (default: {Plotter.travel:g})")
    add("--feed_z", type=float, help=f"mm a minute of a motor that lifts the pen (default: {Plotter.feed_z:g})")
    add("--origin", choices=tuple(ORIGINS), help="where (0, 0) is; y grows down from the top (default: bottom left)")
    add("--bed", metavar="WIDTHxHEIGHT", help="mm that the machine reaches: refuse to write what is beyond")
    add("--preview", type=Path, metavar="FILE.png", help="draw the ink, and the pen's way between strokes (.svg, too)")
    add = parser.add_argument_group("pictures of what the network thinks").add_argument
    add("--attention", action="store_true", help="write a picture of the window over the text too (paper, figure 13)")
    add("--density", action="store_true", help="write a picture of the predicted densities too (paper, figure 10)")
    add = parser.add_argument_group("network").add_argument
    add("--checkpoint", type=Path, help="as train.py saves it (default: save/TASK.pt of this project)")
    add("--recogniser", type=Path, help="that reads the lines, from train.py --task read (default: save/recogniser.pt)")
    add("--device", help="where it writes: cpu (default), cuda, cuda:1, ..., or auto (a GPU if there is one)")
    add("--steps", type=int, help="most steps of a line (default: 50 a character and 100, or 700 at random)")
    add("--retries", type=int, help=f"how often to redo lines cut off, at rest or misread (default: {RETRIES})")
    return parser


def parse_redo(text: str) -> dict[int, int]:
    """`7` or `7,9:2` -> for lines 7 and 9 the number of the other try, 1 by default."""
    pairs = (part.partition(":") for part in text.split(","))
    redo = {int(line): int(attempt or 1) for line, _, attempt in pairs}
    if not all(0 <= attempt < MOST_ATTEMPTS for attempt in redo.values()):
        raise ValueError("the number of a try is too large")
    return redo


def parse_shard(text: str) -> tuple[int, int]:
    """`3/8` -> (3, 8): the third of eight shards."""
    number, count = map(int, text.split("/"))
    if not 1 <= number <= count:
        raise ValueError("there is no such shard")
    return number, count


parse_shard.__name__ = "shard such as 3/8"
parse_redo.__name__ = "line numbers such as 7 or 7,9:2"


if __name__ == "__main__":
    run_cli(main)
