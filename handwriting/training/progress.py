"""How far a training run has come: sums over its steps, and the rows of its logs."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

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

    def add(self, step: "Sums") -> None:
        """Add those of another step."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(step, each.name))

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

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """What `asdict` has made of one. Raises KeyError, TypeError or ValueError for something else."""
        sums = {name: Sums(**state[name]) for name in ("epoch_sums", "row_sums")}
        progress = cls(**(state | sums))
        for part in (progress, *sums.values()):
            for name, usual in vars(type(part)()).items():
                value = getattr(part, name)
                if type(value) not in (type(usual), int) or (type(value) is int and not 0 <= value < 2**63):
                    raise ValueError(f"its progress has {name} {value!r}")
        return progress

    def count(self, step: Sums, is_finite: bool) -> None:
        """Count a step. One whose loss or gradient is not finite adds only its time."""
        self.step += 1
        self.batch += 1
        self.seconds += step.seconds
        if is_finite:
            self.epoch_sums.add(step)
            self.row_sums.add(step)
            self.skipped_in_row = 0
        else:
            self.epoch_sums.seconds += step.seconds
            self.skipped += 1
            self.skipped_in_row += 1


def check_rows(rows: list[Row], *names: str) -> list[Row]:
    """The rows of a log. Raises ValueError unless all have numbers under the same names, with these among them."""
    for row in rows:
        if not row.keys() == rows[0].keys() >= set(names):
            raise ValueError("the rows of its logs differ in their names")
        for value in row.values():
            if not (type(value) is float or (type(value) is int and abs(value) < 2**63)):
                raise ValueError(f"its logs have {value!r} in place of a number")
    return rows
