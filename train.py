"""Train a network, or evaluate one.

    python train.py --task rand_write
    python train.py --task synthesis
    python train.py --task read
    python train.py --evaluate save/synthesis_best.pt
    torchrun --nproc_per_node 4 train.py --task synthesis

Losses are in nats (eq. 26). A figure for a line is the mean over lines of the sum over a line's points, as in the
paper's tables 2 and 3; in normalised units it depends on the mean and deviation that the offsets are normalised by.

A run has one process or several (processes.py). Each takes every n-th line of a batch, and lines of a batch are sorted
by length, so that all have equal work; the gradient is that of the whole batch. The batches of an evaluation are dealt
out likewise. Sums of every step go to all processes, so that all skip the same steps and stop at the same one.
"""

import argparse
import contextlib
import csv
import ctypes
import io
import math
import os
import platform
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from data_preprocessing import Dataset, load_dataset
from processes import Group, start_group, torchrun_group
from tasks import SIZES, Reading, Writing, load_network, make_batches, make_task
from utils import TASKS, InputError, atomic_write, draw_losses, run_cli, save_checkpoint, save_figure

STEPS_OF_A_ROW = 10  # steps that a row of the log by step is the mean of
KEPT = 3  # checkpoints of epochs that stay on disk
MOST_REPEATED = 8  # times that a line with a rare character is seen where another one is seen once
MOST_SKIPPED = 20  # steps in a row without a finite loss or gradient before a run gives up

# Settings that shape a run: a checkpoint carries them, and --resume takes them up again. The fixed ones cannot change.
FIXED = (*SIZES, "batch_size", "timesteps", "optimizer", "seed")
SETTINGS = (
    *FIXED, "num_epochs", "learning_rate", "decay_rate", "anneal", "warmup", "grad_clip", "rare_share", "precision",
    "processes", "sample_every",
)  # fmt: skip
LINES_OF_A_PROCESS = 8  # of a batch, at least, with --processes auto
DEFAULTS = {  # of flags, where a task has other ones
    "read": {
        "num_layers": 3, "cell_size": 144, "batch_size": 32, "num_epochs": 20, "warmup": 200,
        "grad_clip": 100.0, "rare_share": 0.03,
    },
}  # fmt: skip


def line_weights(texts: np.ndarray, rare_share: float) -> np.ndarray:
    """How often each line is seen beside a line of common characters alone, (N,), for texts (N,).

    A line with a character that is on fewer than `rare_share` of the lines is seen as often as if that character was on
    this share of them, but at most `MOST_REPEATED` times as often. Its rarest character counts.
    """
    lines_with = Counter(character for text in texts for character in set(text))
    wanted = rare_share * len(texts)
    return np.array(
        [min(max([1.0, *(wanted / lines_with[c] for c in set(text))]), MOST_REPEATED) for text in texts.tolist()]
    )


def draw_lines(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places of N lines for an epoch, (N,), for weights (N,): each as often as its weight asks, rounded up or down."""
    ends = np.cumsum(weights) / weights.sum() * len(weights)
    return np.searchsorted(ends, np.arange(len(weights)) + rng.uniform(), side="right").clip(max=len(weights) - 1)


class GravesRMSprop(torch.optim.Optimizer):
    """RMSprop as in the paper (eq. 38-45): gradient centred, 1e-4 inside the root, momentum 0.9.

    torch.optim.RMSprop adds its epsilon outside of the root, which is not the same step.
    """

    def __init__(self, parameters, lr: float = 1e-4):
        super().__init__(parameters, {"lr": lr, "decay": 0.95, "momentum": 0.9, "epsilon": 1e-4})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step. Takes no closure."""
        for group in self.param_groups:
            decay = group["decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, gradient = self.state[parameter], parameter.grad
                if not state:
                    state.update({name: torch.zeros_like(parameter) for name in ("n", "g", "delta")})
                n, g, delta = state["n"], state["g"], state["delta"]
                n.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)  # (eq. 38)
                g.mul_(decay).add_(gradient, alpha=1 - decay)  # (eq. 39)
                root = (n - g.square()).clamp_(min=0).add_(group["epsilon"]).sqrt_()  # rounding may leave n < g^2
                delta.mul_(group["momentum"]).addcdiv_(gradient, root, value=-group["lr"])  # (eq. 40)
                parameter.add_(delta)  # (eq. 41)


def learning_rate(options: argparse.Namespace, step: int, steps_per_epoch: int) -> float:
    """Step size of step number `step` (from 0): warm-up, then constant, per-epoch decay, or a cosine to zero."""
    rate = options.learning_rate * min(1.0, (step + 1) / (options.warmup + 1))
    if options.anneal == "epoch":
        rate *= options.decay_rate ** (step // steps_per_epoch)
    elif options.anneal == "cosine":
        rate *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / (options.num_epochs * steps_per_epoch)))
    return rate


