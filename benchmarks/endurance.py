"""What a long run meets, many times over: kills, a full disk, and a thousand texts in one process.

    python benchmarks/endurance.py --data data/iam-ondb.npz    # some five minutes on a quiet core

Kills: a small network is trained on the first lines of the data and killed (SIGKILL) at random moments, from its start
to its end; each time it is resumed, and a run that comes to its end must be that without kills, bit by bit. Writes:
the disk is full (an OSError in place of fsync) at a random write of such a run; the old files must stay, and the run,
resumed, must come to the same end. Texts: a `Writer` writes them, and the memory of the process must stop growing
after the first tenth. The status is 3 if anything falls.
"""

import argparse
import errno
import io
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from handwriting.data.dataset import Dataset, load_dataset, save_dataset
from handwriting.program import InputError, ResultError, run_cli
from handwriting.training.flags import parse_flags
from handwriting.training.resume import epoch_checkpoints, newest_checkpoints
from handwriting.training.start import start_run
from handwriting.writer import Writer

TASK = "synthesis"
FLAGS = (
    f"--task {TASK} --cell_size 32 --num_layers 1 --timesteps 100 --num_clusters 4 --K 3 --batch_size 16 --processes 1 "
    "--num_epochs 6 --sample_every 0 --precision fp32"
).split()
TIMES = {"minutes", "points_per_second"}  # columns of the log that no two runs share
MOST_GROWTH = 16.0  # MiB of memory after the first tenth of the texts
SENTENCES = Path(__file__).parent / "sentences.txt"


