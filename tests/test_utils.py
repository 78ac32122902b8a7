"""utils.py: checkpoints that are damaged or crafted, files that are written, and how a program ends."""

import math
import zipfile
from pathlib import Path

import pytest
import torch

from model import Config, Model
from utils import InputError, load_checkpoint, save_checkpoint

SMALL = Config(num_layers=2, cell_size=8, num_clusters=2, K=2, num_chars=3)

# --------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint of a run of `synthesis` after one step."""
    path = tmp_path_factory.mktemp("whole") / "synthesis.pt"
    torch.manual_seed(0)
    model = Model(SMALL)
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    save_checkpoint(
        path, model, "abc", [1, 0, 7], task="synthesis", settings={"seed": 0}, log=[{"epoch": 1}], step_log=[],
        progress={"step": 1}, optimizer=optimizer.state_dict(), fingerprint="f",
    )  # fmt: skip
    return path


def refusal(path):
    """The message by which a checkpoint is refused; "" if it is not."""
    try:
        load_checkpoint(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return str(error)
    return ""


def test_a_damaged_checkpoint_is_never_used(whole, tmp_path):
    data, bad = whole.read_bytes(), tmp_path / "bad.pt"
    with zipfile.ZipFile(whole) as archive:
        spans = []  # of the contents: what is between them means nothing
        for entry in archive.infolist():
            with archive.open(entry) as file:
                spans.append((file._orig_compress_start, entry.file_size))
    assert sum(size for _, size in spans) > len(data) / 4
    for start, size in spans:
        for at in range(start, start + size, 331):
            bad.write_bytes(data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :])
            assert refusal(bad), at
    start, _ = max(spans, key=lambda span: span[1])
    bad.write_bytes(data[: start + 64] + bytes(64) + data[start + 128 :])
    assert "checksum" in refusal(bad)
    for end in range(0, len(data), 997):
        bad.write_bytes(data[:end])
        assert refusal(bad), end


def test_whole_checkpoint_loads_with_all_its_numbers(whole):
    model, content = load_checkpoint(whole)
    assert content["char_counts"] == [1, 0, 7] and not model.training
    torch.manual_seed(0)
    expected = Model(SMALL)
    for (name, found), first in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert found.requires_grad and found.dtype == torch.float32, name
        assert (found - (first - 1e-3)).abs().max() < 1e-6, name  # a first step of Adam is the step size
    text = torch.tensor([[0, 2, 1]])
    losses = model.losses(torch.ones(5, 1, 3), torch.ones(4, 1, dtype=torch.bool), text)[0]
    losses.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def with_weight(name, change):
    return lambda content: content["weights"].update({name: change(content["weights"][name])})


def with_config(**sizes):
    return lambda content: content["config"].update(sizes)


def with_parts(**parts):
    return lambda content: content.update(parts)


CRAFTED = {
    "version a float": with_parts(version=1.0), "version true": with_parts(version=True),
    "huge version": with_parts(version=10**500),
    "config no dict": with_parts(config=[1, 2]), "config unknown": with_config(cells=3),
    "config huge number": with_config(K=10**500), "layers a float": with_config(num_layers=2.0),
    "layers true": with_config(num_layers=True), "no layers": with_config(num_layers=0),
    "layers a tensor": with_config(num_layers=torch.ones(1)),
    "charset a list": with_parts(charset=["a", "b", "c"]), "charset twice": with_parts(charset="aba"),
    "counts no list": with_parts(char_counts="abc"), "counts of words": with_parts(char_counts=["a", "b", "c"]),
    "counts below 0": with_parts(char_counts=[1, 2, -1]), "counts huge": with_parts(char_counts=[1, 2, 2**80]),
    "counts too few": with_parts(char_counts=[1, 2]),
    "unknown task": with_parts(task="draw"), "task of a list": with_parts(task=["read"]),
    "other task": with_parts(task="rand_write"),
    "weights no dict": with_parts(weights=[]), "weights of lists": with_weight("head.bias", torch.Tensor.tolist),
    "weights of numbers": with_weight("head.bias", lambda weight: 3.0),
    "weights whole": with_weight("head.bias", torch.Tensor.int),
    "weights complex": with_weight("head.bias", lambda weight: weight.to(torch.complex64)),
    "weights not finite": with_weight("head.bias", lambda weight: weight * math.inf),
    "weights turned": with_weight("head.weight", lambda weight: weight.T.contiguous()),
    "weights one number": with_weight("head.weight", lambda weight: torch.zeros(1, 1).expand(weight.shape)),
    "weight missing": lambda content: content["weights"].pop("head.bias"),
    "weight too many": lambda content: content["weights"].update(more=torch.zeros(1)),
    "std 0": with_weight("std", torch.zeros_like), "std below 0": with_weight("std", lambda std: -std),
    "std tiny": with_weight("std", lambda std: std * 1e-30), "std huge": with_weight("std", lambda std: std * 1e10),
    "mean huge": with_weight("mean", lambda mean: mean + 1e10),
    "log no list": with_parts(log={}), "log of words": with_parts(log=["a"]),
    "steps of lists": with_parts(step_log=[[]]),
    "progress a list": with_parts(progress=[]), "settings a word": with_parts(settings="a"),
    "fingerprint a number": with_parts(fingerprint=3),
    "run incomplete": lambda content: content.pop("progress"),
    "optimizer a list": with_parts(optimizer=[]), "optimizer empty": with_parts(optimizer={}),
    "optimizer without groups": lambda content: content["optimizer"].update(param_groups=[]),
    "optimizer of other weights": lambda content: content["optimizer"]["param_groups"][0].update(params=[0, 1]),
    "optimizer's shapes": lambda content: content["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
    "optimizer's words": lambda content: content["optimizer"]["state"][0].update(exp_avg="abc"),
    "optimizer's numbers": lambda content: content["optimizer"]["state"].update({99: {"step": torch.zeros(())}}),
}  # fmt: skip


@pytest.mark.parametrize("change", CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_checkpoint_is_refused(change, whole, tmp_path):
    content = torch.load(whole, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "bad.pt")
    message = refusal(tmp_path / "bad.pt")
    assert "not a checkpoint of this version" in message or "do not fit together" in message


@pytest.mark.parametrize("sizes", [{"num_layers": 10**6}, {"cell_size": 20_000}, {"num_clusters": 9999, "K": 9999}])
def test_sizes_are_compared_before_memory_is_taken(sizes, whole, tmp_path, monkeypatch):
    content = torch.load(whole, weights_only=True)
    content["config"] |= sizes
    torch.save(content, tmp_path / "bad.pt")
    most, made = 0, torch.nn.Parameter.__new__

    def make(cls, data=None, requires_grad=True):
        nonlocal most
        most = max(most, 0 if data is None or data.is_meta else data.numel())
        return made(cls, data, requires_grad)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", make)
    assert "fit together" in refusal(tmp_path / "bad.pt") and most == 0


class Trap:
    def __reduce__(self):
        return bytearray, (10**9,)


@pytest.mark.parametrize("trap", [Trap(), Path("a"), torch.zeros(2, device="meta"), torch.zeros(2).to_sparse()])
def test_what_else_a_pickle_can_hold_is_refused_in_our_words(trap, whole, tmp_path):
    content = torch.load(whole, weights_only=True)
    torch.save(content | {"more": trap}, tmp_path / "bad.pt")
    message = refusal(tmp_path / "bad.pt")
    assert "something other than tensors and plain values" in message and "weights_only" not in message


def test_a_compressed_checkpoint_is_refused(whole, tmp_path):
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "bad.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert "compressed" in refusal(tmp_path / "bad.pt")
