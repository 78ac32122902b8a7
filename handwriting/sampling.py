"""Writing: points sampled one by one from what the network says, a batch of lines, each to the end of its text.

`Sampler.write_together` is the loop. Letters for shapes are those of model.py.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model import MAX_LOG_SIGMA, MU, PI, POINTS_PER_CHARACTER, RHO, SIGMA, Model, State, Window, kernels, window_weights

LINES_OF_A_THREAD = 2  # at least, where a decoder uses one thread alone
CHUNK = 256  # points for which random numbers are sampled at once
# How many steps a stroke may go on when the window has passed the text. Bars and dots that had just begun then, less
# than `YOUNG_STROKE` steps before, take up to 7; what takes longer is a character that the text does not have.
YOUNG_STROKE, MOST_AFTER = 5, (9, 25)  # of young strokes and of others


@dataclass(frozen=True)
class Line:
    """One generated line: the start token, where the pen touches down, and T steps from there.

    As in a recorded line, points[0] is (0, 0, 0): the network reads it first. Having read points[: t + 1], with its
    window at phi[t], it says in outputs[t] what comes as points[t + 1].
    """

    points: np.ndarray  # (T + 1, 3) float32: x and y offset in whiteboard units, y downwards; end-of-stroke bit
    outputs: np.ndarray | None  # (T, 1 + 6M) float32 if they were wanted: read them with `mixture`
    phi: np.ndarray | None  # (T, U + 1) float32: window weights (eq. 46); the last column is beyond the text
    finished: bool | None  # whether the window passed the text before the cap on steps; None without a text
    text: str = ""  # what was written, as the network knows it: `Prepared.letters`
    fault: str = ""  # what `checks.Verdict` finds wrong with it, "" if nothing
    read: str | None = None  # what a recogniser reads, None if nobody has read it
    wrong: float | None = None  # the share of the text's characters that it reads wrong
    distance: float | None = None  # of the hand from the one that was asked for, by the encoder of hands
    has_signs: bool = False  # whether blanks in `text` are for signs that are drawn later

    @property
    def characters(self) -> np.ndarray:
        """The place in `text` of each point's character, by the window, (T + 1,): the first point begins step 1."""
        places = np.asarray(self.phi).argmax(1).clip(max=max(len(self.text) - 1, 0))  # the last may be beyond the text
        return np.append(places[:1], places)


def default_steps(text: str) -> int:
    """The cap on the steps of a text: twice what its characters take on average, and some for a slow start."""
    return 2 * POINTS_PER_CHARACTER * len(text) + 100


def sample_noise(
    generators: Sequence[torch.Generator], biases: Sequence[float], points: int, clusters: int
) -> np.ndarray:
    """The random numbers that `sample_points` needs for `points` points of each of B lines: (points, B, 3 + M).

    Two are normal, one is logistic, and M are Gumbel's. Each line has its own generator, and its own bias, which works
    on these numbers once for all points: the normal ones are multiplied by exp(-b), as sigma would be (eq. 61), and
    Gumbel's divided by 1 + b, for log pi + G / (1 + b) is greatest where (1 + b) log pi + G is (eq. 62).
    """
    pieces = []
    for generator, bias in zip(generators, biases, strict=True):
        normal = torch.randn(points, 2, generator=generator) * math.exp(-bias)
        uniform = torch.rand(points, 1 + clusters, generator=generator).clamp_(min=1e-30)
        logistic = torch.special.logit(uniform[:, :1])
        logs = np.log(-np.log(uniform[:, 1:].numpy()))  # for PyTorch's each thread of `write` would start others
        gumbel = torch.from_numpy(logs) / -(1 + bias)
        pieces.append(torch.cat([normal, logistic, gumbel], dim=1).numpy())
    return np.stack(pieces, axis=1)


