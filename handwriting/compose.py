"""Add training lines: with numbers, put together from recorded handwriting; and such as a network writes itself.

    python -m handwriting.compose --data data/iam-ondb.npz --output data/composed.npz --lines 4000
    python -m handwriting.compose --output data/written.npz --lines 0 --written 4000 --kept 4000

IAM-OnDB has too few digits to learn dates, times and prices from. So digits, signs and capitals are cut out of training
lines and set between words of others. And a network learns from its own lines, those without a flaw.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`: Ctrl-C in the seconds of the imports just ends it

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from handwriting.bulk import BIASES
from handwriting.checks import MOST_WRONG, judge_lines, load_recogniser
from handwriting.cutting import SIGNS, CutLine, Cutting, cut_lines, has_small_digits, marks_first
from handwriting.data.dataset import Dataset, load_dataset, save_dataset
from handwriting.data.recordings import to_offsets
from handwriting.hands import random_vector, strengthen
from handwriting.program import InputError, Parser, check_range, check_writable, escaped, progress_bar, run_cli
from handwriting.recogniser import Recogniser, align, edit_distance
from handwriting.sampling import Line, default_steps
from handwriting.training.tasks import line_weights
from handwriting.writer import Network, load_network, write_checked

NEAREST = 12  # glyphs of a character, those nearest in slant, of which one is taken
CAPITAL_HEIGHT = 1.2  # of capitals by digits: in recorded lines 2.2 and 1.8 x-heights
MAX_CHARACTERS = 45  # of a new line
RARE_SHARE = 0.02  # all lines with a character that is on fewer than this share of lines are cut,
OTHER_LINES = 400  # and of the others
ROUND = 256  # new lines that are made and read at once
MIN_GOOD = 0.02  # share of new lines that must come out right
WRITE_RETRIES = 3  # of a line with a flaw
TOKEN_SHARE = 0.4  # of the texts that are written have a token
CAPITAL_SHARE = 0.15  # of their words get a capital,
ODD_SHARE = 0.15  # and a letter or mark that they do not have, a weak one sooner
AROUND = {"(": "(_)", ")": "(_)", "[": "[_]", "]": "[_]", '"': '"_"', "'": "'_'", "&": "&", "+": "+"}  # "_": a word
# Dates, times, prices, numbers and postcodes: <1-31> is a number, <00-59> one with two digits, <A> a capital.
TOKENS = (
    "<1-31>", "<0-9>", "<10-99>", "<100-999>", "<1000-9999>", "<10000-99999>", "<1700-2099>", "<1700-2099>",
    "<1-31>/<1-12>", "<1-31>/<1-12>/<1700-2099>", "<1-31>.<1-12>.<00-99>", "<1700-2099>-<1-12>-<1-31>",
    "<0-23>:<00-59>", "<0-23>:<00-59>", "<1-12>.<00-59>", "<0-999>.<00-99>", "<1-99>,<100-999>", "0.<00-99>",
    "<1-19>-<20-99>", "(<1-99>)", "<A><A><1-19>", "<1-9><A><A>", "<A><1-9><A>", "<A><A>", "<A><A><A>",
)  # fmt: skip
STRENGTHS = (0.9, 1.3)  # of the hands that lines are written in: what is far from the mean is to be legible, too
READINGS = 3  # of a line's ink, each time distorted in another way
NewLine = tuple[np.ndarray, np.ndarray, str, str]  # as a `Recording` has them: offsets and ends; the text; its form


def random_token(rng: np.random.Generator) -> str:
    """One of `TOKENS`, with its numbers and capitals."""

    def fill(gap: re.Match) -> str:
        if gap[0] == "<A>":
            return str(rng.choice(list(string.ascii_uppercase)))
        return str(rng.integers(int(gap[1]), int(gap[2]) + 1)).zfill(len(gap[1]))

    return re.sub(r"<A>|<(\d+)-(\d+)>", fill, rng.choice(TOKENS))


def choose_glyph(glyphs: list[Cutting], slant: float, height: float, rng: np.random.Generator) -> Cutting:
    """One of the glyphs whose slant is near, brought to that and, unless it is a sign, to about a digit's height."""
    order = np.argsort([abs(glyph.slant - slant) for glyph in glyphs])[:NEAREST]
    glyph = glyphs[rng.choice(order)]
    y = glyph.positions[:, 1]
    height *= CAPITAL_HEIGHT if glyph.text.isupper() else 1.0
    scale = 1.0 if glyph.text in SIGNS else height / np.ptp(y)
    matrix = np.diag(scale * np.exp(rng.normal(0, 0.04, 2)))
    matrix[1, 0] = -scale * (slant - glyph.slant + rng.normal(0, 0.05))  # y is downwards
    positions = glyph.positions @ matrix
    strokes = np.cumsum(glyph.ends) - glyph.ends  # the number of each point's stroke
    below = 0.0 if glyph.text in SIGNS else np.clip(y.max(), -0.2, 0.2) - scale * y.max()
    positions[:, 1] += below + rng.normal(0, 0.03, strokes[-1] + 1)[strokes]
    return glyph._replace(positions=positions)