def choose_device(name: str) -> torch.device:
    """The device by its name; `auto` is the GPU if PyTorch sees one."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"--device {name}: cannot be used ({str(error).splitlines()[0]})") from None
    return device


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of the large products; `auto` is bfloat16 where the hardware multiplies it."""
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
            fast = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)
        name = "bf16" if fast else "fp32"
    return PRECISIONS[name]


def choose_processes(options: argparse.Namespace) -> int:
    """The number of processes by its name; `auto` is one for each thread that PyTorch would use, and 1 on a GPU."""
    if options.processes != "auto":
        return options.processes
    if choose_device(options.device).type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), options.batch_size // LINES_OF_A_PROCESS))


def tune_malloc() -> None:
    """Have the C library keep the memory that a step frees for the next one, instead of giving it back.

    The kernel clears every page that it gives anew, which took up to a third of a step's time. For glibc, by its
    mallopt(3), and for pieces of up to 32 MiB, the most it takes; other libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def no_steps() -> dict[str, float]:
    """Sums over steps, of none yet: nats, units (points, or characters), lines, gradient norms, steps, seconds."""
    return {"nats": 0.0, "units": 0, "lines": 0, "norm": 0.0, "steps": 0, "seconds": 0.0}


def means(sums: dict[str, float], unit: str) -> dict[str, float]:
    """Losses in nats a line and a unit, and the gradient's norm, from sums over steps; NaN if they are of none."""
    lines, units, steps = (sums[name] or math.nan for name in ("lines", "units", "steps"))
    return {
        "train_loss": sums["nats"] / lines,
        f"train_per_{unit}": sums["nats"] / units,
        "gradient_norm": sums["norm"] / steps,
    }


def columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """The columns of rows of numbers; none without rows."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows of numbers as a .csv file, whole or not at all. No rows, no file."""
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())


class Losses(nn.Module):
    """A task's `nats` as a forward, which is what DistributedDataParallel calls."""

    def __init__(self, task: Writing | Reading, model: nn.Module):
        super().__init__()
        self.task, self.model = task, model

    def forward(self, *batch: Tensor | None) -> Tensor:
        """The sum of the losses of a batch, in nats."""
        return self.task.nats(self.model, batch)


