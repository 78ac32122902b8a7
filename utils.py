"""What the scripts share: checkpoints, drawing, and how a program ends on bad input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # imported where they are used: they take seconds, and preprocessing needs neither
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from model import Model

# ----------------------------------------------------------------------------------------------------------- bad input


class InputError(Exception):
    """Something that the user gave cannot be used. The message names it and says what to do."""


def main_program(main: Callable[[], None]) -> None:
    """Run `main`; end with one line on stderr and status 2 on bad input, with status 130 on Ctrl-C."""
    try:
        main()
    except InputError as error:
        sys.exit(_complain(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a folder that cannot be written, a full disk
        sys.exit(_complain(f"{error.filename or 'input or output'}: {error.strerror or error}"))


def _complain(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` to write to, and rename it to `path` if all went well: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------------- checkpoints

VERSION = 1  # of the checkpoint's form


def save_checkpoint(
    path: Path, model: Model, charset: str, char_counts: list[int], half: bool = False, **training: Any
) -> None:
    """Write all that generation needs (weights, sizes, statistics, characters), and `training` for resuming.

    `half` stores the weights in half precision. The file holds nothing but tensors and plain Python values.
    """
    import torch

    weights = model.state_dict()
    if half:
        weights = {name: value if name in ("mean", "std") else value.half() for name, value in weights.items()}
    content = {
        "version": VERSION, "config": asdict(model.config), "weights": weights,
        "charset": charset, "char_counts": char_counts, **training,
    }  # fmt: skip
    with replacing(path) as file:
        torch.save(content, file)


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> tuple[Model, dict[str, Any]]:
    """Read a checkpoint. Returns the model, in float32 and ready to use, and the whole content.

    Raises InputError for a file that is missing, damaged, or not a checkpoint of this project.
    """
    import torch

    from model import Config, Model

    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train one with train.py, or name another one")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file makes torch.load raise nearly anything
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{path}: damaged, or not a checkpoint ({reason[0] if reason else type(error).__name__})"
        ) from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise InputError(f"{path}: not a checkpoint of this version of the project")
    try:
        model = Model(Config(**content["config"]))
        model.load_state_dict(content["weights"])
        if len(content["charset"]) != model.config.num_chars or len(content["char_counts"]) != model.config.num_chars:
            raise ValueError("its character set does not fit its weights")
        if not all(torch.isfinite(value).all() for value in model.state_dict().values()) or (model.std <= 0).any():
            raise ValueError("it holds numbers that are not finite")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path}: its contents do not fit together ({error})") from None
    return model.to(device).eval(), content


# ------------------------------------------------------------------------------------------------------------- drawing


def to_strokes(points: np.ndarray) -> list[np.ndarray]:
    """Points (T, 3) of offsets and end-of-stroke bits -> strokes, each (n, 2) of positions in whiteboard units."""
    positions = np.cumsum(points[:, :2], axis=0, dtype=np.float64)
    after = np.flatnonzero(points[:, 2] > 0.5) + 1
    return [stroke for stroke in np.split(positions, after) if len(stroke)]


def draw_strokes(axes: Axes, points: np.ndarray, color: str = "black", width: float = 1.2) -> None:
    """Draw a line of handwriting, points (T, 3) in whiteboard units, with equal scales and y downwards."""
    from matplotlib.collections import LineCollection

    strokes = to_strokes(points)
    lines = [stroke if len(stroke) > 1 else np.repeat(stroke, 2, axis=0) for stroke in strokes]  # a dot is a line too
    axes.add_collection(LineCollection(lines, colors=color, linewidths=width, capstyle="round", joinstyle="round"))
    low, high = (np.stack([f(np.concatenate(strokes), axis=0) for f in (np.min, np.max)])) + [[-60.0], [60.0]]
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal")
    axes.axis("off")


def lines_figure(lines: list[np.ndarray], titles: list[str] | None = None) -> Figure:
    """One figure with lines of handwriting below each other, left-aligned and all at the same scale."""
    from matplotlib.figure import Figure

    extents = [np.ptp(np.concatenate(to_strokes(points)), axis=0) + 120 for points in lines]  # (width, height)
    width = max(extent[0] for extent in extents)
    inches = 1 / 400  # a written line of some 5,000 whiteboard units gets about 12 inches
    heights = [max(extent[1], 200) for extent in extents]
    gap = 90 if titles else 0
    figure = Figure(figsize=(width * inches, (sum(heights) + gap * len(lines)) * inches))
    total, top = sum(heights) + gap * len(lines), 0.0
    for number, (points, height) in enumerate(zip(lines, heights, strict=True)):
        top += gap
        axes = figure.add_axes((0, 1 - (top + height) / total, 1, height / total))
        draw_strokes(axes, points)
        left = axes.get_xlim()[0]
        middle = sum(axes.get_ylim()) / 2
        axes.set(xlim=(left, left + width), ylim=(middle + height / 2, middle - height / 2))
        if titles:
            axes.set_title(titles[number], fontsize=8, loc="left", color="gray", pad=0)
        top += height
    return figure


def draw_attention(axes: Axes, phi: np.ndarray, text: str) -> None:
    """The window over the text, phi (T, U) of (eq. 46), as in the paper's figure 13."""
    axes.imshow(phi.T, aspect="auto", origin="lower", cmap="inferno", interpolation="nearest")
    axes.set_yticks(range(len(text)), list(text.replace(" ", "\u2423")), fontsize=7)
    axes.set(xlabel="point", ylabel="character")


def draw_density(axes: Axes, points: np.ndarray, density: np.ndarray, extent: tuple[float, ...]) -> None:
    """The added densities of the next point, (rows, columns) over `extent`, as in the paper's figure 10."""
    axes.imshow(density, extent=extent, cmap="inferno", aspect="equal", interpolation="bilinear")
    for stroke in to_strokes(points):
        axes.plot(*stroke.T, color="white", linewidth=0.3, alpha=0.6)
    axes.axis("off")


def draw_losses(axes: Axes, log: dict[str, np.ndarray]) -> None:
    """Training and validation loss by epoch, nats a line in normalised units."""
    axes.plot(log["epoch"], log["train_loss"], "o-", markersize=3, label="training")
    axes.plot(log["epoch"], log["validation_loss"], "o-", markersize=3, label="validation")
    axes.set(xlabel="epoch", ylabel="loss, nats a line (normalised units)")
    axes.grid(alpha=0.3)
    axes.legend()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as the ending of `path` says; the same figure gives the same bytes."""
    kind = path.suffix.lower().lstrip(".")
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    from matplotlib import rc_context

    with replacing(path) as file, rc_context({"svg.hashsalt": "ink"}):
        figure.savefig(file, format=kind, dpi=150, metadata=dates.get(kind))
