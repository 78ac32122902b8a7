"""Add training lines: with numbers, put together from recorded handwriting; and such as a network writes itself.

    python compose.py --data data/iam-ondb.npz --output data/composed.npz --lines 4000
    python compose.py --data data/composed.npz --output data/written.npz --lines 0 --written 4000

IAM-OnDB has each digit some 40 to 260 times, too few to learn dates, times and prices from. A trained network tells
which character each recorded point belongs to, by its window (section 5.1). So digits, marks and capitals can be cut
out of the training lines, where their strokes are their own, and be set between words of other training lines: at the
size, on the baseline and with the slant of these.

A network loses its place in some lines, and it never sees that in training. So it can learn from its own good ones:
with `--written` it writes texts with numbers and capitals in many hands, and those that the recogniser reads without a
mistake are added.

The output is the data set with the new lines among its training lines; nothing else changes. Lengths are in x-heights
of a line, measured from its baseline, unless said otherwise.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`: Ctrl-C in the seconds of the imports just ends it

import string
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from handwriting.bulk import BIASES
from handwriting.checks import load_recogniser
from handwriting.data.dataset import Dataset, load_dataset, save_dataset
from handwriting.data.recordings import drop_rests
from handwriting.program import InputError, Parser, run_cli
from handwriting.recogniser import Recogniser, align, edit_distance
from handwriting.sampling import default_steps
from handwriting.strokes import to_strokes
from handwriting.training.batches import collate, make_batches
from handwriting.writer import load_writer, write_checked
from model import Window, window_weights

FLAT_LETTERS = set("acemnorsuvwxz")  # they reach from the baseline to the x-height
TOKEN_CHARACTERS = set(string.digits + string.ascii_uppercase + ":/.,-+()")  # what new words are made of
MIN_OWN = 0.6  # share of the points of a stroke that its character or word must have: the window runs a little ahead
NEAREST = 12  # glyphs of a character, those nearest in slant, of which one is taken
ALIGN_BATCH = 32
READ_LINES = 256  # new lines read at once
MAX_WRONG = 0.25  # share of a new line's characters that a recogniser may get wrong
MAX_CHARACTERS = 45  # of a new line
RARE_SHARE = 0.02  # all lines with a character that is on fewer than this share of lines are cut, and of the others
OTHER_LINES = 800
WRITE_TRIES = 4  # at a text, each with another seed, for a line that is read without a mistake
WRITE_TEXTS = 256  # written and read at once
TOKEN_SHARE = 0.4  # of the texts that are written have a token
CAPITAL_SHARE = 0.15  # of their words get a capital
MIN_WELL = 0.02  # share of texts that must come out right


@dataclass(frozen=True)
class Piece:
    """Ink of a character or word."""

    text: str
    strokes: list[np.ndarray]  # (n, 2) each; x from the piece's left edge, y downwards from the baseline
    slant: float  # of the line that it comes from: x a unit of y upwards

    @property
    def width(self) -> float:
        """From the left edge to the right one."""
        return max(stroke[:, 0].max() for stroke in self.strokes)


@dataclass(frozen=True)
class CutLine:
    """A training line in pieces."""

    words: list[Piece]  # none if they share strokes
    gaps: list[float]  # between the words
    glyphs: list[Piece]  # single characters whose strokes are their own
    slope: float  # of the baseline
    x_height: float  # whiteboard units
    slant: float


# ------------------------------------------------------------------------------------------------------- cutting lines


@torch.inference_mode()
def align_characters(network, dataset: Dataset, lines: np.ndarray) -> dict[int, np.ndarray]:
    """For each line, by its number, the place in its text of the character that each point belongs to, (T,).

    That is the one on which the window of a network (`writer.Network`) is strongest before the point.
    """
    found, model = {}, network.model
    lengths = np.diff(dataset.starts)[lines]
    for batch in tqdm(make_batches(lengths, ALIGN_BATCH), unit=" batches", desc="aligning", disable=None):
        codes = [torch.from_numpy(network.alphabet.encode(str(text))) for text in dataset.texts[lines[batch]]]
        points, _, text = collate([dataset.points(line) for line in lines[batch]], codes)
        _, _, windows = model(model.normalise(points[:-1]), model.one_hot(text))
        for b, line in enumerate(lines[batch]):
            window = Window(*(parameter[: lengths[batch[b]] - 1, b] for parameter in windows))
            phi = window_weights(window, len(dataset.texts[line]))  # (T - 1, U)
            found[int(line)] = np.append(0, phi.argmax(1).numpy())
    return found


def measure_line(positions: np.ndarray, characters: np.ndarray, text: str) -> tuple[float, float, float] | None:
    """Slope and height at x = 0 of the baseline, and x-height, in the unit of positions (T, 2); None if unclear."""
    marks = []  # of each flat letter: middle, bottom, height
    for place, character in enumerate(text):
        ink = positions[characters == place]
        if character in FLAT_LETTERS and len(ink) > 3:
            marks.append((np.ptp(ink[:, 0]) / 2 + ink[:, 0].min(), ink[:, 1].max(), np.ptp(ink[:, 1])))
    if len(marks) < 6:
        return None
    x, bottom, height = np.array(marks).T
    keep = np.ones(len(x), dtype=bool)
    for _ in range(3):  # least squares without the letters that are far off
        slope, base = np.polyfit(x[keep], bottom[keep], 1)
        error = np.abs(bottom - slope * x - base)
        keep = error <= max(2 * np.median(error), 1e-6)
        if keep.sum() < 4:
            return None
    x_height = float(np.median(height))
    return (float(slope), float(base), x_height) if x_height > 10 and abs(slope) < 0.3 else None


def measure_slant(strokes: list[np.ndarray]) -> float:
    """The mean x a unit of y upwards over the steep steps of strokes (n, 2)."""
    steps = np.concatenate([np.diff(stroke, axis=0) for stroke in strokes])
    steep = np.abs(steps[:, 1]) > np.abs(steps[:, 0])
    dx, dy = steps[steep].T
    return float(-(dx * np.sign(dy)).sum() / max(np.abs(dy).sum(), 1e-6))


def places_read_right(text: str, read: str) -> set[int]:
    """The places in `text` of the characters that are read as what they are."""
    pairs = align(text, read)
    places = np.cumsum([bool(a) for a, _ in pairs]) - 1
    return {int(place) for place, (a, b) in zip(places, pairs, strict=True) if a == b}


def cut_line(points: np.ndarray, characters: np.ndarray, text: str, right: set[int]) -> CutLine | None:
    """Cut a line, points (T, 3) in whiteboard units, where the pen is lifted; None if it cannot be measured.

    Glyphs are those at the places in `right` only.
    """
    strokes, ends = to_strokes(points), np.flatnonzero(points[:, 2] > 0.5) + 1
    owners = np.split(characters, ends)[: len(strokes)]
    measures = measure_line(np.concatenate(strokes), characters, text)
    if measures is None:
        return None
    slope, base, x_height = measures
    strokes = [(stroke - np.outer(stroke[:, 0] * slope + base, [0, 1])) / x_height for stroke in strokes]
    slant = measure_slant(strokes)
    main = [int(np.bincount(owner).argmax()) for owner in owners]  # the character of each stroke
    words, gaps = cut_words(strokes, owners, main, text, slant)
    places = [place for place, character in enumerate(text) if character in TOKEN_CHARACTERS and place in right]
    chosen = [(own_strokes(owners, main, place), text[place]) for place in places]
    glyphs = [make_piece([strokes[s] for s in own], character, slant) for own, character in chosen if own]
    return CutLine(words, gaps, glyphs, slope, x_height, slant)


def make_piece(strokes: list[np.ndarray], text: str, slant: float) -> Piece:
    """A piece of strokes (n, 2), which are moved so that it begins at x = 0."""
    left = min(stroke[:, 0].min() for stroke in strokes)
    return Piece(text, [stroke - [left, 0] for stroke in strokes], slant)


def cut_words(
    strokes: list[np.ndarray], owners: list[np.ndarray], main: list[int], text: str, slant: float
) -> tuple[list[Piece], list[float]]:
    """The words of a line and the gaps between them; none if words share strokes or come in another order.

    strokes (n, 2) and, for each point of them, its character, owners (n,); `main` is that of most points of a stroke.
    """
    word_of = np.cumsum([character == " " for character in text])
    words = [int(word_of[place]) for place in main]
    is_shared = any((word_of[owner] == word).mean() < MIN_OWN for owner, word in zip(owners, words, strict=True))
    if is_shared or words != sorted(words):
        return [], []
    for s in range(1, len(strokes)):  # a bar that is drawn when the window is on the next word already
        last = max(strokes[r][:, 0].max() for r in range(s) if words[r] == words[s - 1])
        if words[s] > words[s - 1] and strokes[s][:, 0].mean() < last:
            words[s] = words[s - 1]
    groups = [[stroke for stroke, word in zip(strokes, words, strict=True) if word == n] for n in range(max(words) + 1)]
    if not all(groups) or len(groups) != len(text.split(" ")):
        return [], []
    edges = [(min(s[:, 0].min() for s in group), max(s[:, 0].max() for s in group)) for group in groups]
    pieces = [make_piece(group, word, slant) for group, word in zip(groups, text.split(" "), strict=True)]
    return pieces, [right[0] - left[1] for left, right in pairwise(edges)]


def own_strokes(owners: list[np.ndarray], main: list[int], place: int) -> list[int]:
    """The strokes, by number, of the character at a place of the text; none if it shares one with another character."""
    own = [s for s in range(len(owners)) if main[s] == place]
    is_whole = all((owners[s] == place).mean() >= MIN_OWN for s in own)
    has_more = any((owner == place).mean() > 1 - MIN_OWN for s, owner in enumerate(owners) if s not in own)
    return own if is_whole and not has_more else []


MARKS = {  # limits on a mark's height, top and bottom, y downwards from the baseline, and its number of strokes
    ".": (0.5, -0.6, 0.4, 1), ",": (1.5, -0.6, 1.5, 1), ":": (1.8, -1.8, 0.5, 2), "-": (0.6, -1.3, 0.0, 1),
    "/": (5.0, -3.5, 1.5, 1), "(": (5.0, -3.5, 1.5, 1), ")": (5.0, -3.5, 1.5, 1), "+": (2.0, -2.0, 0.4, 2),
}  # fmt: skip


def is_usual(glyph: Piece) -> bool:
    """Whether a glyph has the size and the place of its kind: most that have not were cut wrongly."""
    y = np.concatenate(glyph.strokes)[:, 1]
    height, top, bottom = np.ptp(y), y.min(), y.max()
    ends = sorted((stroke[:, 0].min(), stroke[:, 0].max()) for stroke in glyph.strokes)
    if any(right[0] - left[1] > 0.3 for left, right in pairwise(ends)):
        return False  # a stroke that stands apart is another character's
    if glyph.text in MARKS:
        most, highest, lowest, count = MARKS[glyph.text]
        return height <= most and top >= highest and bottom <= lowest and len(ends) == count and glyph.width < 3
    widest = 0.9 if glyph.text in "1I" else 1.6
    return 1.0 < height < 4 and glyph.width < widest * height and -0.6 < bottom < 0.8


# ------------------------------------------------------------------------------------------------------ composing lines


def random_token(rng: np.random.Generator) -> str:
    """A date, time, price, number or postcode made of `TOKEN_CHARACTERS`."""

    def number(low: int, high: int) -> str:
        return str(rng.integers(low, high))

    def letters(count: int) -> str:
        return "".join(rng.choice(list(string.ascii_uppercase), count))

    def two() -> str:
        return f"{rng.integers(0, 100):02}"

    day, month, year = number(1, 32), number(1, 13), number(1700, 2100)
    minute = f"{rng.integers(0, 60):02}"
    kinds = [
        day, number(0, 10), number(10, 100), number(100, 1000), number(1000, 10_000), year, year,
        f"{day}/{month}", f"{day}/{month}/{year}", f"{day}.{month}.{two()}", f"{year}-{month}-{day}",
        f"{number(0, 24)}:{minute}", f"{number(0, 24)}:{minute}", f"{number(1, 13)}.{minute}",
        f"{number(0, 1000)}.{two()}", f"{number(1, 100)},{number(100, 1000)}", f"0.{two()}",
        f"{number(1, 20)}-{number(20, 100)}", number(10_000, 100_000), f"({number(1, 100)})",
        f"{letters(2)}{number(1, 20)}", f"{number(1, 10)}{letters(2)}", f"{letters(1)}{number(1, 10)}{letters(1)}",
        letters(int(rng.integers(2, 4))),
    ]  # fmt: skip
    return kinds[rng.integers(len(kinds))]


def choose_glyph(glyphs: list[Piece], slant: float, height: float, rng: np.random.Generator) -> Piece:
    """One of the glyphs whose slant is near, brought to that slant, and to about that height unless it is a mark."""
    order = np.argsort([abs(glyph.slant - slant) for glyph in glyphs])[:NEAREST]
    glyph = glyphs[rng.choice(order)]
    y = np.concatenate(glyph.strokes)[:, 1]
    scale = 1.0 if glyph.text in MARKS else height / np.ptp(y)
    matrix = np.diag(scale * np.exp(rng.normal(0, 0.04, 2)))
    matrix[1, 0] = -scale * (slant - glyph.slant + rng.normal(0, 0.05))  # y is downwards
    below = 0.0 if glyph.text in MARKS else np.clip(y.max(), -0.2, 0.2) - scale * y.max()
    strokes = [stroke @ matrix + [0, below + rng.normal(0, 0.03)] for stroke in glyph.strokes]
    left = min(stroke[:, 0].min() for stroke in strokes)
    return replace(glyph, strokes=[stroke - [left, 0] for stroke in strokes])


def join(pieces: list[Piece], gaps: list[float], separator: str) -> Piece:
    """Pieces beside each other, with gaps between them."""
    x, strokes = 0.0, []
    for piece, gap in zip(pieces, [*gaps, 0.0], strict=True):
        strokes += [stroke + [x, 0] for stroke in piece.strokes]
        x += piece.width + gap
    return Piece(separator.join(piece.text for piece in pieces), strokes, pieces[0].slant)


def write_token(glyphs: dict[str, list[Piece]], slant: float, rng: np.random.Generator) -> Piece:
    """A random token of the glyphs that there are."""
    while not set(token := random_token(rng)) <= glyphs.keys():
        pass
    height = rng.uniform(1.5, 2.2)
    pieces = [choose_glyph(glyphs[character], slant, height, rng) for character in token]
    gaps = rng.uniform(0.2, 0.5) + rng.normal(0, 0.06, len(pieces) - 1)
    return join(pieces, gaps.tolist(), "")


def compose_line(base: CutLine, glyphs: dict[str, list[Piece]], rng: np.random.Generator) -> Piece:
    """Some neighbouring words of a line, and one to three tokens among them."""
    count = rng.integers(0, min(4, len(base.words)) + 1)
    first = rng.integers(0, len(base.words) - count + 1)
    pieces = base.words[first : first + count]
    for _ in range(rng.integers(1, 4)):
        place = rng.integers(0, len(pieces) + 1)
        pieces = [*pieces[:place], write_token(glyphs, base.slant, rng), *pieces[place:]]
    while sum(len(piece.text) + 1 for piece in pieces) > MAX_CHARACTERS:
        pieces = pieces[1:]
    usual = float(np.clip(np.median(base.gaps), 0.9, 3.0)) if base.gaps else 1.3
    return join(pieces, (usual * rng.uniform(0.8, 1.3, len(pieces) - 1)).tolist(), " ")


def to_offsets(line: Piece, base: CutLine, keep_rests: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ink at the size and on the baseline of a line -> offsets (T, 2) in whole whiteboard units, and end bits (T,)."""
    positions = np.concatenate(line.strokes) * base.x_height
    positions[:, 1] += base.slope * positions[:, 0]
    ends = np.zeros(len(positions), dtype=bool)
    ends[np.cumsum([len(stroke) for stroke in line.strokes]) - 1] = True
    return round_offsets(positions, ends, keep_rests)


