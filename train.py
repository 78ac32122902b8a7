"""Train a network, or evaluate one.

    python train.py --task rand_write
    python train.py --task synthesis
    python train.py --task read
    python train.py --evaluate save/synthesis_best.pt
    torchrun --nproc_per_node 4 train.py --task synthesis

The loop is `Run.fit` in handwriting/training/run.py. Losses are in nats (eq. 26), a line's as in the paper's tables 3
and 4; in normalised units they depend on the mean and deviation that the offsets are normalised by.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`: Ctrl-C in the seconds of the imports just ends it

import argparse
import os
import sys

import torch.distributed as dist

from handwriting.data.dataset import load_dataset
from handwriting.program import InputError, escaped, run_cli
from handwriting.training.flags import parse_flags
from handwriting.training.hardware import PRECISIONS, choose_precision
from handwriting.training.processes import Group
from handwriting.training.run import LABELS, describe_scale
from handwriting.training.start import start_run
from handwriting.training.tasks import make_task
from utils import choose_device, encoder_of, load_checkpoint, save_checkpoint


def print_evaluation(options: argparse.Namespace) -> None:
    """Print a checkpoint's figures on the validation split."""
    path, device = options.evaluate, choose_device(options.device)
    network, content = load_checkpoint(path, device)
    network.matmul_dtype = PRECISIONS[choose_precision(options.precision, device)]
    dataset = load_dataset(options.data)
    unknown = set("".join(dataset.texts)) - set(content["charset"])
    if content["charset"] and unknown:
        raise InputError(f"{options.data}: has characters that {path} does not know: {' '.join(sorted(unknown))}")
    task = make_task(content["task"], dataset, charset=content["charset"], encoder=encoder_of(content))
    if not len(dataset.lines("validation", task.with_text)):
        raise InputError(f"{options.data}: its validation split holds no line for {path}")
    found = task.evaluate(network)
    print(f"{escaped(path)} on the validation split of {escaped(options.data)} ({dataset.rests}):")
    print(f"  {found['lines']} lines" + (f", {found['points']:.0f} predicted points" if task.unit == "point" else ""))
    for name, label in LABELS[task.unit].items():
        number = f"{found[name]:.2%}" if name == "error_rate" else f"{found[name]:.4f}"
        print(f"  {label:<38}{number:>12}")
    if task.unit == "point":
        print(f"  {'SSE, mean of the axes':<38}{found['sse'] / 2:>12.4f}")
    print(f"  {describe_scale(network)}")


def export_weights(options: argparse.Namespace) -> None:
    """Write the weights of the run's best network, or of --init, in half precision and without all that is training."""
    path = options.export
    network, content = load_checkpoint(options.init or options.model_dir / f"{options.task}_best.pt")
    kept = {name: content[name] for name in ("charset", "char_counts", "task")}
    save_checkpoint(path, network, **kept, half=True, encoder=encoder_of(content))
    print(f"wrote {escaped(path)} ({path.resolve().stat().st_size / 1e6:.1f} MB)")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parse_flags(sys.argv[1:] if arguments is None else arguments)
    in_torchrun = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if options.evaluate or options.export:
        if not in_torchrun or os.environ["RANK"] == "0":
            (print_evaluation if options.evaluate else export_weights)(options)
    elif in_torchrun:
        store, rank, size = next(dist.rendezvous("env://"))
        with Group(rank, size, store) as group:
            start_run(options, group)
    else:
        start_run(options)


if __name__ == "__main__":
    run_cli(main)
