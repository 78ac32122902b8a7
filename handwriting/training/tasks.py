"""What a run can train: the tasks, each with its network, its batches, its loss and its figures.

A run (train.py) is the same for all tasks. `Writing` serves `rand_write` and `synthesis`, `Reading` the task `read`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from handwriting.alphabet import Alphabet
from handwriting.data.dataset import Dataset
from handwriting.figures import lines_figure, save_figure
from handwriting.recogniser import Recogniser, RecogniserConfig, collate_features, edit_distance, features
from handwriting.sampling import default_steps, sample
from handwriting.training.batches import change_hand, collate, encode_texts, make_batches, pad_codes, random_by_line
from handwriting.training.processes import Group
from model import Config, Model

SIZES = ("num_layers", "cell_size", "num_clusters", "K")  # flags of a `Config`; a recogniser has the first two
SAMPLE_TEXT = "The quick brown fox jumps over 12 dogs."


def sums_over(
    model: nn.Module, batches: list[np.ndarray], measure: Callable[[np.ndarray], list[float]], group: Group | None
) -> list[float]:
    """Sums of the three numbers that `measure` gives for each batch, dealt out to the processes of the group.

    All processes get the same sums. The model is in evaluation mode meanwhile.
    """
    group = group or Group()
    was_training = model.training
    model.eval()
    totals = np.zeros(3)
    for start in range(0, len(batches), group.size):  # a batch for each process at a time
        parts = [measure(batch) for batch in group.part(batches[start : start + group.size])]
        totals += group.sums(*np.sum(parts or [[0.0] * 3], axis=0).tolist())  # none for some, in the last round
    model.train(was_training)
    return totals.tolist()


class Writing:
    """The tasks `rand_write` and `synthesis`: a `Model` learns to predict the next point, with a text or without."""

    unit = "point"
    loss_label = "loss, nats a line (normalised units)"

    def __init__(
        self,
        dataset: Dataset,
        with_text: bool,
        timesteps: int | None = None,
        charset: str | None = None,
        augment: float = 0.0,
    ):
        """For training, lines are cut to `timesteps` predictions, and the hand changed with the strength `augment`.

        `charset` is the data's, or that of a checkpoint.
        """
        self.dataset, self.with_text, self.timesteps, self.augment = dataset, with_text, timesteps, augment
        own = "".join(dataset.charset) if with_text else ""
        self.charset = own if charset is None else charset
        self.char_counts = dataset.char_counts.tolist() if with_text else []
        self.num_points = np.diff(dataset.starts)  # of each line
        self.codes = encode_texts(dataset, self.charset) if self.charset else None

    def new_network(self, options: argparse.Namespace) -> Model:
        """An untrained network of the sizes asked for, with the data's statistics."""
        model = Model(Config(**{name: getattr(options, name) for name in SIZES}, num_chars=len(self.charset)))
        model.mean.copy_(torch.from_numpy(self.dataset.mean))
        model.std.copy_(torch.from_numpy(self.dataset.std))
        return model

    def lengths(self, lines: np.ndarray) -> np.ndarray:
        """Points of each line, as cut for training."""
        return np.minimum(self.num_points[lines], self.timesteps + 1)

    def batch(self, lines: np.ndarray, device: torch.device, seed: Sequence[int] = ()) -> tuple:
        """The arguments of `Model.losses` for training on lines. Their changes follow from `seed`."""
        points = [self.dataset.points(line)[: self.timesteps + 1] for line in lines]
        if self.augment:
            rngs = random_by_line(seed, lines)
            points = [change_hand(line, self.augment, rng) for line, rng in zip(points, rngs, strict=True)]
        return self.collate(lines, points, device)

    def collate(self, lines: np.ndarray, points: list[np.ndarray], device: torch.device) -> tuple:
        """`collate` with the lines' texts."""
        return collate(points, [self.codes[line] for line in lines] if self.codes else None, device)

    def nats(self, model: Model, batch: tuple) -> Tensor:
        """The sum of a batch's losses, ()."""
        return model.losses(*batch)[0].sum()

    def units(self, batch: tuple) -> int:
        """How many points a batch predicts."""
        return int(batch[1].sum())

    @torch.no_grad()
    def evaluate(self, model: Model, group: Group | None = None, batch_size: int = 50) -> dict[str, float]:
        """Losses over the whole validation split, lines uncut. All processes of the `group` get the same.

        Returns loss and loss_raw (nats a line in normalised and in whiteboard units), per_point and per_point_raw
        (likewise a point), sse (squared error a point, normalised units), lines and points. A density in whiteboard
        units is smaller by the product of the deviations.
        """
        chosen, device = self.dataset.lines("validation", self.with_text), model.mean.device

        def measure(batch: np.ndarray) -> list[float]:
            lines = chosen[batch]
            strokes, mask, text = self.collate(lines, [self.dataset.points(line) for line in lines], device)
            losses, errors = model.losses(strokes, mask, text)
            return [value.cpu().double().sum().item() for value in (losses, errors, mask)]

        batches = make_batches(self.num_points[chosen], batch_size)
        nats, squares, points = sums_over(model, batches, measure, group)
        scale = model.std.log().sum().item()
        return {
            "loss": nats / len(chosen), "loss_raw": (nats + points * scale) / len(chosen), "per_point": nats / points,
            "per_point_raw": nats / points + scale, "sse": squares / points, "lines": len(chosen), "points": points,
        }  # fmt: skip

    def score(self, found: dict[str, float]) -> float:
        """What the best network has least of: the loss."""
        return found["loss"]

    def describe_best(self, score: float) -> str:
        """The best network's score."""
        return f"best validation loss {score:.1f} nats a line"

    def describe(self, row: dict[str, float]) -> str:
        """The validation figures of a row of the log."""
        return (
            f"{row['validation_loss']:.1f} a line, {row['validation_per_point']:.4f} a point (normalised; whiteboard "
            f"units: {row['validation_loss_raw']:.1f} and {row['validation_per_point_raw']:.4f}), SSE "
            f"{row['validation_sse']:.3f}"
        )

    def table(self, model: Model, found: dict[str, float]) -> str:
        """All figures of an evaluation."""
        return "\n".join(
            [
                f"  {found['lines']} lines, {found['points']:.0f} predicted points",
                f"  loss, nats a line, normalised units     {found['loss']:10.2f}",
                f"  loss, nats a line, whiteboard units     {found['loss_raw']:10.2f}",
                f"  loss, nats a point, normalised units    {found['per_point']:10.4f}",
                f"  loss, nats a point, whiteboard units    {found['per_point_raw']:10.4f}",
                f"  SSE a point, normalised units           {found['sse']:10.4f}",
                f"  {self.scale(model)}",
            ]
        )

    def scale(self, model: Model) -> str:
        """What offsets are normalised by."""
        (mx, my), (sx, sy) = model.mean.tolist(), model.std.tolist()
        return f"normalised by mean {mx:.4f}, {my:.4f} and deviation {sx:.4f}, {sy:.4f} whiteboard units"

    def draw_samples(self, model: Model, path: Path) -> bool:
        """Draw three lines that the network writes. Returns whether there is anything to draw."""
        model.eval()
        seeds, texts, steps = [0, 1, 2], None, 700
        if self.charset:
            text = "".join(character for character in SAMPLE_TEXT if character in self.charset) or self.charset
            texts, steps = [Alphabet(self.charset).encode(text)] * len(seeds), default_steps(text)
        lines = [line.points for line in sample(model, texts, seeds, bias=0.5, steps=steps)]
        model.train()
        lines = [points for points in lines if len(points) > 1 and np.isfinite(points).all()]
        if lines:
            save_figure(lines_figure(lines), path)
        else:
            tqdm.write("no picture of samples: the network wrote nothing that can be drawn", file=sys.stdout)
        return bool(lines)


