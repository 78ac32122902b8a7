"""How a run begins or goes on: the checkpoint that it is resumed from, its settings, its folder and its processes."""

import argparse
import contextlib
from pathlib import Path

import torch

from handwriting.data.dataset import load_dataset
from handwriting.program import InputError, check_writable
from handwriting.training.flags import FIXED, SETTINGS, choose_device, choose_processes, make_parser
from handwriting.training.processes import Group, run_lock, start_group
from handwriting.training.progress import PARTS, check_like
from handwriting.training.run import Run, describe_scale, newest_checkpoints
from utils import load_checkpoint, naming_what_does_not_fit


def start_run(options: argparse.Namespace, group: Group | None = None) -> None:
    """Begin or resume the run of the options, in the processes of torchrun's group or in those that they ask for.

    A folder that is new is made when all else is known to be right. Raises InputError for what cannot be used.
    """
    folder, task, is_first = options.model_dir, options.task, group is None or group.rank == 0
    is_new = not folder.is_dir()
    with contextlib.ExitStack() as stack:
        if is_first and not is_new:
            stack.enter_context(run_lock(folder, task))
        resumed = settle(options, group)
        run = make_run(options, resumed)
        if is_first:
            check_writable(run.path("log", ".csv"))  # now, not after an epoch
            folder.mkdir(parents=True, exist_ok=True)
            if is_new:
                stack.enter_context(run_lock(folder, task))
                if newest_checkpoints(folder, task):
                    raise InputError(f"{folder}: another run of {task} was quicker; choose another --model_dir")
            for name in run.changed:
                print(f"--{name}: other than before; the run goes on, but not as it would have to the last digit")
            weights = sum(parameter.numel() for parameter in run.model.parameters())
            print(f"settings: {', '.join(f'{name} {getattr(options, name)}' for name in SETTINGS)}")
            print(f"data: {options.data} ({run.task.dataset.rests})")
            print(describe_scale(run.model))
            print(
                f"{task}: {weights} weights, {len(run.lines)} lines, {run.steps_per_epoch} steps an epoch, on "
                f"{run.device} with {str(run.model.matmul_dtype).removeprefix('torch.')} products, in "
                f"{options.processes} process{'es' * (options.processes > 1)}",
                flush=True,
            )
        if group is None and options.processes > 1:
            group = stack.enter_context(start_group(options.processes, join_run, options, resumed))
        run.fit(group or Group())


def make_run(options: argparse.Namespace, resumed: Path | None) -> Run:
    """The run of the settled options."""
    dataset = load_dataset(options.data)
    try:
        return Run(options, dataset, resumed)
    except RuntimeError as error:
        raise InputError(f"a network of these sizes cannot be made here ({str(error).splitlines()[0]})") from None


def join_run(options: argparse.Namespace, resumed: Path | None, group: Group) -> None:
    """What each process does that `start_run` starts: the same run."""
    make_run(options, resumed).fit(group)


def settle(options: argparse.Namespace, group: Group | None) -> Path | None:
    """Complete the options, under those that are given, with the settings of the run that is resumed, if one is.

    Returns its checkpoint; None for a new run. Raises InputError for what a run cannot have, or cannot change to.
    """
    folder, task, given, resumed = options.model_dir, options.task, options.given, None
    if options.resume and options.init:
        raise InputError("--init begins a new run and --resume goes on with one; leave one of them out")
    found = newest_checkpoints(folder, task)
    if found and not options.resume:
        raise InputError(f"{folder}: holds a run of {task} already; --resume it, or choose another --model_dir")
    if options.resume:
        if not found:
            raise InputError(f"{folder}: no run of {task} to resume there; leave --resume out to begin one")
        contents = {path: load_checkpoint(path)[1] for path in found}
        for path, content in contents.items():
            if content["task"] != task or "progress" not in content:
                raise InputError(f"{path}: holds no run of {task}; weights alone can be the --init of a new one")
            with naming_what_does_not_fit(path):
                check_like(content, PARTS, "content")
        resumed = max(found, key=lambda path: contents[path]["progress"]["step"])  # the one that has come furthest
        settings, step = contents[resumed]["settings"], contents[resumed]["progress"]["step"]
        names = [name for name in SETTINGS if name in settings]
        try:
            saved = make_parser().parse_args([f"--{name}={settings[name]}" for name in names])
        except InputError as error:
            raise InputError(f"{resumed}: its settings cannot be used ({error})") from None
        for name in names:
            value = getattr(saved, name)
            if name not in given:
                setattr(options, name, value)
            elif name in FIXED and getattr(options, name) != value:
                raise InputError(f"--{name}: cannot change within a run; that in {folder} has {value}")
        if options.max_steps and options.max_steps <= step:
            raise InputError(f"--max_steps: the run is at step {step} already; give a higher one")
    options.processes = group.size if group else choose_processes(options)
    local, gpus = group.local_size if group else options.processes, torch.cuda.device_count()  # on this machine
    if choose_device(options.device).type == "cuda" and local > gpus:
        raise InputError(f"--processes {local}: more than the {gpus} GPUs here; give fewer, or --device cpu")
    if options.processes > options.batch_size:
        raise InputError(f"--processes {options.processes}: more than the {options.batch_size} lines of a batch")
    return resumed
