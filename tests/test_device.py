"""Writing and training on a device: on a GPU if there is one, and on the processor by the plain code that GPUs use.

Without a GPU, tensors that have a device and a shape alone ("meta") tell whether all of them are where they must be.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import CHARSET, assert_refused, run_script
from test_train import read_log, run_in_process

import generate
from handwriting import writer as writer_module
from handwriting.encoder import EncoderConfig, HandEncoder
from handwriting.program import InputError
from handwriting.sampling import PlainDecoder, Sampler
from handwriting.writer import Writer
from model import Config, Model
from utils import load_checkpoint

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """A device without kernels, and networks that nobody has loaded with them."""
    writer_module._load.cache_clear()
    request.addfinalizer(writer_module._load.cache_clear)
    monkeypatch.setenv("HANDWRITING_KERNELS", "0")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


@pytest.mark.parametrize("name", ["hands", "synthesis", "rand_write"])
def test_losses_and_gradients_are_those_of_the_processor(checkpoints, device, name):
    torch.manual_seed(1)
    points, mask = torch.randn(9, 3, 3) * 40, torch.ones(8, 3, dtype=torch.bool)
    points[..., 2] = (points[..., 2] > 20).float()
    found = {}
    for place in ("cpu", device):
        model, _ = load_checkpoint(checkpoints / f"{name}.pt", place)
        chars, size = model.config.num_chars, model.config.hand_size
        text = torch.arange(6).view(3, 2).to(place) % chars if chars else None
        hand = torch.ones(3, size, device=place) if size else None
        losses, errors = model.losses(points.to(place), mask.to(place), text, hand)
        gradients = torch.autograd.grad(losses.sum(), list(model.parameters()), allow_unused=True)
        assert {tensor.device.type for tensor in (losses, errors)} == {place}
        found[place] = [tensor.detach().cpu() for tensor in (losses, errors, *gradients)]
    for one, other in zip(*found.values(), strict=True) if len(found) > 1 else ():
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["hands", "synthesis"])
def test_ink_is_that_of_the_processor(checkpoints, device, name):
    here, there = (
        Writer(checkpoints / f"{name}.pt", seed=3, retries=0, device=place) for place in ("cpu", device)
    )  # fmt: skip
    assert there.network.device.type == device and there.network.sampler.make.func is PlainDecoder
    texts = [here.prepare(text) for text in ("abc7", "ca", "7")]
    for one, other in zip(here.write_raw(texts, range(3)), there.write_raw(texts, range(3)), strict=True):
        np.testing.assert_allclose(one.points[:20], other.points[:20], atol=0.05)
    given = {"steps": 30, "checkpoint": checkpoints / "rand_write.pt"}
    one, other = (generate.generate_unconditionally(device=place, **given)[0] for place in ("cpu", device))
    np.testing.assert_allclose(one.points, other.points, atol=0.05)


def test_a_run_goes_on_and_is_exact_on_its_device(data_file, tmp_path, device):
    flags = ["--task", "synthesis", "--num_epochs", 2, "--device", device]
    run_in_process(data_file, tmp_path / "whole", *flags)
    run_in_process(data_file, tmp_path / "parts", *flags, "--max_steps", 3)
    run_in_process(data_file, tmp_path / "parts", "--task", "synthesis", "--device", device, "--resume")
    losses = [
        [float(row["validation_loss"]) for row in read_log(tmp_path / part, "synthesis")] for part in ("whole", "parts")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert len(losses[0]) == 2 and losses[0][1] < losses[0][0]


@pytest.mark.parametrize("primed", [False, True])
@pytest.mark.parametrize("task", ["synthesis", "rand_write"])
def test_all_tensors_of_writing_follow_the_network(monkeypatch, task, primed):
    """Two devices in one operation are an error."""

    def zeros(tensor, force=False):
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    monkeypatch.setattr(torch.Tensor, "cpu", zeros)  # these have no numbers
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    chars, size = (len(CHARSET), 4) if task == "synthesis" else (0, 0)
    with torch.device("meta"):
        model = Model(Config(cell_size=8, num_clusters=3, K=2, num_chars=chars, hand_size=size)).eval()
        encoder = HandEncoder(EncoderConfig(4, 6)).eval()
    sampler, codes = Sampler(model), [np.array([1, 2]), np.array([3])]
    hands = np.zeros((2, size), np.float32) if size else None
    prime = sampler.prime(np.zeros((5, 3), np.float32), codes[0], hands if hands is None else hands[:1])
    lines = sampler.write(codes if chars else None, [1, 2], 0.5, [4, 6], True, prime if primed else None, hands)
    assert model.mean.device.type == "meta" and sampler.make.func is PlainDecoder and len(lines) == 2
    assert encoder.encode([np.ones((9, 3), np.float32)]).shape == (1, 4)


@pytest.mark.parametrize("name", ["meta", "nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_told_in_one_line(checkpoints, tmp_path, name):
    with pytest.raises(InputError, match=f"--device {name}: cannot be used"):
        Writer(checkpoints / "blanks.pt", device=name)
    for flags in (["ab"], ["--task", "rand_write"], ["--batch", tmp_path / "texts"], ["ab", "--page", "A5"]):
        (tmp_path / "texts").write_text("ab\n")
        task = "rand_write" if "rand_write" in flags else "blanks"
        given = [*flags, "--device", name, "--checkpoint", checkpoints / f"{task}.pt", "--output", tmp_path / "a.svg"]
        with pytest.raises(InputError, match=f"--device {name}: cannot be used"):
            generate.main([*map(str, given)])
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_the_processor_is_the_default(checkpoints, tmp_path):
    for name, flags in (("a.json", []), ("b.json", ["--device", "cpu"])):
        own = ["ab", "--checkpoint", checkpoints / "hands.pt", "--retries", "0", "--output", tmp_path / name]
        generate.main([*map(str, own), *flags])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert_refused(run_script("generate.py", "ab", "--device", "cuda:99", cwd=tmp_path), "--device cuda:99")


def test_the_processor_has_no_number(checkpoints):
    assert Writer(checkpoints / "blanks.pt", retries=0, device="cpu:1").network.device.type == "cpu"