class Run:
    """One training run: what it works on, and how far it has come. With `share` several processes do one run.

    `log` and `step_log` are the rows of the two logs. `progress` is saved as it is: epochs that have ended, batches and
    `sums` of the one going on, `recent` sums of the step log's next row, steps and seconds of the run, its best
    validation loss, and steps that were not finite, in all (`skipped`) and just now (`in_row`).
    """

    def __init__(self, options: argparse.Namespace, dataset: Dataset, resumed: tuple[nn.Module, dict] | None):
        self.options, self.dataset = options, dataset
        self.device = choose_device(options.device)
        self.task = make_task(options.task, dataset, options.timesteps)
        self.lines = dataset.lines("train", self.task.with_text)
        for split in ("train", "validation"):
            if not len(dataset.lines(split, self.task.with_text)):
                raise InputError(f"{options.data}: its {split} split holds no line for the task {options.task}")
        self.fingerprint = dataset.fingerprint()
        self.lengths = self.task.lengths(self.lines)
        self.weights = line_weights(dataset.texts[self.lines], options.rare_share)
        self.steps_per_epoch = math.ceil(len(self.lines) / options.batch_size)
        self.log: list[dict[str, float]] = []
        self.step_log: list[dict[str, float]] = []
        self.progress = {
            "epoch": 0, "batch": 0, "step": 0, "seconds": 0.0, "best": math.inf, "skipped": 0, "in_row": 0,
            "sums": no_steps(), "recent": no_steps(),
        }  # fmt: skip

        torch.manual_seed(options.seed)
        if resumed is not None:
            self.model = resumed[0]
        elif options.init:
            self.model = self.initial_model(options.init)
        else:
            self.model = self.task.new_network(options)
        self.model.to(self.device).train()
        self.model.matmul_dtype = choose_precision(options.precision, self.device)
        options.precision = next(name for name, dtype in PRECISIONS.items() if dtype == self.model.matmul_dtype)
        optimizers = {"adam": torch.optim.Adam, "rmsprop": GravesRMSprop}
        self.optimizer = optimizers[options.optimizer](self.model.parameters(), lr=options.learning_rate)
        if resumed is not None:
            self.restore(resumed[1])
        self.share(Group())

    def share(self, group: Group) -> None:
        """Divide the work among the processes of the group, each of which has made the same run."""
        group.connect()
        self.group, self.losses = group, group.wrap(Losses(self.task, self.model))
        if group.size > 1:  # the first backward settles the order of its sums, which must not change after it
            batch = self.task.batch(self.lines[:1], self.device)
            (0 * self.losses(*batch)).backward()

    def initial_model(self, path: Path) -> nn.Module:
        """The network in a checkpoint, with its statistics, for a new run. Raises InputError if it does not fit."""
        model, content = load_network(path)
        if task_of(content) != self.options.task:
            raise InputError(f"--init {path}: is not a network for the task {self.options.task}")
        if content["charset"] != self.task.charset:
            raise InputError(f"--init {path}: its character set is not that of {self.options.data}")
        for name in SIZES:
            setattr(self.options, name, getattr(model.config, name, getattr(self.options, name)))
        return model

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint's content."""
        if content["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self.options.data}: not the data that the run in {self.options.model_dir} was begun with"
            )
        self.optimizer.load_state_dict(content["optimizer"])
        self.progress, self.log, self.step_log = content["progress"], content["log"], content["step_log"]
        self.progress["best"] = self.best_on_disk()

    def path(self, name: str) -> Path:
        """Where the run's checkpoint of that name is."""
        return self.options.model_dir / f"{self.options.task}_{name}.pt"

    def best_on_disk(self) -> float:
        """The validation loss of the best checkpoint that is there; infinite if there is none for this data."""
        if not self.path("best").is_file():
            return math.inf
        _, content = load_network(self.path("best"))
        return content["progress"]["best"] if content.get("fingerprint") == self.fingerprint else math.inf

    def save(self, name: str) -> None:
        """Write a checkpoint that the run can be resumed from."""
        options = self.options
        save_checkpoint(
            self.path(name), self.model, self.task.charset, self.task.char_counts,
            task=options.task, settings={name: getattr(options, name) for name in SETTINGS}, log=self.log,
            step_log=self.step_log, progress=self.progress, fingerprint=self.fingerprint,
            optimizer=self.optimizer.state_dict(),
        )  # fmt: skip

    def train_step(self, batch: np.ndarray) -> tuple[float, float, float]:
        """Learn from one batch of lines, sorted by length, with the other processes.

        Returns its loss in nats a line and a unit, and its gradient's norm (nats a line). Random numbers follow from
        the run's seed, the step and the process.
        """
        options, progress, group = self.options, self.progress, self.group
        rng = np.random.default_rng([options.seed, progress["step"], group.rank])
        torch.manual_seed(int(rng.integers(2**62)))
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(options, progress["step"], self.steps_per_epoch)
        part = group.part(batch)
        lines = part if len(part) else batch[:1]  # a process without a line takes one that does not count
        inputs = self.task.batch(lines, self.device, rng)
        self.optimizer.zero_grad(set_to_none=True)
        nats = self.losses(*inputs) * (len(part) > 0)
        (nats * group.size / len(batch)).backward()  # the mean over processes is the gradient of the batch's mean
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), options.grad_clip or math.inf).item()
        nats, units = group.sums(nats.item(), self.task.units(inputs) * (len(part) > 0))
        progress["step"] += 1
        if math.isfinite(nats) and math.isfinite(norm):
            self.optimizer.step()
            added = {"nats": nats, "units": units, "lines": len(batch), "norm": norm, "steps": 1}
            for name, value in added.items():
                progress["sums"][name] += value
                progress["recent"][name] += value
            progress["in_row"] = 0
        else:
            progress["skipped"] += 1
            progress["in_row"] += 1
        if progress["step"] % STEPS_OF_A_ROW == 0:
            self.step_log.append(self.step_row())
            progress["recent"] = no_steps()
        return nats / len(batch), nats / units, norm

    def step_row(self) -> dict[str, float]:
        """The row of the step log for the steps since the last one."""
        rate = self.optimizer.param_groups[0]["lr"]
        return {"step": self.progress["step"], **means(self.progress["recent"], self.task.unit), "learning_rate": rate}

    def train_epoch(self, bar: tqdm, should_stop: Callable[[], bool]) -> None:
        """Go through the rest of the epoch in progress, or until told to stop."""
        progress, options = self.progress, self.options
        rng = np.random.default_rng([options.seed, progress["epoch"]])  # the order follows from seed and epoch
        drawn = draw_lines(self.weights, rng)
        batches = [drawn[batch] for batch in make_batches(self.lengths[drawn], options.batch_size, rng)]
        while progress["batch"] < len(batches) and not self.group.any(should_stop()):
            started = time.perf_counter()
            loss, per_unit, norm = self.train_step(self.lines[batches[progress["batch"]]])
            progress["batch"] += 1
            if progress["in_row"] == MOST_SKIPPED:
                raise InputError(
                    f"{MOST_SKIPPED} steps in a row had a loss or gradient that is not finite, the last at step "
                    f"{progress['step']}; --resume, or begin again, with a lower --learning_rate"
                )
            sums, seconds = progress["sums"], time.perf_counter() - started
            sums["seconds"] += seconds
            progress["seconds"] += seconds
            unit = self.task.unit
            pace = f"{sums['units'] / sums['seconds']:.0f} {unit}s/s"
            bar.set_postfix_str(
                f"loss {loss:.1f} nats a line, {per_unit:.3f} a {unit}, gradient {norm:.0f}, {pace}", refresh=False
            )
            bar.update()

    def finish_epoch(self) -> None:
        """Evaluate the network, log, and write the checkpoints of the epoch that has ended."""
        progress, sums = self.progress, self.progress["sums"]
        started = time.perf_counter()
        found = self.task.evaluate(self.model, self.group)
        progress["seconds"] += time.perf_counter() - started
        progress["epoch"] += 1
        progress["batch"] = 0
        row = {
            "epoch": progress["epoch"], "step": progress["step"], "minutes": progress["seconds"] / 60,
            **means(sums, self.task.unit),
            **{f"validation_{name}": value for name, value in found.items() if name not in ("lines", "points")},
            f"{self.task.unit}s_per_second": sums["units"] / (sums["seconds"] or math.nan),
            "learning_rate": self.optimizer.param_groups[0]["lr"], "skipped_steps": progress["skipped"],
        }  # fmt: skip
        self.log.append(row)
        progress["sums"] = no_steps()
        is_best = found["loss"] < progress["best"]  # False for NaN
        if is_best:
            progress["best"] = found["loss"]
        if self.group.rank > 0:
            return
        self.write_checkpoints(is_best)
        self.report_epoch()
        self.write_logs()
        every = self.options.sample_every
        if every and (row["epoch"] % every == 0 or row["epoch"] == self.options.num_epochs):
            self.task.draw_samples(self.model, self.path(f"samples_epoch_{row['epoch']}").with_suffix(".png"))

    def write_checkpoints(self, is_best: bool) -> None:
        """Write the checkpoint of the epoch that has ended, and the best network; delete what they replace."""
        folder, task = self.options.model_dir, self.options.task
        if is_best:
            self.save("best")  # before the epoch's own: whoever resumes from that can rely on it
        self.save(f"epoch_{self.progress['epoch']}")
        for path in epoch_checkpoints(folder, task)[:-KEPT]:
            path.unlink(missing_ok=True)
        self.path("interrupted").unlink(missing_ok=True)
        self.path("samples_interrupted").with_suffix(".png").unlink(missing_ok=True)

    def report_epoch(self) -> None:
        """Print the last epoch's figures."""
        row, units = self.log[-1], f"{self.task.unit}s"
        tqdm.write(
            f"epoch {row['epoch']}: training {row['train_loss']:.1f} nats a line, "
            f"validation {self.task.describe(row)}; gradient {row['gradient_norm']:.0f}, "
            f"{row[f'{units}_per_second']:.0f} {units}/s, step {row['step']}, {row['minutes']:.1f} min, "
            f"{row['skipped_steps']} skipped",
            file=sys.stdout,
        )
        sys.stdout.flush()

    def write_logs(self) -> None:
        """Write the logs by epoch and by step, the latter with the steps since its last row, and draw the curve."""
        stem = self.options.model_dir / self.options.task
        steps = self.step_log + [self.step_row()] * (self.progress["recent"]["steps"] > 0)
        write_rows(Path(f"{stem}_log.csv"), self.log)
        write_rows(Path(f"{stem}_steps.csv"), steps)
        if self.log or steps:
            figure = Figure(figsize=(7, 4.5), layout="constrained")
            draw_losses(figure.subplots(), columns(self.log), columns(steps))
            save_figure(figure, Path(f"{stem}_loss.png"))

    def fit(self) -> None:
        """Train until the last epoch, a limit, or a signal to any process."""
        options, progress, group = self.options, self.progress, self.group
        deadline = time.perf_counter() + 60 * (options.max_minutes or math.inf)
        most_steps = options.max_steps or math.inf
        tune_malloc()
        total = options.num_epochs * self.steps_per_epoch
        with noted_signals(group) as signals, progress_bar(group, total, progress["step"]) as bar:

            def should_stop() -> bool:
                return bool(signals) or time.perf_counter() > deadline or progress["step"] >= most_steps

            while progress["epoch"] < options.num_epochs:
                bar.set_description(f"epoch {progress['epoch'] + 1}")
                self.train_epoch(bar, should_stop)
                if progress["batch"] < self.steps_per_epoch or group.any(bool(signals)):
                    bar.close()
                    return self.stop(total)
                self.finish_epoch()
        best = self.path("best")
        if math.isfinite(progress["best"]) and best.is_file():
            print(f"done: best validation loss {progress['best']:.1f} nats a line, in {best}")
        else:
            print(
                f"done, without {best}: no validation loss was finite (try a lower --learning_rate), or it was deleted"
            )

    def stop(self, total: int) -> None:
        """Leave all that going on needs, and what shows how far the network has come. The loss is that of training."""
        if self.group.rank > 0:
            return
        self.save("interrupted")
        self.write_logs()
        if self.options.sample_every:
            self.task.draw_samples(self.model, self.path("samples_interrupted").with_suffix(".png"))
        row, unit = self.step_log[-1] if self.step_log else self.step_row(), self.task.unit
        print(
            f"stopped at step {self.progress['step']} of {total}; training loss by step {row['step']}: "
            f"{row['train_loss']:.1f} nats a line, {row[f'train_per_{unit}']:.4f} a {unit}; log, curve and samples are "
            f"in {self.options.model_dir}; go on with --resume"
        )


