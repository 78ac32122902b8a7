"""Writing as people ask for it: a line or a page in one hand, checked, and written again where it is wrong."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from handwriting.alphabet import Alphabet
from handwriting.checks import check_lines
from handwriting.ink.accents import draw_marks, without_marks
from handwriting.ink.formats import Ink, Page
from handwriting.ink.geometry import hand_measures, to_writing_scale
from handwriting.ink.read_ink import read_ink
from handwriting.pages import PageFormat, TextLine, WrittenText, ink_width, lay_out, write_text
from handwriting.program import InputError
from handwriting.sampling import Line, Primed, Sampler, default_steps
from handwriting.strokes import to_points, to_strokes
from model import Model
from utils import SHIPPED, load_checkpoint

STYLES = SHIPPED / "styles"
RETRIES = 3  # how often a line that is wrong is written again
USUAL_BIAS = 0.75  # of pages and of `Writer`
HAND_TEXT = "We saw her again in a warm room."  # what a seed's own hand is made of: no stroke of it is drawn late
HANDS = 8  # lines of which one becomes the hand of a seed
WRITE_BATCH = 64  # lines written side by side
ASPECTS = (0.2, 3.0)  # the x-height by the mean advance of a character: in recorded lines some 0.7
REDO_TRIES = 5  # at a line that is written anew and turns out too wide
MOST_ATTEMPTS = 1000  # that a user can ask for
MAX_CHARACTERS = 2000  # of a line; pages break their lines
MAX_HELD = 8e9  # bytes that the lines of a call may take


class Network(NamedTuple):
    """A trained network, ready to write."""

    model: Model
    sampler: Sampler
    alphabet: Alphabet
    hash: str  # of its file


@lru_cache(maxsize=4)
def _load(path: Path, modified: int) -> Network:
    model, content = load_checkpoint(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Network(model, Sampler(model), Alphabet(content["charset"], content["char_counts"]), digest)


def load_writer(checkpoint: Path | str | None, task: str) -> Network:
    """The network in `checkpoint`, by default the one that this project ships, kept in memory between calls.

    Raises InputError if it cannot be read or was not trained for `task`.
    """
    path = SHIPPED / f"{task}.pt" if checkpoint is None else Path(checkpoint)
    network = _load(path, path.stat().st_mtime_ns if path.is_file() else 0)
    if bool(network.model.config.num_chars) != (task == "synthesis"):
        raise InputError(f"{path}: a network of the other task; {task} is what was asked for")
    return network


def check_numbers(**given: float) -> None:
    """Raise InputError for a number out of its range."""
    ranges = {"samples": (1, 10_000), "steps": (1, 100_000), "bias": (0, 100), "seed": (0, 2**62), "retries": (0, 100)}
    for name, value in given.items():
        least, most = ranges[name]
        if not least <= value <= most:  # True for NaN
            raise InputError(f"{name} must be from {least} to {most}, not {value}")


def derived_seed(seed: int, *numbers: int) -> int:
    """A seed that follows from another one and some numbers, and that no other ones are likely to give."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)[0]) >> 1


def prepare_line(alphabet: Alphabet, text: str) -> str:
    """What the network writes of a text, as one line. Raises InputError for unknown characters and for too many."""
    text = alphabet.letters(alphabet.prepare(text)[0])
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"{len(text)} characters are too long for a line, which holds {MAX_CHARACTERS} at most; "
            "write a page (--file, or --page A4), or cut the text in pieces"
        )
    return text


def check_size(network: Network, texts: list[str] | None, steps: Sequence[int], with_outputs: bool) -> None:
    """Raise InputError if lines could need more memory than `MAX_HELD`: each a text (none at random) and a cap."""
    numbers = 3 + with_outputs * network.model.head.out_features  # of a point; window weights come on top
    widths = [numbers + len(text) + 1 for text in texts] if texts else [numbers] * len(steps)
    held = sum(4 * cap * width for cap, width in zip(steps, widths, strict=True))  # float32
    if held > MAX_HELD:
        raise InputError(
            f"{len(steps)} lines of up to {max(steps)} steps could need {held / 1e9:.0f} GB, and {MAX_HELD / 1e9:.0f} "
            "are allowed; write fewer --samples, fewer --steps, or a --batch"
        )


