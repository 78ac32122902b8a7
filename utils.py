"""Checkpoints: a file with a network and all that using it needs, and all that going on with its training needs.

It is one dict, as torch.save writes it: `version`, `task`, `config` (sizes), `weights`, `charset` (a character's code
is its place), `char_counts` (how often training saw each), `encoder` for a network that reads hands, and in those of a
run what `Run.save` adds. It is written beside its place and renamed. It cannot run code: `weights_only` reads it.
Refused are files that are damaged, compressed or of another version, names that no tensor needs (`check_archive`), and
contents that do not fit together: weights of other names, shapes or not finite, other characters (`build_network`).
"""

import os
import pickletools
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from handwriting.data.dataset import check_statistics
from handwriting.encoder import EncoderConfig, HandEncoder
from handwriting.program import InputError, atomic_write
from handwriting.recogniser import Recogniser, RecogniserConfig
from model import Config, Model

SHIPPED = Path(__file__).parent / "save"  # the networks of this project
VERSION = 2  # of the checkpoint's form
NETWORKS = {
    "rand_write": (Config, Model), "synthesis": (Config, Model), "read": (RecogniserConfig, Recogniser),
    "hand": (EncoderConfig, HandEncoder),
}  # fmt: skip
WITHOUT_TEXT = ("rand_write", "hand")  # tasks
STATISTICS = ("mean", "std", "hand_mean", "hand_std")  # buffers, which stay float32
# What the pickle in a checkpoint may name. More is safe with weights_only, but could still ask for all memory.
PICKLED = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is the GPU if PyTorch sees one. Raises InputError for one that cannot be used."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        device = torch.device("cpu") if device.type == "cpu" else device  # cpu:1 makes tensors, but loads none
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"--device {name}: cannot be used ({str(error).splitlines()[0].partition('. ')[0]})") from None
    return device


def save_checkpoint(
    path: Path, network: Any, charset: str, char_counts: list[int], task: str, half: bool = False,
    encoder: HandEncoder | None = None, **training: Any,
) -> None:  # fmt: skip
    """Write a network of a task with its sizes, statistics and characters, and `training` for resuming.

    The encoder of the hands that it reads goes with it. `half` stores the weights in half precision; an InputError
    names one that this cannot hold.
    """
    content = {
        "version": VERSION, "task": task, "config": asdict(network.config), "weights": network.state_dict(),
        "charset": charset, "char_counts": char_counts, **training,
    }  # fmt: skip
    if encoder:
        content["encoder"] = {
            "config": asdict(encoder.config), "weights": encoder.state_dict(), "forms": encoder.forms,
            "steering": encoder.steering,
        }  # fmt: skip
    if half:
        content["weights"] = halve(content["weights"], path)
        if encoder:
            content["encoder"] |= {"weights": halve(encoder.state_dict(), path), "forms": encoder.forms.half()}
    with atomic_write(path) as file:
        torch.save(content, file)


def halve(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Weights in half precision, but for statistics. Raises InputError that names one that this cannot hold."""
    halved = {name: value if name in STATISTICS else value.half() for name, value in weights.items()}
    for name, value in halved.items():
        if not value.isfinite().all():
            raise InputError(f"{path}: {name} has a weight that is not a number, or too large for half precision")
    return halved


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> tuple[Any, dict[str, Any]]:
    """Read a checkpoint. Returns its network, in float32 and ready to use, and the whole content.

    Raises InputError for a file that is missing, damaged, or not a checkpoint of this project.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train one with train.py, or name another one")
    with path.open("rb") as file:
        try:
            check_archive(file)
            file.seek(0)
            content = torch.load(file, map_location=device, weights_only=True)
        except Exception as error:  # a damaged file makes zipfile, pickle and PyTorch raise nearly anything
            reason = str(error) if isinstance(error, ValueError | zipfile.BadZipFile) else type(error).__name__
            raise InputError(f"{path}: damaged, or not a checkpoint ({reason})") from None
    if not isinstance(content, dict) or repr(content.get("version")) != str(VERSION):
        raise InputError(f"{path}: not a checkpoint of this version of the project")
    content.setdefault("task", "synthesis" if content.get("charset") else "rand_write")
    with naming_what_does_not_fit(path):
        network = build_network(content)
        encoder = encoder_of(content)
        wanted = network.config.hand_size if isinstance(network, Model) else 0
        if (encoder.config.hand_size if encoder else 0) != wanted:
            raise ValueError("its encoder is not one of the hands that its network reads")
    return network.to(device).eval(), content


def encoder_of(content: dict[str, Any]) -> HandEncoder | None:
    """The encoder in a checkpoint's content, of the hands that its network reads; None if it reads none."""
    if "encoder" not in content:
        return None
    encoder: Any = build_network({"task": "hand", "charset": "", "char_counts": []} | content["encoder"])
    encoder.set_forms(content["encoder"]["forms"].float())
    size, usual = encoder.config.hand_size, encoder.steering
    encoder.steering = content["encoder"].get("steering", usual).float()
    if encoder.forms.shape[1:] != (size,) or len(encoder.forms) < 2 or encoder.steering.shape != usual.shape:
        raise ValueError("the hands of its forms do not fit its encoder")
    return encoder.eval()


def load_encoder(path: Path) -> HandEncoder:
    """The encoder of a checkpoint of the task `hand`. Raises InputError for a file that has none."""
    encoder, content = load_checkpoint(path)
    if content["task"] != "hand":
        raise InputError(f"{path}: not an encoder of hands; train one with: python train.py --task hand")
    return encoder


@contextmanager
def naming_what_does_not_fit(path: Path) -> Iterator[None]:
    """Turn errors that come of wrong contents of a checkpoint into an InputError that names it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: its contents do not fit together ({reason})") from None


def check_archive(file: IO[bytes]) -> None:
    """Raise ValueError or BadZipFile unless this is a whole .zip of torch.save. PyTorch verifies no checksums."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, as torch.save writes nothing")
        if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
            raise ValueError("its parts overlap")
        if damaged := archive.testzip():
            raise ValueError(f"the checksum of {damaged} does not fit")
        for name in (entry.filename for entry in entries if entry.filename.lower().endswith("data.pkl")):
            for opcode, argument, _ in pickletools.genops(archive.read(name)):
                if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not PICKLED.fullmatch(str(argument)):
                    raise ValueError("it holds something other than tensors and plain values")


def build_network(content: dict[str, Any]) -> nn.Module:
    """The network of a checkpoint's content. Raises nearly anything for one that does not fit together."""
    make_config, make_network = NETWORKS[content["task"]]
    config, charset, counts = make_config(**content["config"]), content["charset"], content["char_counts"]
    if len(charset) != getattr(config, "num_chars", 0) or bool(charset) == (content["task"] in WITHOUT_TEXT):
        raise ValueError("its character set does not fit its task or its sizes")
    if len(set(charset)) != len(charset) or not isinstance(charset, str):
        raise ValueError("its character set is not made of characters, each once")
    if len(counts) != len(charset) or not all(type(count) is int and 0 <= count < 2**63 for count in counts):
        raise ValueError("its character counts do not fit its character set")
    with torch.device("meta"):  # shapes without memory
        network = make_network(config)
    expected = network.state_dict()
    weights = {name: weight.float().contiguous() for name, weight in content["weights"].items() if name in expected}
    network.load_state_dict(content["weights"] | weights, assign=True)
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise ValueError("a weight is not a number")
    if "std" in weights:
        check_statistics(weights["mean"].numpy(force=True), weights["std"].numpy(force=True))
    return network