def join(pieces: list[Cutting], gaps: np.ndarray, separator: str) -> Cutting:
    """Cuttings beside each other from x = 0 on, with gaps (len(pieces) - 1,) between them."""
    x, positions = 0.0, []
    for piece, gap in zip(pieces, [*gaps, 0.0], strict=True):
        left = piece.positions[:, 0].min()
        positions.append(piece.positions + [x - left, 0])
        x += piece.positions[:, 0].max() - left + gap
    texts, _, ends, slants = zip(*pieces, strict=True)
    return Cutting(separator.join(texts), np.concatenate(positions), np.concatenate(ends), slants[0])


def compose_line(
    base: CutLine, glyphs: dict[str, list[Cutting]], rng: np.random.Generator, keep_rests: bool
) -> NewLine:
    """Some neighbouring words of a line with one to three tokens among them, at its size and on its baseline."""
    count = rng.integers(0, min(4, len(base.words)) + 1)
    first = rng.integers(0, len(base.words) - count + 1)
    pieces = base.words[first : first + count]
    for _ in range(rng.integers(1, 4)):
        place = rng.integers(0, len(pieces) + 1)
        while not set(token := random_token(rng)) <= glyphs.keys():
            pass
        height = rng.uniform(1.5, 2.2)
        chosen = [choose_glyph(glyphs[character], base.words[0].slant, height, rng) for character in token]
        gaps = rng.uniform(0.2, 0.5) + rng.normal(0, 0.06, len(chosen) - 1)
        pieces.insert(place, join(chosen, gaps, ""))
    while sum(len(piece.text) + 1 for piece in pieces) > MAX_CHARACTERS:
        pieces.pop(0)
    usual = float(np.clip(np.median(base.gaps), 0.9, 3.0)) if base.gaps else 1.3
    line = join(pieces, usual * rng.uniform(0.8, 1.3, len(pieces) - 1), " ")
    positions = line.positions * base.x_height
    positions[:, 1] += base.slope * positions[:, 0]
    return *to_offsets(positions, line.ends, keep_rests), line.text, base.name.rpartition("-")[0]


def compose_rounds(
    network: Network, dataset: Dataset, rng: np.random.Generator, own: Recogniser | None = None
) -> Iterator[list[NewLine]]:
    """Compose `ROUND` lines at a time, of those with rare characters and some others; yield what can be read.

    Raises InputError for lines that cannot be cut.
    """
    training = dataset.lines("train", with_text=True)
    is_rare = line_weights(dataset.texts[training], RARE_SHARE) > 1
    lines = np.concatenate([training[is_rare], rng.permutation(training[~is_rare])[:OTHER_LINES]])
    recogniser, glyphs = own or load_recogniser(), defaultdict(list)
    cut = cut_lines(network, recogniser, dataset, lines)
    for line in cut:
        for glyph in line.glyphs:
            glyphs[glyph.text].append(glyph)
    if missing := set(string.digits) - glyphs.keys():
        raise InputError(f"no line could be cut for the digits {' '.join(sorted(missing))}; train the network longer")
    if not (bases := [line for line in cut if line.words]):
        raise InputError("no line could be cut into words; train the network longer")
    told = ", ".join(f"{character} {len(found)}" for character, found in sorted(glyphs.items()))
    print(f"{len(cut)} of {len(lines)} lines cut; glyphs: {told}")
    while True:
        chosen = rng.integers(len(bases), size=ROUND)
        made = [compose_line(bases[n], glyphs, rng, bool(dataset.has_rests)) for n in chosen]
        read = recogniser.read([np.column_stack([offsets, ends]).astype(np.float32) for offsets, ends, *_ in made])
        wrong = [edit_distance(text, said) / len(text) for (*_, text, _), said in zip(made, read, strict=True)]
        yield [line for line, share in zip(made, wrong, strict=True) if share <= MOST_WRONG]