def round_offsets(positions: np.ndarray, ends: np.ndarray, keep_rests: bool) -> tuple[np.ndarray, np.ndarray]:
    """Positions (T, 2) and end bits (T,) -> offsets (T, 2) in whole units, as in a data set, and end bits (T,)."""
    positions = np.rint(positions)
    if not keep_rests:
        stays = drop_rests(positions, ends)
        positions, ends = positions[stays], ends[stays]
    return np.diff(positions, axis=0, prepend=positions[:1]).astype(np.int16), ends


def compose(network, dataset: Dataset, count: int, seed: int) -> Dataset:
    """The data set with `count` new training lines. Raises InputError if its lines cannot be cut."""
    rng = np.random.default_rng(seed)
    training = dataset.lines("train", with_text=True)
    texts = [set(text) for text in dataset.texts[training].tolist()]
    lines_with = Counter(character for text in texts for character in text)
    rare = {character for character in TOKEN_CHARACTERS if lines_with[character] < RARE_SHARE * len(texts)}
    is_rare = np.array([bool(text & rare) for text in texts])
    lines = np.concatenate([training[is_rare], rng.permutation(training[~is_rare])[:OTHER_LINES]])
    aligned = align_characters(network, dataset, lines)
    recogniser, cut = load_recogniser(), []
    for line, read in zip(lines, recogniser.read([dataset.points(line) for line in lines]), strict=True):
        text = str(dataset.texts[line])
        cut.append(cut_line(dataset.points(line), aligned[int(line)], text, places_read_right(text, read)))
    cut = [line for line in cut if line is not None]
    glyphs = defaultdict(list)
    for line in cut:
        for glyph in filter(is_usual, line.glyphs):
            glyphs[glyph.text].append(glyph)
    missing = set(string.digits) - glyphs.keys()
    if missing:
        raise InputError(f"no line could be cut for the digits {' '.join(sorted(missing))}; is the network trained?")
    print(f"{len(cut)} of {len(lines)} lines cut; glyphs: ", end="")
    print(", ".join(f"{character} {len(glyphs[character])}" for character in sorted(glyphs)))
    bases = [line for line in cut if line.words]
    new, tries = [], 0  # (offsets, ends, text) of each line
    while len(new) < count:
        chosen = [bases[place] for place in rng.integers(len(bases), size=READ_LINES)]
        composed = [compose_line(base, glyphs, rng) for base in chosen]
        made = [to_offsets(line, base, bool(dataset.has_rests)) for line, base in zip(composed, chosen, strict=True)]
        read = recogniser.read([np.column_stack(line).astype(np.float32) for line in made])
        tries += len(made)
        for line, ink, said in zip(composed, made, read, strict=True):
            if edit_distance(line.text, said) <= MAX_WRONG * len(line.text):
                new.append((*ink, line.text))
    print(f"{len(new)} of {tries} new lines can be read")
    return add_lines(dataset, *map(list, zip(*new[:count], strict=True)))


