"""How a run begins or goes on: its folder, its settings and its processes."""

import argparse
import contextlib
from pathlib import Path

from handwriting.data.dataset import load_dataset
from handwriting.program import InputError, check_writable, escaped, folder_lock
from handwriting.training.flags import SETTINGS
from handwriting.training.hardware import choose_hardware
from handwriting.training.processes import Group, start_group
from handwriting.training.resume import newest_checkpoints, take_up_settings
from handwriting.training.run import Run, describe_scale


def start_run(options: argparse.Namespace, group: Group | None = None) -> None:
    """Begin or resume the run of the options, in the processes of torchrun's group or in those that they ask for.

    A folder that is new is made when all else is known to be right. Raises InputError for what cannot be used.
    """
    folder, task, is_first = options.model_dir, options.task, group is None or group.rank == 0
    is_new = not folder.is_dir()
    lock = folder_lock(folder, task, f"another run of {task}", "choose another --model_dir")
    with contextlib.ExitStack() as stack:
        if is_first and not is_new:
            stack.enter_context(lock)
        if options.resume and options.init:
            raise InputError("--init begins a new run and --resume goes on with one; leave one of them out")
        if newest_checkpoints(folder, task) and not options.resume:
            raise InputError(f"{folder}: holds a run of {task} already; --resume it, or choose another --model_dir")
        resumed = take_up_settings(options) if options.resume else None
        choose_hardware(options, group)
        run = make_run(options, resumed)
        if is_first:
            check_writable(run.path("log", ".csv"))  # now, not after an epoch
            folder.mkdir(parents=True, exist_ok=True)
            if is_new:
                stack.enter_context(lock)
                if newest_checkpoints(folder, task):
                    raise InputError(f"{folder}: another run of {task} was quicker; choose another --model_dir")
            tell_beginning(run)
        if group is None and options.processes > 1:
            group = stack.enter_context(start_group(options.processes, join_run, options, resumed))
        run.fit(group or Group())


def tell_beginning(run: Run) -> None:
    """Print what the run works on, and with what."""
    for name in run.changed:
        print(f"--{name}: other than before; the run goes on, but not as it would have to the last digit")
    processes, weights = run.options.processes, sum(parameter.numel() for parameter in run.model.parameters())
    print(f"settings: {', '.join(f'{name} {getattr(run.options, name)}' for name in SETTINGS)}")
    print(f"data: {escaped(run.options.data)} ({run.task.dataset.rests})")
    print(describe_scale(run.model))
    print(
        f"{run.options.task}: {weights} weights, {len(run.lines)} lines, {run.steps_per_epoch} steps an epoch, on "
        f"{run.device} with {str(run.model.matmul_dtype).removeprefix('torch.')} products, in "
        f"{processes} process{'es' * (processes > 1)}",
        flush=True,
    )


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
