"""Going on with a run that was stopped, exactly where it was.

A run stops between two steps. All that the next step depends on is in the checkpoint: the network, the optimiser, the
average and the noise of the weights, and how far the run has come (`Progress`). There is no state of random numbers:
the order of lines, and all that is random in a step, follow from the seed and the number of the epoch or the step.

1. `take_up_settings` chooses the checkpoint that has come furthest, and takes up its settings.
2. `Run` begins with its network, and `Run.restore` puts the rest in its place.
3. `Run.fit` goes on with the batches that are left of the epoch.

With a moving average a checkpoint's `weights` are the average, and its `raw_weights` those that training changes. The
rest of this file validates what a checkpoint holds.
"""

import argparse
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handwriting.program import InputError
from handwriting.training.flags import FIXED, SETTINGS, make_parser
from handwriting.training.optimisation import GravesRMSprop
from handwriting.training.progress import Progress, Sums
from utils import load_checkpoint, naming_what_does_not_fit


def epoch_checkpoints(folder: Path, task: str) -> list[Path]:
    """Checkpoints of a run's epochs, oldest first."""
    found = {path: re.fullmatch(rf"{task}_epoch_([0-9]+)", path.stem) for path in folder.glob(f"{task}_epoch_*.pt")}
    return sorted((path for path, match in found.items() if match), key=lambda path: int(found[path][1]))


def newest_checkpoints(folder: Path, task: str) -> list[Path]:
    """Where a run can be resumed: the last epoch's checkpoint, and that of an interrupted epoch."""
    return epoch_checkpoints(folder, task)[-1:] + list(folder.glob(f"{task}_interrupted.pt"))


def take_up_settings(options: argparse.Namespace) -> Path:
    """Complete the options, under those that are given, with the settings of the run in `options.model_dir`.

    Returns the checkpoint to go on from, the one that has come furthest. Raises InputError if there is none, or for a
    setting that cannot change within a run.
    """
    folder, task, given = options.model_dir, options.task, options.given
    if not (found := newest_checkpoints(folder, task)):
        raise InputError(f"{folder}: no run of {task} to resume there; leave --resume out to begin one")
    contents = {path: load_checkpoint(path)[1] for path in found}
    for path, content in contents.items():
        if content["task"] != task or "progress" not in content:
            raise InputError(f"{path}: holds no run of {task}; weights alone can be the --init of a new one")
        with naming_what_does_not_fit(path):
            check_like(content, PARTS, "content")
    resumed = max(found, key=lambda path: contents[path]["progress"]["step"])
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
    return resumed


def restore_progress(content: dict[str, Any], steps_per_epoch: int) -> Progress:
    """How far the run of a checkpoint has come. Raises ValueError, TypeError or LookupError for what cannot be so."""
    sums = {name: Sums(**content["progress"][name]) for name in ("epoch_sums", "row_sums")}
    progress = Progress(**(content["progress"] | sums))
    if progress.step != progress.epoch * steps_per_epoch + progress.batch:
        raise ValueError("its steps are not those of its epochs")
    for rows in (content["log"], content["step_log"]):
        check_like(rows, [dict.fromkeys(row, 0.0) for row in rows[:1]], "log")
    return progress


def best_score(path: Path, fingerprint: str) -> float:
    """The score of a run's best network, which is in `path`; infinite if that is missing, or of other data.

    A killed run may have written it after the checkpoint that it goes on from, whose own best is older then. Raises
    InputError for one that does not tell its score.
    """
    content = load_checkpoint(path)[1] if path.is_file() else {}
    if content.get("fingerprint") != fingerprint:
        return math.inf
    progress = content.get("progress")
    best = progress.get("best") if isinstance(progress, dict) else None
    if type(best) not in (int, float) or math.isnan(best):
        raise InputError(f"{path}: does not tell the run's best score; move it away, and --resume again")
    return best


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Go on from a saved `state_dict`, of whose groups only the step size counts.

    Raises LookupError, TypeError or ValueError if it is not one of this optimiser and its weights.
    """
    names = ("n", "g", "delta") if isinstance(optimizer, GravesRMSprop) else ("step", "exp_avg", "exp_avg_sq")
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in saved["state"].items():
        usual = {name: torch.zeros(()) if name == "step" else weights[number] for name in names}
        check_like(values, usual, f"optimizer state {number}")
    groups = optimizer.state_dict()["param_groups"]
    for group, old in zip(groups, saved["param_groups"], strict=True):
        if old["params"] != group["params"]:
            raise ValueError("its optimizer is not that of its weights")
        group["lr"] = float(old["lr"])
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


# What a run's checkpoint has beside its network, and the types of it: see `check_like`.
PARTS = {
    "settings": {}, "fingerprint": "", "progress": asdict(Progress()),
    "log": [{"step": 0.0, "train_loss": 0.0, "validation_loss": 0.0}],
    "step_log": [{"step": 0.0, "train_loss": 0.0}],
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.0, "params": [0]}]},
}  # fmt: skip


def check_like(value: Any, usual: Any, name: str) -> None:
    """Raise ValueError unless a part of a checkpoint is like the usual one.

    A dict may have more names; a list has any number of things like the usual one; a number is of the usual type, or
    whole; a tensor has the usual shape and no NaN. Whole numbers and steps are never negative.
    """
    if isinstance(usual, dict):
        fits = isinstance(value, dict) and usual.keys() <= value.keys()
        for key in usual if fits else ():
            check_like(value[key], usual[key], f"{name} {key}")
    elif isinstance(usual, list):
        fits = isinstance(value, list)
        for each in value if fits else ():
            check_like(each, usual[0], name)
    elif isinstance(usual, Tensor):
        fits = isinstance(value, Tensor) and value.is_floating_point() and value.shape == usual.shape
        fits = fits and value.is_contiguous() and not value.isnan().any() and (value.dim() > 0 or value >= 0)
    elif isinstance(usual, str):
        fits = isinstance(value, str)
    else:
        fits = type(value) in (int, type(usual)) and (type(value) is float or 0 <= value < 2**63)
    if not fits:
        raise ValueError(f"its {name} is not what a run writes")
