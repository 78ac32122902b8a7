"""Which lines a step learns from, and how they are put side by side."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor, nn

MAX_REPEATED = 8  # times that a line with a rare character is seen where another one is seen once


def line_weights(texts: np.ndarray, rare_share: float) -> np.ndarray:
    """How often each line is seen beside a line of common characters alone, (N,), for texts (N,).

    A line with a character that is on fewer than `rare_share` of the lines is seen as often as if that character was on
    this share of them, but at most `MAX_REPEATED` times as often. Its rarest character counts.
    """
    lines_with = Counter(character for text in texts for character in set(text))
    wanted = rare_share * len(texts)
    weights = [max([1.0, *(wanted / lines_with[character] for character in set(text))]) for text in texts.tolist()]
    return np.minimum(weights, MAX_REPEATED)


def sample_lines(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of N lines for an epoch, (N,), for weights (N,): each as often as its weight asks, rounded up or down."""
    ends = np.cumsum(weights) / weights.sum() * len(weights)
    return np.searchsorted(ends, np.arange(len(weights)) + rng.uniform(), side="right").clip(max=len(weights) - 1)


def make_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
    """Put lines of similar length together: arrays of indices into `lengths`, in random order if there is an `rng`.

    With `rng` lengths are blurred by up to 5 %, so that a line has other neighbours in each epoch.
    """
    key = lengths if rng is None else lengths * rng.uniform(0.95, 1.05, len(lengths))
    order = np.argsort(key, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]


def change_hand(points: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Points (T, 3) in another hand: width, height and slant of the whole line are changed at random.

    `strength` is the standard deviation of the logarithms of width and height, and of the slant.
    """
    width, height = np.exp(rng.normal(0, strength, 2))
    matrix = np.array([[width, 0], [rng.normal(0, strength), height]])  # of (x, y) as a row
    return np.column_stack([points[:, :2] @ matrix, points[:, 2]])


def pad_codes(codes: list[Tensor]) -> Tensor:
    """Codes (U,) of B texts -> (B, U), -1 for padding."""
    return nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=-1)


def collate(
    lines: list[np.ndarray], codes: list[Tensor] | None = None, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pad lines of points (T + 1, 3) in whiteboard units, and the codes (U,) of their texts, each to one length.

    Returns the arguments of `Model.losses`: points (T + 1, B, 3), mask (T, B), and text (B, U) with -1 for padding, or
    None without codes.
    """
    lengths = np.array([len(line) for line in lines])
    points = np.zeros((lengths.max(), len(lines), 3), dtype=np.float32)
    for b, line in enumerate(lines):
        points[: len(line), b] = line
    mask = np.arange(1, lengths.max())[:, None] < lengths  # (T, B)
    text = pad_codes(codes).to(device) if codes is not None else None
    return torch.from_numpy(points).to(device), torch.from_numpy(mask).to(device), text
