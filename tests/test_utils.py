"""utils.py: checkpoints that are whole, damaged or crafted, and a disk that fills up as one is written.

That train.py refuses parts that do not fit a run is in test_train.py.
"""

import errno
import math
import os
import resource
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import assert_refused

from handwriting.program import InputError
from model import Config, Model
from utils import load_checkpoint, save_checkpoint

SMALL = Config(num_layers=2, cell_size=8, num_clusters=2, K=2, num_chars=3)


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
    "no version": with_parts(version=None), "version a float": with_parts(version=2.0),
    "an old version": with_parts(version=1), "version true": with_parts(version=True),
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
    "weights not finite": with_weight("head.bias", lambda weight: weight * math.inf),
    "weights turned": with_weight("head.weight", lambda weight: weight.T.contiguous()),
    "weight missing": lambda content: content["weights"].pop("head.bias"),
    "weight too many": lambda content: content["weights"].update(more=torch.zeros(1)),
    "std 0": with_weight("std", torch.zeros_like), "std below 0": with_weight("std", lambda std: -std),
    "std tiny": with_weight("std", lambda std: std * 1e-30), "std huge": with_weight("std", lambda std: std * 1e10),
    "mean huge": with_weight("mean", lambda mean: mean + 1e10),
}  # fmt: skip


@pytest.mark.parametrize("change", CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_checkpoint_is_refused(change, whole, tmp_path):
    content = torch.load(whole, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "bad.pt")
    message = refusal(tmp_path / "bad.pt")
    assert "not a checkpoint of this version" in message or "do not fit together" in message


@pytest.mark.parametrize(
    "change",
    [
        torch.Tensor.half, torch.Tensor.double, torch.Tensor.int, lambda weight: weight.to(torch.complex64),
        lambda weight: torch.zeros(1, 1).expand(weight.shape), lambda weight: weight.T.contiguous().T,
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_weights_of_any_type_become_float32_whole_in_memory(change, whole, tmp_path):
    content = torch.load(whole, weights_only=True)
    with_weight("head.weight", change)(content)
    torch.save(content, tmp_path / "odd.pt")
    weight = load_checkpoint(tmp_path / "odd.pt")[0].head.weight
    assert weight.dtype == torch.float32 and weight.is_contiguous()
    expected = content["weights"]["head.weight"]
    torch.testing.assert_close(weight, (expected.real if expected.is_complex() else expected).float())


@pytest.mark.parametrize("sizes", [{"num_layers": 10**6}, {"cell_size": 20_000}, {"num_clusters": 9999, "K": 9999}])
def test_sizes_are_compared_before_memory_is_taken(sizes, whole, tmp_path, monkeypatch):
    content = torch.load(whole, weights_only=True)
    content["config"] |= sizes
    torch.save(content, tmp_path / "bad.pt")
    largest = max(weight.numel() for weight in content["weights"].values())
    most, made = 0, torch.nn.Parameter.__new__

    def make(cls, data=None, requires_grad=True):
        nonlocal most
        most = max(most, 0 if data is None or data.is_meta else data.numel())
        return made(cls, data, requires_grad)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", make)
    assert "fit together" in refusal(tmp_path / "bad.pt") and most <= largest


class Trap:
    def __reduce__(self):
        return bytearray, (10**9,)


@pytest.mark.parametrize("trap", [Trap(), Path("a"), torch.zeros(2, device="meta"), torch.zeros(2).to_sparse()])
def test_what_else_a_pickle_can_hold_is_refused_in_our_words(trap, whole, tmp_path):
    content = torch.load(whole, weights_only=True)
    torch.save(content | {"more": trap}, tmp_path / "bad.pt")
    message = refusal(tmp_path / "bad.pt")
    assert "something other than tensors and plain values" in message and "weights_only" not in message


def test_a_checkpoint_of_a_run_of_an_earlier_version_still_loads(whole, tmp_path):
    content = torch.load(whole, weights_only=True)
    del content["step_log"], content["fingerprint"]
    torch.save(content, tmp_path / "earlier.pt")
    assert not refusal(tmp_path / "earlier.pt")


def test_a_weight_beyond_half_precision_is_named_and_nothing_written(whole, tmp_path):
    model, _ = load_checkpoint(whole)
    with torch.no_grad():
        model.head.bias[2] = 65520.0  # rounds to infinity
        path = tmp_path / "half.pt"
        with pytest.raises(InputError, match=r"half\.pt: head\.bias .* too large"):
            save_checkpoint(path, model, "abc", [1, 0, 7], task="synthesis", half=True)
        assert not path.exists()
        model.head.bias[2] = 65504.0
    save_checkpoint(path, model, "abc", [1, 0, 7], task="synthesis", half=True)
    assert load_checkpoint(path)[0].head.bias[2] == 65504.0


def test_a_compressed_checkpoint_is_refused(whole, tmp_path):
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "bad.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert "compressed" in refusal(tmp_path / "bad.pt")


@pytest.mark.parametrize("written_before", [0, 3000])
def test_a_full_disk_ends_with_one_line_and_leaves_the_old_checkpoint(written_before, whole, tmp_path, run_here):
    path = tmp_path / "synthesis.pt"
    path.write_bytes(whole.read_bytes())
    model, _ = load_checkpoint(path)
    limits, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (written_before, limits[1]))  # more is an error, as on a full disk
    try:
        result = run_here(lambda _: save_checkpoint(path, model, "abc", [1, 0, 7], task="synthesis"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, action)
    assert_refused(result, "synthesis.pt: ", os.strerror(errno.EFBIG))
    assert path.read_bytes() == whole.read_bytes() and len(list(tmp_path.iterdir())) == 1
