"""How far a training run has come: sums over its steps, the rows of its logs, and the curve."""

import csv
import io
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from handwriting.figures import draw_losses, save_figure
from handwriting.program import atomic_write

STEPS_OF_A_ROW = 10  # steps that a row of the log by step is the mean of

Row = dict[str, float]


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
        return {
            "train_loss": self.nats / lines,
            f"train_per_{unit}": self.nats / units,
            "gradient_norm": self.norm / steps,
        }


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
        """What `state` has saved. Raises KeyError, TypeError or ValueError for something else."""
        sums = {name: Sums(**state[name]) for name in ("epoch_sums", "row_sums")}
        progress = cls(**(state | sums))
        for part in (progress, *sums.values()):
            for name, usual in vars(type(part)()).items():
                value = getattr(part, name)
                if type(value) not in (type(usual), int) or (type(value) is int and not 0 <= value < 2**63):
                    raise ValueError(f"its progress has {name} {value!r}")
        return progress

    def state(self) -> dict[str, Any]:
        """All of it in plain Python values."""
        return asdict(self)

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


@dataclass
class Logs:
    """The rows of a run's logs, by epoch and by step."""

    epochs: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)

    @classmethod
    def from_rows(cls, epochs: list[Row], steps: list[Row]) -> "Logs":
        """What a checkpoint has of logs. Raises ValueError for what are no rows of numbers under the same names."""
        for rows, names in ((epochs, {"step", "train_loss", "validation_loss"}), (steps, {"step", "train_loss"})):
            numbers = [value for row in rows for value in row.values()]
            if not all(type(value) is float or (type(value) is int and abs(value) < 2**63) for value in numbers):
                raise ValueError("its logs hold something else than numbers")
            if not all(row.keys() == rows[0].keys() >= names for row in rows):
                raise ValueError("the rows of its logs differ in their names")
        return cls(epochs, steps)

    def write(self, stem: Path, label: str) -> None:
        """Write STEM_log.csv, STEM_steps.csv and the curve, STEM_loss.png, whose losses are in `label`."""
        write_rows(Path(f"{stem}_log.csv"), self.epochs)
        write_rows(Path(f"{stem}_steps.csv"), self.steps)
        if self.epochs or self.steps:
            figure = Figure(figsize=(7, 4.5), layout="constrained")
            draw_losses(figure.subplots(), columns(self.epochs), columns(self.steps), label)
            save_figure(figure, Path(f"{stem}_loss.png"))


def columns(rows: list[Row]) -> dict[str, list[float]]:
    """The columns of rows of numbers; none without rows."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows of numbers as a .csv file, whole or not at all. No rows, no file."""
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())