@contextlib.contextmanager
def noted_signals(group: Group) -> Iterator[list[int]]:
    """While this is open, Ctrl-C and SIGTERM do nothing but add their number to the list."""
    signals: list[int] = []

    def note(number: int, _frame: object) -> None:
        if group.rank == 0:
            os.write(2, b"\nstopping after this step\n")
        signals.append(number)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def progress_bar(group: Group, total: int, step: int) -> tqdm:
    """The bar of a run at `step` of `total` steps; process 0 shows it. A log file gets a line a minute."""
    is_screen = sys.stderr.isatty()
    where = {"file": sys.stderr, "mininterval": 0.5} if is_screen else {"file": sys.stdout, "mininterval": 60}
    tqdm.set_lock(threading.RLock())  # its own is for processes, and one that is killed leaves a semaphore behind
    return tqdm(total=total, initial=step, unit=" steps", smoothing=0.05, disable=group.rank > 0, **where)


def epoch_checkpoints(folder: Path, task: str) -> list[Path]:
    """Checkpoints of a run's epochs, oldest first."""
    numbers = {path: path.stem.removeprefix(f"{task}_epoch_") for path in folder.glob(f"{task}_epoch_*.pt")}
    return sorted((path for path, number in numbers.items() if number.isdigit()), key=lambda path: int(numbers[path]))


