"""What the scripts share: checkpoints, drawing, and how a program ends on bad input."""

from __future__ import annotations

import argparse
import io
import os
import pickletools
import re
import signal
import stat
import sys
import tempfile
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:  # imported where they are used: they take seconds, and preprocessing needs neither
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import nn


# A pen that rests is read on: in 5 % of the steps it moves less than this. A network that has learned to rest may never
# stop resting, and a bias (eq. 62) makes that likelier. The smallest letters are ten times as high.
SHORTEST_STEP = 3.0  # whiteboard units
# The pen is read about 75 times a second, with time stamps rounded to 10 ms: 99 % of the steps within a stroke take
# 30 ms or less.
PERIOD = 0.0133  # s
USUAL_STEP = 18.0  # whiteboard units, the median length of a step within a stroke


class InputError(ValueError):
    """Something that the user gave cannot be used. The message names it and says what to do."""


class ResultError(Exception):
    """All is written, but not all of it is right. The message says what is wrong and what to do."""


class Parser(argparse.ArgumentParser):
    """The flags of a program. One that is wrong is an InputError, so that `run_cli` tells it in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError in place of printing all flags."""
        raise InputError(f"{message}; --help tells the flags")


_held_notes: list[str] | None = None  # of a program that `run_cli` runs


def note(message: str) -> None:
    """Tell on stderr what the user should know, though the work goes on.

    In a program it is told at the end, and not if that is an error: then there is one line, which is the error's.
    """
    if _held_notes is None:
        _say(f"note: {message}")
    else:
        _held_notes.append(message)


def printable(text: str, most: int = 10_000) -> str:
    """Text of unknown origin as one line of at most so many characters, with control characters and such escaped."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:most]


def _say(message: str) -> None:
    print(printable(message), file=sys.stderr)


def run_cli(main: Callable[[], None]) -> None:
    """Run `main` as a program, and end it.

    On bad input the status is 2, with one line on stderr; on `ResultError` 3; on Ctrl-C 130. Warnings of libraries are
    not shown, unless Python's -W asks for them.
    """
    global _held_notes
    for name in ("stdout", "stderr"):  # closed by whoever started the program, as with >&-
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # the imports are over
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files can hold what no encoding has
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    _held_notes, error, status = [], "", 0
    try:
        main()
        sys.stdout.flush()
    except InputError as problem:
        error, status = str(problem), 2
    except ResultError as problem:
        error, status = str(problem), 3
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        status = 1
    except OSError as problem:  # a folder that cannot be written, a full disk
        error, status = f"{problem.filename or 'input or output'}: {problem.strerror or problem}", 2
    for message in _held_notes if status in (0, 3) else ():
        _say(f"note: {message}")
    if error:
        _say(f"error: {error}")
    try:
        sys.stdout.flush()
    except OSError:  # else Python tries again at its end, and complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def output_file(path: Path) -> Path:
    """Where an output goes: `path`, or what it links to. Raises InputError if that cannot be a regular file."""
    try:
        target = path.resolve()
        if target.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: is no regular file but a device or the like, which is never replaced")
        folder = next(parent for parent in target.parents if parent.exists())
        for name in target.relative_to(folder).parts:  # of files and folders that will be made: can they be named so?
            with suppress(FileNotFoundError):
                (folder / name).lstat()
    except (OSError, RuntimeError) as error:  # a name that is too long, links in a circle
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}; name another file") from None
    return target


def check_writable(path: Path) -> None:
    """Raise InputError if `atomic_write` could not write to `path`. For a program's start; it makes nothing."""
    folder = output_file(path).parent
    while not folder.exists():  # will be made
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {folder}: {error.strerror}") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A buffer that becomes the file at `path` if all went well: whole or not at all.

    It is written to a temporary file beside `path` that is then renamed. A link stays and what it links to is written;
    an existing file's mode is kept. Raises InputError if `path` cannot be a regular file, and OSError that names it if
    it cannot be written, as on a full disk. A program that is killed just then leaves a hidden file that ends in
    `.part`: nothing reads it, and it may be deleted.
    """
    target = output_file(path)
    yield (buffer := io.BytesIO())
    temporary = target.with_name(f".{uuid.uuid4().hex}.part")  # short, and no other program's
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            if target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


# ---------------------------------------------------------------------------------------------------------- checkpoints

VERSION = 2  # of the checkpoint's form; 1 can be read, too
TASKS = ("rand_write", "synthesis", "read")

# Of offsets, in whiteboard units: far beyond what a whiteboard and a pen can give, and safe to divide by.
MIN_STD, MAX_STD, MAX_MEAN = 1e-3, 1e6, 1e6

# What a network's sizes must be (type, least, greatest), before it is built. `charset` is checked by itself.
CONFIG_BOUNDS = {
    "num_layers": (int, 1, 1000), "cell_size": (int, 1, 10**5), "num_clusters": (int, 1, 10**4), "K": (int, 1, 10**4),
    "num_chars": (int, 0, 10**5), "channels": (int, 2, 10**5), "dropout": (float, 0, 0.999),
}  # fmt: skip
# What a checkpoint may hold of a training run; what resuming needs of it, train.py knows.
TRAINING = {"settings": dict, "log": list, "step_log": list, "progress": dict, "optimizer": dict, "fingerprint": str}
# What the pickle in a checkpoint may name. More is safe with weights_only, but could still ask for all memory.
PICKLED = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")


def from_version_1(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a network for texts, from a checkpoint of version 1, under today's names.

    The window's layer had a form of its own: one bias, and the order output, input, forget, candidate of gates.
    """
    import torch

    old = ("input.weight", "recurrent.weight", "input.bias")
    of_point, recurrent, bias = (weights[f"layers.0.{name}"] for name in old)
    H = len(bias) // 4
    of_window, of_hidden = recurrent.tensor_split([recurrent.shape[1] - H], dim=1)
    cell = {
        "weight_ih": torch.cat([of_point, of_window], dim=1), "weight_hh": of_hidden,
        "bias_ih": bias, "bias_hh": torch.zeros_like(bias),
    }  # fmt: skip
    others = {name: value for name, value in weights.items() if name.removeprefix("layers.0.") not in old}
    return others | {f"layers.0.cell.{name}": value.roll(-H, 0) for name, value in cell.items()}


