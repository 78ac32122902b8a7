"""How far a training run has come."""

import math
from dataclasses import dataclass, field

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
