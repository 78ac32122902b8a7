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

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`: Ctrl-C in the seconds of the imports just ends it

import argparse
import contextlib
import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from handwriting.data.dataset import Dataset, load_dataset
from handwriting.program import InputError, check_writable, run_cli
from handwriting.training.batches import draw_lines, line_weights, make_batches
from handwriting.training.flags import (
    FIXED,
    PRECISIONS,
    SETTINGS,
    choose_device,
    choose_precision,
    choose_processes,
    make_parser,
    parse_flags,
)
from handwriting.training.optimisation import WeightAverage, learning_rate, make_optimizer, restore_optimizer
from handwriting.training.processes import Group, NotedSignals, run_lock, start_group, torchrun_group, tune_malloc
from handwriting.training.progress import STEPS_OF_A_ROW, Logs, Progress, Row, Sums
from handwriting.training.tasks import SIZES, Reading, Writing, deepen, make_task
from handwriting.training.weight_noise import WeightNoise
from model import Model
from utils import load_checkpoint, save_checkpoint

KEPT_EPOCHS = 3  # whose checkpoints stay on disk
MAX_SKIPPED = 20  # steps in a row without a finite loss or gradient before a run gives up


class Checkpoint(NamedTuple):
    """A checkpoint that a run goes on from."""

    path: Path
    network: nn.Module
    content: dict[str, Any]


class Losses(nn.Module):
    """A task's `nats` as a forward, which is what DistributedDataParallel calls."""

    def __init__(self, task: Writing | Reading, model: nn.Module):
        super().__init__()
        self.task, self.model = task, model

    def forward(self, *batch: Tensor | None) -> Tensor:
        """The sum of the losses of a batch, in nats."""
        return self.task.nats(self.model, batch)


class Run:
    """One training run: what it works on, and how far it has come. With `share` several processes do one run."""

    def __init__(self, options: argparse.Namespace, dataset: Dataset, resumed: Checkpoint | None):
        self.options, self.device = options, choose_device(options.device)
        self.task = make_task(options.task, dataset, options.timesteps, augment=options.augment)
        for split in ("train", "validation"):
            if not len(dataset.lines(split, self.task.with_text)):
                raise InputError(f"{options.data}: its {split} split holds no line for the task {options.task}")
        self.lines = dataset.lines("train", self.task.with_text)
        self.lengths = self.task.lengths(self.lines)
        self.line_weights = line_weights(dataset.texts[self.lines], options.rare_share)
        self.steps_per_epoch = math.ceil(len(self.lines) / options.batch_size)
        self.fingerprint = dataset.fingerprint()
        self.progress, self.logs = Progress(), Logs()

        torch.manual_seed(options.seed)
        self.model = resumed.network if resumed else self.new_network()
        self.model.to(self.device).train()
        self.model.matmul_dtype = choose_precision(options.precision, self.device)
        options.precision = next(name for name, dtype in PRECISIONS.items() if dtype == self.model.matmul_dtype)
        self.average = WeightAverage(self.model, options.ema) if options.ema else None
        noise = options.weight_noise
        self.noise = WeightNoise(self.model, noise, len(self.lines)) if noise else None
        self.optimizer = make_optimizer(options.optimizer, options.learning_rate, self.model, self.noise)
        if resumed:
            self.restore(resumed)
        self.share(Group())

    def new_network(self) -> nn.Module:
        """The network that the run begins with, untrained or that of --init. Raises InputError if that does not fit."""
        options, path = self.options, self.options.init
        if not path:
            return self.task.new_network(options)
        network, content = load_checkpoint(path)
        if content["task"] != options.task:
            raise InputError(f"--init {path}: is not a network for the task {options.task}")
        if content["charset"] != self.task.charset:
            raise InputError(f"--init {path}: its character set is not that of {options.data}")
        is_deeper = "num_layers" in options.given and options.num_layers > network.config.num_layers
        if is_deeper and isinstance(network, Model):
            network = deepen(network, options.num_layers)
        for name in SIZES:
            size = getattr(network.config, name, getattr(options, name))
            if name in options.given and size != getattr(options, name):
                raise InputError(f"--{name}: the network of --init {path} has {size}; leave it out")
            setattr(options, name, size)
        return network

    def share(self, group: Group) -> None:
        """Divide the work among the processes of the group, each of which has made the same run."""
        group.connect()
        self.group, self.losses = group, group.wrap(Losses(self.task, self.model))
        if group.size > 1:  # the first backward settles the order of its sums, which must not change after it
            batch = self.task.batch(self.lines[:1], self.device, (0,))
            (0 * self.losses(*batch)).backward()

    # ------------------------------------------------------------------------------------------------------ checkpoints

    @property
    def network(self) -> nn.Module:
        """The network that is evaluated, drawn with and kept: with the averaged weights if there is an average."""
        return self.average.model if self.average else self.model

    def path(self, name: str, suffix: str = ".pt") -> Path:
        """Where the run's file of that name is."""
        return self.options.model_dir / f"{self.options.task}_{name}{suffix}"

    def save(self, name: str) -> None:
        """Write a checkpoint that the run can be resumed from.

        Its network is the one that is evaluated. If its weights are the averaged ones, those of the run stand beside.
        """
        regularised = {"raw_weights": self.model.state_dict()} if self.average else {}
        if self.noise:
            regularised["weight_noise"] = self.noise.state_dict()
        save_checkpoint(
            self.path(name), self.network, self.task.charset, self.task.char_counts, task=self.options.task,
            settings={name: getattr(self.options, name) for name in SETTINGS}, fingerprint=self.fingerprint,
            progress=self.progress.state(), log=self.logs.epochs, step_log=self.logs.steps,
            optimizer=self.optimizer.state_dict(), **regularised,
        )  # fmt: skip

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Raises InputError if it was made with other data, or does not fit together."""
        content = checkpoint.content
        if content["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self.options.data}: not the data that the run in {self.options.model_dir} was begun with"
            )
        try:
            if self.average:  # a checkpoint's network has the averaged weights
                self.model.load_state_dict(content["raw_weights"])
            if self.noise:
                self.noise.load_state_dict(content["weight_noise"])
            restore_optimizer(self.optimizer, content["optimizer"])
            self.progress = Progress.from_state(content["progress"])
            if self.progress.step != self.progress.epoch * self.steps_per_epoch + self.progress.batch:
                raise ValueError("its steps are not those of its epochs")
            self.logs = Logs.from_rows(content["log"], content["step_log"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"{checkpoint.path}: its contents do not fit together ({error})") from None
        self.progress.best = self.best_on_disk()

    def best_on_disk(self) -> float:
        """The score of the best checkpoint that is there; infinite if there is none for this data."""
        if not self.path("best").is_file():
            return math.inf
        _, content = load_checkpoint(self.path("best"))
        return content["progress"]["best"] if content.get("fingerprint") == self.fingerprint else math.inf

    def write_checkpoints(self, is_best: bool) -> None:
        """Write the checkpoint of the epoch that has ended, and the best network; delete what they replace."""
        if is_best:
            self.save("best")  # before the epoch's own: whoever resumes from that can rely on it
        self.save(f"epoch_{self.progress.epoch}")
        for path in epoch_checkpoints(self.options.model_dir, self.options.task)[:-KEPT_EPOCHS]:
            path.unlink(missing_ok=True)
        self.path("interrupted").unlink(missing_ok=True)
        self.path("samples_interrupted", ".png").unlink(missing_ok=True)

    # --------------------------------------------------------------------------------------------------------- the loop

    def fit(self) -> None:
        """Train until the last epoch, a limit, or a signal to any process."""
        options, progress, group = self.options, self.progress, self.group
        tune_malloc()
        deadline = time.perf_counter() + 60 * (options.max_minutes or math.inf)
        with NotedSignals(group) as signals, self.progress_bar() as bar:
            if group.rank == 0:
                self.write_logs()  # a run that was killed may have written a checkpoint and not its row
            while progress.epoch < options.num_epochs:
                bar.set_description(f"epoch {progress.epoch + 1}")
                for batch in self.epoch_batches()[progress.batch :]:
                    is_over = time.perf_counter() > deadline or progress.step >= (options.max_steps or math.inf)
                    if group.any(signals.count > 0 or is_over):
                        break
                    self.show_step(bar, self.train_step(batch))
                if progress.batch < self.steps_per_epoch or group.any(signals.count > 0):
                    bar.close()
                    return self.stop()
                self.finish_epoch(signals)
        self.tell_best()

    def epoch_batches(self) -> list[np.ndarray]:
        """The batches of the epoch in progress, which follow from seed and epoch: numbers of lines, (B,) each."""
        rng = np.random.default_rng([self.options.seed, self.progress.epoch])
        drawn = draw_lines(self.line_weights, rng)
        batches = make_batches(self.lengths[drawn], self.options.batch_size, rng)
        return [self.lines[drawn[batch]] for batch in batches]

    def train_step(self, batch: np.ndarray) -> Sums:
        """Learn from one batch of lines (B,), sorted by length, with the other processes. Returns the step's figures.

        Raises InputError after too many steps in a row whose loss or gradient is not finite.
        """
        progress, started = self.progress, time.perf_counter()
        step = self.compute_gradient(batch)
        is_finite = math.isfinite(step.nats) and math.isfinite(step.norm)
        if is_finite:
            self.optimizer.step()
            if self.average:
                self.average.update(self.model, progress.step)
        step.seconds = time.perf_counter() - started
        progress.count(step, is_finite)
        if progress.step % STEPS_OF_A_ROW == 0:
            self.logs.steps.append(self.step_row())
            progress.row_sums = Sums()
        if progress.skipped_in_row == MAX_SKIPPED:
            raise InputError(
                f"{MAX_SKIPPED} steps in a row had a loss or gradient that is not finite, the last at step "
                f"{progress.step}; --resume, or begin again, with a lower --learning_rate"
            )
        return step

    def compute_gradient(self, batch: np.ndarray) -> Sums:
        """Give the parameters the gradient of the mean loss of all processes' lines, and the optimiser its step size.

        Random numbers follow from the run's seed and the step: those of a line also from its number, those of dropout
        from the process, those of weight noise from nothing else, so that all processes have the same weights.
        """
        options, group, step = self.options, self.group, self.progress.step
        rate = learning_rate(options, step, self.steps_per_epoch)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate * parameters["rate"]
        torch.manual_seed(random_seed(options.seed, step, group.rank))
        own = group.part(batch)
        counts = len(own) > 0
        inputs = self.task.batch(own if counts else batch[:1], self.device, (options.seed, step))  # one at least
        self.optimizer.zero_grad(set_to_none=True)
        if self.noise:
            self.noise.draw(random_seed(options.seed, step, 0, 1))
        nats = self.losses(*inputs) * counts
        (nats * group.size / len(batch)).backward()  # the mean over processes is the gradient of the batch's mean
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.grad_clip or math.inf).item()
        if self.noise:
            self.noise.restore()
        nats, units = group.sums(nats.item(), self.task.units(inputs) * counts)
        return Sums(nats, units, len(batch), norm, steps=1)

    def evaluate(self, signals: NotedSignals) -> Row:
        """The figures of the network on the validation split.

        Evaluating takes minutes: a second Ctrl-C ends it. The run is saved then, and goes on with the evaluation.
        """
        try:
            with signals.ending_work():
                return self.task.evaluate(self.network, self.group)
        except KeyboardInterrupt:  # in process 0, which ends the others
            self.save("interrupted")
            self.write_logs()
            print("stopped in an evaluation; go on with --resume")
            raise

    def finish_epoch(self, signals: NotedSignals) -> None:
        """Evaluate the network, log, and write the checkpoints of the epoch that has ended."""
        progress, started = self.progress, time.perf_counter()
        found = self.evaluate(signals)
        progress.seconds += time.perf_counter() - started
        progress.epoch += 1
        progress.batch = 0
        row = self.epoch_row(found)
        self.logs.epochs.append(row)
        progress.epoch_sums = Sums()
        score = self.task.score(found)
        is_best = math.isfinite(score) and score <= progress.best  # of equal ones the last
        if is_best:
            progress.best = score
        if self.group.rank > 0:
            return
        self.write_checkpoints(is_best)
        self.tell_epoch(row)
        self.write_logs()
        every = self.options.sample_every
        if every and (progress.epoch % every == 0 or progress.epoch == self.options.num_epochs):
            self.task.draw_samples(self.network, self.path(f"samples_epoch_{progress.epoch}", ".png"))

    def stop(self) -> None:
        """Leave all that going on needs, and what shows how far the network has come. The loss is that of training."""
        if self.group.rank > 0:
            return
        self.save("interrupted")
        self.write_logs()
        path = self.path("samples_interrupted", ".png")
        is_drawn = self.options.sample_every and self.task.draw_samples(self.network, path)
        row, unit = self.logs.steps[-1] if self.logs.steps else self.step_row(), self.task.unit
        print(
            f"stopped at step {self.progress.step} of {self.options.num_epochs * self.steps_per_epoch}; training loss "
            f"by step {row['step']}: {row['train_loss']:.1f} nats a line, {row[f'train_per_{unit}']:.4f} a {unit}; "
            f"{'log, curve and samples' if is_drawn else 'log and curve'} are in {self.options.model_dir}; "
            "go on with --resume"
        )

    # -------------------------------------------------------------------------------------------------- logs and words

    def step_row(self) -> Row:
        """The row of the log by step for the steps since its last one."""
        progress, rate = self.progress, self.optimizer.param_groups[0]["lr"]
        return {"step": progress.step, **progress.row_sums.means(self.task.unit), "learning_rate": rate}

    def epoch_row(self, found: Row) -> Row:
        """The row of the log for the epoch that has ended, with the figures of its evaluation."""
        progress, sums = self.progress, self.progress.epoch_sums
        row = {
            "epoch": progress.epoch, "step": progress.step, "minutes": progress.seconds / 60,
            **sums.means(self.task.unit),
            **{f"validation_{name}": value for name, value in found.items() if name not in ("lines", "points")},
            f"{self.task.unit}s_per_second": sums.units / (sums.seconds or math.nan),
            "learning_rate": self.optimizer.param_groups[0]["lr"], "skipped_steps": progress.skipped,
        }  # fmt: skip
        return row | ({"description_length": self.noise.description_length()} if self.noise else {})

    def write_logs(self) -> None:
        """Write the logs, that by step with the steps since its last row, and the curve."""
        unfinished = [self.step_row()] if self.progress.row_sums.steps else []
        logs = Logs(self.logs.epochs, self.logs.steps + unfinished)
        logs.write(self.options.model_dir / self.options.task, self.task.loss_label)

    def progress_bar(self) -> tqdm:
        """The bar of the run; process 0 shows it. A log file gets a line a minute."""
        is_screen = sys.stderr.isatty()
        where = {"file": sys.stderr, "mininterval": 0.5} if is_screen else {"file": sys.stdout, "mininterval": 60}
        tqdm.set_lock(threading.RLock())  # its own is for processes, and one that is killed leaves a semaphore behind
        total, is_quiet = self.options.num_epochs * self.steps_per_epoch, self.group.rank > 0
        return tqdm(total=total, initial=self.progress.step, unit=" steps", smoothing=0.05, disable=is_quiet, **where)

    def show_step(self, bar: tqdm, step: Sums) -> None:
        """Show the figures of a step, and the speed of the epoch so far."""
        sums, unit = self.progress.epoch_sums, self.task.unit
        bar.set_postfix_str(
            f"loss {step.nats / step.lines:.1f} nats a line, {step.nats / step.units:.3f} a {unit}, gradient "
            f"{step.norm:.0f}, {sums.units / sums.seconds:.0f} {unit}s/s",
            refresh=False,
        )
        bar.update()

    def tell_epoch(self, row: Row) -> None:
        """Print the figures of an epoch."""
        units = f"{self.task.unit}s"
        description = f", weights {row['description_length']:.1f}" if self.noise else ""
        tqdm.write(
            f"epoch {row['epoch']}: training {row['train_loss']:.1f} nats a line{description}, "
            f"validation {self.task.describe(row)}; gradient {row['gradient_norm']:.0f}, "
            f"{row[f'{units}_per_second']:.0f} {units}/s, step {row['step']}, {row['minutes']:.1f} min, "
            f"{row['skipped_steps']} skipped",
            file=sys.stdout,
        )
        sys.stdout.flush()

    def tell_best(self) -> None:
        """Print what the best network is, and where."""
        best = self.path("best")
        if math.isfinite(self.progress.best) and best.is_file():
            print(f"done: {self.task.describe_best(self.progress.best)}, in {best}")
        else:
            reason = "no validation figure was finite (try a lower --learning_rate), or it was deleted"
            print(f"done, without {best}: {reason}")


def random_seed(*numbers: int) -> int:
    """A seed that follows from some numbers."""
    return int(np.random.default_rng(numbers).integers(2**62))


def epoch_checkpoints(folder: Path, task: str) -> list[Path]:
    """Checkpoints of a run's epochs, oldest first."""
    numbers = {path: path.stem.removeprefix(f"{task}_epoch_") for path in folder.glob(f"{task}_epoch_*.pt")}
    return sorted((path for path, number in numbers.items() if number.isdigit()), key=lambda path: int(numbers[path]))


def newest_checkpoints(folder: Path, task: str) -> list[Path]:
    """Where a run can be resumed: the last epoch's checkpoint, and that of an interrupted epoch."""
    return epoch_checkpoints(folder, task)[-1:] + list(folder.glob(f"{task}_interrupted.pt"))


def holds_run(content: dict[str, Any]) -> bool:
    """Whether a checkpoint's content has the parts of a run of this version; `Run.restore` finds out if they fit."""
    parts = {"settings": dict, "progress": dict, "log": list, "step_log": list, "optimizer": dict, "fingerprint": str}
    has_parts = all(isinstance(content.get(name), kind) for name, kind in parts.items())
    return (
        has_parts and content["settings"].keys() >= set(SETTINGS) and isinstance(content["progress"].get("step"), int)
    )


def newest_checkpoint(folder: Path, task: str) -> Checkpoint:
    """The checkpoint of the run in `folder` that has come furthest. Raises InputError if there is none."""
    paths = newest_checkpoints(folder, task)
    if not paths:
        raise InputError(f"{folder}: no run of {task} to resume there; leave --resume out to begin one")
    found = [Checkpoint(path, *load_checkpoint(path)) for path in paths]
    for path, _, content in found:
        if not holds_run(content):
            raise InputError(f"{path}: holds no run of this version; weights alone can be the --init of a new one")
    return max(found, key=lambda checkpoint: checkpoint.content["progress"]["step"])


def print_evaluation(path: Path, options: argparse.Namespace) -> None:
    """Print a checkpoint's figures on the validation split."""
    model, content = load_checkpoint(path, choose_device(options.device))
    model.matmul_dtype = choose_precision(options.precision, next(model.parameters()).device)
    dataset = load_dataset(options.data)
    unknown = set("".join(dataset.texts)) - set(content["charset"])
    if content["charset"] and unknown:
        raise InputError(f"{options.data}: has characters that {path} does not know: {' '.join(sorted(unknown))}")
    task = make_task(content["task"], dataset, charset=content["charset"])
    if not len(dataset.lines("validation", task.with_text)):
        raise InputError(f"{options.data}: its validation split holds no line for {path}")
    print(f"{path} on the validation split of {options.data} ({dataset.rests}):")
    print(task.table(model, task.evaluate(model)))


def settle(arguments: list[str], group: Group | None) -> tuple[argparse.Namespace, Checkpoint | None]:
    """The settings of a run, and the checkpoint that it goes on from with --resume, else None. Raises InputError."""
    options, resumed = parse_flags(arguments), None
    if options.resume and options.init:
        raise InputError("--init begins a new run and --resume goes on with one; leave one of them out")
    if options.resume:
        resumed = newest_checkpoint(options.model_dir, options.task)
        saved, step = resumed.content["settings"], resumed.content["progress"]["step"]
        try:
            options = parse_flags(arguments, saved)
        except InputError as error:  # the arguments have been parsed before
            raise InputError(f"{resumed.path}: its settings cannot be used ({error})") from None
        for name in FIXED:
            if getattr(options, name) != saved[name]:
                raise InputError(f"--{name}: cannot change within a run; that in {options.model_dir} has {saved[name]}")
        if options.max_steps and options.max_steps <= step:
            raise InputError(f"--max_steps: the run is at step {step} already; give a higher one")
    elif newest_checkpoints(options.model_dir, options.task):
        raise InputError(
            f"{options.model_dir}: holds a run of {options.task} already; --resume it, or choose another --model_dir"
        )
    options.processes = choose_processes(options) if group is None else group.size
    gpus = torch.cuda.device_count() if choose_device(options.device).type == "cuda" else options.processes
    if options.processes > gpus:
        raise InputError(
            f"--processes {options.processes}: more than the {gpus} GPUs here; give fewer, or --device cpu"
        )
    if options.processes > options.batch_size:
        raise InputError(f"--processes {options.processes}: more than the {options.batch_size} lines of a batch")
    return options, resumed


def make_run(arguments: list[str], group: Group | None) -> Run:
    """The run that the flags describe, ready to be trained."""
    options, resumed = settle(arguments, group)
    dataset = load_dataset(options.data)
    try:
        run = Run(options, dataset, resumed)
    except RuntimeError as error:
        raise InputError(f"a network of these sizes cannot be made here ({str(error).splitlines()[0]})") from None
    check_writable(run.path("log", ".csv"))  # now, not after an epoch
    options.model_dir.mkdir(parents=True, exist_ok=True)
    tell_start(run, dataset, resumed)
    return run


def start_run(arguments: list[str], group: Group | None = None) -> None:
    """Begin or resume the run that the flags describe, in the processes of the group or in those that they ask for."""
    options = parse_flags(arguments)
    folder, task, is_first = options.model_dir, options.task, group is None or group.rank == 0
    is_new = not folder.is_dir()  # a new folder is made when all else is known to be right
    with contextlib.ExitStack() as stack:
        if is_first and not is_new:
            stack.enter_context(run_lock(folder, task))
        run = make_run(arguments, group)
        if is_first and is_new:
            stack.enter_context(run_lock(folder, task))
            if newest_checkpoints(folder, task):
                raise InputError(f"{folder}: another run of {task} was quicker; choose another --model_dir")
        if group is None and run.options.processes > 1:
            group = stack.enter_context(start_group(run.options.processes, start_run, arguments))
        run.share(group or Group())
        run.fit()
        run.group.any(False)  # leave together: one that has ended shows no sign of life


def tell_start(run: Run, dataset: Dataset, resumed: Checkpoint | None) -> None:
    """Print what a run is, and what is other than before it was resumed."""
    options = run.options
    for name in ("processes", "precision"):
        if resumed and getattr(options, name) != resumed.content["settings"][name]:
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


def export_weights(path: Path, options: argparse.Namespace) -> None:
    """Write the weights of the run's best network, or of --init, in half precision and without all that is training."""
    network, content = load_checkpoint(options.init or options.model_dir / f"{options.task}_best.pt")
    save_checkpoint(path, network, content["charset"], content["char_counts"], half=True, task=content["task"])
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = make_parser().parse_args(arguments)
    in_torchrun = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if (options.evaluate or options.export) and in_torchrun and int(os.environ["RANK"]):
        return  # the first of torchrun's processes does it
    if options.evaluate:
        print_evaluation(options.evaluate, options)
    elif options.export:
        export_weights(options.export, options)
    elif in_torchrun:
        with torchrun_group() as group:
            start_run(arguments, group)
    else:
        start_run(arguments)


if __name__ == "__main__":
    run_cli(main)
