"""How legible the network's ink is: the share of characters that a recogniser gets wrong, and where the ink fails.

    python benchmarks/quality.py            # 360 texts at three biases, some two minutes on two cores
    python benchmarks/quality.py --quick    # every fifth text

Each text is written once at each bias, with a seed of its own, and read by the recogniser. The table has a
row for each text set and bias, and one for recorded lines where there are any. What its columns say:

- characters, words wrong: sum of the lines' edit distances over sum of their lengths, in characters and in words.
  Digits wrong: the share of the text's digits that are not read as what they are; first, last character likewise.
- bars, dots: how many there are in the ink (`count_marks`) for each t, and for each dot that the text asks for.
- without bar, flag, cross, dot: of t; of 5; of x; of i, j, ? and !: how many lack it, and of how many, see
  `checks.missing_marks`.
- ended by the cap: lines whose window had not passed the text after `default_steps` points.
- letters skipped or repeated: characters other than blanks that the window left out or came back to, see
  `skipped_letters` and `repeated_letters`.
- resting steps: the share of steps within a stroke that are shorter than SHORTEST_STEP, 3 whiteboard units.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent.parent))
from handwriting.checks import DOTS, count_dots, load_recogniser, missing_marks, upright
from handwriting.data.dataset import Dataset, load_dataset
from handwriting.figures import save_figure
from handwriting.ink.geometry import find_level, find_slant
from handwriting.ink.pictures import FIGURE_ENDINGS
from handwriting.program import InputError, Parser, atomic_write, run_cli
from handwriting.recogniser import Recogniser, align
from handwriting.sampling import Line
from handwriting.strokes import SHORTEST_STEP, to_strokes
from handwriting.training.flags import at_least
from handwriting.writer import generate_conditionally, load_network

HERE = Path(__file__).parent
TEXTS = [HERE / "sentences.txt", HERE / "numbers.txt", HERE / "endings.txt"]
WRITE_BATCH = 64  # lines written at once
EVERY = 5  # --quick takes every fifth text
BAD_RATE = 0.3  # a line with more errors than this cannot be read
LEAST_PHI = 0.5  # a character whose window weight (eq. 46) stays below is not looked at; usual is 1 to 3
REPEAT_POINTS = 3  # shorter looks back, of one point or two, happen between neighbours and write nothing
WORST_LINES = 12  # in the picture
COMMON_ERRORS = 8  # characters printed for each bias
BAR_WIDTH, BAR_HEIGHT, BAR_FLATNESS = 0.35, 0.6, 3.0  # x-heights; the width by the height

COLUMNS = {
    "ink": "{name}",
    "characters wrong": "{error_rate:.1%}",
    "words wrong": "{wrong_words:.1%}",
    "lines without a mistake": "{right_lines:.0%}",
    "digits wrong": "{digit_error_rate:.1%}",
    "first, last character wrong": "{first_wrong:.1%}, {last_wrong:.1%}",
    "bars a t, dots a dot": "{bars:.2f}, {dots:.2f}",
    "without bar, flag, cross, dot": "{no_bar}, {no_flag}, {no_cross}, {no_dot}",
    f"lines above {100 * BAD_RATE:g} %": "{bad_lines} of {lines}",
    "ended by the cap": "{capped}",
    "letters skipped, repeated": "{skipped}, {repeated}",
    "resting steps": "{resting_share:.1%}",
    "points a character": "{points_per_character:.1f}",
}


@dataclass(frozen=True)
class Ink:
    """A line of T points with what it says, and what the recogniser and the window say of it."""

    text: str
    points: np.ndarray  # (T, 3): x and y offset in whiteboard units, end-of-stroke bit
    read: str
    finished: bool = True  # False where the cap ended it
    skipped: int = 0  # letters, by the window
    repeated: int = 0
    lacking: str = ""  # the letters without their marks

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of characters of text and read, see `align`."""
        return align(self.text, self.read)

    @property
    def errors(self) -> int:
        """The edit distance of text and read."""
        return sum(a != b for a, b in self.pairs)

    @property
    def rate(self) -> float:
        """Errors a character of the text; above 1 where more is read than is there."""
        return self.errors / len(self.text)


