"""One training run: its loop, its checkpoints, its evaluations. `Run.fit` and `Run.step` are the whole of training.

Each of its processes takes every n-th line of a batch, whose lines are sorted by length, so that all have equal work.
Gradients and sums of every step go to all, so that all skip the same steps and stop at the same.
"""

import argparse
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from handwriting.data.dataset import Dataset
from handwriting.figures import save_figure
from handwriting.ink.formats import Ink, save, stack_lines
from handwriting.program import InputError, atomic_write, progress_bar
from handwriting.seeds import derived_seed
from handwriting.training import tasks
from handwriting.training.flags import SETTINGS
from handwriting.training.hardware import PRECISIONS, choose_precision
from handwriting.training.optimisation import GravesRMSprop, learning_rate, moving_average
from handwriting.training.processes import Group, noted_signals, tune_malloc
from handwriting.training.progress import Progress, Row, Sums
from handwriting.training.resume import best_score, check_like, epoch_checkpoints, restore_optimizer, restore_progress
from handwriting.training.weight_noise import WeightNoise
from model import Model
from utils import choose_device, encoder_of, load_checkpoint, load_encoder, naming_what_does_not_fit, save_checkpoint

KEPT_EPOCHS = 3  # whose checkpoints stay on disk
MAX_SKIPPED = 20  # steps in a row without a finite loss or gradient before a run gives up
STEPS_OF_A_ROW = 10  # steps that a row of the log by step is the mean of

# What an evaluation finds, by the unit of the task.
LABELS = {
    "point": {
        "loss": "loss, nats a line, normalised units", "loss_raw": "loss, nats a line, whiteboard units",
        "per_point": "loss, nats a point, normalised units", "per_point_raw": "loss, nats a point, whiteboard units",
        "sse": "SSE a point, normalised units",
    },
    "character": {
        "loss": "loss, nats a line", "per_character": "loss, nats a character", "error_rate": "characters read wrong",
    },
    "line": {"loss": "loss, nats a line", "error_rate": "lines nearest to another form's"},
}  # fmt: skip


