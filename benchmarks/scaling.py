"""What training costs on many processors and on GPUs, reckoned from parts that are measured here.

    python benchmarks/scaling.py    # some four minutes on two cores

A step in n processes is a backward on B / n lines in each, then the mean of the gradient over all (an all-reduce).
Measured: the computing of one process for several numbers of lines; the all-reduce of two and four processes over this
machine's connection to itself; whole steps of two and four processes, beside what the parts add up to; and how many
operations PyTorch starts for a line when no kernel for processors is on, as on a GPU. Reckoned, for networks and GPUs
that are not here: a ring all-reduce sends 2 (n - 1) / n of the gradient through each connection in 2 (n - 1) messages,
and a GPU with few lines is busy starting operations. Nothing was ever run on a GPU or on two machines.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent.parent))
from speed import BATCH, CHARS, TIMESTEPS, made_up_lines, other_process, shared_steps, timed, trainer

from handwriting.data.dataset import Dataset
from handwriting.program import run_cli
from handwriting.training.processes import Group, start_group
from model import Config, Model, WindowLSTM

TASK = "synthesis"
LINES = 10_646  # of an epoch: those of IAM-OnDB's training split with a text
NETWORK_BYTES, NETWORK_LATENCY = 1.25e9, 50e-6  # a second, and seconds a message: ten gigabits on a local network
GPU_BYTES, GPU_LATENCY = 12e9, 10e-6  # over PCI Express 3
GPU_START = 5e-6  # seconds to start an operation


class Counter(TorchDispatchMode):
    """Counts the operations that PyTorch starts while it is on."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Callable, _types: tuple, args: tuple = (), kwargs: dict | None = None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def computing_seconds(dataset: Dataset, batch: np.ndarray, repeats: int) -> dict[int, float]:
    """Seconds of a step of one process with one thread, by the number of its lines: every n-th of a batch."""
    step, seconds = trainer(TASK, dataset), {}
    step(batch)  # takes the memory that the others need
    for size in (1, 2, 4, 8, 16, 50):
        own = batch[::size]
        seconds[len(own)] = statistics.median(timed(lambda own=own: step(own)) for _ in range(repeats))
    return seconds


def reduce_gradient(repeats: int, group: Group) -> float:
    """Seconds of an all-reduce of the gradient, the median of some; what each process of the group does."""
    group.connect()
    gradient = torch.zeros(num_weights())
    seconds = []
    for _ in range(repeats):
        group.sums(0)  # all begin at once
        seconds.append(timed(lambda: dist.all_reduce(gradient)))
    return statistics.median(seconds)


def reduce_seconds(size: int, repeats: int) -> float:
    """`reduce_gradient` in `size` processes."""
    with start_group(size, reduce_gradient, repeats) as group:
        return reduce_gradient(repeats, group)


def step_seconds(size: int, dataset: Dataset, batch: np.ndarray, repeats: int) -> float:
    """Seconds of a whole step of train.py in `size` processes with one thread each."""
    batches = [batch] * (repeats + 1)
    with start_group(size, other_process, TASK, dataset, batches) as group:
        torch.set_num_threads(1)
        steps = shared_steps(TASK, dataset, batches, group)
        return statistics.median([timed(lambda: next(steps)) for _ in batches][1:])


def num_weights() -> int:
    """Weights of the network."""
    return sum(parameter.numel() for parameter in Model(Config(num_chars=CHARS)).parameters())


def operations_a_point() -> float:
    """Operations that PyTorch starts for a point of the window's layer, forward and backward, without kernels."""
    layer, counts = WindowLSTM(Config(num_chars=CHARS)), []
    characters = torch.zeros(2, 30, CHARS)
    for length in (10, 20):
        zeros = [torch.zeros(2, size) for size in (400, 400, CHARS, 10)]
        with Counter() as counter:
            hiddens, ws, _, _ = layer(torch.zeros(length, 2, 3), characters, *zeros)
            (hiddens.sum() + ws.sum()).backward()
        counts.append(counter.count)
    return (counts[1] - counts[0]) / 10


def reckon(size: int, bandwidth: float, latency: float) -> float:
    """Seconds of a ring all-reduce of the gradient in `size` processes: bytes a second, seconds a message."""
    return 2 * (size - 1) * (latency + 4 * num_weights() / size / bandwidth)


def measure(repeats: int) -> dict[int, float]:
    """Print what is measured. Returns the seconds of computing of one process, by lines."""
    dataset, cores = made_up_lines(300), os.cpu_count() or 1
    lengths = np.diff(dataset.starts)
    batch = np.argsort(np.abs(lengths - np.median(lengths)))[:BATCH]  # lines of the usual length
    batch = batch[np.argsort(lengths[batch])]
    torch.set_num_threads(1)
    computing = computing_seconds(dataset, batch, repeats)
    for lines, seconds in computing.items():
        print(f"computing of {lines} lines in one process: {seconds:.3f} s, {seconds / lines:.4f} s a line")
    reducing = {size: reduce_seconds(size, 10 * repeats) for size in (2, 4)}
    for size, seconds in reducing.items():
        print(f"all-reduce of {num_weights()} weights in {size} processes: {1e3 * seconds:.1f} ms")
    for size in (2, 4):
        share = computing[len(batch[::size])] * max(1, size / cores)
        whole = step_seconds(size, dataset, batch, repeats)
        print(f"step in {size} processes: {whole:.3f} s; its parts: {share:.3f} + {reducing[size]:.3f} s")
    return computing


def main() -> None:
    """Measure, reckon and print."""
    parser = argparse.ArgumentParser(description="Reckon what training costs on many processors and on GPUs.")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement (default: %(default)s)")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, steps of {BATCH} lines on one, two and four processes")
    computing = measure(options.repeats)
    print("reckoned, 64 processes of one core each on a network of 10 Gbit/s:")
    communication = reckon(64, NETWORK_BYTES, NETWORK_LATENCY)
    for lines, seconds in computing.items():
        step = seconds + communication
        minutes = LINES / (64 * lines) * step / 60
        print(
            f"  {64 * lines} lines a step: {seconds:.3f} + {communication:.3f} s, {seconds / step:.0%} of it "
            f"computing; an epoch in {minutes:.1f} minutes"
        )
    operations = operations_a_point()
    step, communication = operations * TIMESTEPS * GPU_START, reckon(8, GPU_BYTES, GPU_LATENCY)
    print(
        f"reckoned, 8 GPUs: {operations:.0f} operations a point take {step:.2f} s a step, however many lines; "
        f"all-reduce {1e3 * communication:.1f} ms; an epoch of steps of {8 * BATCH} lines in "
        f"{LINES / (8 * BATCH) * (step + communication) / 60:.1f} minutes"
    )


if __name__ == "__main__":
    run_cli(main)