def write_checked(
    network: Network, texts: list[str] | None, seeds: Sequence[int], bias: float | Sequence[float],
    steps: Sequence[int], retries: int, with_outputs: bool = False, primed: Primed | None = None,
) -> list[Line]:  # fmt: skip
    """`Sampler.write`, and doubtful lines again, up to `retries` times; of a line's tries the best is kept.

    Without `retries` nobody reads the lines: they come as they are, and `Line.fault` knows of caps and rests only.
    Raises InputError, before anything is written, for lines that need too much memory.
    """
    check_size(network, texts, steps, with_outputs)
    biases = np.broadcast_to(bias, len(seeds)).tolist()
    best = {}  # of each line: (its verdict, the line)
    doubtful = list(range(len(seeds)))
    for attempt in range(retries + 1):
        codes = None if texts is None else [network.alphabet.encode(texts[i]) for i in doubtful]
        attempt_seeds = [derived_seed(seeds[i], attempt) if attempt else seeds[i] for i in doubtful]
        lines = network.sampler.write(
            codes, attempt_seeds, [biases[i] for i in doubtful], [steps[i] for i in doubtful], with_outputs, primed
        )
        if texts is not None:
            lines = [replace(line, text=texts[i]) for i, line in zip(doubtful, lines, strict=True)]
        for i, verdict, line in zip(doubtful, check_lines(lines, with_recogniser=retries > 0), lines, strict=True):
            if i not in best or verdict.badness < best[i][0].badness:
                best[i] = verdict, line
        doubtful = [i for i in doubtful if best[i][0].is_doubtful]
        if not doubtful:
            break
    return [replace(line, fault=verdict.fault) for _, (verdict, line) in sorted(best.items())]


def list_styles() -> list[str]:
    """The names of the hands that the project ships."""
    return sorted(path.stem for path in STYLES.glob("*.json"))


def known_styles(alphabet: Alphabet) -> list[str]:
    """The names of those hands that the project ships whose text a network can read."""
    return [name for name in list_styles() if set(load_style(name).text) <= set(alphabet.learned)]


def load_style(style: str | Path) -> Ink:
    """A shipped hand by its name, or the ink in a file. Raises InputError if there is no such hand or ink."""
    names = list_styles()
    if str(style) in names:
        return read_ink(STYLES / f"{style}.json")
    if Path(style).suffix:
        return load_hand(style)
    given = f"no style {str(style)!r}"
    raise InputError(f"{given}; there are {', '.join(names)}, or name a file of ink" if names else no_styles(given))


def no_styles(given: str) -> str:
    """What to say where there are no hands, though `given` asks for one."""
    return f"{given}: there are no styles in {STYLES}; name a file of ink, or write without a style"


def load_hand(path: Path | str, text: str | None = None) -> Ink:
    """The ink in a file and what it says: `text`, or by default what the file tells.

    Ink in .json and .npz is as a network wrote it, in whiteboard units; any other is brought to what recorded lines are
    like. Raises InputError for ink that cannot be read, or that cannot say the text.
    """
    ink = read_ink(path)
    text = " ".join((ink.text if text is None else text).split())
    if not text:
        raise InputError(f"{path}: the ink of a hand needs its text; give it with --prime_text")
    try:
        is_raw = Path(path).suffix.lower() in (".json", ".npz")
        ink = Ink(ink.points if is_raw else to_writing_scale(ink.strokes), text, style=Path(path).stem)
        aspect = hand_measures(ink.strokes, text).aspect
    except ValueError as error:
        raise InputError(f"{path}: no ink to take a hand from: {error}") from None
    if not ASPECTS[0] <= aspect <= ASPECTS[1]:  # True for NaN
        found = "too long" if aspect > ASPECTS[1] else "too short"
        raise InputError(f"{path}: the text {text[:60]!r} is {found} for its ink; give what the ink says")
    return ink