def sample_points(outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """One point from each of B distributions (eq. 23), given raw outputs (B, 1 + 6M): (B, 3), normalised.

    noise (B, 3 + M) is from `sample_noise`. Gumbel-max: the component whose log probability plus noise is the greatest
    is each one with its probability. The parameters are those of `mixture`, for the chosen component alone.
    """
    components = outputs[:, 1:].reshape(len(outputs), 6, -1)  # (B, 6, M)
    chosen = (components[:, PI] + noise[:, 3:]).argmax(1)  # (B,)
    raw = components[np.arange(len(outputs)), :, chosen]  # (B, 6)
    # The lower triangle of the covariance's Cholesky factor is s1; s2 rho, s2 sqrt(1 - rho^2), where rho is the tanh
    # of a raw number (eq. 22), and the root one over its cosh.
    points = np.empty((len(outputs), 3), outputs.dtype)
    normal_1, normal_2, a = noise[:, 0], noise[:, 1], raw[:, RHO]
    points[:, 0] = normal_1
    np.add(np.tanh(a) * normal_1, normal_2 / np.cosh(a), out=points[:, 1])
    offsets = points[:, :2]
    offsets *= np.exp(np.minimum(raw[:, SIGMA], MAX_LOG_SIGMA))
    offsets += raw[:, MU]
    np.less(outputs[:, 0] + noise[:, 2], 0, out=points[:, 2])  # with probability e (eq. 18)
    return points


class PlainDecoder:
    """`Model.forward` point by point for B lines, in the form of `kernels.Decoder`."""

    def __init__(self, model: Model, text: Tensor | None, batch_size: int, hand: Tensor | None = None):
        """`text` (B, U), codes with -1 for padding, if there is a window; `hand` (B, D), if the network reads hands."""
        self.model, self.text, self.state, self.characters = model, text, model.initial_state(batch_size), None
        self.hand = hand
        if text is not None:
            self.characters = model.one_hot(text.to(model.mean.device))  # (B, U, C)
            # Columns of phi (B, U + 1): from one beyond a line's text on it is always that one.
            self.columns = torch.arange(text.shape[1] + 1).minimum((text >= 0).sum(1)[:, None]).to(model.mean.device)

    def select(self, lines: np.ndarray, text: Tensor | None = None) -> "PlainDecoder":
        """A decoder that goes on from these lines, their numbers (n,), with their own texts or others (n, U)."""
        text = self.text[lines] if text is None and self.text is not None else text
        hand = None if self.hand is None else self.hand[lines]
        other, (hidden, cell, w, kappa) = PlainDecoder(self.model, text, len(lines), hand), self.state
        other.state = State(hidden[:, lines], cell[:, lines], w[lines], kappa[lines])
        return other

    def step(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Read normalised points x (B, 3). Returns raw outputs (B, 1 + 6M), phi (B, U + 1) and kappa (B, K, 1).

        phi (eq. 46) is for u up to one beyond a line's text, and the last of them again further on. Without a window
        phi and kappa are None.
        """
        points = torch.from_numpy(x)[None].to(self.model.mean)
        outputs, self.state, window = self.model(points, self.characters, self.state, self.hand)
        if window is None:
            return outputs[0].cpu().numpy(), None, None
        phi = window_weights(Window(*(p[0] for p in window)), self.columns.shape[1]).gather(1, self.columns)
        return outputs[0].cpu().numpy(), phi.cpu().numpy(), self.state.kappa[..., None].cpu().numpy()


def has_written_text(phi: np.ndarray, kappa: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Whether phi(t, U + 1) > phi(t, u) for all u <= U: the paper's rule for the end of U characters (5.3), (B,).

    It often fires when a crossbar or a dot has just begun: see `Ending`. phi (B, U + 1), whose last column is repeated
    for shorter texts, and kappa (B, K, 1) as a decoder returns them, lengths (B,). Far from a window its weights are
    all equal, too small for floating point: the last counts as the greatest then, if the window is beyond the text.
    """
    is_last_greatest = phi[:, ::-1].argmax(1) == 0
    return is_last_greatest & (kappa.max((1, 2)) > lengths + 0.5) if is_last_greatest.any() else is_last_greatest


class Ending:
    """Ends lines with their last stroke, where the paper's rule would cut off what it has begun: a bar, a dot.

    A line whose text is passed ends when the pen is lifted. Ink of which most comes after that is another character's.
    """

    def __init__(self, batch_size: int):
        self.t, self.began = 0, np.zeros(batch_size, int)  # the number of this step, and of the first of its stroke
        self.passed = np.zeros(batch_size, int)  # the number of the step when the window passed the text, 0 before
        self.nothing = np.zeros(batch_size, bool), np.zeros(batch_size, int)

    def step(
        self, is_passed: np.ndarray, was_lifted: np.ndarray, is_lifted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whether each line ends (B,), and how many of its last steps are no part of it (B,).

        Given what `has_written_text` says (B,), and the pen's bits (B,) before this step's point and of it.
        """
        self.t += 1
        self.began[was_lifted > 0.5] = self.t
        if not (self.passed.any() or is_passed.any()):
            return self.nothing
        self.passed[is_passed & (self.passed == 0)] = self.t
        starts_after = self.began >= self.passed
        is_young = self.passed - self.began < YOUNG_STROKE
        is_other = self.t - self.passed >= np.where(is_young, *MOST_AFTER)
        has_ended = (self.passed > 0) & (starts_after | (is_lifted > 0.5) | is_other)
        is_surplus = has_ended & (starts_after | (is_other & is_young & (is_lifted < 0.5)))
        return has_ended, np.where(is_surplus, self.t - self.began + 1, 0)

    def select(self, stays: np.ndarray) -> None:
        """Go on with these lines (B,) alone."""
        self.began, self.passed = self.began[stays], self.passed[stays]
        self.nothing = self.nothing[0][stays], self.nothing[1][stays]


class Primed(NamedTuple):
    """A decoder that has read a prime (section 5.5), and what it reads next. Any number of lines can go on from it."""

    decoder: "PlainDecoder | kernels.Decoder"  # of one line
    x: np.ndarray  # (1, 3), normalised: the prime's last point
    codes: np.ndarray  # (P,) of the prime's text; empty without a text


def first_new_step(points: np.ndarray, phi: np.ndarray, prefix: int) -> int:
    """The step that leads to the first point of a primed line's own ink: before it the pen may finish the prime's.

        step    0     1     2     3     4          The window is on the new text from step 3 on, and the pen was lifted
        window  old   old   old   new   new        last before that after step 1: step 2 is the way to the new ink,
        pen           lift                         whose first point is where it ends.

    points (T, 3) and phi (T, U + 1) of the steps from the prime's end, over the prime's `prefix` characters and the
    line's own; U + 1 is 0 without a text.
    """
    is_new = phi.argmax(1) >= prefix if phi.shape[1] else np.array([True])
    before = points[: is_new.argmax()] if is_new.any() else points[:0]  # the steps with the window on the old text
    lifts = np.flatnonzero(before[:, 2])
    return lifts[-1] + 1 if len(lifts) else 0


def pad_codes(texts: Sequence[np.ndarray | Tensor]) -> Tensor:
    """Codes (U,) of B texts -> (B, U), -1 for padding."""
    codes = [torch.as_tensor(text, dtype=torch.long) for text in texts]
    return nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=-1)


class Sampler:
    """Writes with one network, on its device; where there is a kernel its weights are packed once, as they are then."""

    def __init__(self, model: Model):
        self.model = model
        self.make = (kernels and kernels.pack_model(model)) or partial(PlainDecoder, model)
        self.is_one_threaded = getattr(self.make.func, "is_one_threaded", False)

    def start(
        self, texts: list | None, batch_size: int, hands: np.ndarray | None = None
    ) -> "PlainDecoder | kernels.Decoder":
        """A decoder at the start of lines with these texts (codes, (U,)) and hands (B, D)."""
        text, hand = self.pad(texts), None if hands is None else torch.from_numpy(hands).to(self.model.mean)
        return self.make(text, batch_size, hand)

    def pad(self, texts: list | None) -> Tensor | None:
        """Texts (codes, (U,)) -> (B, U), -1 for padding; None for None. Raises ValueError for unknown codes."""
        if texts is None:
            return None
        text = pad_codes(texts)
        if text.numel() and text.max() >= self.model.config.num_chars:
            raise ValueError(f"codes must be below {self.model.config.num_chars}, the size of the alphabet")
        return text

    @np.errstate(over="ignore", invalid="ignore")  # of networks that have diverged
    @torch.inference_mode()
    def prime(self, points: np.ndarray, codes: np.ndarray, hand: np.ndarray | None = None) -> Primed:
        """Read ink (section 5.5), (P, 3) in the form of `Line.points`, and the codes (U,) of what it says.

        While the prime is read the window sees its text alone; `write` puts the new text behind it.
        """
        decoder = self.start([codes] if self.model.config.num_chars else None, 1, hand)
        xs = self.model.normalise(torch.from_numpy(points).to(self.model.mean)).cpu().numpy()
        for x in xs[:-1]:
            decoder.step(x[None])
        return Primed(decoder, xs[-1:], np.asarray(codes))

    def write(
        self, texts: list[np.ndarray] | None, seeds: list[int], bias: float | list[float], steps: int | list[int],
        with_outputs: bool = False, primed: Primed | None = None, hands: np.ndarray | None = None,
    ) -> list[Line]:  # fmt: skip
        """Write lines side by side: one for each seed, and for each of the texts (codes, (U,)) if there are any.

        `hands` (B, D) are the vectors of the lines' hands, for a network that reads them; a prime has its own. A line
        ends where the pen is lifted after `has_written_text`; without a text, and at the latest, after `steps` steps.
        `bias` and `steps` may be one for all or one for each line. A line's ink depends on its seed, not on the lines
        beside it. With `primed` it goes on in that hand; only the new ink is returned. A network that has diverged
        may write what is infinite or not a number. Raises ValueError for codes that the network does not know.
        """
        B, stopped = len(seeds), Event()
        threads = max(min(torch.get_num_threads(), B // LINES_OF_A_THREAD), 1) if self.is_one_threaded else 1
        biases, caps = (np.broadcast_to(each, B).tolist() for each in (bias, steps))

        def write_part(first: int) -> list[Line]:
            part = slice(first, B, threads)
            own = texts and texts[part], seeds[part], biases[part], caps[part]
            return self.write_together(*own, with_outputs, primed, None if hands is None else hands[part], stopped)

        if threads < 2:
            return write_part(0) if seeds else []
        lines = np.empty(B, dtype=object)
        with ThreadPoolExecutor(threads) as pool:
            try:
                for first, part in enumerate(pool.map(write_part, range(threads))):
                    lines[first::threads] = part
            finally:
                stopped.set()  # after an error or Ctrl-C nobody waits for the other threads' lines
        return lines.tolist()

    @np.errstate(over="ignore", invalid="ignore")
    @torch.inference_mode()
    def write_together(
        self, texts: list[np.ndarray] | None, seeds: list[int], bias: list[float], steps: list[int],
        with_outputs: bool, primed: Primed | None, hands: np.ndarray | None, stopped: Event,
    ) -> list[Line]:  # fmt: skip
        """`write` in one thread, up to the end of all lines or until it is `stopped`."""
        B, model = len(seeds), self.model
        if primed:
            texts = texts and [[*primed.codes, *text] for text in texts]
            decoder, x = primed.decoder.select(np.zeros(B, int), self.pad(texts)), primed.x.repeat(B, axis=0)
        else:  # the network first reads the point where the pen touches down
            decoder, x = self.start(texts, B, hands), model.normalise(model.mean.new_zeros(B, 3)).cpu().numpy()
        generators = np.array([torch.Generator().manual_seed(int(seed)) for seed in seeds], dtype=object)
        biases = np.asarray(bias, x.dtype).astype(float)
        all_lengths = lengths = np.array([len(text) for text in texts or [()] * B])
        caps, living, t = np.asarray(steps), np.arange(B), 0  # living: the lines that are being written
        ending = Ending(B)
        written, pieces, ends = [], [[] for _ in seeds], [(None, 0)] * B  # what the living wrote last, and of each line
        while len(living) and not stopped.is_set():
            if t % CHUNK == 0:
                noise = sample_noise(generators, biases, CHUNK, model.config.num_clusters)
            before, (outputs, phi, kappa) = x, decoder.step(x)
            x = sample_points(outputs, noise[t % CHUNK])
            t += 1
            written.append((x, outputs if with_outputs else x[:, :0], phi if texts else x[:, :0]))
            has_ended, surplus = ending.nothing
            if texts:
                has_ended, surplus = ending.step(has_written_text(phi, kappa, lengths), before[:, 2], x[:, 2])
            leaves = has_ended | (caps <= t)
            if leaves.any():
                points, all_outputs, phis = (np.array(each) for each in zip(*written, strict=True))  # (n, B, ...)
                for n, b in enumerate(living):
                    pieces[b].append((points[:, n], all_outputs[:, n], phis[:, n]))
                    ends[b] = (bool(has_ended[n]) if texts else None, surplus[n])
                stays, written = ~leaves, []
                noise, decoder = noise[:, stays], decoder.select(np.flatnonzero(stays))
                per_line = x, living, lengths, caps, generators, biases
                x, living, lengths, caps, generators, biases = (each[stays] for each in per_line)
                ending.select(stays)
        finished = zip(pieces, ends, all_lengths, strict=True)
        return [] if stopped.is_set() else [self.finish(*line, primed) for line in finished]

    def finish(self, pieces: list, end: tuple[bool | None, int], length: int, primed: Primed | None) -> Line:
        """A line of `write` from its pieces (points, outputs, phi), for the `length` characters that it has read.

        `end` says whether it came to the end of its text, and how many of its last steps are no part of it.
        """
        finished, surplus = end
        points, outputs, phi = (np.concatenate(each) for each in zip(*pieces, strict=True))
        points, outputs, phi = (each[: len(each) - surplus] for each in (points, outputs, phi))
        points = self.model.denormalise(torch.from_numpy(points).to(self.model.mean.device)).cpu().numpy()
        prefix = start = 0  # characters and steps that are the prime's
        if primed:
            prefix = len(primed.codes)
            start = first_new_step(points, phi, prefix) + 1
        points = np.pad(points, ((1, 0), (0, 0)))[start:]  # (T + 1, 3): behind a start token, step s leads to row s + 1
        points[:1, :2] = 0
        points[-1:, 2] = 1  # whatever comes next, the pen is lifted
        phi = None if finished is None else phi[start:, prefix : length + 1]
        return Line(points, outputs[start:] if outputs.shape[1] else None, phi, finished)
