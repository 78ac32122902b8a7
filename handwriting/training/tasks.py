"""What a run can train: the tasks, each with its network, its batches, its loss and its figures.

A run is the same for all tasks. `Writing` serves `rand_write` and `synthesis`, `Reading` the task `read`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from handwriting.data.dataset import Dataset
from handwriting.recogniser import Recogniser, RecogniserConfig, collate_features, edit_distance, features
from handwriting.sampling import default_steps, sample
from handwriting.training.batches import change_hand, collate, encode_texts, make_batches, pad_codes
from handwriting.training.processes import Group
from model import Config, Model

NETWORK_SIZES = ("num_layers", "cell_size", "num_clusters", "K")  # flags of a `Config`; a recogniser has the first two
SAMPLE_LINES, SAMPLE_STEPS = 3, 700  # of a picture of samples; steps without a text


class Task(Protocol):
    """What a run needs of its task. What the methods do is said in the classes below."""

    dataset: Dataset
    unit: str  # what the loss is given for beside a line: a point or a character
    with_text: bool  # whether a line needs a text
    charset: str  # of the network; a character's code is its place here
    char_counts: list[int]  # how often the training lines have each

    # fmt: off
    def new_network(self, options: argparse.Namespace) -> nn.Module: ...  # noqa: D102
    def lengths(self, lines: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def batch(self, lines: np.ndarray, device: torch.device, seeds: Sequence[int]) -> tuple: ...  # noqa: D102
    def loss(self, model: nn.Module, batch: tuple) -> Tensor: ...  # noqa: D102
    def count(self, batch: tuple) -> int: ...  # noqa: D102
    def evaluate(self, model: nn.Module, group: Group | None) -> dict[str, float]: ...  # noqa: D102
    def score(self, found: dict[str, float]) -> float: ...  # noqa: D102
    def sample(self, model: nn.Module) -> list[np.ndarray]: ...  # noqa: D102
    # fmt: on


class Writing:
    """The tasks `rand_write` and `synthesis`: a `Model` learns to predict the next point, with a text or without."""

    unit = "point"

    def __init__(
        self, dataset: Dataset, with_text: bool, timesteps: int | None, charset: str | None, augment: float
    ):  # fmt: skip
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
        model = Model(Config(**{name: getattr(options, name) for name in NETWORK_SIZES}, num_chars=len(self.charset)))
        model.mean.copy_(torch.from_numpy(self.dataset.mean))
        model.std.copy_(torch.from_numpy(self.dataset.std))
        return model

    def lengths(self, lines: np.ndarray) -> np.ndarray:
        """Points of each line, as cut for training."""
        return np.minimum(self.num_points[lines], self.timesteps + 1)

    def batch(self, lines: np.ndarray, device: torch.device, seeds: Sequence[int] = ()) -> tuple:
        """The arguments of `Model.losses` for training on lines (B,). Their changes follow from the seeds (B,)."""
        points = [self.dataset.points(line)[: self.timesteps + 1] for line in lines]
        if self.augment:
            rngs = map(np.random.default_rng, seeds)
            points = [change_hand(line, self.augment, rng) for line, rng in zip(points, rngs, strict=True)]
        return self.collate(lines, points, device)

    def collate(self, lines: np.ndarray, points: list[np.ndarray], device: torch.device) -> tuple:
        """`collate` with the lines' texts."""
        return collate(points, [self.codes[line] for line in lines] if self.codes else None, device)

    def loss(self, model: Model, batch: tuple) -> Tensor:
        """The sum of a batch's losses in nats, ()."""
        return model.losses(*batch)[0].sum()

    def count(self, batch: tuple) -> int:
        """How many points a batch predicts."""
        return int(batch[1].sum())

    @torch.no_grad()
    def evaluate(self, model: Model, group: Group | None = None, batch_size: int = 50) -> dict[str, float]:
        """Losses over the whole validation split, lines uncut. All processes of the group get the same.

        Returns loss and loss_raw (nats a line in normalised and in whiteboard units), per_point and per_point_raw
        (likewise a point), sse (squared error a point, normalised units), lines and points. A density in whiteboard
        units is smaller by the product of the deviations.
        """

        def measure(lines: np.ndarray) -> list[float]:
            batch = self.collate(lines, [self.dataset.points(line) for line in lines], model.mean.device)
            return [value.cpu().double().sum().item() for value in (*model.losses(*batch), batch[1])]

        chosen, (nats, squares, points) = sums_over_validation(self, model, measure, group, batch_size)
        scale = model.std.log().sum().item()
        return {
            "loss": nats / chosen, "loss_raw": (nats + points * scale) / chosen, "per_point": nats / points,
            "per_point_raw": nats / points + scale, "sse": squares / points, "lines": chosen, "points": points,
        }  # fmt: skip

    def score(self, found: dict[str, float]) -> float:
        """What the best network has least of: the loss."""
        return found["loss"]

    def sample(self, model: Model) -> list[np.ndarray]:
        """Lines that the network writes, points (T, 3): at random, or the first texts of the validation split.

        A line that is not finite is left out.
        """
        seeds, texts, steps = [*range(SAMPLE_LINES)], None, SAMPLE_STEPS
        if self.codes:
            chosen = np.resize(self.dataset.lines("validation", True), SAMPLE_LINES)
            texts = [self.codes[line].numpy() for line in chosen]
            steps = [default_steps(self.dataset.texts[line]) for line in chosen]
        was_training = model.training
        lines = [line.points for line in sample(model.eval(), texts, seeds, bias=0.5, steps=steps)]
        model.train(was_training)
        return [points for points in lines if len(points) > 1 and np.isfinite(points).all()]


