"""What a run tells, made from its figures: lines for the screen, and the curve."""

import sys
import threading
from pathlib import Path

from torch import nn
from tqdm import tqdm

from handwriting.figures import save_figure
from handwriting.training.progress import Row

# The figures of an evaluation, by the unit of the task.
LABELS = {
    "point": {
        "loss": "loss, nats a line, normalised units", "loss_raw": "loss, nats a line, whiteboard units",
        "per_point": "loss, nats a point, normalised units", "per_point_raw": "loss, nats a point, whiteboard units",
        "sse": "SSE a point, normalised units",
    },
    "character": {
        "loss": "loss, nats a line", "per_character": "loss, nats a character", "error_rate": "characters read wrong",
    },
}  # fmt: skip


def describe_scale(network: nn.Module) -> str:
    """What ink is brought to before a network sees it: its losses depend on that."""
    if not hasattr(network, "std"):
        return "each line is brought to one height, and its slope taken out"
    (mx, my), (sx, sy) = network.mean.tolist(), network.std.tolist()
    return f"normalised by mean {mx:.4f}, {my:.4f} and deviation {sx:.4f}, {sy:.4f} whiteboard units"


def epoch_line(row: Row, unit: str) -> str:
    """The figures of an epoch, from its row of the log."""
    weights = f", weights {row['description_length']:.1f}" if "description_length" in row else ""
    found = {name.removeprefix("validation_"): value for name, value in row.items()}
    if unit == "point":
        validation = (
            f"{found['loss']:.1f} a line, {found['per_point']:.4f} a point (normalised; whiteboard units: "
            f"{found['loss_raw']:.1f} and {found['per_point_raw']:.4f}), SSE {found['sse']:.3f}"
        )
    else:
        validation = f"{found['loss']:.2f} a line, {found['error_rate']:.2%} of characters wrong"
    return (
        f"epoch {row['epoch']}: training {row['train_loss']:.1f} nats a line{weights}, validation {validation}; "
        f"gradient {row['gradient_norm']:.0f}, {row[f'{unit}s_per_second']:.0f} {unit}s/s, step {row['step']}, "
        f"{row['minutes']:.1f} min, {row['skipped_steps']} skipped"
    )


def progress_bar(total: int, done: int, is_shown: bool) -> tqdm:
    """The bar of a run's steps. In place of it, a log file gets a line a minute."""
    file, interval = (sys.stderr, 0.5) if sys.stderr.isatty() else (sys.stdout, 60)
    tqdm.set_lock(threading.RLock())  # its own is for processes, and one that is killed leaves a semaphore behind
    return tqdm(
        total=total, initial=done, unit=" steps", smoothing=0.05, disable=not is_shown, file=file, mininterval=interval
    )


def tell(line: str) -> None:
    """Print a line, above the bar if there is one."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def draw_curve(path: Path, epochs: list[Row], steps: list[Row], unit: str) -> None:
    """Draw training and validation loss by step; the training loss is that of the log by step, if it has rows."""
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, rows, mark in (("train", steps or epochs, ".-" if steps else "o-"), ("validation", epochs, "o-")):
        found = [row["step"] for row in rows], [row[f"{name}_loss"] for row in rows]
        axes.plot(*found, mark, markersize=3, label={"train": "training"}.get(name, name))
    axes.set(xlabel="step", ylabel=LABELS[unit]["loss"])
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