def newest_checkpoints(folder: Path, task: str) -> list[Path]:
    """Where a run can be resumed: the last epoch's checkpoint, and that of an interrupted epoch."""
    return epoch_checkpoints(folder, task)[-1:] + list(folder.glob(f"{task}_interrupted.pt"))


def newest_checkpoint(folder: Path, task: str) -> tuple[nn.Module, dict[str, Any]]:
    """The checkpoint of the run in `folder` that has come furthest. Raises InputError if there is none."""
    paths = newest_checkpoints(folder, task)
    if not paths:
        raise InputError(f"{folder}: no run of {task} to resume there; leave --resume out to begin one")
    found = [load_network(path) for path in paths]
    needed = {"task", "settings", "log", "step_log", "progress", "optimizer", "fingerprint"}
    for path, (_, content) in zip(paths, found, strict=True):
        if not needed <= content.keys():
            raise InputError(f"{path}: holds no run of this version; weights alone can be the --init of a new one")
    return max(found, key=lambda pair: pair[1]["progress"]["step"])


def task_of(content: dict[str, Any]) -> str:
    """The task that a checkpoint's network was trained for."""
    return content.get("task", "synthesis" if content["charset"] else "rand_write")


def print_evaluation(path: Path, options: argparse.Namespace) -> None:
    """Print a checkpoint's figures on the validation split."""
    model, content = load_network(path, choose_device(options.device))
    model.matmul_dtype = choose_precision(options.precision, next(model.parameters()).device)
    dataset = load_dataset(options.data)
    task = make_task(task_of(content), dataset, charset=content["charset"])
    unknown = set("".join(dataset.texts)) - set(content["charset"])
    if content["charset"] and unknown:
        raise InputError(f"{options.data}: has characters that {path} does not know: {' '.join(sorted(unknown))}")
    if not len(dataset.lines("validation", task.with_text)):
        raise InputError(f"{options.data}: its validation split holds no line for {path}")
    print(f"{path} on the validation split of {options.data} ({dataset.rests}):")
    print(task.table(model, task.evaluate(model)))


