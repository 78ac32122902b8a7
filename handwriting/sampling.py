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
MOST_AFTER = 25  # steps that a line may go on when the window has passed the text
# A stroke that begins less than `YOUNG_STROKE` steps before the window passes a text is another character's if it is on
# the right of all ink, and no dot: `BESIDE` of a character's mean width from it, and larger than that.
YOUNG_STROKE, BESIDE = 5, 0.25


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

    It often fires when a crossbar or a dot has just begun, so a line goes on to the end of that stroke. phi (B, U + 1),
    whose last column is repeated for shorter texts, and kappa (B, K, 1) as a decoder returns them, lengths (B,). Far
    from a window its weights are all equal, too small for floating point: the last counts as the greatest then, if the
    window is beyond the text.
    """
    is_last_greatest = phi[:, ::-1].argmax(1) == 0
    return is_last_greatest & (kappa.max((1, 2)) > lengths + 0.5) if is_last_greatest.any() else is_last_greatest


def count_own_steps(points: np.ndarray, phi: np.ndarray) -> int:
    """How many steps of a line are its own, for points (T, 3) and phi (T, U + 1), whose last column is beyond the text.

    The network may go on to what it thinks comes next: a stroke of another character begins when the window has passed
    the text, or just before, on the right of all ink. The bar or dot of the last one begins further left.
    """
    length, positions = phi.shape[1] - 1, np.cumsum(points[:, :2], axis=0)
    is_past, x = phi.argmax(1) == length, positions[:, 0]
    passed = is_past.argmax() if is_past.any() else np.inf
    starts, margin = np.flatnonzero(points[:-1, 2] > 0.5) + 1, BESIDE * np.ptp(x) / max(length, 1)
    sizes = (np.maximum.reduceat(positions, starts) - np.minimum.reduceat(positions, starts)).max(1)  # of its strokes
    is_other = (starts >= passed) | ((starts > passed - YOUNG_STROKE) & (sizes > margin))
    is_beside = x[starts] > np.maximum.accumulate(x)[starts - 1] + margin
    return int(min(starts[is_other & is_beside], default=len(points)))


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

    def __init__(self, model: Model, behind: np.ndarray | None = None):
        """`behind` each text the network reads these codes (n,): before a blank a character is finished as inside."""
        self.model, self.behind = model, np.zeros(0, int) if behind is None else behind
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
        ends where the pen is lifted after `has_written_text`, without what `count_own_steps` leaves out; without a
        text, and at the latest, after `steps` steps.
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
        texts = texts and [[*(primed.codes if primed else ()), *text, *self.behind] for text in texts]
        if primed:
            decoder, x = primed.decoder.select(np.zeros(B, int), self.pad(texts)), primed.x.repeat(B, axis=0)
        else:  # the network first reads the point where the pen touches down
            decoder, x = self.start(texts, B, hands), model.normalise(model.mean.new_zeros(B, 3)).cpu().numpy()
        generators = np.array([torch.Generator().manual_seed(int(seed)) for seed in seeds], dtype=object)
        biases = np.asarray(bias, x.dtype).astype(float)
        all_lengths = lengths = np.array([len(text) for text in texts or [()] * B])
        caps, living, t = np.asarray(steps), np.arange(B), 0  # living: the lines that are being written
        after = np.zeros(B, int)  # steps since the window passed the text
        written, pieces, finished = [], [[] for _ in seeds], [None] * B  # what the living wrote last, and of each line
        while len(living) and not stopped.is_set():
            if t % CHUNK == 0:
                noise = sample_noise(generators, biases, CHUNK, model.config.num_clusters)
            outputs, phi, kappa = decoder.step(x)
            x = sample_points(outputs, noise[t % CHUNK])
            t += 1
            written.append((x, outputs if with_outputs else x[:, :0], phi if texts else x[:, :0]))
            if texts:
                after += (after > 0) | has_written_text(phi, kappa, lengths)
            has_ended = (after > 0) & ((x[:, 2] > 0.5) | (after > MOST_AFTER))
            leaves = has_ended | (caps <= t)
            if leaves.any():
                points, all_outputs, phis = (np.array(each) for each in zip(*written, strict=True))  # (n, B, ...)
                for n, b in enumerate(living):
                    pieces[b].append((points[:, n], all_outputs[:, n], phis[:, n]))
                    finished[b] = bool(has_ended[n]) if texts else None
                stays, written = ~leaves, []
                noise, decoder = noise[:, stays], decoder.select(np.flatnonzero(stays))
                per_line = x, living, lengths, caps, generators, biases, after
                x, living, lengths, caps, generators, biases, after = (each[stays] for each in per_line)
        lines = zip(pieces, finished, all_lengths, strict=True)
        return [] if stopped.is_set() else [self.finish(*line, primed) for line in lines]

    def finish(self, pieces: list, finished: bool | None, length: int, primed: Primed | None) -> Line:
        """A line of `write` from its pieces (points, outputs, phi), for the `length` codes that it has read.

        `finished` is whether it came to the end of its text, None without a text.
        """
        points, outputs, phi = (np.concatenate(each) for each in zip(*pieces, strict=True))
        points = self.model.denormalise(torch.from_numpy(points).to(self.model.mean.device)).cpu().numpy()
        if finished is not None:
            phi = phi[:, : length - len(self.behind) + 1]
            own = count_own_steps(points, phi)
            points, outputs, phi = points[:own], outputs[:own], phi[:own]
        prefix = start = 0  # characters and steps that are the prime's
        if primed:
            prefix = len(primed.codes)
            start = first_new_step(points, phi, prefix) + 1
        points = np.pad(points, ((1, 0), (0, 0)))[start:]  # (T + 1, 3): behind a start token, step s leads to row s + 1
        points[:1, :2] = 0
        points[-1:, 2] = 1  # whatever comes next, the pen is lifted
        phi = None if finished is None else phi[start:, prefix:]
        return Line(points, outputs[start:] if outputs.shape[1] else None, phi, finished)