# -------------------------------------------------------------------------------------------------------- written lines


def random_text(texts: np.ndarray, rng: np.random.Generator) -> str:
    """Neighbouring words of one of the texts, some with a new capital, and at times a token among them."""
    words = str(rng.choice(texts)).split()
    first = rng.integers(0, max(len(words) - 2, 1))
    words = words[first : first + rng.integers(2, 9)]
    words = [word[0].upper() + word[1:] if rng.random() < CAPITAL_SHARE else word for word in words]
    if rng.random() < TOKEN_SHARE:
        words.insert(rng.integers(0, len(words) + 1), random_token(rng))
    while len(" ".join(words)) > MAX_CHARACTERS:
        words.pop()
    return " ".join(words)


def write_well(network, recogniser: Recogniser, texts: list[str], rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Have a network (`writer.Network`) write each text until it is read without a mistake, or `WRITE_TRIES` times.

    Returns the points (T, 3) in whiteboard units of the texts that succeeded, by their place in `texts`.
    """
    found, left = {}, list(range(len(texts)))
    biases = rng.uniform(*BIASES, len(texts))
    for _ in range(WRITE_TRIES):
        if not left:
            break
        given = [texts[n] for n in left]
        seeds = rng.integers(2**62, size=len(left)).tolist()
        lines = write_checked(network, given, seeds, biases[left].tolist(), [default_steps(t) for t in given], 0)
        for n, line, said in zip(left, lines, recogniser.read([line.points for line in lines]), strict=True):
            if said == texts[n] and not line.fault:
                found[n] = line.points
        left = [n for n in left if n not in found]
    return found


def add_written(network, dataset: Dataset, count: int, seed: int) -> Dataset:
    """The data set with `count` new training lines that a network (`writer.Network`) wrote.

    Raises InputError if it writes hardly a line without a mistake.
    """
    rng, recogniser = np.random.default_rng(seed), load_recogniser()
    training = dataset.texts[dataset.lines("train", with_text=True)]
    known = set(network.alphabet.learned)
    new, tries = [], 0  # (offsets, ends, text) of each line
    with tqdm(total=count, unit=" lines", desc="writing", disable=None) as progress:
        while len(new) < count:
            texts = [random_text(training, rng) for _ in range(WRITE_TEXTS)]
            tries += WRITE_TEXTS
            texts = [text for text in texts if text and set(text) <= known]
            for n, points in write_well(network, recogniser, texts, rng).items():
                positions, ends = np.cumsum(points[:, :2], axis=0, dtype=float), points[:, 2] > 0.5
                new.append((*round_offsets(positions, ends, bool(dataset.has_rests)), texts[n]))
            progress.update(min(len(new), count) - progress.n)
            if len(new) < MIN_WELL * tries:
                raise InputError(
                    f"of {tries} texts only {len(new)} were written without a mistake; train the network longer"
                )
    print(f"{len(new)} of {tries} texts were written without a mistake")
    return add_lines(dataset, *map(list, zip(*new[:count], strict=True)), kind="written")


def add_lines(
    dataset: Dataset, offsets: list[np.ndarray], ends: list[np.ndarray], texts: list[str], kind: str = "composed"
) -> Dataset:
    """The data set with more training lines, whose names begin with `kind`; statistics stay."""
    counts = np.array([sum(text.count(c) for text in texts) for c in dataset.charset.tolist()])
    lengths = np.array([len(line) for line in offsets])
    return replace(
        dataset,
        offsets=np.concatenate([dataset.offsets, *offsets]),
        ends=np.concatenate([dataset.ends, *ends]),
        starts=np.concatenate([dataset.starts, dataset.starts[-1] + np.cumsum(lengths)]),
        texts=np.concatenate([dataset.texts, texts]),
        names=np.concatenate([dataset.names, [f"{kind}-{n:05}" for n in range(len(texts))]]),
        splits=np.concatenate([dataset.splits, ["train"] * len(texts)]),
        char_counts=dataset.char_counts + counts,
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description="Add training lines: put together from recorded ones, or written by a network.")
    add = parser.add_argument
    add("--data", type=Path, default=Path("data/iam-ondb.npz"), help="prepared data (default: %(default)s)")
    add("--output", type=Path, default=Path("data/composed.npz"), help="where to write (default: %(default)s)")
    add("--checkpoint", type=Path, help="network that tells characters apart, and writes (default: save/synthesis.pt)")
    add("--lines", type=int, default=4000, help="new lines put together from recorded ones (default: %(default)s)")
    add("--written", type=int, default=0, help="new lines that the network writes (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the composition (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in ("lines", "written"):
        if not 0 <= getattr(options, name) <= 100_000:
            raise InputError(f"--{name} must be from 0 to 100000, not {getattr(options, name)}")
    if not options.lines + options.written:
        raise InputError("--lines and --written are both 0: nothing to add")
    network, dataset = load_writer(options.checkpoint, "synthesis"), load_dataset(options.data)
    unknown = set("".join(dataset.texts.tolist())) - set(network.alphabet.characters)
    if unknown:
        raise InputError(f"{options.data}: has characters that the network does not know: {' '.join(sorted(unknown))}")
    if options.lines:
        dataset = compose(network, dataset, options.lines, options.seed)
    if options.written:
        dataset = add_written(network, dataset, options.written, options.seed)
    save_dataset(dataset, options.output)
    print(f"wrote {options.output}: {options.lines + options.written} lines added")


if __name__ == "__main__":
    run_cli(main)