def at_least(least: float, kind: type = int) -> Callable[[str], Any]:
    """A parser of numbers of a kind that are finite and at least `least`."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not least <= value < 2**63:
            raise argparse.ArgumentTypeError(f"must be at least {least:g}, not {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def number_or_auto(text: str) -> int | str:
    """A number of processes, or `auto`."""
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a number from 1, or auto, not {text}")
    return text if text == "auto" else int(text)


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description="Train a network of Graves (2013) on prepared data, or evaluate one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    whole, number = at_least(1), at_least(1e-12, float)
    add = parser.add_argument_group("task and files").add_argument
    add("--task", choices=TASKS, default="rand_write", help="write at random, write a given text, or read ink")
    add("--data", type=Path, default=Path("data/iam-ondb.npz"), help="prepared data, from data_preprocessing.py")
    add("--model_dir", type=Path, default=Path("save"), help="folder for checkpoints, log, curve and samples")
    add("--evaluate", type=Path, metavar="CHECKPOINT", help="print this checkpoint's validation losses, and stop")
    add(
        "--export",
        type=Path,
        metavar="FILE",
        help="write weights alone, in half precision, and stop: the run's best or those of --init",
    )
    add = parser.add_argument_group("network").add_argument
    add("--num_layers", type=whole, default=2, help="LSTM layers; the paper has 3, and 1 with --cell_size 900")
    add("--cell_size", type=whole, default=400, help="cells of a layer")
    add("--num_clusters", type=whole, default=20, help="Gaussians of the mixture for the next point")
    add("--K", type=whole, default=10, help="Gaussians of the window over the text")
    add("--init", type=Path, metavar="CHECKPOINT", help="begin with its weights, sizes and statistics: fine-tuning")
    add = parser.add_argument_group("optimisation").add_argument
    add("--batch_size", type=whole, default=50, help="lines of a step")
    add("--timesteps", type=whole, default=800, help="predictions of a line at most: longer lines are cut for training")
    add("--num_epochs", type=whole, default=50, help="times that every line is seen")
    add("--optimizer", choices=("adam", "rmsprop"), default="adam", help="rmsprop has the paper's settings")
    rates = "step size (default: 8E-4 for adam, 2E-3 for --task read, the paper's 1E-4 for rmsprop)"
    add("--learning_rate", type=number, default=argparse.SUPPRESS, help=rates)
    add("--warmup", type=at_least(0), default=100, help="steps over which the step size grows from nothing")
    kinds = "step size: constant, times --decay_rate after every epoch, or a cosine to zero over --num_epochs"
    add("--anneal", choices=("none", "epoch", "cosine"), default="cosine", help=kinds)
    add("--decay_rate", type=number, default=0.99, help="for --anneal epoch")
    norm = "the gradient's norm (of nats a line) is cut to this; 0: never"
    add("--grad_clip", type=at_least(0, float), default=10_000.0, help=norm)
    rare = (
        "lines with a character that is on fewer than this share of lines are seen more often, as if it was on as many"
    )
    add("--rare_share", type=at_least(0, float), default=0.0, help=rare)
    add("--seed", type=at_least(0), default=0, help="of the first weights and of the order of lines")
    add = parser.add_argument_group("running").add_argument
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    products = "of the large products; auto: bf16 where the hardware multiplies it"
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help=products)
    shared = "that share every batch; auto: one for each core, with 8 lines of a batch at least, and 1 on a GPU"
    add("--processes", type=number_or_auto, default="auto", help=shared)
    going_on = "go on with the run in --model_dir, with its settings but for those given anew"
    add("--resume", action="store_true", help=going_on)
    add("--max_steps", type=whole, help="stop at this step of the run, ready to be resumed")
    add("--max_minutes", type=number, help="stop after this many minutes, ready to be resumed")
    add("--sample_every", type=at_least(0), default=5, help="epochs between pictures of samples; 0: none")
    return parser


def settle(arguments: list[str], group: Group | None) -> tuple[argparse.Namespace, tuple[nn.Module, dict] | None]:
    """The settings of a run, and the checkpoint that it goes on from with --resume, else None. Raises InputError."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    parser.set_defaults(**DEFAULTS.get(options.task, {}))
    options = parser.parse_args(arguments)
    resumed, saved = None, {}
    if options.resume and options.init:
        raise InputError("--init begins a new run and --resume goes on with one; leave one of them out")
    if options.resume:
        resumed = newest_checkpoint(options.model_dir, options.task)
        saved = resumed[1]["settings"]
        parser.set_defaults(**saved)
        options = parser.parse_args(arguments)
        for name in FIXED:
            if getattr(options, name) != saved[name]:
                raise InputError(f"--{name}: cannot change within a run; that in {options.model_dir} has {saved[name]}")
        step = resumed[1]["progress"]["step"]
        if options.max_steps and options.max_steps <= step:
            raise InputError(f"--max_steps: the run is at step {step} already; give a higher one")
    elif newest_checkpoints(options.model_dir, options.task):
        raise InputError(
            f"{options.model_dir}: holds a run of {options.task} already; --resume it, or choose another --model_dir"
        )
    if "learning_rate" not in options:
        adam = 2e-3 if options.task == "read" else 8e-4
        options.learning_rate = {"adam": adam, "rmsprop": 1e-4}[options.optimizer]
    options.processes = choose_processes(options) if group is None else group.size
    gpus = torch.cuda.device_count() if choose_device(options.device).type == "cuda" else options.processes
    if options.processes > gpus:
        raise InputError(
            f"--processes {options.processes}: more than the {gpus} GPUs here; give fewer, or --device cpu"
        )
    if options.processes > options.batch_size:
        raise InputError(f"--processes {options.processes}: more than the {options.batch_size} lines of a batch")
    return options, resumed