# --------------------------------------------------------------------------------------------------- texts and ink


def read_texts(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises InputError for a file without any, or not of text."""
    try:
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8; give one text a line") from None
    if not texts:
        raise InputError(f"{path}: no text in it; give one text a line")
    return texts


def skipped_letters(phi: np.ndarray, text: str) -> int:
    """How many letters the window left out, given its weights phi (T, U + 1) over a text of U characters.

    A character other than a blank is skipped if the window is strongest on it at no point and its weight stays below
    LEAST_PHI; those that a line ended by the cap did not come to are among them.
    """
    strongest = set(phi.argmax(1).tolist())
    greatest = phi.max(0, initial=0.0).tolist()
    return sum(c != " " and u not in strongest and greatest[u] < LEAST_PHI for u, c in enumerate(text))


def repeated_letters(phi: np.ndarray, text: str) -> int:
    """How many letters the window came back to, given its weights phi (T, U + 1) over a text of U characters.

    A character other than a blank is repeated if the window, having been strongest on a later one, is strongest on it
    at REPEAT_POINTS points or more.
    """
    path = phi.argmax(1)  # (T,)
    behind = path < np.maximum.accumulate(path)
    counts = np.bincount(path[behind], minlength=len(text)).tolist()
    return sum(c != " " and counts[u] >= REPEAT_POINTS for u, c in enumerate(text))


def write_lines(
    texts: list[str],
    recogniser: Recogniser,
    bias: float,
    seed: int = 0,
    checkpoint: Path | None = None,
    retries: int = 0,
) -> list[Ink]:
    """Write each text, number i with the seed `seed` + i, and read it. The network's outputs are not kept."""
    lines = []
    for start in range(0, len(texts), WRITE_BATCH):
        written = generate_conditionally(
            texts[start : start + WRITE_BATCH], bias=bias, seed=seed + start, checkpoint=checkpoint, retries=retries
        )
        for line, read in zip(written, recogniser.read([line.points for line in written]), strict=True):
            window = (skipped_letters(line.phi, line.text), repeated_letters(line.phi, line.text))
            lines.append(Ink(line.text, line.points, read, line.finished, *window, lacking_letters(line)))
    return lines


def lacking_letters(line: Line) -> str:
    """The letters of a line that the network wrote that lack their marks, none of a line without ink."""
    if not len(line.points):
        return ""
    places = missing_marks(upright(line.points, line.text), line.characters, line.text)
    return "".join(line.text[place] for place in places)


def recorded_lines(dataset: Dataset, recogniser: Recogniser, every: int = 1) -> list[Ink]:
    """The validation lines that have a text, read; of `every` such lines one."""
    numbers = dataset.lines("validation", with_text=True)[::every]
    points = [dataset.points(n) for n in numbers]
    return [
        Ink(str(dataset.texts[n]), *inked) for n, *inked in zip(numbers, points, recogniser.read(points), strict=True)
    ]


# --------------------------------------------------------------------------------------------------------- figures


def resting_steps(points: np.ndarray) -> tuple[int, int]:
    """How many steps within a stroke rest, and how many there are, given points (T, 3) in whiteboard units."""
    within = points[:-1, 2] < 0.5  # (T - 1,), of the step to the next point
    lengths = np.hypot(*points[1:, :2].T)[within]
    return int((lengths < SHORTEST_STEP).sum()), len(lengths)


def line_measures(points: np.ndarray, text: str) -> dict[str, float]:
    """What compares written lines with recorded ones by numbers, for points (T, 3). Raises ValueError without extent.

    Lengths are in whiteboard units, shares in percent. The pen is read at equal times: a step's length is its speed.
    """
    strokes = to_strokes(points)
    level, after_lift = find_level(strokes), points[:-1, 2] > 0.5
    inside, jumps = points[1:, :2][~after_lift], points[1:, :2][after_lift]
    steps = np.hypot(*inside.T)
    x_spread, y_spread = inside.std(0)
    return {
        "points a character": len(points) / len(text), "points before a lift, %": 100 * points[:, 2].mean(),
        "length of a stroke": float(np.median([np.hypot(*np.diff(s, axis=0).T).sum() for s in strokes])),
        "speed: a step in a stroke": float(np.median(steps)), "spread of x offsets": x_spread,
        "spread of y offsets": y_spread, "steps below 3 units, %": 100 * (steps < SHORTEST_STEP).mean(),
        "step between strokes": float(np.median(np.hypot(*jumps.T))) if len(jumps) else np.nan,
        "x-height": level.x_height, "slant, degrees": find_slant([level.apply(stroke) for stroke in strokes]),
    }  # fmt: skip


def character_errors(lines: list[Ink]) -> dict[str, dict[str, Any]]:
    """For each character of the texts: how often it is there, how often wrong, and what is read for it ("": nothing).

    Under "" is what is read where the text has nothing. The most often wrong come first.
    """
    read_as = defaultdict(Counter)
    for line in lines:
        for a, b in line.pairs:
            read_as[a][b] += 1
    found = {}
    for a, counts in read_as.items():
        wrong = {b: count for b, count in counts.most_common() if b != a}
        found[a] = {"count": counts.total(), "wrong": sum(wrong.values()), "read_as": wrong}
    return dict(sorted(found.items(), key=lambda item: (-item[1]["wrong"], item[0])))


def count_marks(strokes: list[np.ndarray]) -> tuple[int, int]:
    """The dots and the bars among the strokes of a line, from `upright`: a bar is long and flat, and no joined word."""
    width, height = np.array([np.ptp(stroke, axis=0) for stroke in strokes]).T
    is_bar = (width >= BAR_WIDTH) & (height < BAR_HEIGHT) & (width >= BAR_FLATNESS * height)  # no dot is so wide
    return count_dots(strokes), int(is_bar.sum())


def ink_figures(lines: list[Ink]) -> dict[str, Any]:
    """Figures of lines, written or recorded, at least one. There is no digits' rate where there are no digits."""
    characters = sum(len(line.text) for line in lines)
    rests, steps = np.sum([resting_steps(line.points) for line in lines], axis=0).tolist()
    errors, text = character_errors(lines), "".join(line.text for line in lines)
    marks = [count_marks(upright(line.points, line.text)) if len(line.points) else (0, 0) for line in lines]
    dots, bars = np.sum(marks, axis=0).tolist()
    pairs = [[pair for pair in line.pairs if pair[0]] for line in lines]
    words = [align(line.text.split(), line.read.split()) for line in lines]
    figures = {
        "lines": len(lines),
        "characters": characters,
        "error_rate": sum(line.errors for line in lines) / characters,
        "wrong_words": sum(a != b for line in words for a, b in line) / sum(len(line.text.split()) for line in lines),
        "right_lines": sum(not line.errors for line in lines) / len(lines),
        "first_wrong": sum(line[0][0] != line[0][1] for line in pairs) / len(lines),
        "last_wrong": sum(line[-1][0] != line[-1][1] for line in pairs) / len(lines),
        "bars": bars / max(text.count("t"), 1),
        "dots": dots / max(sum(DOTS.get(character, 0) for character in text), 1),
        "bad_lines": sum(line.rate > BAD_RATE for line in lines),
        "resting_share": rests / max(steps, 1),
        "points_per_character": sum(len(line.points) for line in lines) / characters,
        "errors": errors,
    }
    digits = [found for character, found in errors.items() if character and character in "0123456789"]
    if digits:
        figures["digit_error_rate"] = sum(d["wrong"] for d in digits) / sum(d["count"] for d in digits)
    return figures


def window_figures(lines: list[Ink]) -> dict[str, Any]:
    """Figures that only lines written by the network have."""
    text, lacking = "".join(line.text for line in lines), "".join(line.lacking for line in lines)
    without = {
        name: " of ".join(str(sum(map(letters.count, own))) for letters in (lacking, text))
        for name, own in {"no_bar": "t", "no_flag": "5", "no_cross": "xX", "no_dot": "ij?!"}.items()
    }
    return without | {
        "capped": sum(not line.finished for line in lines),
        "skipped": sum(line.skipped for line in lines),
        "repeated": sum(line.repeated for line in lines),
    }


# ---------------------------------------------------------------------------------------------------------- output


def table_head() -> str:
    """The first two rows of the table."""
    return f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def table_row(figures: dict[str, Any]) -> str:
    """A row of the table; "-" for a figure that is not there."""
    cells = []
    for form in COLUMNS.values():
        try:
            cells.append(form.format_map(figures).replace("%", " %"))
        except KeyError:
            cells.append("-")
    return f"| {' | '.join(cells)} |"


def common_errors(lines: list[Ink]) -> str:
    """The characters that are wrong most often, and what they are read as, in one line."""
    pieces = []
    for character, found in character_errors(lines).items():
        if found["wrong"] and len(pieces) < COMMON_ERRORS:
            read_as = ", ".join(f"{repr(b) if b else 'missing'} {n}" for b, n in list(found["read_as"].items())[:3])
            counted = f"{character!r} {found['wrong']} of {found['count']}" if character else f"added {found['wrong']}"
            pieces.append(f"{counted} ({read_as})")
    return "; ".join(pieces) or "none"


def lines_figure(lines: list[np.ndarray], titles: list[str] | None = None) -> Figure:
    """Lines of handwriting, points (T, 3) each, left-aligned below each other, 400 whiteboard units to the inch."""
    figure, segments, right, y = Figure(), [], 0.0, 0.0
    axes = figure.add_axes((0, 0, 1, 1))
    for number, points in enumerate(lines):
        strokes = to_strokes(points)
        low, high = (f(np.concatenate(strokes), axis=0) for f in (np.min, np.max))
        if titles:
            axes.text(0, y, titles[number], fontsize=8, color="gray", va="top")
            y += 160
        moved = [stroke - low + [0, y] for stroke in strokes]
        segments += [stroke if len(stroke) > 1 else np.repeat(stroke, 2, axis=0) for stroke in moved]  # dots are lines
        right, y = max(right, high[0] - low[0]), y + max(high[1] - low[1], 200) + 120
    axes.add_collection(LineCollection(segments, colors="black", linewidths=1.2, capstyle="round", joinstyle="round"))
    axes.set(xlim=(-60, right + 60), ylim=(y - 60, -60), aspect="equal")
    axes.axis("off")
    figure.set_size_inches((right + 120) / 400, y / 400)
    return figure


def save_worst(measured: list[tuple[dict[str, Any], list[Ink]]], path: Path) -> None:
    """Draw the lines with the highest rates, of each text set as many; one without ink, or not finite, is a dot.

    `measured` is what `measure` returns. Sets are kept apart because a short text is all wrong more easily.
    """
    of_set = defaultdict(list)
    for row, lines in measured:
        of_set[row["texts"]] += [(row["name"], line) for line in lines]
    share = max(WORST_LINES // len(of_set), 1)
    worst = [named for lines in of_set.values() for named in sorted(lines, key=lambda named: -named[1].rate)[:share]]
    titles, inks = [], []
    for name, line in worst:
        titles.append(f"{name}, {line.rate:.0%} wrong: {line.text}  ->  {line.read}")
        is_drawable = len(line.points) > 0 and np.isfinite(line.points).all()
        inks.append(line.points if is_drawable else np.zeros((1, 3)))
    save_figure(lines_figure(inks, titles), path)


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = Parser(description="Measure how legible the network's ink is.")
    add = parser.add_argument
    add("--checkpoint", type=Path, help="the network that writes (default: save/synthesis.pt)")
    add("--recogniser", type=Path, help="the network that reads (default: save/recogniser.pt)")
    add("--texts", type=Path, nargs="+", default=TEXTS, metavar="FILE", help="other texts, files of one a line")
    help_bias = "as for generate.py, one or several (default: 0 0.5 1)"
    add("--bias", type=at_least(0, float), nargs="+", default=[0.0, 0.5, 1.0], help=help_bias)
    add("--retries", type=at_least(0), default=0, help="as for generate.py (default: 0, each line as it comes)")
    add("--seed", type=at_least(0), default=0, help="of the first text of each set (default: %(default)s)")
    add("--data", type=Path, default=Path("data/iam-ondb.npz"), help="recorded lines to compare with, if there")
    add("--json", type=Path, metavar="FILE", help="write all figures to this file")
    add("--picture", type=Path, metavar="FILE", help=f"draw the {WORST_LINES} worst lines, .png, .svg or .pdf")
    add("--quick", action="store_true", help="every fifth text and recorded line")
    return parser


def measure(
    options: argparse.Namespace, text_sets: list[tuple[str, list[str]]], recogniser: Recogniser
) -> list[tuple[dict[str, Any], list[Ink]]]:
    """Write and read all texts, and print the rows. Returns for each row its figures and its lines."""
    measured = []
    for name, texts in text_sets:
        for bias in options.bias:
            lines = write_lines(texts, recogniser, bias, options.seed, options.checkpoint, options.retries)
            row = {"name": f"{name}, bias {bias:g}", "texts": name, "bias": bias}
            row |= ink_figures(lines) | window_figures(lines)
            print(table_row(row), flush=True)
            measured.append((row, lines))
    return measured


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    options = make_parser().parse_args(arguments)
    if options.picture and options.picture.suffix.lower() not in FIGURE_ENDINGS:
        raise InputError(f"{options.picture}: not a picture that can be written; name a .png, .svg or .pdf file")
    every = EVERY if options.quick else 1
    text_sets = [(path.stem, read_texts(path)[::every]) for path in options.texts]
    recogniser = load_recogniser(options.recogniser)
    alphabet = load_network(options.checkpoint, "synthesis").alphabet
    alphabet.prepare([text for _, texts in text_sets for text in texts])  # complains before minutes have passed
    dataset = load_dataset(options.data) if options.data.is_file() else None
    if dataset is not None and not len(dataset.lines("validation", with_text=True)):
        raise InputError(f"{options.data}: its validation split holds no line with a text")

    print(table_head(), flush=True)
    measured = measure(options, text_sets, recogniser)
    rows = [row for row, _ in measured]
    if dataset is not None:
        rows.append({"name": f"recorded validation lines, {dataset.rests}"})
        rows[-1] |= ink_figures(recorded_lines(dataset, recogniser, every))
        print(table_row(rows[-1]))
    else:
        print(f"\nno recorded lines to compare with: {options.data} is not there")
    for bias in options.bias:
        lines = [line for row, lines in measured if row["bias"] == bias for line in lines]
        print(f"\nmost often wrong at bias {bias:g}: {common_errors(lines)}")
    if options.picture:
        save_worst(measured, options.picture)
        print(f"wrote {options.picture}")
    if options.json:
        settings = {name: getattr(options, name) for name in ("retries", "seed", "quick")}
        with atomic_write(options.json) as file:
            file.write(json.dumps(settings | {"rows": rows}, indent=1).encode() + b"\n")
        print(f"wrote {options.json}")


if __name__ == "__main__":
    run_cli(main)