def weaknesses(characters: set[str], pairs: list[tuple[str, str]]) -> dict[str, float]:
    """The letters and marks among characters, with shares that sum to 1: the larger, the more often one is read wrong.

    `pairs` are from `align`. A character without any counts as wrong once in ten times.
    """
    written, wrong = Counter(text for text, _ in pairs), Counter(text for text, read in pairs if text != read)
    letters = sorted(characters - {*string.digits, " "})
    weights = {letter: (1 + wrong[letter]) / (10 + written[letter]) for letter in letters}
    return {character: weight / sum(weights.values()) for character, weight in weights.items()}


def odd_word(word: str, character: str, rng: np.random.Generator) -> str:
    """A word with one of its letters replaced by a letter, the first by a capital, or with a mark where marks stand."""
    place = 0 if character.isupper() else rng.integers(len(word))
    if character in AROUND:
        return AROUND[character].replace("_", word)
    return word[:place] + character + word[place + 1 :] if character.isalpha() else word + character


def random_text(texts: np.ndarray, odd: dict[str, float], rng: np.random.Generator) -> str:
    """Neighbouring words of a text, some with a new capital or one of `odd` (`weaknesses`), and at times a token."""
    words = str(rng.choice(texts)).split()
    first = rng.integers(0, max(len(words) - 2, 1))
    words = words[first : first + rng.integers(2, 9)]
    words = [word[0].upper() + word[1:] if rng.random() < CAPITAL_SHARE else word for word in words]
    for place in np.flatnonzero(rng.random(len(words)) < ODD_SHARE) if odd else ():
        words[place] = odd_word(words[place], str(rng.choice([*odd], p=[*odd.values()])), rng)
    if rng.random() < TOKEN_SHARE:
        words.insert(rng.integers(0, len(words) + 1), random_token(rng))
    while len(" ".join(words)) > MAX_CHARACTERS:
        words.pop()
    return " ".join(words)


def write_rounds(
    network: Network, dataset: Dataset, rng: np.random.Generator, own: Recogniser | None = None
) -> Iterator[list[NewLine]]:
    """Have a network write `ROUND` texts at a time, and yield the lines that are `flawless`.

    Each is the best of up to `WRITE_RETRIES` + 1 tries. A network that reads hands writes it in one that nobody has;
    it is learned with the hand that came out. Characters that are read wrong come more often in the texts that follow.
    """
    recogniser, known = own or load_recogniser(), set(network.alphabet.learned)
    network, training = network._replace(recogniser=recogniser), dataset.texts[dataset.lines("train", with_text=True)]
    characters, pairs = set("".join(training)), []
    while True:
        odd = weaknesses(characters, pairs)
        texts = [random_text(training, odd, rng) for _ in range(ROUND)]
        given = [network.alphabet.spell(text) for text in texts if text and set(text) <= known]
        seeds, biases = rng.integers(2**62, size=len(given)).tolist(), rng.uniform(*BIASES, len(given)).tolist()
        steps, hands = [default_steps(each.letters) for each in given], None
        if network.encoder and given:
            vectors = np.array([random_vector(network.encoder, seed) for seed in seeds])
            hands = strengthen(vectors, network.model, rng.uniform(*STRENGTHS, (len(seeds), 1))).astype(np.float32)
        written = write_checked(network, given, seeds, biases, steps, WRITE_RETRIES, hands=hands) if given else []
        pairs += [pair for line in written for pair in align(line.text, line.read or "")]
        good = []
        for line in flawless(written, recogniser, rng):
            positions, ends = np.cumsum(line.points[:, :2], axis=0, dtype=float), line.points[:, 2] > 0.5
            positions, ends, _ = marks_first(positions, ends, line.characters, line.text)
            good.append((*to_offsets(positions, ends, bool(dataset.has_rests)), line.text, "written"))
        yield good