class Writer:
    """Writes with one network, in one hand if it is given any. Several threads may use it at once.

    >>> from generate import Writer
    >>> Writer(style="upright").write("Some text").save("text.svg")
    """

    def __init__(
        self, checkpoint: Path | str | None = None, style: str | Path | Ink | None = None,
        bias: float = USUAL_BIAS, seed: int = 0, retries: int = RETRIES,
    ):  # fmt: skip
        """`style` is a name in `list_styles`, a file of ink with its text, or ink; without one each line is in a hand
        that the network makes up, and each page too. `bias` and `retries` are as for `generate_conditionally`.

        Raises InputError for a checkpoint, style or number that cannot be used.
        """
        self.network = load_writer(checkpoint, "synthesis")
        check_numbers(bias=bias, seed=seed, retries=retries)
        self.bias, self.seed, self.retries = bias, seed, retries
        hand = load_style(style) if isinstance(style, str | Path) else style
        self.style = Path(style).stem if isinstance(style, str | Path) else hand.style if hand else ""
        self.primed = self.read_hand(hand) if hand else None
        self._own_hands: dict[str, Primed] = {}  # by what they say

    def read_hand(self, hand: Ink) -> Primed:
        """Have the network read ink and its text, which the text to write then follows (section 5.5)."""
        if not hand.text.strip():
            raise InputError("the ink of a hand needs its text; give it with --prime_text")
        alphabet = self.network.alphabet
        text, _ = alphabet.prepare(hand.text)
        letters, points = alphabet.letters(text), hand.points
        if letters != text == hand.text and letters.strip():  # the network never saw marks
            strokes, _ = without_marks(hand.strokes, np.asarray(hand.characters), letters, text)
            points = to_points(strokes)
        return self.network.sampler.prime(points, alphabet.encode(letters + " " * (" " in alphabet.characters)))

    def own_hand(self, text: str) -> Primed:
        """The hand of the seed, worked out once, for writing a prepared text.

        It is ink that says `HAND_TEXT`, or the beginning of the text if the network did not learn all of that.
        """
        alphabet = self.network.alphabet
        knows_all = set(HAND_TEXT) <= set(alphabet.learned)
        text = HAND_TEXT if knows_all else " ".join(alphabet.letters(text).split())[: len(HAND_TEXT)].strip()
        if text not in self._own_hands:
            self._own_hands[text] = self.make_up_hand(text)
        return self._own_hands[text]

    def make_up_hand(self, text: str) -> Primed:
        """The first of some lines that the network makes up that is read without a mistake.

        If there is none, it is the best of them. What follows is no better than the line that it goes on from.
        """
        seeds = [derived_seed(self.seed, number) for number in range(HANDS)]
        codes = [self.network.alphabet.encode(text)] * HANDS
        lines = self.network.sampler.write(codes, seeds, self.bias, default_steps(text))
        lines = [replace(line, text=text) for line in lines]
        verdicts = check_lines(lines, with_recogniser=True)
        best = min(range(HANDS), key=lambda n: (verdicts[n].badness[:3], n))  # the first of equals
        return self.read_hand(self.to_ink(lines[best], seeds[best]))

    def to_ink(self, line: Line, seed: int, bias: float | None = None, text: str | None = None) -> Ink:
        """A line of the sampler with what it was written by, and with the marks that `text` has and the line has not.

        Raises InputError for a line without ink.
        """
        if len(line.points) < 2:
            raise InputError("the network wrote nothing: its window is beyond the text at once; train it longer")
        if not np.isfinite(line.points).all():
            raise InputError("the network wrote what are no numbers; give another --seed, or train it longer")
        places = np.asarray(line.phi).argmax(1)  # (T,), of the character that each step is for
        places = np.where(places < len(line.text), places, -1)
        characters = np.append(places[:1], places)  # the first point is where the first step begins
        points, text = line.points, line.text if text is None else self.network.alphabet.prepare(text)[0]
        if text != line.text:
            strokes, characters = draw_marks(to_strokes(points), characters, line.text, text, seed)
            points = to_points(strokes)
        return Ink(
            points, text, characters, seed=seed, bias=self.bias if bias is None else bias, style=self.style,
            checkpoint=self.network.hash, fault=line.fault,
        )  # fmt: skip

    def write_raw(
        self, texts: Sequence[str], seeds: Sequence[int], steps: int | None = None, with_outputs: bool = False,
        primed: Primed | None = None, biases: Sequence[float] | None = None,
    ) -> list[Line]:  # fmt: skip
        """Write texts, a line each, with a seed each; `steps` caps their steps, by default at plenty.

        `primed` and `biases` may be others than the writer's. What is drawn comes with `to_ink`.
        """
        biases = biases or [self.bias] * len(texts)
        prepared = [prepare_line(self.network.alphabet, text) for text in texts]
        caps = [default_steps(text) if steps is None else steps for text in prepared]
        check_size(self.network, prepared, caps, with_outputs)
        lines = []
        for start in range(0, len(texts), WRITE_BATCH):
            chunk = slice(start, start + WRITE_BATCH)
            lines += write_checked(
                self.network, prepared[chunk], seeds[chunk], biases[chunk], caps[chunk], self.retries, with_outputs,
                primed or self.primed,
            )  # fmt: skip
        return lines

    def write_lines(self, texts: Sequence[str], seeds: Sequence[int], primed: Primed | None = None) -> list[Ink]:
        """Write texts, a line each, with a seed each. What is wrong with a line is in its `Ink.fault`."""
        lines = self.write_raw(texts, seeds, primed=primed)
        return [self.to_ink(line, seed, text=text) for line, seed, text in zip(lines, seeds, texts, strict=True)]

    def write(self, text: str, seed: int | None = None) -> Ink:
        """Write a text as one line, with the writer's seed or another one."""
        (ink,) = self.write_lines([text], [self.seed if seed is None else seed])
        return ink

    def write_text(
        self, text: str, page_format: PageFormat, redo: Mapping[int, int] | None = None,
        report: Callable[[Ink], None] | None = None,
    ) -> WrittenText:  # fmt: skip
        """Write a text of any length in one hand, broken into lines that fit the page.

        A line's seed follows from the writer's and from where the line is in the text. `redo` has for some lines, by
        number from 1 (blank ones do not count), which other try at them is wanted. `report` is told of each line.
        """
        text = self.prepare_text(text)
        hand = self.primed or self.own_hand(text)

        def write(lines: Sequence[TextLine], attempt: int = 0) -> list[Ink]:
            seeds = [derived_seed(self.seed, line.paragraph, line.start, attempt) for line in lines]
            inks = self.write_lines([line.text for line in lines], seeds, hand)
            for ink in inks:
                if report:
                    report(ink)
            return inks

        written = write_text(text, write, page_format)
        places = [place for place, ink in enumerate(written.inks) if ink is not None]
        inks = list(written.inks)
        for number, attempt in (redo or {}).items():
            if not 1 <= number <= len(places):
                raise InputError(f"there is no line {number} to write anew; the text has {len(places)} lines")
            place = places[number - 1]
            tries = (write([written.lines[place]], attempt + MOST_ATTEMPTS * n)[0] for n in range(REDO_TRIES))
            inks[place] = next((ink for ink in tries if fits(ink, written, place, page_format)), None)
            if inks[place] is None:
                again = f"try --redo {number}:{attempt + 1}"
                raise InputError(f"line {number} is too wide for the page each time that it is written anew; {again}")
        return replace(written, inks=inks)

    def prepare_text(self, text: str) -> str:
        """A text of several lines with what the network did not learn replaced; blanks at a line's start stay."""
        lines = [line.rstrip() for line in text.expandtabs(4).splitlines()]
        prepare = self.network.alphabet.prepare
        return "\n".join(" " * (len(line) - len(line.lstrip())) + prepare(line)[0] if line else "" for line in lines)

    def page(self, text: str, page_format: PageFormat | None = None, smoothed: bool = False) -> list[Page]:
        """A text on as many pages as it needs, see `write_text`."""
        page_format = page_format or PageFormat()
        return lay_out(self.write_text(text, page_format), page_format, self.seed, smoothed)


def fits(ink: Ink, written: WrittenText, place: int, page_format: PageFormat) -> bool:
    """Whether ink can be line number `place` of a written text."""
    width = written.scale * ink_width(ink, page_format.x_height / written.scale)
    return width <= page_format.text_width - written.lines[place].indent