def save_checkpoint(
    path: Path, model: Any, charset: str, char_counts: list[int], half: bool = False, **training: Any
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
    with atomic_write(path) as file:
        torch.save(content, file)


def load_checkpoint(
    path: Path, device: str | torch.device = "cpu", build: Callable[[dict[str, Any]], nn.Module] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Read a checkpoint. Returns the network, in float32 and ready to use, and the whole content.

    `build` makes the network, without its weights, from the content; by default it is a `Model`. Raises InputError for
    a file that is missing, damaged, or not a checkpoint of this project.
    """
    import torch

    from model import Config, Model

    content = read_checkpoint(path, device)
    try:
        check_content(content)
        if build is None and content.get("task") == "read":
            raise ValueError("it is a reader, not a network that writes")
        with torch.device("meta"):  # shapes without memory
            model = build(content) if build else Model(Config(**content["config"]))
        if content["version"] == 1 and "layers.0.recurrent.weight" in content["weights"]:
            content["weights"] = from_version_1(content["weights"])
            content.pop("optimizer", None)  # it is of the weights as they were
        check_fit(content, model)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path}: its contents do not fit together ({error})") from None
    model.load_state_dict({name: weight.float() for name, weight in content["weights"].items()}, assign=True)
    return model.to(device).eval(), content


def read_checkpoint(path: Path, device: str | torch.device) -> dict[str, Any]:
    """The content of a checkpoint of this version, with its tensors on `device`; nothing else is known of it.

    Raises InputError for a file that is missing, damaged or something else.
    """
    import torch

    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train one with train.py, or name another one")
    with path.open("rb") as file:
        try:
            check_archive(file)
            file.seek(0)
            content = torch.load(file, map_location=device, weights_only=True)
        except Exception as error:  # a damaged file makes zipfile, pickle and PyTorch raise nearly anything
            reason = str(error) if isinstance(error, ValueError | zipfile.BadZipFile) else type(error).__name__
            raise InputError(f"{path}: damaged, or not a checkpoint ({reason})") from None
    if (
        not isinstance(content, dict)
        or type(content.get("version")) is not int
        or content["version"] not in (1, VERSION)
    ):
        raise InputError(f"{path}: not a checkpoint of this version of the project")
    return content


def check_archive(file: IO[bytes]) -> None:
    """Raise ValueError or zipfile.BadZipFile for what is not a .zip as torch.save writes it, or is damaged.

    PyTorch does not compare the checksums of what it reads.
    """
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, as torch.save writes nothing")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its parts overlap")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not fit")
        for name in (entry.filename for entry in entries if entry.filename.lower().endswith("data.pkl")):
            for opcode, argument, _ in pickletools.genops(archive.read(name)):
                if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not PICKLED.fullmatch(str(argument)):
                    raise ValueError("it holds something other than tensors and plain values")


def check_content(content: dict[str, Any]) -> None:
    """Raise ValueError, TypeError or KeyError unless the content has the form of a checkpoint."""
    config, charset, counts = content["config"], content["charset"], content["char_counts"]
    if not isinstance(charset, str) or len(set(charset)) < len(charset):
        raise ValueError("its character set is not one")
    if not isinstance(counts, list) or len(counts) != len(charset):
        raise ValueError("its character counts do not fit its character set")
    if not all(type(count) is int and 0 <= count < 2**63 for count in counts):
        raise ValueError("its character counts are no counts")
    for name, value in config.items():
        if name == "charset":
            if value != charset:
                raise ValueError("it has two different character sets")
            continue
        kind, least, most = CONFIG_BOUNDS[name]
        if type(value) not in (int, kind) or not least <= value <= most:
            raise ValueError(f"{name} is not a number from {least} to {most}")
    task = content.get("task", TASKS[bool(charset)])
    if task not in TASKS or (task == "rand_write") != (charset == ""):
        raise ValueError("its task is unknown, or does not fit its character set")
    for name in ("weights", "raw_weights", "weight_noise"):
        if name == "weights" or name in content:
            check_weights(content[name])
    for name, kind in TRAINING.items():
        if name in content and not isinstance(content[name], kind):
            raise ValueError(f"its {name} is of the wrong type")
    if not all(isinstance(row, dict) for name in ("log", "step_log") for row in content.get(name, [])):
        raise ValueError("its logs are no rows")


def check_weights(weights: dict[str, torch.Tensor]) -> None:
    """Raise ValueError unless all are usable tensors, whole in memory and finite, and the statistics within bounds."""
    import torch

    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ValueError("its weights have no names")
    for name, weight in weights.items():
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point() or not weight.is_contiguous():
            raise ValueError(f"{name} is not a tensor of numbers")
        if not torch.isfinite(weight).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    if "std" in weights and not ((weights["std"] >= MIN_STD) & (weights["std"] <= MAX_STD)).all():
        raise ValueError(f"the standard deviation of its offsets is not from {MIN_STD:g} to {MAX_STD:g}")
    if "mean" in weights and not (weights["mean"].abs() <= MAX_MEAN).all():
        raise ValueError(f"the mean of its offsets is beyond {MAX_MEAN:g}")


def check_fit(content: dict[str, Any], model: Any) -> None:
    """Raise ValueError unless weights and optimizer have the shapes of the `model`, which takes no memory (meta)."""
    weights, expected = content["weights"], model.state_dict()
    if weights.keys() != expected.keys():
        raise ValueError(f"weights are missing or too many: {', '.join(sorted(weights.keys() ^ expected.keys())[:3])}")
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            raise ValueError(f"{name} has the shape {[*weight.shape]}, not {[*expected[name].shape]}")
    if len(content["charset"]) != model.config.num_chars:
        raise ValueError("its character set does not fit its weights")
    if "optimizer" in content:
        groups = content["optimizer"]["param_groups"]  # of the weights and, with weight noise, of their deviations
        shapes = [parameter.shape for parameter in model.parameters()] * len(groups)
        if [number for group in groups for number in group["params"]] != [*range(len(shapes))]:
            raise ValueError("its optimizer is not that of its weights")
        for number, values in content["optimizer"]["state"].items():
            for name, value in values.items():
                shape = {"step": ()}.get(name, shapes[number])
                if value.shape != shape or value.isnan().any() or (name == "step" and value < 0):
                    raise ValueError("the state of its optimizer does not fit its weights")


def to_strokes(points: np.ndarray) -> list[np.ndarray]:
    """Points (T, 3) of offsets and end-of-stroke bits -> strokes, each (n, 2) of positions in whiteboard units."""
    positions = np.cumsum(points[:, :2], axis=0, dtype=np.float64)
    after = np.flatnonzero(points[:, 2] > 0.5) + 1
    return [stroke for stroke in np.split(positions, after) if len(stroke)]


def draw_lines(axes: Axes, lines: list[np.ndarray], titles: list[str] | None = None, width: float = 1.2) -> None:
    """Draw lines of handwriting, points (T, 3) each, left-aligned below each other and at one scale.

    The axes are in whiteboard units with y downwards; `width` is the pen's, in typographic points.
    """
    from matplotlib.collections import LineCollection

    segments, right, top = [], 0.0, 0.0
    for number, points in enumerate(lines):
        strokes = to_strokes(points)
        low, high = (f(np.concatenate(strokes), axis=0) for f in (np.min, np.max))
        if titles:
            axes.text(0, top, titles[number], fontsize=8, color="gray", va="top")
            top += 160
        moved = [stroke - low + [0, top] for stroke in strokes]
        segments += [stroke if len(stroke) > 1 else np.repeat(stroke, 2, axis=0) for stroke in moved]  # dots are lines
        right, top = max(right, high[0] - low[0]), top + max(high[1] - low[1], 200) + 120
    axes.add_collection(LineCollection(segments, colors="black", linewidths=width, capstyle="round", joinstyle="round"))
    axes.set(xlim=(-60, right + 60), ylim=(top - 60, -60), aspect="equal")
    axes.axis("off")


def lines_figure(lines: list[np.ndarray], titles: list[str] | None = None) -> Figure:
    """A figure of `draw_lines`, 400 whiteboard units to the inch: a recorded line would be some 14 inches wide."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    draw_lines(axes, lines, titles)
    figure.set_size_inches(np.ptp(axes.get_xlim()) / 400, np.ptp(axes.get_ylim()) / 400)
    return figure


def draw_attention(axes: Axes, phi: np.ndarray, text: str) -> None:
    """The window over the text, phi (T, U) of (eq. 46), as in the paper's figure 13."""
    axes.imshow(phi.T, aspect="auto", origin="lower", cmap="inferno", interpolation="nearest")
    axes.set_yticks(range(len(text)), list(text.replace(" ", "\u2423")), fontsize=7)
    axes.set(xlabel="point", ylabel="character")


def draw_density(axes: Axes, density: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """The added densities of the next point, (rows, columns) over `extent`, as in the paper's figure 10.

    The colours follow the fourth root, or the dense spots within strokes would hide the rest.
    """
    axes.imshow(density**0.25, extent=extent, cmap="inferno", aspect="equal", interpolation="bilinear")
    axes.axis("off")


def draw_losses(
    axes: Axes,
    log: dict[str, Sequence[float]],
    steps: dict[str, Sequence[float]] | None = None,
    label: str = "loss, nats a line (normalised units)",
) -> None:
    """Training and validation loss by step. The `label` says what the losses are in.

    `log` has the columns of a log by epoch; those of one by step, if there are any, are the training loss in its place.
    """
    training = steps or log
    axes.plot(training["step"], training["train_loss"], ".-" if steps else "o-", markersize=3, label="training")
    if log:
        axes.plot(log["step"], log["validation_loss"], "o-", markersize=3, label="validation")
    axes.set(xlabel="step", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as the ending of `path` says; the same figure gives the same bytes.

    Very large figures get fewer pixels to the inch: at most 60,000 along a side and 50 million in all.
    """
    from matplotlib import rc_context

    width, height = figure.get_size_inches()
    dpi = min(150, 60_000 / max(width, height), (5e7 / (width * height)) ** 0.5)
    kind = path.suffix.lower().lstrip(".")
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with atomic_write(path) as file, rc_context({"svg.hashsalt": "ink"}):
        figure.savefig(file, format=kind, dpi=dpi, metadata=dates.get(kind))
