"""Writing as people ask for it: lines and pages in one hand, checked, and written again where they are wrong."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from handwriting import pages
from handwriting.alphabet import Alphabet, Prepared
from handwriting.checks import Verdict, check_lines, doubted_places, load_recogniser
from handwriting.encoder import HandEncoder
from handwriting.hands import Style, load_style, mix_hands, random_vector, save_hand, steer, strengthen, style_name
from handwriting.ink.accents import draw_marks, without_marks
from handwriting.ink.formats import Ink, Page
from handwriting.ink.geometry import find_level
from handwriting.limits import LINE_BIAS, MOST_ATTEMPTS, PAGE_BIAS, RETRIES, check_numbers
from handwriting.program import InputError
from handwriting.recogniser import Recogniser
from handwriting.sampling import Line, Primed, Sampler, default_steps
from handwriting.seeds import derived_seed
from handwriting.strokes import to_points, to_strokes
from model import Model
from utils import SHIPPED, choose_device, encoder_of, load_checkpoint

AT_ONCE = 2  # tries at a line that are written side by side
# Each further try is in a hand nearer to the mean one, which is more legible: by so much of its distance, to a half.
WEAKER, WEAKEST = 0.03, 0.5
# With a larger bias than this, hands that nobody has come nearer to the mean one: it makes an average hand (5.4).
WILDEST, TAMENESS = 0.45, 0.36
RANDOM_STEPS = 700  # of a line without a text
WRITE_BATCH, GPU_BATCH = 64, 512  # lines written side by side, on a processor and on a GPU
REDO_TRIES = 5  # at a line that is written anew and turns out too wide
# Lines that tell how large a hand is, whatever is to be written in it.
PROBES = (
    "We saw her again in a warm room", "and told them about the long way home,", "which few people had taken before.",
    "The quick brown fox jumps over it",
)  # fmt: skip
MOST_OTHERS = 30  # characters of another alphabet, in a line that tells the same
MAX_OFFSET = 1e6  # whiteboard units, of the pen's greatest step; a whiteboard has some 10,000
MAX_HELD = 8e9  # bytes that the lines of a call may take


class Network(NamedTuple):
    """A trained network, ready to write."""

    model: Model
    sampler: Sampler
    alphabet: Alphabet
    hash: str  # of its file
    encoder: HandEncoder | None = None  # of the hands that it reads; None if it reads none
    recogniser: Recogniser | None = None  # that reads its lines; None: the one that ships

    @property
    def device(self) -> torch.device:
        """Where it writes."""
        return self.model.mean.device

    @property
    def batch_size(self) -> int:
        """How many lines it writes side by side."""
        return WRITE_BATCH if self.device.type == "cpu" else GPU_BATCH


@lru_cache(maxsize=4)
def _load(path: Path, modified: int, device: torch.device) -> Network:
    model, content = load_checkpoint(path, device)
    if not isinstance(model, Model):
        raise InputError(f"{path}: its contents do not fit together (it is a recogniser, not a network that writes)")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    alphabet = Alphabet(content["charset"], content["char_counts"])
    return Network(model, Sampler(model, alphabet.blank), alphabet, digest, encoder_of(content))


def load_network(checkpoint: Path | str | None, task: str, device: str = "cpu") -> Network:
    """The network in `checkpoint`, by default the one that this project ships, kept in memory between calls.

    Raises InputError if it cannot be read, was not trained for `task`, or for a device as `choose_device`.
    """
    path = SHIPPED / f"{task}.pt" if checkpoint is None else Path(checkpoint)
    network = _load(path, path.stat().st_mtime_ns if path.is_file() else 0, choose_device(device))
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
    hands: np.ndarray | None = None,
) -> list[Line]:  # fmt: skip
    """`Sampler.write`, and doubtful lines again, up to `retries` times; of a line's tries the best is kept.

    Several tries at a line are written side by side, `AT_ONCE` of them, and more only if it is doubtful still. A hand
    that gets a letter wrong mostly does so again: that of each further try is `WEAKER`, but for a prime's. Without
    `retries` nobody reads them: `fault` knows of caps and rests only.
    """

    def attempt(tries: Sequence[tuple[int, int]]) -> list[tuple[Verdict, Line]]:
        chosen = [i for i, _ in tries]
        given, wanted = None, None if hands is None else hands[chosen]
        if wanted is not None and network.encoder:
            strengths = np.array([[max(1 - WEAKER * number, WEAKEST)] for _, number in tries], np.float32)
            given = steer(wanted, network.model, network.encoder, strengths)
        lines = network.sampler.write(
            None if texts is None else [texts[i].codes for i in chosen],
            [derived_seed("try", seeds[i], number) if number else seeds[i] for i, number in tries],
            [biases[i] for i in chosen], [steps[i] for i in chosen], with_outputs, primed, given,
        )  # fmt: skip
        if texts is not None:
            written = zip([texts[i] for i in chosen], lines, strict=True)
            lines = [replace(line, text=text.letters, has_signs=text.has_signs) for text, line in written]
        verdicts = check_lines(lines, retries > 0, network.encoder, wanted, network.recogniser, network.device)
        return list(zip(verdicts, lines, strict=True))

    best = attempt([(i, 0) for i in range(len(seeds))])
    for first in range(1, retries + 1, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, retries + 1))
        again = [(i, number) for i, (verdict, _) in enumerate(best) if verdict.is_doubtful for number in numbers]
        for start in range(0, len(again), network.batch_size):
            tries = again[start : start + network.batch_size]
            for (i, _), found in zip(tries, attempt(tries), strict=True):
                best[i] = min(best[i], found, key=lambda tried: tried[0].sort_key)
    return [replace(line, fault=v.fault, read=v.read, wrong=v.wrong, distance=v.distance) for v, line in best]


def check_ink(line: Line) -> None:
    """Raise InputError for a line of a network that has not learned enough: without ink, or beyond all numbers."""
    if len(line.points) < 2:
        raise InputError("the network wrote nothing: its window is beyond the text at once; train it longer")
    if not np.abs(line.points).max() < MAX_OFFSET:  # true for NaN
        raise InputError("the pen goes beyond all bounds; give another --seed, or train the network longer")


def generate_unconditionally(
    samples: int = 1, steps: int = RANDOM_STEPS, bias: float = 0.0, seed: int = 0, checkpoint: Path | str | None = None,
    retries: int = RETRIES, with_outputs: bool = False, device: str = "cpu",
) -> list[Line]:  # fmt: skip
    """Write at random (section 4): `samples` lines of `steps` steps each, by default with the shipped network.

    `bias` >= 0 makes the hand more even (section 5.4). Line number i has the seed `seed` + i. A line in which the pen
    rests is written again, up to `retries` times; what is still wrong then is in `Line.fault`. `with_outputs` keeps
    what the network said at each point. Raises InputError for a checkpoint or number that cannot be used, and for a
    network that goes astray.
    """
    check_numbers(samples=samples, steps=steps, bias=bias, seed=seed, retries=retries)
    network, caps = load_network(checkpoint, "rand_write", device), [steps] * samples
    check_size(network, None, caps, with_outputs)
    seeds, biases = range(seed, seed + samples), [bias] * samples
    lines = write_checked(network, None, seeds, biases, caps, retries, with_outputs)
    for line in lines:
        check_ink(line)
    return lines


def generate_conditionally(
    text: str | list[str], samples: int = 1, steps: int | None = None, bias: float = LINE_BIAS, seed: int = 0,
    checkpoint: Path | str | None = None, retries: int = RETRIES, with_outputs: bool = False, device: str = "cpu",
) -> list[Line]:  # fmt: skip
    """Write a text, or each of several (section 5), `samples` times; each line holds its window weights too.

    What is written is in `Line.text`: without accents, which `Writer` draws. `steps` is the most steps of a line, by
    default plenty. Lines are written again, too, if `steps` cut them off or anything is read wrong; with
    `retries` 0 they are not read. InputError names characters that cannot be written, too.
    """
    check_numbers(samples=samples, steps=steps)
    writer = Writer(checkpoint, None, bias, seed, retries, device=device)
    prepared, _ = writer.network.alphabet.prepare([text] if isinstance(text, str) else text)
    prepared = [each for each in prepared for _ in range(samples)]
    return writer.write_raw(prepared, range(seed, seed + len(prepared)), steps, with_outputs)


class Writer:
    """Writes with one network, in one hand if it is given any. Several threads may use it at once.

    It can be pickled, to be used by other processes: they read the checkpoint again. Start these anew ("spawn" in
    multiprocessing): PyTorch hangs in a process that was forked when it had used several threads.

    >>> from handwriting import Writer
    >>> Writer(style="clara").write("Some text").save("text.svg")
    """

    def __init__(
        self, checkpoint: Path | str | None = None, style: Style | None = None, bias: float = PAGE_BIAS, seed: int = 0,
        retries: int = RETRIES, strength: float = 1.0, prime: Ink | None = None,
        recogniser: Path | str | None = None, force: bool = False, device: str = "cpu",
    ):  # fmt: skip
        """`style` is a name in `hands.list_styles`, a file of ink, ink, or several of these; without one each line is
        in a hand that follows from its seed, and each page in one that follows from the writer's. `strength` is the
        hand's distance from the mean hand, 1 as it is. From `prime`, ink with its text, the network goes on (section
        5.5). One that reads no hands takes a style for that. Ink in files is read by a recogniser first, and refused if
        that finds no writing, unless `force`. `bias` and `retries` are as for `generate_conditionally`. `recogniser` is
        a checkpoint of one that knows the network's characters, where the one that ships does not.
        `device`: cpu, cuda or another of PyTorch, or auto, a GPU if there is one.

        Raises InputError for a checkpoint, style or number that cannot be used.
        """
        check_numbers(bias=bias, seed=seed, retries=retries, strength=strength)
        self.arguments = checkpoint, style, bias, seed, retries, strength, prime, recogniser, force, device
        self.network = load_network(checkpoint, "synthesis", device)
        if recogniser is not None:
            self.network = self.network._replace(recogniser=load_recogniser(recogniser, self.network.device))
        if strength != 1 and not self.network.encoder:
            raise InputError("--strength: this network reads no hands; leave it out")
        self.bias, self.seed, self.retries, self.strength = bias, seed, retries, strength
        given = style if style is not None else prime
        self.style, self.vector, self.slope = style_name(style or prime), None, np.nan
        if given is not None and self.network.encoder:
            hand = mix_hands(given, self.network.encoder, force)
            self.vector, self.slope = strengthen(hand.vector, self.network.model, strength), hand.slope
        elif style is not None:
            if not isinstance(style, str | Path | Ink):
                raise InputError("this network goes on from one line of ink; give one, or a network that reads hands")
            prime = style if isinstance(style, Ink) else load_style(style, force)
        self.prime = self.read_prime(prime) if prime else None

    def __reduce__(self) -> tuple:  # in another process it loads its network itself
        return type(self), self.arguments

    def prepare(self, text: str) -> Prepared:
        """A text as the network can write it, as one line. Raises InputError as `Alphabet.prepare`."""
        return self.network.alphabet.prepare([text])[0][0]

    @cached_property
    def primed(self) -> Primed | None:
        """The prime as the network has read it (section 5.5), worked out when it is first wanted; None without one."""
        network, vector = self.network, None
        if self.vector is not None and network.encoder:
            vector = steer(self.vector[None], network.model, network.encoder)
        return network.sampler.prime(*self.prime, vector) if self.prime else None

    def hand_of(self, seed: int, bias: float | None = None) -> np.ndarray | None:
        """The vector (D,) of the writer's hand, or of one that follows from a seed and a bias; None if none is read."""
        if self.vector is not None or not self.network.encoder:
            return self.vector
        bias = self.bias if bias is None else bias
        strength = self.strength * np.exp(-TAMENESS * max(bias - WILDEST, 0))
        return strengthen(random_vector(self.network.encoder, seed), self.network.model, strength)

    def save_hand(self, path: Path) -> None:
        """Write the vector of the hand as .json, for `style`. Raises InputError for a network that reads no hands."""
        vector, encoder = self.hand_of(self.seed), self.network.encoder
        if vector is None or encoder is None:
            raise InputError("--save_hand: this network reads no hands; there is none to keep")
        if path.suffix.lower() != ".json":
            raise InputError(f"--save_hand {path}: the file of a hand ends with .json")
        save_hand(vector, self.slope, encoder, path)

    def read_prime(self, hand: Ink) -> tuple[np.ndarray, np.ndarray]:
        """The points and codes of ink, for `Sampler.prime`. Raises InputError for what the network cannot read."""
        if not hand.text.strip():
            raise InputError("the ink of a hand needs its text; give it with --prime_text")
        said, points, alphabet = self.prepare(hand.text), hand.points, self.network.alphabet
        if said.letters != said.text == hand.text and said.letters.strip():  # the network never saw marks
            strokes, _ = without_marks(hand.strokes, np.asarray(hand.characters), said.letters, said.text)
            points = to_points(strokes)
        return points, np.append(said.codes, alphabet.blank)

    @cached_property
    def hand_size(self) -> pages.HandSize:
        """How large the hand of the writer's pages is, measured when it is first wanted.

        On `PROBES`, as far as the network knows their characters; if it knows none of them, on others.
        """
        learned = self.network.alphabet.learned
        known = [" ".join("".join(c for c in probe if c in learned).split()) for probe in PROBES]
        others = "".join(sorted(learned.replace(" ", "")))[-MOST_OTHERS:]  # small letters come after all else
        texts = [self.network.alphabet.spell(text) for text in [*filter(None, known)] or [others]]
        seeds, hand = [derived_seed("size", self.seed, n) for n in range(len(texts))], self.hand_of(self.seed)
        lines = write_checked(
            self.network, texts, seeds, [self.bias] * len(texts), [default_steps(text.text) for text in texts], 0,
            primed=self.primed, hands=None if hand is None else np.array([hand] * len(texts)),
        )  # fmt: skip
        return pages.HandSize.of([self.to_ink(*each) for each in zip(lines, texts, seeds, strict=True)])

    def write_raw(
        self, texts: Sequence[Prepared], seeds: Sequence[int], steps: int | None = None, with_outputs: bool = False,
        hand_seeds: Sequence[int] | None = None, biases: Sequence[float] | None = None,
    ) -> list[Line]:  # fmt: skip
        """Write texts, a line each, with a seed each; `steps` caps their steps, by default at plenty.

        The seeds of hands are those of the lines if they are not given, and biases the writer's. What is drawn comes
        with `to_ink`.
        """
        biases = biases or [self.bias] * len(texts)
        found = [self.hand_of(*each) for each in zip(hand_seeds or seeds, biases, strict=True)]
        hands = np.array(found) if found and found[0] is not None else None
        caps = [default_steps(text.text) if steps is None else steps for text in texts]
        check_size(self.network, texts, caps, with_outputs)
        lines = []
        for start in range(0, len(texts), self.network.batch_size):
            part = slice(start, start + self.network.batch_size)
            lines += write_checked(
                self.network, texts[part], seeds[part], biases[part], caps[part], self.retries, with_outputs,
                self.primed, None if hands is None else hands[part],
            )  # fmt: skip
        return lines

    def to_ink(self, line: Line, text: Prepared, seed: int, bias: float | None = None) -> Ink:
        """A line of the sampler with what it was written by, and with the marks that the network does not write.

        It rises as the lines of a given hand do. Raises InputError for a line without ink.
        """
        check_ink(line)
        points, characters = line.points, line.characters
        if not np.isnan(self.slope):
            points = points.copy()  # sheared: its letters stay as upright as they are
            points[:, 1] += (self.slope - find_level(to_strokes(points)).slope) * points[:, 0]
        if text.text != text.letters:
            strokes, characters = draw_marks(to_strokes(points), characters, text.letters, text.text, seed)
            points = to_points(strokes)
        return Ink(
            points, text.text, characters, seed=int(seed), bias=self.bias if bias is None else bias, style=self.style,
            checkpoint=self.network.hash, fault=line.fault, doubts=doubted_places(line.text, line.read),
        )  # fmt: skip

    def write_lines(
        self, texts: Sequence[Prepared | str], seeds: Sequence[int], hand_seeds: Sequence[int] | None = None
    ) -> list[Ink]:
        """Write texts, a line each, with a seed each, and one for its hand. A line's faults are in its `Ink.fault`."""
        for seed in seeds:
            check_numbers(seed=seed)
        prepared = [self.prepare(text) if isinstance(text, str) else text for text in texts]
        lines = self.write_raw(prepared, seeds, hand_seeds=hand_seeds)
        return [self.to_ink(line, text, seed) for line, text, seed in zip(lines, prepared, seeds, strict=True)]

    def write(self, text: str, seed: int | None = None) -> Ink:
        """Write a text as one line, with the writer's seed or another one."""
        (ink,) = self.write_lines([text], [self.seed if seed is None else seed])
        return ink

    def page(self, text: str, page_format: pages.PageFormat | None = None) -> list[Page]:
        """A text of any length on as many pages as it needs, in one hand."""
        written = self.write_text(self.network.alphabet.prepare_page(text)[0], page_format or pages.PageFormat())
        return pages.lay_out(written, written.page_format, self.seed)

    def write_text(
        self, text: str, page_format: pages.PageFormat, redo: Mapping[int, int] | None = None
    ) -> pages.WrittenText:
        """Write what `Alphabet.prepare_page` makes of a text in one hand, broken into lines that fit the page.

        A line's seed follows from the writer's, from its paragraph's words, and from where it begins in them. `redo`
        has for some lines, by number from 1 (blank ones do not count), which other try at them is wanted.
        """
        paragraphs, redo = pages.paragraph_seeds(text), redo or {}
        expected, _ = pages.break_text(text, pages.WidthEstimate(page_format.x_height).measure, page_format.text_width)
        if max(redo, default=0) > 3 * len(expected) + 3:  # so many lines it will not be
            raise InputError(f"there is no line {max(redo)} to write anew; the text has some {len(expected)} lines")

        def write(lines: Sequence[pages.TextLine], attempt: int = 0) -> list[Ink]:
            texts = [self.network.alphabet.spell(line.text) for line in lines]
            seeds = [derived_seed("line", self.seed, paragraphs[line.paragraph], line.start, attempt) for line in lines]
            return self.write_lines(texts, seeds, [self.seed] * len(seeds))

        written = pages.write_text(text, write, page_format, self.hand_size)
        page_format = written.page_format
        places = [place for place, ink in enumerate(written.inks) if ink is not None]
        inks = list(written.inks)
        for number, attempt in redo.items():
            if not 1 <= number <= len(places):
                raise InputError(f"there is no line {number} to write anew; the text has {len(places)} lines")
            place = places[number - 1]
            line, room = written.lines[place], page_format.text_width - written.lines[place].indent
            for n in range(REDO_TRIES):
                (ink,) = write([line], attempt + MOST_ATTEMPTS * n)
                if written.scale * pages.ink_width(ink, page_format.x_height / written.scale) <= room:
                    inks[place] = ink
                    break
            else:
                again = f"try --redo {number}:{attempt + 1}"
                raise InputError(f"line {number} is too wide for the page each time that it is written anew; {again}")
        return replace(written, inks=inks)
