"""The flags of train.py: the settings of a run, and where it runs."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handwriting.program import InputError, Parser
from handwriting.training.hardware import PRECISIONS
from handwriting.training.tasks import NETWORK_SIZES
from model import BOUNDS
from utils import NETWORKS

# Settings that shape a run: a checkpoint has them, and --resume takes them up again. The fixed ones cannot change.
FIXED = (*NETWORK_SIZES, "batch_size", "timesteps", "optimizer", "ema", "weight_noise", "dropout", "seed")
SETTINGS = (
    *FIXED, "num_epochs", "learning_rate", "decay_rate", "anneal", "warmup", "grad_clip", "rare_share", "augment",
    "precision", "processes", "sample_every",
)  # fmt: skip
TASK_DEFAULTS = {  # where a task has other ones
    "read": {
        "num_layers": 3, "cell_size": 144, "batch_size": 32, "num_epochs": 20, "warmup": 200, "grad_clip": 100.0,
        "rare_share": 0.03, "learning_rate": 2e-3,
    },
    "hand": {
        "hand_size": 64, "cell_size": 176, "batch_size": 96, "num_epochs": 30, "grad_clip": 1000.0, "augment": 0.1,
        "learning_rate": 1e-3,
    },
}  # fmt: skip
USELESS = {  # flags that are of no use to a task
    "rand_write": ("hand", "hand_size"),
    "synthesis": ("hand_size",),
    "read": ("num_clusters", "K", "timesteps", "weight_noise", "dropout", "augment", "hand", "hand_size"),
    "hand": ("num_layers", "num_clusters", "K", "timesteps", "weight_noise", "dropout", "rare_share", "hand"),
}


def at_least(least: float, kind: type = int, below: float = 2**63, word: str | None = None) -> Callable[[str], Any]:
    """A parser of numbers of a kind that are at least `least` and less than `below`; a `word` in place of one stays."""

    def parse(text: str) -> Any:
        value = text if text == word else kind(text)
        if value != word and not least <= value < below:
            limit = f" and less than {below:g}" if below < 2**63 else ""
            raise argparse.ArgumentTypeError(f"must be at least {least:g}{limit}, not {text}")
        return value

    parse.__name__ = f"{kind.__name__} or {word}" if word else kind.__name__
    return parse


def make_parser() -> argparse.ArgumentParser:
    """All flags, with their types, bounds and defaults."""
    about = "Train a network of Graves (2013) on prepared data, or evaluate one."
    parser = Parser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    whole, number, share, decay = at_least(1), at_least(1e-12, float), at_least(0, float), at_least(0, float, below=1)
    size = {name: at_least(least, below=most + 1) for name, (least, most) in BOUNDS.items()}
    add = parser.add_argument_group("task and files").add_argument
    add("--task", choices=tuple(NETWORKS), default="rand_write", help="what the network learns")
    add("--data", type=Path, default=Path("data/iam-ondb.npz"), help="prepared data, from data_preprocessing.py")
    add("--model_dir", type=Path, default=Path("save"), help="folder for checkpoints, log, curve and samples")
    add("--evaluate", type=Path, metavar="CHECKPOINT", help="print this checkpoint's validation losses, and stop")
    add("--export", type=Path, metavar="FILE", help="write the weights of the best network, or of --init, and stop")
    add = parser.add_argument_group("network").add_argument
    add("--num_layers", type=size["num_layers"], default=2, help="LSTM layers; paper: 3, and 1 with --cell_size 900")
    add("--cell_size", type=size["cell_size"], default=400, help="cells of a layer")
    add("--num_clusters", type=size["num_clusters"], default=20, help="Gaussians of the mixture for the next point")
    add("--K", type=size["K"], default=10, help="Gaussians of the window over the text")
    add("--hand", type=Path, metavar="CHECKPOINT", help="synthesis: read the hands that this encoder tells apart")
    add("--hand_size", type=at_least(0, below=1001), default=0, help="numbers of a hand's vector, for --task hand")
    add("--init", type=Path, metavar="CHECKPOINT", help="begin with its weights and sizes; --num_layers may add layers")
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
    add("--grad_clip", type=share, default=10_000.0, help="longest gradient (of nats a line), cut to this; 0: no limit")
    add("--ema", type=decay, default=0.0, metavar="DECAY", help="keep a moving average of the weights; 0: none")
    noise = "adaptive weight noise (Graves 2011): its first standard deviation, for --init; paper: 0.075; 0: none"
    add("--weight_noise", type=share, default=0.0, metavar="DEVIATION", help=noise)
    add("--dropout", type=decay, default=0.0, metavar="SHARE", help="hide this share of each layer's cells; paper: 0")
    add("--rare_share", type=share, default=0.0, help="show lines with a character on fewer than this share more")
    add("--augment", type=share, default=0.0, metavar="STRENGTH", help="change scale and slant at random; 0.1 is much")
    add("--seed", type=at_least(0), default=0, help="of the first weights, the order of lines, and all that is random")
    add = parser.add_argument_group("running").add_argument
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="of products; auto: bf16 where it is faster")
    shared = "that share every batch; auto: one for each core, with 8 lines of a batch at least, and 1 on a GPU"
    add("--processes", type=at_least(1, word="auto"), default="auto", help=shared)
    add("--resume", action="store_true", help="go on with the run in --model_dir; flags that are given change it")
    add("--max_steps", type=whole, help="stop at this step of the run, ready to be resumed")
    add("--max_minutes", type=number, help="stop after this many minutes, ready to be resumed")
    add("--sample_every", type=at_least(0), default=5, help="epochs between pictures of samples; 0: none")
    return parser


def parse_flags(arguments: list[str]) -> argparse.Namespace:
    """All flags, with the task's defaults, and as `given` the names of those given; InputError for bad ones."""
    parser = make_parser()
    defaults = {"learning_rate": 8e-4} | vars(parser.parse_args([]))
    found = vars(parser.parse_args(arguments, argparse.Namespace(**dict.fromkeys(defaults))))
    given = {name: value for name, value in found.items() if value is not None}  # None is left as it was
    task = given.get("task", "rand_write")
    defaults |= TASK_DEFAULTS.get(task, {})
    for name in USELESS.get(task, ()):
        if name in given:
            raise InputError(f"--{name}: is of no use to --task {task}; leave it out")
    options = argparse.Namespace(**(defaults | given), given=frozenset(given))
    if "learning_rate" not in given and options.optimizer == "rmsprop":
        options.learning_rate = 1e-4  # the paper's
    return options
