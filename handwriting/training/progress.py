"""How far a training run has come, and whether what a checkpoint says of that can be so."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

Row = dict[str, float]  # of a log, by the names of its columns


@dataclass
class Sums:
    """Sums over steps."""

    nats: float = 0.0
    units: float = 0.0  # points that were predicted, or characters that were read
    lines: int = 0
    norm: float = 0.0  # of the gradients
    steps: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def means(self, unit: str) -> Row:
        """Losses in nats a line and a unit, and the gradient's norm; NaN without steps."""
        lines, units, steps = (value or math.nan for value in (self.lines, self.units, self.steps))
        losses = {"train_loss": self.nats / lines, f"train_per_{unit}": self.nats / units}
        return losses | {"gradient_norm": self.norm / steps}


@dataclass
class Progress:
    """How far a run has come."""

    epoch: int = 0  # epochs that have ended
    batch: int = 0  # batches of the epoch in progress that are done
    step: int = 0
    seconds: float = 0.0  # of training and evaluation
    best: float = math.inf  # score of the best epoch
    skipped: int = 0  # steps without a finite loss or gradient
    skipped_in_row: int = 0
    epoch_sums: Sums = field(default_factory=Sums)  # of the epoch in progress
    row_sums: Sums = field(default_factory=Sums)  # since the last row of the log by step

    def count(self, step: Sums, is_finite: bool) -> None:
        """Count a step. One whose loss or gradient is not finite adds only its time."""
        self.step, self.batch, self.seconds = self.step + 1, self.batch + 1, self.seconds + step.seconds
        self.epoch_sums += step if is_finite else Sums(seconds=step.seconds)
        self.row_sums += step if is_finite else Sums()
        self.skipped += not is_finite
        self.skipped_in_row = 0 if is_finite else self.skipped_in_row + 1


# What a run's checkpoint has beside its network, and the types of it: see `check_like`.
PARTS = {
    "settings": {}, "fingerprint": "", "progress": asdict(Progress()),
    "log": [{"step": 0.0, "train_loss": 0.0, "validation_loss": 0.0}],
    "step_log": [{"step": 0.0, "train_loss": 0.0}],
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.0, "params": [0]}]},
}  # fmt: skip


def check_like(value: Any, usual: Any, name: str) -> None:
    """Raise ValueError unless a part of a checkpoint is like the usual one.

    A dict may have more names; a list has any number of things like the usual one; a number is of the usual type, or
    whole; a tensor has the usual shape and no NaN. Whole numbers and steps are never negative.
    """
    if isinstance(usual, dict):
        fits = isinstance(value, dict) and usual.keys() <= value.keys()
        for key in usual if fits else ():
            check_like(value[key], usual[key], f"{name} {key}")
    elif isinstance(usual, list):
        fits = isinstance(value, list)
        for each in value if fits else ():
            check_like(each, usual[0], name)
    elif isinstance(usual, Tensor):
        fits = isinstance(value, Tensor) and value.is_floating_point() and value.shape == usual.shape
        fits = fits and value.is_contiguous() and not value.isnan().any() and (value.dim() > 0 or value >= 0)
    elif isinstance(usual, str):
        fits = isinstance(value, str)
    else:
        fits = type(value) in (int, type(usual)) and (type(value) is float or 0 <= value < 2**63)
    if not fits:
        raise ValueError(f"its {name} is not what a run writes")