class Reading:
    """The task `read`: a `Recogniser` learns to read recorded lines. Its methods do what those of `Writing` do."""

    unit = "character"
    loss_label = "loss, nats a line"
    with_text = True

    def __init__(self, dataset: Dataset, charset: str | None = None):
        self.dataset = dataset
        self.charset = "".join(dataset.charset) if charset is None else charset
        self.char_counts = dataset.char_counts.tolist()
        self.num_points = np.diff(dataset.starts)  # of each line
        self.codes = encode_texts(dataset, self.charset)

    def new_network(self, options: argparse.Namespace) -> Recogniser:
        """An untrained recogniser of the sizes asked for."""
        return Recogniser(RecogniserConfig(self.charset, num_layers=options.num_layers, cell_size=options.cell_size))

    def lengths(self, lines: np.ndarray) -> np.ndarray:
        """Points of each line."""
        return self.num_points[lines]

    def batch(self, lines: np.ndarray, device: torch.device, seed: Sequence[int]) -> tuple:
        """The arguments of `Recogniser.losses` for training on lines: the ink is distorted. It follows from `seed` how."""
        return self.collate(lines, device, random_by_line(seed, lines))

    def collate(
        self, lines: np.ndarray, device: torch.device, rngs: Sequence[np.random.Generator | None] | None = None
    ) -> tuple:
        """The arguments of `Recogniser.losses`. With `rngs` the ink is distorted."""
        pairs = zip(lines, rngs or [None] * len(lines), strict=True)
        x, lengths = collate_features([features(self.dataset.points(line), rng) for line, rng in pairs])
        return x.to(device), lengths.to(device), pad_codes([self.codes[line] for line in lines]).to(device)

    def nats(self, model: Recogniser, batch: tuple) -> Tensor:
        """The sum of a batch's losses, ()."""
        return model.losses(*batch).sum()

    def units(self, batch: tuple) -> int:
        """How many characters a batch has."""
        return int((batch[2] >= 0).sum())

    @torch.no_grad()
    def evaluate(self, model: Recogniser, group: Group | None = None, batch_size: int = 50) -> dict[str, float]:
        """Figures over the whole validation split.

        Returns loss (nats a line), per_character (nats), error_rate (edit distance a character) and lines.
        """
        chosen, device = self.dataset.lines("validation", True), model.head.weight.device

        def measure(batch: np.ndarray) -> list[float]:
            inputs = x, lengths, text = self.collate(chosen[batch], device)
            found = model(x, lengths)
            errors = sum(map(edit_distance, self.dataset.texts[chosen[batch]].tolist(), model.texts_of(*found)))
            return [model.losses_of(*found, text).sum().item(), errors, self.units(inputs)]

        nats, errors, characters = sums_over(model, make_batches(self.lengths(chosen), batch_size), measure, group)
        return {
            "loss": nats / len(chosen), "per_character": nats / characters, "error_rate": errors / characters,
            "lines": len(chosen),
        }  # fmt: skip

    def score(self, found: dict[str, float]) -> float:
        """What the best network has least of: characters read wrong. NaN for a network whose loss is.

        The loss is no measure: it is infinite if one line has too few frames for its text.
        """
        return math.nan if math.isnan(found["loss"]) else found["error_rate"]

    def describe_best(self, score: float) -> str:
        """The best network's score."""
        return f"best validation error rate {score:.2%} of characters"

    def describe(self, row: dict[str, float]) -> str:
        """The validation figures of a row of the log."""
        return f"{row['validation_loss']:.2f} a line, {row['validation_error_rate']:.2%} of characters wrong"

    def table(self, model: Recogniser, found: dict[str, float]) -> str:
        """All figures of an evaluation."""
        return "\n".join(
            [
                f"  {found['lines']} lines",
                f"  loss, nats a line         {found['loss']:8.3f}",
                f"  loss, nats a character    {found['per_character']:8.4f}",
                f"  characters read wrong     {found['error_rate']:8.2%}",
            ]
        )

    def scale(self, model: Recogniser) -> str:
        """What ink is brought to."""
        return "each line is brought to one height, and its slope taken out"

    def draw_samples(self, model: Recogniser, path: Path) -> bool:
        """A recogniser writes nothing."""
        return False


def make_task(
    name: str, dataset: Dataset, timesteps: int | None = None, charset: str | None = None, augment: float = 0.0
) -> Writing | Reading:
    """The task of a name in `utils.TASKS`, on a data set, with the character set of the data or of a checkpoint."""
    if name == "read":
        return Reading(dataset, charset)
    return Writing(dataset, name == "synthesis", timesteps, charset, augment)


def deepen(network: Model, num_layers: int) -> Model:
    """A network of more layers that computes the same: the output has no weight yet for what the new layers say."""
    deeper = Model(dataclasses.replace(network.config, num_layers=num_layers))
    nn.init.zeros_(deeper.head.weight)
    weights = deeper.state_dict()
    for name, values in network.state_dict().items():
        weights[name][tuple(map(slice, values.shape))] = values  # those of the first layers come first
    deeper.load_state_dict(weights)
    return deeper