def flawless(lines: list[Line], recogniser: Recogniser, rng: np.random.Generator) -> list[Line]:
    """Those of some lines to learn from: read right, even if distorted, with all marks, tall digits, no stray dot."""
    judged = zip(lines, judge_lines(lines, recogniser), strict=True)
    lines = [line for line, v in judged if not (v.is_doubtful or v.stray or has_small_digits(line))]
    for _ in range(READINGS):
        read = recogniser.read([line.points for line in lines], rng)
        lines = [line for line, text in zip(lines, read, strict=True) if text == line.text]
    return lines


def add_lines(dataset: Dataset, rounds: Iterator[list[NewLine]], count: int, kind: str) -> Dataset:
    """The data set with `count` more training lines of a `kind`, from `rounds`. InputError if few are good."""
    lines, tries = [], 0
    with progress_bar(total=count, unit=" lines", desc=kind) as bar:
        while len(lines) < count:
            lines += next(rounds)
            tries += ROUND
            bar.update(min(len(lines), count) - bar.n)
            if len(lines) < MIN_GOOD * tries:
                raise InputError(f"of {tries} {kind} lines only {len(lines)} can be read; train the network longer")
    print(f"{len(lines)} of {tries} {kind} lines can be read")
    offsets, ends, texts, forms = zip(*lines[:count], strict=True)
    return replace(
        dataset, offsets=np.concatenate([dataset.offsets, *offsets]), ends=np.concatenate([dataset.ends, *ends]),
        starts=np.concatenate([dataset.starts, dataset.starts[-1] + np.cumsum([*map(len, ends)])]),
        texts=np.concatenate([dataset.texts, texts]),
        names=np.concatenate([dataset.names, [f"{form}-{kind}{n:05}" for n, form in enumerate(forms)]]),
        splits=np.concatenate([dataset.splits, ["train"] * count]),
        char_counts=dataset.char_counts + ["".join(texts).count(character) for character in dataset.charset.tolist()],
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(prog="python -m handwriting.compose", description="Add lines to the training data.")
    add = parser.add_argument
    add("--data", type=Path, default=Path("data/iam-ondb.npz"), help="prepared data (default: %(default)s)")
    add("--output", type=Path, default=Path("data/composed.npz"), help="where to write (default: %(default)s)")
    add("--checkpoint", type=Path, help="network that tells characters apart, and writes (default: save/synthesis.pt)")
    add("--recogniser", type=Path, help="reads the new lines (default: save/recogniser.pt)")
    add("--lines", type=int, default=4000, help="new lines put together from recorded ones (default: %(default)s)")
    add("--written", type=int, default=0, help="new lines that the network writes (default: %(default)s)")
    add("--kept", type=int, help="training lines of --data that are kept, at random (default: all)")
    add("--seed", type=int, default=0, help="of what is random in the new lines (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name, most in (("lines", 100_000), ("written", 100_000), ("kept", 2**62), ("seed", 2**62)):
        check_range(f"--{name}", getattr(options, name), 0, most)
    if not options.lines + options.written:
        raise InputError("--lines and --written are both 0: nothing to add")
    check_writable(options.output)
    dataset, network = load_dataset(options.data), load_network(options.checkpoint, "synthesis")
    own = load_recogniser(options.recogniser) if options.recogniser else None
    if not len(dataset.lines("train", with_text=True)):
        raise InputError(f"{options.data}: has no training line with a text; prepare it with the transcriptions")
    if unknown := set("".join(dataset.texts.tolist())) - set(network.alphabet.characters):
        raise InputError(f"{options.data}: has characters that the network does not know: {' '.join(sorted(unknown))}")
    training = dataset.lines("train", with_text=False)
    for kind, make, count in (("composed", compose_rounds, options.lines), ("written", write_rounds, options.written)):
        if count:
            rounds = make(network, dataset, np.random.default_rng(options.seed), own)
            dataset = add_lines(dataset, rounds, count, kind)
    if options.kept is not None:
        dataset.splits[np.random.default_rng(options.seed).permutation(training)[options.kept :]] = "unlisted"
    save_dataset(dataset, options.output)
    print(f"wrote {escaped(options.output)}: {options.lines + options.written} lines added")


if __name__ == "__main__":
    run_cli(main)