def first_lines(data: Dataset, count: int) -> Dataset:
    """A data set of the first `count` lines with a text for training, and a tenth as many for validation."""
    kept = np.concatenate([data.lines("train", True)[:count], data.lines("validation", True)[: max(count // 10, 1)]])
    rows = [np.arange(data.starts[line], data.starts[line + 1]) for line in kept]
    counts = Counter("".join(data.texts[kept[data.splits[kept] == "train"]]))
    return replace(
        data, offsets=data.offsets[np.concatenate(rows)], ends=data.ends[np.concatenate(rows)],
        starts=np.cumsum([0, *map(len, rows)]), texts=data.texts[kept], names=data.names[kept],
        splits=data.splits[kept], char_counts=np.array([counts[character] for character in data.charset]),
    )  # fmt: skip


class Trial:
    """Runs of one kind, each in a process of its own, against the one that nothing happened to."""

    def __init__(self, data: Path, folder: Path):
        self.data, self.folder, self.number = data, folder, 0
        self.unbroken = self.new_folder()
        started = time.perf_counter()
        self.writes = self.start(self.unbroken).result()
        self.seconds = time.perf_counter() - started

    def new_folder(self) -> Path:
        """A folder for a run."""
        self.number += 1
        return self.folder / f"run {self.number}"

    def start(self, folder: Path, full_at: int = 0) -> "Process":
        """Begin the run in the folder, or go on with it; its disk is full at write number `full_at`."""
        resume = ["--resume"] if newest_checkpoints(folder, TASK) else []
        return Process([*FLAGS, "--data", str(self.data), "--model_dir", str(folder), *resume], full_at)

    def is_exact(self, folder: Path) -> bool:
        """Whether the run in the folder, brought to its end, is the unbroken one."""
        if not self.is_at_end(folder):
            self.start(folder).result()
        return content_of(folder) == content_of(self.unbroken)

    @staticmethod
    def is_at_end(folder: Path) -> bool:
        """Whether the last epoch's checkpoint and its row are there."""
        log = folder / f"{TASK}_log.csv"
        last = FLAGS[FLAGS.index("--num_epochs") + 1]
        return log.is_file() and log.read_text().splitlines()[-1].startswith(f"{last},")


class Process:
    """A process that trains: forked, as this one has imported all that takes time."""

    def __init__(self, arguments: list[str], full_at: int):
        context = multiprocessing.get_context("fork")
        self.queue = context.SimpleQueue()
        self.process = context.Process(target=self.work, args=[arguments, full_at], daemon=True)
        self.process.start()

    def work(self, arguments: list[str], full_at: int) -> None:
        """In the process: train, and leave how many files were written, or the error."""
        torch.set_num_threads(1)  # those of the process that forked are not in this one
        writes, fsync = 0, os.fsync

        def full(number: int) -> None:
            nonlocal writes
            writes += 1
            if writes == full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(number)

        try:
            with mock.patch("os.fsync", full), redirect_stdout(io.StringIO()):
                start_run(parse_flags(arguments))
            self.queue.put(writes)
        except BaseException as error:
            self.queue.put(f"{type(error).__name__}: {error}")

    def result(self) -> int:
        """Wait for the end. Returns the number of files written. Raises ResultError for an error."""
        self.process.join()
        if self.process.exitcode or self.queue.empty():
            raise ResultError(f"a run ended with status {self.process.exitcode}")
        found = self.queue.get()
        if isinstance(found, str):
            raise ResultError(found)
        return found

    def kill_after(self, seconds: float) -> bool:
        """Kill it then. Returns False if it had ended."""
        self.process.join(seconds)
        was_alive = self.process.is_alive()
        self.process.kill()
        self.process.join()
        return was_alive


def content_of(folder: Path) -> list:
    """All of a run that must be the same in another one: its last checkpoint's tensors, and the logs without times."""
    content = torch.load(epoch_checkpoints(folder, TASK)[-1], weights_only=True)
    states = content["optimizer"]["state"].values()
    tensors = [*content["weights"].values(), *(value for state in states for value in state.values())]
    log = [{name: value for name, value in row.items() if name not in TIMES} for row in content["log"]]
    logged = (folder / f"{TASK}_log.csv").read_text().count("\n")
    return [[tensor.numpy().tobytes() for tensor in tensors], log, content["step_log"], logged]


def kills(trial: Trial, count: int, rng: random.Random) -> int:
    """Kill runs `count` times. Returns how many of those that came to their end were not exact."""
    folder, done, fell = trial.new_folder(), 0, 0
    while done < count:
        if trial.start(folder).kill_after(rng.uniform(0, trial.seconds)):
            done += 1
            continue
        fell += not trial.is_exact(folder)
        folder = trial.new_folder()
    return fell + (not trial.is_exact(folder))


def full_disks(trial: Trial, count: int, rng: random.Random) -> int:
    """Fill the disk at `count` random writes. Returns how many runs ended in another way than they should, or wrong."""
    fell = 0
    for _ in range(count):
        folder, message = trial.new_folder(), ""
        try:
            trial.start(folder, rng.randint(1, trial.writes)).result()
        except ResultError as error:
            message = str(error)
        is_told = message.startswith("OSError") and os.strerror(errno.ENOSPC) in message and str(folder) in message
        fell += not (is_told and trial.is_exact(folder))
    return fell


def memory() -> float:
    """The memory of this process that is in use, in MiB. For Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def write_texts(count: int) -> list[float]:
    """Write texts: each tenth is a sentence, the others are words. Returns the memory after each, in MiB."""
    sentences = SENTENCES.read_text().splitlines()
    words = " ".join(sentences).split()
    writer, found = Writer(), []
    for number in range(count):
        source = sentences if number % 10 == 0 else words
        writer.write(source[number % len(source)], seed=number)
        found.append(memory())
    return found


def growth_of(sizes: list[float]) -> float:
    """By how much the greatest memory after the first tenth of the texts is greater than the greatest before."""
    first = max(len(sizes) // 10, 1)
    return max(sizes[first:], default=0.0) - max(sizes[:first])


def main(arguments: list[str] | None = None) -> None:
    """Try all, and print the table."""
    parser = argparse.ArgumentParser(description="Kills, full disks and many texts.")
    add = parser.add_argument
    add("--data", type=Path, default=Path("data/iam-ondb.npz"), help="prepared data (default: %(default)s)")
    add("--lines", type=int, default=160, help="of the data to train on (default: %(default)s)")
    add("--kills", type=int, default=20, help="default: %(default)s")
    add("--writes", type=int, default=20, help="at which the disk is full (default: %(default)s)")
    add("--texts", type=int, default=1000, help="default: %(default)s")
    add("--seed", type=int, default=0, help="of the random moments and writes (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not hasattr(os, "fork"):
        raise InputError("this system cannot fork")
    torch.set_num_threads(1)  # more do not survive a fork
    torch.optim.Adam([torch.zeros(1)])  # imports what takes a second, here and not in every process
    rng, fell = random.Random(options.seed), 0
    print("what                 cases  fell", flush=True)

    def row(name: str, cases: int, found: int, more: str = "") -> None:
        nonlocal fell
        fell += found
        print(f"{name:20} {cases:5} {found:5}  {more}".rstrip(), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        save_dataset(first_lines(load_dataset(options.data), options.lines), data)
        trial = Trial(data, Path(folder))
        about = f"a run takes {trial.seconds:.0f} s and writes {trial.writes} files"
        row("kills", options.kills, kills(trial, options.kills, rng), about)
        row("full disks", options.writes, full_disks(trial, options.writes, rng))
    sizes = write_texts(options.texts)
    if sizes:
        growth = growth_of(sizes)
        row("texts", len(sizes), growth > MOST_GROWTH, f"{max(sizes):.0f} MiB at most, growth {growth:+.1f} MiB")
    if fell:
        raise ResultError(f"{fell} cases fell")


if __name__ == "__main__":
    run_cli(main)