class Reading:
    """The task `read`: a `Recogniser` learns to read recorded lines."""

    unit = "character"
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

    def batch(self, lines: np.ndarray, device: torch.device, seeds: Sequence[int] = ()) -> tuple:
        """The arguments of `Recogniser.losses` for lines (B,). With seeds (B,) the ink is distorted."""
        rngs = [np.random.default_rng(seed) for seed in seeds] or [None] * len(lines)
        inks = [features(self.dataset.points(line), rng) for line, rng in zip(lines, rngs, strict=True)]
        x, lengths = collate_features(inks)
        return x.to(device), lengths.to(device), pad_codes([self.codes[line] for line in lines]).to(device)

    def loss(self, model: Recogniser, batch: tuple) -> Tensor:
        """The sum of a batch's losses in nats, ()."""
        return model.losses(*batch).sum()

    def count(self, batch: tuple) -> int:
        """How many characters a batch has."""
        return int((batch[2] >= 0).sum())

    @torch.no_grad()
    def evaluate(self, model: Recogniser, group: Group | None = None, batch_size: int = 50) -> dict[str, float]:
        """Loss (nats a line), per_character (nats), error_rate (edit distance a character) and lines, likewise."""

        def measure(lines: np.ndarray) -> list[float]:
            x, lengths, text = self.batch(lines, model.head.weight.device)
            found = model(x, lengths)
            errors = sum(map(edit_distance, self.dataset.texts[lines].tolist(), model.texts_of(*found)))
            return [model.losses_of(*found, text).sum().item(), errors, self.count((x, lengths, text))]

        chosen, (nats, errors, characters) = sums_over_validation(self, model, measure, group, batch_size)
        rates = {"per_character": nats / characters, "error_rate": errors / characters}
        return {"loss": nats / chosen, **rates, "lines": chosen}

    def score(self, found: dict[str, float]) -> float:
        """What the best network has least of: characters read wrong. NaN for a network whose loss is.

        The loss is no measure: it is infinite if one line has too few frames for its text.
        """
        return math.nan if math.isnan(found["loss"]) else found["error_rate"]

    def sample(self, model: Recogniser) -> list[np.ndarray]:
        """A recogniser writes nothing."""
        return []


def sums_over_validation(
    task: Task, model: nn.Module, measure: Callable[[np.ndarray], list[float]], group: Group | None, batch_size: int
) -> tuple[int, list[float]]:
    """How many lines the validation split has, and sums of the three numbers that `measure` gives for each batch of it.

    The batches are dealt out to the processes of the group; all get the same sums.
    """
    group, was_training, totals = group or Group(), model.training, np.zeros(3)
    lines = task.dataset.lines("validation", task.with_text)
    batches = make_batches(np.diff(task.dataset.starts)[lines], batch_size)
    model.eval()
    for start in range(0, len(batches), group.size):  # a batch for each process at a time
        parts = [measure(lines[batch]) for batch in group.part(batches[start : start + group.size])]
        totals += group.sums(*np.sum(parts or [[0.0] * 3], axis=0).tolist())  # none for some, in the last round
    model.train(was_training)
    return len(lines), totals.tolist()


def make_task(
    name: str, dataset: Dataset, timesteps: int | None = None, charset: str | None = None, augment: float = 0.0
) -> Task:
    """The task of a name, a key of `utils.NETWORKS`, with the character set of the data or of a checkpoint."""
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