class Run:
    """One training run: what it works on, and how far it has come. Processes that share one set its `group`."""

    def __init__(self, options: argparse.Namespace, dataset: Dataset, resumed: Path | None = None):
        """Options as of `parse_flags`. Raises InputError if they, the data and a checkpoint do not fit together."""
        self.options, self.device = options, choose_device(options.device)
        loaded, content = load_checkpoint(resumed or options.init) if resumed or options.init else (None, {})
        self.encoder = encoder_of(content)
        if options.hand and self.encoder:
            raise InputError("--hand: the network reads the hands of an encoder of its own; leave it out")
        self.encoder = load_encoder(options.hand) if options.hand else self.encoder
        self.task = tasks.make_task(options.task, dataset, options.timesteps, None, options.augment, self.encoder)
        for split in ("train", "validation"):
            if not len(dataset.lines(split, self.task.with_text)):
                raise InputError(f"{options.data}: its {split} split holds no line for the task {options.task}")
        self.lines = dataset.lines("train", self.task.with_text)
        self.lengths = self.task.num_points[self.lines].clip(max=self.task.most_points)  # in training
        self.line_weights = tasks.line_weights(dataset.texts[self.lines], options.rare_share)
        self.steps_per_epoch = math.ceil(len(self.lines) / options.batch_size)
        self.last_step = options.num_epochs * self.steps_per_epoch
        self.fingerprint = dataset.fingerprint()
        self.progress, self.epoch_rows, self.step_rows = Progress(), [], []
        self.changed: list[str] = []  # settings that are other than before the run was resumed

        torch.manual_seed(options.seed)
        network = loaded if resumed else self.new_network(loaded, content)
        self.model = network.to(self.device).train()
        options.precision = choose_precision(options.precision, self.device)  # once: a resumed run goes on with it
        self.model.matmul_dtype, self.model.dropout = PRECISIONS[options.precision], options.dropout
        self.average = moving_average(self.model, options.ema) if options.ema else None
        self.noise = WeightNoise(self.model, options.weight_noise, len(self.lines)) if options.weight_noise else None
        make_optimizer = {"adam": torch.optim.Adam, "rmsprop": GravesRMSprop}[options.optimizer]
        self.optimizer = make_optimizer(self.model.parameters(), lr=options.learning_rate)
        # what a checkpoint has beside the network that is evaluated, sampled from and kept
        self.extra_modules = {"raw_weights": self.model} if self.average else {}
        self.extra_modules |= {"weight_noise": self.noise} if self.noise else {}
        if resumed:
            self.restore(resumed, content)
        self.network = self.average.module if self.average else self.model
        self.group = Group()

    def new_network(self, network: nn.Module | None, content: dict[str, Any]) -> nn.Module:
        """The network that the run begins with, untrained or that of --init; InputError if that does not fit."""
        options, path = self.options, self.options.init
        options.hand_size = self.encoder.config.hand_size if self.encoder else options.hand_size
        if network is None:
            return self.task.new_network(options)
        if content["task"] != options.task:
            raise InputError(f"--init {path}: is not a network for the task {options.task}")
        if content["charset"] != self.task.charset:
            network = tasks.change_characters(network, content["charset"], self.task.charset)
        if isinstance(network, Model):
            given = options.num_layers if "num_layers" in options.given else 0
            num_layers, had_hands = max(given, network.config.num_layers), network.config.hand_size > 0
            network = tasks.grow(network, num_layers, options.hand_size)
            network = network if had_hands else self.task.with_hands(network)
        for name in tasks.NETWORK_SIZES:
            size = getattr(network.config, name, getattr(options, name))
            if name in options.given and size != getattr(options, name):
                raise InputError(f"--{name}: the network of --init {path} has {size}; leave it out")
            setattr(options, name, size)
        return network

    def fit(self, group: Group) -> None:
        """Train until the last epoch, a limit, or a signal to any process of the group, each of which has this run."""
        options, progress, unit, self.group = self.options, self.progress, self.task.unit, group
        group.connect()
        tune_malloc()
        deadline = time.perf_counter() + 60 * (options.max_minutes or math.inf)
        bar = progress_bar(
            total=self.last_step, initial=progress.step, unit=" steps", smoothing=0.05, disable=group.rank > 0
        )
        with bar, noted_signals(group.rank) as signals:
            self.write_logs()  # a run that was killed may have written a checkpoint and not its row
            while progress.epoch < options.num_epochs:
                bar.set_description(f"epoch {progress.epoch + 1}", refresh=False)
                for batch in self.epoch_batches()[progress.batch :]:
                    is_over = time.perf_counter() > deadline or progress.step >= (options.max_steps or math.inf)
                    if group.sums(signals.count > 0 or is_over) != [0]:
                        return self.stop(bar)
                    done = self.step(batch)
                    losses = f"loss {done.nats / done.lines:.1f} nats a line, {done.nats / done.units:.3f} a {unit}"
                    speed = f"{progress.epoch_sums.units / progress.epoch_sums.seconds:.0f} {unit}s/s"
                    bar.set_postfix_str(f"{losses}, gradient {done.norm:.0f}, {speed}", refresh=False)
                    bar.update()
                if group.sums(signals.count > 0) != [0]:
                    return self.stop(bar)
                self.finish_epoch(self.evaluate(signals))
        if group.rank == 0:
            best, path = progress.best, self.path("best")
            figure = f"loss {best:.1f} nats a line" if unit == "point" else f"error rate {best:.2%} of {unit}s"
            result = f"done: best validation {figure}, in {path}"
            if not (math.isfinite(best) and path.is_file()):
                reason = "no validation figure was finite (try a lower --learning_rate), or it was deleted"
                result = f"done, without {path}: {reason}"
            tell(result)

    def step(self, batch: np.ndarray) -> Sums:
        """Learn from a batch of lines (B,), sorted by length, with the other processes. Returns the step's sums."""
        options, group, progress, started = self.options, self.group, self.progress, time.perf_counter()
        self.optimizer.param_groups[0]["lr"] = learning_rate(options, progress.step, self.steps_per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(derived_seed("dropout", options.seed, progress.step, group.rank))
        if self.noise:  # the same in all processes, which must have the same weights
            self.noise.sample(derived_seed("weight noise", options.seed, progress.step))
        nats, count = 0.0, 0
        if places := range(group.rank, len(batch), group.size):  # the last batch of an epoch may be too small for all
            seeds = [derived_seed("line", options.seed, progress.step, place) for place in places]
            inputs = self.task.batch(batch[places], self.device, seeds)
            loss, count = self.task.loss(self.model, inputs)
            (loss / len(batch)).backward()
            nats = loss.item()
        group.sum_gradients(self.model.parameters())  # that of the whole batch's mean
        if self.noise:
            self.noise.restore()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.grad_clip or math.inf).item()
        nats, count = group.sums(nats, count)
        is_finite = math.isfinite(nats) and math.isfinite(norm)
        if is_finite:
            self.optimizer.step()
            if self.noise:
                self.noise.learn(len(batch))
            if self.average:
                self.average.update_parameters(self.model)
        done = Sums(nats, count, len(batch), norm, steps=1, seconds=time.perf_counter() - started)
        progress.count(done, is_finite)
        if progress.step % STEPS_OF_A_ROW == 0:
            self.step_rows.append(self.step_row())
            progress.row_sums = Sums()
        if progress.skipped_in_row == MAX_SKIPPED:
            raise InputError(
                f"{MAX_SKIPPED} steps in a row had a loss or gradient that is not finite, the last at step "
                f"{progress.step}; --resume, or begin again, with a lower --learning_rate"
            )
        return done

    def epoch_batches(self) -> list[np.ndarray]:
        """The batches of the epoch in progress, which follow from seed and epoch: numbers of lines, (B,) each."""
        rng = np.random.default_rng(derived_seed("order of lines", self.options.seed, self.progress.epoch))
        sampled = tasks.sample_lines(self.line_weights, rng)
        batches = tasks.make_batches(self.lengths[sampled], self.options.batch_size, rng)
        return [self.lines[sampled[batch]] for batch in batches]

    def evaluate(self, signals: SimpleNamespace) -> Row:
        """What the network comes to on the validation split. This takes minutes: a second Ctrl-C saves and ends it."""
        started, signals.ends_work = time.perf_counter(), True
        try:
            found = self.task.evaluate(self.network, self.group)
        except KeyboardInterrupt:  # in process 0, which ends the others
            self.save("interrupted")
            self.write_logs()
            tell("stopped in an evaluation; go on with --resume")
            raise
        finally:
            signals.ends_work = False
        self.progress.seconds += time.perf_counter() - started
        return found

    def finish_epoch(self, found: Row) -> None:
        """Log the epoch that has ended with its evaluation, write its checkpoints, and draw samples."""
        options, progress, sums, unit = self.options, self.progress, self.progress.epoch_sums, self.task.unit
        progress.epoch, progress.batch, progress.epoch_sums = progress.epoch + 1, 0, Sums()
        row = {
            "epoch": progress.epoch, "step": progress.step, "minutes": progress.seconds / 60, **sums.means(unit),
            **{f"validation_{name}": value for name, value in found.items() if name not in ("lines", "points")},
            f"{unit}s_per_second": sums.units / (sums.seconds or math.nan),
            "learning_rate": self.optimizer.param_groups[0]["lr"], "skipped_steps": progress.skipped,
        }  # fmt: skip
        if self.noise:
            row["description_length"] = self.noise.description_length()
        self.epoch_rows.append(row)
        score = math.nan if math.isnan(found["loss"]) else found[self.task.score]
        is_best = math.isfinite(score) and score <= progress.best  # of equal ones the last
        progress.best = score if is_best else progress.best
        if self.group.rank > 0:
            return
        if is_best:
            self.save("best")  # before the epoch's own: whoever resumes from that can rely on it
        self.save(f"epoch_{progress.epoch}")
        for path in epoch_checkpoints(options.model_dir, options.task)[:-KEPT_EPOCHS]:
            path.unlink(missing_ok=True)
        self.path("interrupted").unlink(missing_ok=True)
        self.path("samples_interrupted", ".png").unlink(missing_ok=True)
        tell(f"epoch {row['epoch']}: " + ", ".join(f"{name} {row[name]:.6g}" for name in row if name != "epoch"))
        self.write_logs()
        every = options.sample_every
        if every and (progress.epoch % every == 0 or progress.epoch == options.num_epochs):
            self.draw_samples(f"samples_epoch_{progress.epoch}")

    def stop(self, bar: Any) -> None:
        """Leave all that going on needs, and what shows how far the network has come."""
        bar.close()
        if self.group.rank > 0:
            return
        self.save("interrupted")
        self.write_logs()
        has_samples = self.options.sample_every and self.draw_samples("samples_interrupted")
        files = "log, curve and samples" if has_samples else "log and curve"
        row, unit = self.step_rows[-1] if self.step_rows else self.step_row(), self.task.unit
        tell(
            f"stopped at step {self.progress.step} of {self.last_step}; training loss by step {row['step']}: "
            f"{row['train_loss']:.1f} nats a line, {row[f'train_per_{unit}']:.4f} a {unit}; {files} are in "
            f"{self.options.model_dir}; go on with --resume"
        )

    def step_row(self) -> Row:
        """The row of the log by step for the steps since its last one."""
        means, rate = self.progress.row_sums.means(self.task.unit), self.optimizer.param_groups[0]["lr"]
        return {"step": self.progress.step, **means, "learning_rate": rate}

    def write_logs(self) -> None:
        """Write the logs as .csv files, that by step with the steps since its last row, and draw the curve."""
        if self.group.rank > 0:
            return
        steps = self.step_rows + ([self.step_row()] if self.progress.row_sums.steps else [])
        for name, rows in (("log", self.epoch_rows), ("steps", steps)):
            if rows:
                table = [[row[column] for column in rows[0]] for row in rows]
                with atomic_write(self.path(name, ".csv")) as file:
                    np.savetxt(file, table, "%.6g", ",", header=",".join(rows[0]), comments="")
        if self.epoch_rows or steps:
            draw_curve(self.path("loss", ".png"), self.epoch_rows, steps, self.task.unit)

    def draw_samples(self, name: str) -> bool:
        """Draw lines that the network writes. Returns whether there is anything to draw."""
        if self.task.unit != "point":
            return False
        try:
            save([stack_lines([Ink(points) for points in self.task.sample(self.network)])], self.path(name, ".png"))
        except InputError as error:  # of a network that has diverged: no ink, or too much
            tell(f"no picture of samples: {error}")
            return False
        return True

    def path(self, name: str, suffix: str = ".pt") -> Path:
        """The run's file of that name."""
        return self.options.model_dir / f"{self.options.task}_{name}{suffix}"

    def save(self, name: str) -> None:
        """Write a checkpoint that the run can be resumed from."""
        save_checkpoint(
            self.path(name), self.network, self.task.charset, self.task.char_counts, task=self.options.task,
            settings={name: getattr(self.options, name) for name in SETTINGS}, fingerprint=self.fingerprint,
            progress=asdict(self.progress), log=self.epoch_rows, step_log=self.step_rows,
            optimizer=self.optimizer.state_dict(),
            encoder=self.encoder, **{name: module.state_dict() for name, module in self.extra_modules.items()},
        )  # fmt: skip

    def restore(self, path: Path, content: dict[str, Any]) -> None:
        """Go on from a checkpoint, whose network this run has. Raises InputError for other data, or if it does not fit.

        All that a step depends on is its network, the optimiser, the other modules and how far it has come: random
        numbers follow from the seed and the number of the step.
        """
        if content["fingerprint"] != self.fingerprint:
            data, folder = self.options.data, self.options.model_dir
            raise InputError(f"{data}: not the data that the run in {folder} was begun with")
        with naming_what_does_not_fit(path):
            self.progress = progress = restore_progress(content, self.steps_per_epoch)
            self.epoch_rows, self.step_rows = content["log"], content["step_log"]
            settings = content["settings"]
            self.changed = [n for n in ("processes", "precision") if settings.get(n) != getattr(self.options, n)]
            restore_optimizer(self.optimizer, content["optimizer"])
            if self.average:  # the checkpoint's network is the average: copied, before its raw weights replace it
                self.average = moving_average(self.model, self.options.ema, updates=progress.step - progress.skipped)
            for name, module in self.extra_modules.items():
                check_like(content[name], dict(module.state_dict()), name)
                module.load_state_dict(content[name] | dict(module.named_buffers()))  # statistics stay
        progress.best = best_score(self.path("best"), self.fingerprint)


def describe_scale(network: nn.Module) -> str:
    """What ink is brought to before a network sees it: its losses depend on that."""
    if not hasattr(network, "std"):
        return "each line is brought to one height, and its slope taken out"
    (mx, my), (sx, sy) = network.mean.tolist(), network.std.tolist()
    return f"normalised by mean {mx:.4f}, {my:.4f} and deviation {sx:.4f}, {sy:.4f} whiteboard units"


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