def start_run(arguments: list[str], group: Group | None = None) -> None:
    """Begin or resume the run that the flags describe, in the processes of the group or in those that they ask for."""
    options, resumed = settle(arguments, group)
    dataset = load_dataset(options.data)
    try:
        run = Run(options, dataset, resumed)
    except RuntimeError as error:
        raise InputError(f"a network of these sizes cannot be made here ({str(error).splitlines()[0]})") from None
    options.model_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=options.model_dir):  # find out now, not after an epoch, whether it can be written
        pass
    for name in ("processes", "precision"):
        if resumed and getattr(options, name) != resumed[1]["settings"][name]:
            print(f"--{name}: other than before; the run goes on, but not as it would have to the last digit")
    weights = sum(parameter.numel() for parameter in run.model.parameters())
    print(f"settings: {', '.join(f'{name} {getattr(options, name)}' for name in SETTINGS)}")
    print(f"data: {options.data} ({dataset.rests})")
    print(run.task.scale(run.model))
    print(
        f"{options.task}: {weights} weights, {len(run.lines)} lines, {run.steps_per_epoch} steps an epoch, on "
        f"{run.device} with {str(run.model.matmul_dtype).removeprefix('torch.')} products, in {options.processes} "
        f"process{'es' * (options.processes > 1)}"
    )
    sys.stdout.flush()
    if group is None and options.processes > 1:
        with start_group(options.processes, start_run, arguments) as group:
            run.share(group)
            run.fit()
    else:
        run.share(group or Group())
        run.fit()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = make_parser().parse_args(arguments)
    if options.evaluate:
        print_evaluation(options.evaluate, options)
    elif options.export:
        model, content = load_network(options.init or options.model_dir / f"{options.task}_best.pt")
        save_checkpoint(
            options.export, model, content["charset"], content["char_counts"], half=True, task=task_of(content)
        )
        print(f"wrote {options.export} ({options.export.stat().st_size / 1e6:.1f} MB)")
    elif {
        "RANK",
        "WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    } <= os.environ.keys():  # torchrun has started this process and others
        with torchrun_group() as group:
            start_run(arguments, group)
    else:
        start_run(arguments)


if __name__ == "__main__":
    run_cli(main)
