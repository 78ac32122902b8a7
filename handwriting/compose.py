"""Add training lines: with numbers, put together from recorded handwriting; and such as a network writes itself.

    python -m handwriting.compose --data data/iam-ondb.npz --output data/composed.npz --lines 4000
    python -m handwriting.compose --data data/composed.npz --output data/written.npz --lines 0 --written 4000

IAM-OnDB has each digit some 40 to 260 times, too few to learn dates, times and prices from. So digits, signs and
capitals are cut out of the training lines (handwriting/cutting.py), and set between words of other training lines: at
the size, on the baseline and with the slant of these.

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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from handwriting.bulk import BIASES
from handwriting.checks import load_recogniser
from handwriting.cutting import SIGNS, TOKEN_CHARACTERS, CutLine, Cutting, cut_lines, is_usual, make_cutting
from handwriting.data.dataset import Dataset, load_dataset, save_dataset
from handwriting.data.recordings import to_offsets
from handwriting.program import InputError, Parser, check_writable, run_cli
from handwriting.recogniser import Recogniser, edit_distance
from handwriting.sampling import default_steps
from handwriting.writer import Network, load_network, write_checked

NEAREST = 12  # glyphs of a character, those nearest in slant, of which one is taken
MAX_WRONG = 0.25  # share of a composed line's characters that the recogniser may get wrong
MAX_CHARACTERS = 45  # of a new line
RARE_SHARE = 0.02  # all lines with a character that is on fewer than this share of lines are cut, and of the others
OTHER_LINES = 800
ROUND = 256  # new lines that are made and read at once
MIN_GOOD = 0.02  # share of new lines that must come out right
WRITE_TRIES = 4  # at a text, each with another seed, for a line that is read without a mistake
TOKEN_SHARE = 0.4  # of the texts that are written have a token
CAPITAL_SHARE = 0.15  # of their words get a capital


class NewLine(NamedTuple):
    """A line for the data set, in whole whiteboard units."""

    offsets: np.ndarray  # (T, 2) int16
    ends: np.ndarray  # (T,) bool
    text: str


# ----------------------------------------------------------------------------------------------- recorded handwriting


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


def choose_glyph(glyphs: list[Cutting], slant: float, height: float, rng: np.random.Generator) -> Cutting:
    """One of the glyphs whose slant is near, brought to that slant, and to about that height unless it is a sign."""
    order = np.argsort([abs(glyph.slant - slant) for glyph in glyphs])[:NEAREST]
    glyph = glyphs[rng.choice(order)]
    y = np.concatenate(glyph.strokes)[:, 1]
    scale = 1.0 if glyph.text in SIGNS else height / np.ptp(y)
    matrix = np.diag(scale * np.exp(rng.normal(0, 0.04, 2)))
    matrix[1, 0] = -scale * (slant - glyph.slant + rng.normal(0, 0.05))  # y is downwards
    below = 0.0 if glyph.text in SIGNS else np.clip(y.max(), -0.2, 0.2) - scale * y.max()
    strokes = [stroke @ matrix + [0, below + rng.normal(0, 0.03)] for stroke in glyph.strokes]
    return make_cutting(strokes, glyph.text, glyph.slant)


def join(pieces: list[Cutting], gaps: list[float], separator: str) -> Cutting:
    """Cuttings beside each other, with gaps between them."""
    x, strokes = 0.0, []
    for piece, gap in zip(pieces, [*gaps, 0.0], strict=True):
        strokes += [stroke + [x, 0] for stroke in piece.strokes]
        x += piece.width + gap
    return Cutting(separator.join(piece.text for piece in pieces), strokes, pieces[0].slant)


def write_token(glyphs: dict[str, list[Cutting]], slant: float, rng: np.random.Generator) -> Cutting:
    """A random token of the glyphs that there are."""
    while not set(token := random_token(rng)) <= glyphs.keys():
        pass
    height = rng.uniform(1.5, 2.2)
    pieces = [choose_glyph(glyphs[character], slant, height, rng) for character in token]
    gaps = rng.uniform(0.2, 0.5) + rng.normal(0, 0.06, len(pieces) - 1)
    return join(pieces, gaps.tolist(), "")


def compose_line(base: CutLine, glyphs: dict[str, list[Cutting]], rng: np.random.Generator) -> Cutting:
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


def to_new_line(line: Cutting, base: CutLine, keep_rests: bool) -> NewLine:
    """Ink at the size and on the baseline of a line."""
    positions = np.concatenate(line.strokes) * base.x_height
    positions[:, 1] += base.slope * positions[:, 0]
    ends = np.zeros(len(positions), dtype=bool)
    ends[np.cumsum([len(stroke) for stroke in line.strokes]) - 1] = True
    return NewLine(*to_offsets(positions, ends, keep_rests), line.text)


def choose_lines(dataset: Dataset, rng: np.random.Generator) -> np.ndarray:
    """Numbers of the training lines to cut: all those with rare characters, and some others."""
    training = dataset.lines("train", with_text=True)
    texts = [set(text) for text in dataset.texts[training].tolist()]
    lines_with = Counter(character for text in texts for character in text)
    rare = {character for character in TOKEN_CHARACTERS if lines_with[character] < RARE_SHARE * len(texts)}
    is_rare = np.array([bool(text & rare) for text in texts])
    return np.concatenate([training[is_rare], rng.permutation(training[~is_rare])[:OTHER_LINES]])


def collect_glyphs(cut: list[CutLine]) -> dict[str, list[Cutting]]:
    """The glyphs of cut lines by character. Raises InputError if there are not all digits, or no words."""
    glyphs = defaultdict(list)
    for glyph in (glyph for line in cut for glyph in line.glyphs if is_usual(glyph)):
        glyphs[glyph.text].append(glyph)
    if missing := set(string.digits) - glyphs.keys():
        raise InputError(f"no line could be cut for the digits {' '.join(sorted(missing))}; train the network longer")
    if not any(line.words for line in cut):
        raise InputError("no line could be cut into words; train the network longer")
    return glyphs


def composed_rounds(network: Network, dataset: Dataset, rng: np.random.Generator) -> Iterator[list[NewLine]]:
    """Compose `ROUND` lines after `ROUND` lines, and of each round yield those that the recogniser can read.

    Raises InputError if the network cannot tell the characters of the recorded lines apart.
    """
    recogniser, lines = load_recogniser(), choose_lines(dataset, rng)
    cut = cut_lines(network, recogniser, dataset, lines)
    glyphs, bases = collect_glyphs(cut), [line for line in cut if line.words]
    told = ", ".join(f"{character} {len(found)}" for character, found in sorted(glyphs.items()))
    print(f"{len(cut)} of {len(lines)} lines cut; glyphs: {told}")
    while True:
        chosen = [bases[place] for place in rng.integers(len(bases), size=ROUND)]
        made = [to_new_line(compose_line(base, glyphs, rng), base, bool(dataset.has_rests)) for base in chosen]
        read = recogniser.read([np.column_stack(line[:2]).astype(np.float32) for line in made])
        pairs = zip(made, read, strict=True)
        yield [line for line, said in pairs if edit_distance(line.text, said) <= MAX_WRONG * len(line.text)]


# ---------------------------------------------------------------------------------------------- lines of the network


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


def write_well(
    network: Network, recogniser: Recogniser, texts: list[str], rng: np.random.Generator
) -> dict[int, np.ndarray]:
    """Have a network write each text until it is read without a mistake, or `WRITE_TRIES` times.

    Returns the points (T, 3) in whiteboard units of the texts that succeeded, by their place in `texts`.
    """
    found, left = {}, list(range(len(texts)))
    biases = rng.uniform(*BIASES, len(texts))
    for _ in range(WRITE_TRIES):
        if not left:
            break
        given = [network.alphabet.spell(texts[n]) for n in left]
        steps = [default_steps(text.letters) for text in given]
        seeds = rng.integers(2**62, size=len(left)).tolist()
        lines = write_checked(network, given, seeds, biases[left].tolist(), steps, retries=0)
        for n, line, said in zip(left, lines, recogniser.read([line.points for line in lines]), strict=True):
            if said == texts[n] and not line.fault:
                found[n] = line.points
        left = [n for n in left if n not in found]
    return found


def written_rounds(network: Network, dataset: Dataset, rng: np.random.Generator) -> Iterator[list[NewLine]]:
    """Have a network write `ROUND` texts after `ROUND` texts, and of each round yield the lines without a mistake."""
    recogniser, known = load_recogniser(), set(network.alphabet.learned)
    training = dataset.texts[dataset.lines("train", with_text=True)]
    while True:
        texts = [random_text(training, rng) for _ in range(ROUND)]
        texts = [text for text in texts if text and set(text) <= known]
        lines = []
        for n, points in write_well(network, recogniser, texts, rng).items():
            positions, ends = np.cumsum(points[:, :2], axis=0, dtype=float), points[:, 2] > 0.5
            lines.append(NewLine(*to_offsets(positions, ends, bool(dataset.has_rests)), texts[n]))
        yield lines


# ------------------------------------------------------------------------------------------------------- the data set


def take(rounds: Iterator[list[NewLine]], count: int, good: str) -> list[NewLine]:
    """The first `count` lines of rounds; each round has those of `ROUND` lines of which `good` can be said.

    Raises InputError if that is hardly any.
    """
    lines, tries = [], 0
    with tqdm(total=count, unit=" lines", desc="new", disable=None) as progress:
        while len(lines) < count:
            lines += next(rounds)
            tries += ROUND
            progress.update(min(len(lines), count) - progress.n)
            if len(lines) < MIN_GOOD * tries:
                raise InputError(f"of {tries} new lines only {len(lines)} {good}; train the network longer")
    print(f"{len(lines)} of {tries} new lines {good}")
    return lines[:count]


def add_lines(dataset: Dataset, lines: list[NewLine], kind: str) -> Dataset:
    """The data set with more training lines, whose names begin with `kind`; mean and deviation stay."""
    texts = [line.text for line in lines]
    counts = np.array([sum(text.count(c) for text in texts) for c in dataset.charset.tolist()])
    return replace(
        dataset,
        offsets=np.concatenate([dataset.offsets, *(line.offsets for line in lines)]),
        ends=np.concatenate([dataset.ends, *(line.ends for line in lines)]),
        starts=np.concatenate([dataset.starts, dataset.starts[-1] + np.cumsum([len(line.ends) for line in lines])]),
        texts=np.concatenate([dataset.texts, texts]),
        names=np.concatenate([dataset.names, [f"{kind}-{n:05}" for n in range(len(texts))]]),
        splits=np.concatenate([dataset.splits, ["train"] * len(texts)]),
        char_counts=dataset.char_counts + counts,
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m handwriting.compose",
        description="Add training lines: put together from recorded ones, or written by a network.",
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path("data/iam-ondb.npz"), help="prepared data (default: %(default)s)")
    add("--output", type=Path, default=Path("data/composed.npz"), help="where to write (default: %(default)s)")
    add("--checkpoint", type=Path, help="network that tells characters apart, and writes (default: save/synthesis.pt)")
    add("--lines", type=int, default=4000, help="new lines put together from recorded ones (default: %(default)s)")
    add("--written", type=int, default=0, help="new lines that the network writes (default: %(default)s)")
    add("--seed", type=int, default=0, help="of what is random in the new lines (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name, most in (("lines", 100_000), ("written", 100_000), ("seed", 2**62)):
        if not 0 <= getattr(options, name) <= most:
            raise InputError(f"--{name} must be from 0 to {most}, not {getattr(options, name)}")
    if not options.lines + options.written:
        raise InputError("--lines and --written are both 0: nothing to add")
    check_writable(options.output)
    dataset, network = load_dataset(options.data), load_network(options.checkpoint, "synthesis")
    if not len(dataset.lines("train", with_text=True)):
        raise InputError(f"{options.data}: has no training line with a text; prepare it with the transcriptions")
    unknown = set("".join(dataset.texts.tolist())) - set(network.alphabet.characters)
    if unknown:
        raise InputError(f"{options.data}: has characters that the network does not know: {' '.join(sorted(unknown))}")
    for make_rounds, count, kind, good in (
        (composed_rounds, options.lines, "composed", "can be read"),
        (written_rounds, options.written, "written", "were written without a mistake"),
    ):
        if count:
            rounds = make_rounds(network, dataset, np.random.default_rng(options.seed))
            dataset = add_lines(dataset, take(rounds, count, good), kind)
    save_dataset(dataset, options.output)
    print(f"wrote {options.output}: {options.lines + options.written} lines added")


if __name__ == "__main__":
    run_cli(main)
