"""What a run computes on: the device, the type of its large products, and how many processes share it."""

import argparse

import torch

from handwriting.program import InputError
from handwriting.training.processes import Group
from model import kernels
from utils import choose_device

MIN_LINES = 8  # of a batch for each process, with --processes auto
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_precision(name: str, device: torch.device) -> str:
    """The type of the large products, a key of PRECISIONS; `auto` is bfloat16 where that is faster, as measured."""
    if name == "auto":
        on_processor = bool(kernels) and kernels.can_run(device) and kernels.multiplies_bfloat16_faster()
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        name = "bf16" if on_processor or on_gpu else "fp32"
    return name


def choose_processes(options: argparse.Namespace) -> int:
    """The number of processes; `auto` is one for each thread that PyTorch would use, and 1 on a GPU."""
    if options.processes != "auto":
        return options.processes
    on_processor = choose_device(options.device).type == "cpu"
    return max(1, min(torch.get_num_threads(), options.batch_size // MIN_LINES)) if on_processor else 1


def choose_hardware(options: argparse.Namespace, group: Group | None) -> None:
    """Set `options.processes`, and a group's precision. Raises InputError for more processes than GPUs or lines."""
    device, options.processes = choose_device(options.device), group.size if group else choose_processes(options)
    if group and options.precision == "auto":  # process 0 decides: others might measure otherwise
        if group.rank == 0:
            group.store.set("precision", choose_precision("auto", device))
        options.precision = group.store.get("precision").decode()
    local, gpus = group.local_size if group else options.processes, torch.cuda.device_count()  # on this machine
    if device.type == "cuda" and local > gpus:
        raise InputError(f"--processes {local}: more than the {gpus} GPUs here; give fewer, or --device cpu")
    if options.processes > options.batch_size:
        raise InputError(f"--processes {options.processes}: more than the {options.batch_size} lines of a batch")
