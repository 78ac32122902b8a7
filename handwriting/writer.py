"""Writing as people ask for it: lines and pages in one hand, checked, and written again where they are wrong."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from handwriting.alphabet import Alphabet, Prepared
from handwriting.checks import check_lines
from handwriting.hands import load_style
from handwriting.ink.accents import draw_marks, without_marks
from handwriting.ink.formats import Ink, Page
from handwriting.pages import PageFormat, TextLine, WrittenText, ink_width, lay_out, write_text
from handwriting.program import InputError, check_range
from handwriting.sampling import Line, Primed, Sampler, default_steps
from handwriting.seeds import derived_seed
from handwriting.strokes import to_points, to_strokes
from model import Model
from utils import SHIPPED, load_checkpoint

RETRIES = 3  # how often a line that is wrong is written again
LINE_BIAS = 0.5  # of lines
PAGE_BIAS = 0.75  # of pages and of `Writer`
RANDOM_STEPS = 700  # of a line without a text
HAND_TEXT = "We saw her again in a warm room."  # what a seed's own hand has written
HANDS = 8  # lines of which one becomes the hand of a seed
WRITE_BATCH = 64  # lines written side by side
REDO_TRIES = 5  # at a line that is written anew and turns out too wide
MOST_ATTEMPTS = 1000  # that a user can ask for
MAX_OFFSET = 1e6  # whiteboard units, of the pen's greatest step; a whiteboard has some 10,000
MAX_HELD = 8e9  # bytes that the lines of a call may take
RANGES = {"samples": (1, 10_000), "steps": (1, 100_000), "bias": (0, 100), "seed": (0, 2**62), "retries": (0, 100)}


def check_numbers(**given: float | None) -> None:
    """Raise InputError for a number out of its range; None stands for a default."""
    for name, value in given.items():
        check_range(name, value, *RANGES[name])


class Network(NamedTuple):
    """A trained network, ready to write."""

    model: Model
    sampler: Sampler
    alphabet: Alphabet
    hash: str  # of its file


@lru_cache(maxsize=4)
def _load(path: Path, modified: int) -> Network:
    model, content = load_checkpoint(path)
    if not isinstance(model, Model):
        raise InputError(f"{path}: its contents do not fit together (it is a recogniser, not a network that writes)")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Network(model, Sampler(model), Alphabet(content["charset"], content["char_counts"]), digest)


def load_network(checkpoint: Path | str | None, task: str) -> Network:
    """The network in `checkpoint`, by default the one that this project ships, kept in memory between calls.

    Raises InputError if it cannot be read or was not trained for `task`.
    """
    path = SHIPPED / f"{task}.pt" if checkpoint is None else Path(checkpoint)
    network = _load(path, path.stat().st_mtime_ns if path.is_file() else 0)
    if bool(network.model.config.num_chars) != (task == "synthesis"):
        raise InputError(f"{path}: a network of the other task; {task} is what was asked for")
    return network


def check_size(network: Network, texts: Sequence[Prepared] | None, steps: Sequence[int], with_outputs: bool) -> None:
    """Raise InputError if lines could need more memory than `MAX_HELD`: each a text (none at random) and a cap."""
    numbers = 3 + with_outputs * network.model.head.out_features  # of a point; window weights come on top
    widths = [numbers + len(text.codes) + 1 for text in texts] if texts else [numbers] * len(steps)
    held = sum(4 * cap * width for cap, width in zip(steps, widths, strict=True))  # float32
    if held > MAX_HELD:
        raise InputError(
            f"{len(steps)} lines of up to {max(steps)} steps could need {held / 1e9:.0f} GB, and {MAX_HELD / 1e9:.0f} "
            "are allowed; write fewer --samples, fewer --steps, or a --batch"
        )


def write_checked(
    network: Network, texts: Sequence[Prepared] | None, seeds: Sequence[int], biases: Sequence[float],
    steps: Sequence[int], retries: int, with_outputs: bool = False, primed: Primed | None = None,
) -> list[Line]:  # fmt: skip
    """`Sampler.write`, and doubtful lines again, up to `retries` times; of a line's tries the best is kept.

    Without `retries` nobody reads the lines: they come as they are, and `Line.fault` knows of caps and rests only.
    """
    best = {}  # of each line: (its verdict, the line)
    doubtful = list(range(len(seeds)))
    for attempt in range(retries + 1):
        lines = network.sampler.write(
            None if texts is None else [texts[i].codes for i in doubtful],
            [derived_seed("try", seeds[i], attempt) if attempt else seeds[i] for i in doubtful],
            [biases[i] for i in doubtful], [steps[i] for i in doubtful], with_outputs, primed,
        )  # fmt: skip
        if texts is not None:
            lines = [replace(line, text=texts[i].letters) for i, line in zip(doubtful, lines, strict=True)]
        for i, verdict, line in zip(doubtful, check_lines(lines, with_recogniser=retries > 0), lines, strict=True):
            if i not in best or verdict.sort_key < best[i][0].sort_key:
                best[i] = verdict, line
        doubtful = [i for i in doubtful if best[i][0].is_doubtful]
        if not doubtful:
            break
    return [replace(line, fault=verdict.fault) for _, (verdict, line) in sorted(best.items())]


def check_ink(line: Line) -> None:
    """Raise InputError for a line of a network that has not learned enough: without ink, or beyond all numbers."""
    if len(line.points) < 2:
        raise InputError("the network wrote nothing: its window is beyond the text at once; train it longer")
    if not np.abs(line.points).max() < MAX_OFFSET:  # true for NaN
        raise InputError("the pen goes beyond all bounds; give another --seed, or train the network longer")


def generate_unconditionally(
    samples: int = 1, steps: int = RANDOM_STEPS, bias: float = 0.0, seed: int = 0, checkpoint: Path | str | None = None,
    retries: int = RETRIES, with_outputs: bool = False,
) -> list[Line]:  # fmt: skip
    """Write at random (section 4): `samples` lines of `steps` steps each, by default with the shipped network.

    `bias` >= 0 makes the hand more even (section 5.4). Line number i has the seed `seed` + i. A line in which the pen
    rests is written again, up to `retries` times; what is still wrong then is in `Line.fault`. `with_outputs` keeps
    what the network said at each point. Raises InputError for a checkpoint or number that cannot be used, and for a
    network that goes astray.
    """
    check_numbers(samples=samples, steps=steps, bias=bias, seed=seed, retries=retries)
    network, caps = load_network(checkpoint, "rand_write"), [steps] * samples
    check_size(network, None, caps, with_outputs)
    seeds, biases = range(seed, seed + samples), [bias] * samples
    lines = write_checked(network, None, seeds, biases, caps, retries, with_outputs)
    for line in lines:
        check_ink(line)
    return lines


def generate_conditionally(
    text: str | list[str], samples: int = 1, steps: int | None = None, bias: float = LINE_BIAS, seed: int = 0,
    checkpoint: Path | str | None = None, retries: int = RETRIES, with_outputs: bool = False,
) -> list[Line]:  # fmt: skip
    """Write a text, or each of several (section 5), `samples` times; each line holds its window weights too.

    What is written is in `Line.text`: without accents, which `Writer` draws. `steps` is the most steps of a line, by
    default plenty. Lines are written again, too, if `steps` cut them off or more than a tenth is read wrong; with
    `retries` 0 they are not read. InputError names characters that cannot be written, too.
    """
    check_numbers(samples=samples, steps=steps)
    writer = Writer(checkpoint, None, bias, seed, retries)
    prepared, _ = writer.network.alphabet.prepare([text] if isinstance(text, str) else text)
    prepared = [each for each in prepared for _ in range(samples)]
    return writer.write_raw(prepared, range(seed, seed + len(prepared)), steps, with_outputs)


class Writer:
    """Writes with one network, in one hand if it is given any. Several threads may use it at once.

    >>> from handwriting import Writer
    >>> Writer(style="clara").write("Some text").save("text.svg")
    """

    def __init__(
        self, checkpoint: Path | str | None = None, style: str | Path | Ink | None = None,
        bias: float = PAGE_BIAS, seed: int = 0, retries: int = RETRIES,
    ):  # fmt: skip
        """`style` is a name in `hands.list_styles`, a file of ink with its text, or ink; without one each line is in a
        hand that the network makes up, and each page too. `bias` and `retries` are as for `generate_conditionally`.

        Raises InputError for a checkpoint, style or number that cannot be used.
        """
        check_numbers(bias=bias, seed=seed, retries=retries)
        self.network = load_network(checkpoint, "synthesis")
        self.bias, self.seed, self.retries = bias, seed, retries
        hand = load_style(style) if isinstance(style, str | Path) else style
        self.style = Path(style).stem if isinstance(style, str | Path) else hand.style if hand else ""
        self.hand = self.read_hand(hand) if hand else None

    def prepare(self, text: str) -> Prepared:
        """A text as the network can write it, as one line. Raises InputError as `Alphabet.prepare`."""
        return self.network.alphabet.prepare([text])[0][0]

    @cached_property
    def primed(self) -> Primed | None:
        """The hand as the network has read it (section 5.5), worked out when it is first wanted; None without one."""
        return self.network.sampler.prime(*self.hand) if self.hand else None

    def read_hand(self, hand: Ink) -> tuple[np.ndarray, np.ndarray]:
        """The points and codes of a hand, for `Sampler.prime`. Raises InputError for what the network cannot read."""
        if not hand.text.strip():
            raise InputError("the ink of a hand needs its text; give it with --prime_text")
        said, points, alphabet = self.prepare(hand.text), hand.points, self.network.alphabet
        if said.letters != said.text == hand.text and said.letters.strip():  # the network never saw marks
            strokes, _ = without_marks(hand.strokes, np.asarray(hand.characters), said.letters, said.text)
            points = to_points(strokes)
        blank = alphabet.encode(" " * (" " in alphabet.characters))
        return points, np.append(said.codes, blank)

    @cached_property
    def own_hand(self) -> Primed | None:
        """The hand of the writer's seed, for pages. None if the network did not learn the characters of `HAND_TEXT`.

        Of some lines that the network makes up it is the first that is read without a mistake, or else the best: what
        follows is no better than the line that it goes on from.
        """
        if not set(HAND_TEXT) <= set(self.network.alphabet.learned):
            return None
        said, seeds = self.prepare(HAND_TEXT), [derived_seed("hand", self.seed, number) for number in range(HANDS)]
        lines = self.network.sampler.write([said.codes] * HANDS, seeds, self.bias, default_steps(said.text))
        lines = [replace(line, text=said.letters) for line in lines]
        keys = [verdict.sort_key[:3] for verdict in check_lines(lines, with_recogniser=True)]
        best = keys.index(min(keys))
        return self.network.sampler.prime(*self.read_hand(self.to_ink(lines[best], said, seeds[best])))

    def write_raw(
        self, texts: Sequence[Prepared], seeds: Sequence[int], steps: int | None = None, with_outputs: bool = False,
        primed: Primed | None = None, biases: Sequence[float] | None = None,
    ) -> list[Line]:  # fmt: skip
        """Write texts, a line each, with a seed each; `steps` caps their steps, by default at plenty.

        `primed` and `biases` may be others than the writer's. What is drawn comes with `to_ink`.
        """
        biases = biases or [self.bias] * len(texts)
        caps = [default_steps(text.text) if steps is None else steps for text in texts]
        check_size(self.network, texts, caps, with_outputs)
        lines = []
        for start in range(0, len(texts), WRITE_BATCH):
            part = slice(start, start + WRITE_BATCH)
            lines += write_checked(
                self.network, texts[part], seeds[part], biases[part], caps[part], self.retries, with_outputs,
                primed or self.primed,
            )  # fmt: skip
        return lines

    def to_ink(self, line: Line, text: Prepared, seed: int, bias: float | None = None) -> Ink:
        """A line of the sampler with what it was written by, and with the marks that the network does not write.

        Raises InputError for a line without ink.
        """
        check_ink(line)
        places = np.asarray(line.phi).argmax(1)  # (T,), of the character that each step is for
        places = np.where(places < len(line.text), places, -1)
        points, characters = line.points, np.append(places[:1], places)  # the first point begins the first step
        if text.text != text.letters:
            strokes, characters = draw_marks(to_strokes(points), characters, text.letters, text.text, seed)
            points = to_points(strokes)
        return Ink(
            points, text.text, characters, seed=seed, bias=self.bias if bias is None else bias, style=self.style,
            checkpoint=self.network.hash, fault=line.fault,
        )  # fmt: skip

    def write_lines(
        self, texts: Sequence[Prepared | str], seeds: Sequence[int], primed: Primed | None = None
    ) -> list[Ink]:
        """Write texts, a line each, with a seed each. What is wrong with a line is in its `Ink.fault`."""
        for seed in seeds:
            check_numbers(seed=seed)
        prepared = [self.prepare(text) if isinstance(text, str) else text for text in texts]
        lines = self.write_raw(prepared, seeds, primed=primed)
        return [self.to_ink(line, text, seed) for line, text, seed in zip(lines, prepared, seeds, strict=True)]

    def write(self, text: str, seed: int | None = None) -> Ink:
        """Write a text as one line, with the writer's seed or another one."""
        (ink,) = self.write_lines([text], [self.seed if seed is None else seed])
        return ink

    def page(self, text: str, page_format: PageFormat | None = None, smoothed: bool = False) -> list[Page]:
        """A text of any length on as many pages as it needs, in one hand."""
        page_format = page_format or PageFormat()
        text, _ = self.network.alphabet.prepare_page(text)
        return lay_out(self.write_text(text, page_format), page_format, self.seed, smoothed)

    def write_text(self, text: str, page_format: PageFormat, redo: Mapping[int, int] | None = None) -> WrittenText:
        """Write what `Alphabet.prepare_page` makes of a text in one hand, broken into lines that fit the page.

        A line's seed follows from the writer's and from where the line is in the text. `redo` has for some lines, by
        number from 1 (blank ones do not count), which other try at them is wanted.
        """
        hand = self.primed or self.own_hand

        def write(lines: Sequence[TextLine], attempt: int = 0) -> list[Ink]:
            texts = [self.network.alphabet.spell(line.text) for line in lines]
            seeds = [derived_seed("line", self.seed, line.paragraph, line.start, attempt) for line in lines]
            return self.write_lines(texts, seeds, hand)

        written = write_text(text, write, page_format)
        places = [place for place, ink in enumerate(written.inks) if ink is not None]
        inks = list(written.inks)
        for number, attempt in (redo or {}).items():
            if not 1 <= number <= len(places):
                raise InputError(f"there is no line {number} to write anew; the text has {len(places)} lines")
            place = places[number - 1]
            line, room = written.lines[place], page_format.text_width - written.lines[place].indent
            for n in range(REDO_TRIES):
                (ink,) = write([line], attempt + MOST_ATTEMPTS * n)
                if written.scale * ink_width(ink, page_format.x_height / written.scale) <= room:
                    inks[place] = ink
                    break
            else:
                again = f"try --redo {number}:{attempt + 1}"
                raise InputError(f"line {number} is too wide for the page each time that it is written anew; {again}")
        return replace(written, inks=inks)
