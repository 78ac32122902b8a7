"""Batches, evaluation, optimisation, and runs that are stopped, killed and resumed."""

import argparse
import csv
import fcntl
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import CHARSET, ROOT, assert_refused, environment
from failing import fail_in_second

import train
from handwriting import kernels
from handwriting.checks import load_recogniser
from handwriting.data.dataset import load_dataset, save_dataset
from handwriting.program import InputError, Parser
from handwriting.recogniser import align
from handwriting.training import hardware, optimisation, run, start, tasks
from handwriting.training.flags import parse_flags
from handwriting.training.hardware import choose_hardware, choose_precision, choose_processes
from handwriting.training.processes import Group, loopback_interface, start_group
from handwriting.training.weight_noise import WeightNoise
from model import Config, Model
from utils import load_checkpoint, save_checkpoint

TINY = ["--cell_size", "8", "--batch_size", "6", "--precision", "fp32", "--warmup", "0", "--anneal", "none"]
TINY += ["--sample_every", "0"]
TINY_MIXTURE = ["--num_clusters", "2", "--K", "2"]
TIMES = {"minutes", "points_per_second", "characters_per_second"}  # columns of the log that no two runs share


@pytest.fixture(autouse=True)
def one_thread_and_no_curves(request, monkeypatch):
    """Numbers do not depend on the machine, and no curve is drawn unless a test asks for `curves`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(tasks, "SAMPLE_STEPS", 30)
    if "curves" not in request.fixturenames:
        monkeypatch.setattr(run, "draw_curve", lambda *_: None)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def curves():
    """Curves are drawn."""


def run_in_process(data_file, folder, *flags) -> None:
    sizes = [] if "read" in flags else TINY_MIXTURE
    train.main(["--data", str(data_file), "--model_dir", str(folder), *TINY, *sizes, *map(str, flags)])


def read_log(folder, task, kind="log") -> list[dict[str, str]]:
    with (folder / f"{task}_{kind}.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def weights_of(path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)[0].state_dict()


def assert_same_weights(a, b) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------------------------------- batches


def test_batches_hold_every_line_once_among_lines_of_similar_length():
    lengths = np.random.default_rng(0).integers(30, 800, 103)
    first, again, other = (tasks.make_batches(lengths, 10, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for found in (first, other):
        assert sorted(np.concatenate(found)) == list(range(103))
        assert max(map(len, found)) == 10
        padded = sum(len(batch) * lengths[batch].max() for batch in found)
        assert padded < 1.2 * lengths.sum()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert [lengths[batch].max() for batch in first] != sorted(lengths[batch].max() for batch in first)


def test_lines_with_rare_characters_are_seen_more_often():
    texts = np.array(["ab"] * 90 + ["a7"] * 8 + ["bQ"] * 2)
    weights = tasks.line_weights(texts, 0.16)
    assert weights.tolist() == pytest.approx([1] * 90 + [2] * 8 + [8] * 2)
    assert (tasks.line_weights(texts, 0.0) == 1).all()
    epochs = [tasks.sample_lines(weights, np.random.default_rng(seed)) for seed in range(300)]
    counts = np.mean([np.bincount(lines, minlength=100) for lines in epochs], axis=0)
    np.testing.assert_allclose(counts, weights / weights.mean(), atol=0.15)
    for lines in epochs:  # an epoch has as many lines as ever, each as often as its weight asks
        found = np.bincount(lines, minlength=100)
        assert len(lines) == 100 and (np.abs(found - weights / weights.mean()) < 1).all()
    assert (tasks.sample_lines(np.ones(50), np.random.default_rng(0)) == np.arange(50)).all()


def test_batches_are_cut_padded_and_masked(dataset):
    lines = np.array([0, 5, 7])
    points, mask, text, _ = tasks.make_task("synthesis", dataset, timesteps=15).batch(
        lines, torch.device("cpu"), [0] * 3
    )
    lengths = [min(len(dataset.points(line)), 16) for line in lines]
    assert points.shape == (max(lengths), 3, 3) and mask.shape == (max(lengths) - 1, 3)
    for b, (line, length) in enumerate(zip(lines, lengths, strict=True)):
        assert np.array_equal(points[:length, b], dataset.points(line)[:16])
        assert (points[length:, b] == 0).all()
        assert mask[:, b].tolist() == [t + 1 < length for t in range(len(mask))]
        codes = [code for code in text[b].tolist() if code >= 0]
        assert "".join(CHARSET[code] for code in codes) == dataset.texts[line]
    points, _, text, _ = tasks.make_task("rand_write", dataset, timesteps=15).batch(lines, torch.device("cpu"))
    assert text is None and len(points) == max(len(dataset.points(line)) for line in lines)  # whole without seeds


def test_augmented_lines_are_scaled_and_slanted_and_nothing_else(dataset):
    task, lines = tasks.make_task("rand_write", dataset, 1000, augment=0.1), np.arange(20)
    plain = tasks.make_task("rand_write", dataset, 1000).batch(lines, torch.device("cpu"))[0].double()
    first, again, other = (
        task.batch(lines, torch.device("cpu"), [*range(seed, seed + 20)])[0].double() for seed in (1, 1, 30)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    alone = task.batch(lines[4:5], torch.device("cpu"), [5])[0].double()
    assert torch.equal(first[: len(alone), 4], alone[:, 0])  # whatever lines it is in a batch with
    matrices = []
    for b in lines:
        x, y = plain[:, b, :2].numpy(), first[:, b, :2].numpy()
        matrix, residual, *_ = np.linalg.lstsq(x, y, rcond=None)
        assert residual.max() < 1e-6 and torch.equal(plain[:, b, 2], first[:, b, 2])
        matrices.append(matrix)
    (width, slope), (slant, height) = np.moveaxis(matrices, 0, -1)
    assert np.abs(slope).max() < 1e-6
    assert [np.std(width), np.std(slant), np.std(height)] == pytest.approx([0.1] * 3, rel=0.4)
    assert np.corrcoef([width, slant, height])[np.triu_indices(3, 1)] == pytest.approx([0] * 3, abs=0.5)
    model = Model(Config(cell_size=4))
    assert task.evaluate(model) == tasks.make_task("rand_write", dataset).evaluate(model)


@pytest.mark.parametrize("charset", ["", CHARSET])
@torch.no_grad()
def test_evaluation_is_the_mean_over_single_uncut_lines(dataset, charset):
    torch.manual_seed(0)
    model = Model(Config(cell_size=8, num_clusters=2, K=2, num_chars=len(charset)))
    model.mean.copy_(torch.from_numpy(dataset.mean))
    model.std.copy_(torch.from_numpy(dataset.std))
    task = tasks.make_task("synthesis" if charset else "rand_write", dataset, timesteps=10)
    found = task.evaluate(model.train(), batch_size=4)
    nats, squares, points = [], 0.0, 0
    for line in dataset.lines("validation", bool(charset)):
        codes = [torch.tensor([CHARSET.index(character) for character in dataset.texts[line]])] if charset else None
        x, mask, text, _ = tasks.collate([dataset.points(line)], codes)
        loss, error = model.losses(x, mask, text)
        nats.append(loss.sum().item())
        squares += error.sum().item()
        points += len(x) - 1
    assert model.training
    assert (found["lines"], found["points"]) == (len(nats), points)
    assert found["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert found["per_point"] == pytest.approx(sum(nats) / points, rel=1e-5)
    assert found["sse"] == pytest.approx(squares / points, rel=1e-5)
    # a density over whiteboard units is smaller by the area of a normalised unit
    assert found["per_point_raw"] - found["per_point"] == pytest.approx(math.log(np.prod(dataset.std)), rel=1e-5)
    assert found["loss_raw"] == pytest.approx(found["per_point_raw"] * points / len(nats), rel=1e-5)


# ------------------------------------------------------------------------------------------------------ random numbers


def make_run(data_file, *given, task="rand_write") -> run.Run:
    sizes = [] if task == "read" else TINY_MIXTURE
    options = parse_flags(["--data", str(data_file), "--task", task, *TINY, *sizes, *map(str, given)])
    return run.Run(options, load_dataset(data_file))


def test_runs_of_other_seeds_have_another_order_of_lines(data_file):
    """Neither is the first epoch of a seed beyond 2^32 the second one of its remainder."""
    orders = []
    for seed, epoch in ((7, 0), (7, 1), (8, 0), (2**32 + 7, 0), (7 * 2**32, 0)):
        one = make_run(data_file, "--seed", seed)
        one.progress.epoch = epoch
        orders.append(tuple(np.concatenate(one.epoch_batches()).tolist()))
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize(("task", "given"), [("rand_write", ["--augment", 0.1]), ("read", [])])
def test_a_line_that_is_seen_twice_is_changed_in_two_ways(data_file, monkeypatch, task, given):
    """And by one process of two as by one alone."""
    seen, losses = [], tasks.Writing.loss if task == "rand_write" else tasks.Reading.loss

    def loss(self, model, batch):
        seen.append(batch[0])
        return losses(self, model, batch)

    class Second(Group):
        def sums(self, *values):
            return list(values)

        def sum_gradients(self, parameters):
            pass

    monkeypatch.setattr(tasks.Writing if task == "rand_write" else tasks.Reading, "loss", loss)
    one, two = (make_run(data_file, *given, task=task) for _ in range(2))
    two.group = Second(1, 2)
    line = one.lines[3]
    for each in (one, two):
        each.step(np.array([line, line]))
        each.step(np.array([line, line]))
    first, second, later, _, alone, *_ = [column for batch in seen for column in batch.unbind(1)]
    if task == "read":  # padded to one length
        assert len({values.sum().item() for values in (first, second, later)}) == 3
        assert torch.equal(second[: len(alone)], alone)
    else:
        assert not torch.equal(first, second) and not torch.equal(first, later)
        assert torch.equal(second, alone)


# -------------------------------------------------------------------------------------------------------- optimisation


def test_rmsprop_takes_the_steps_of_the_paper():
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = optimisation.GravesRMSprop([parameter], lr=1e-4)
    w, n, g, delta = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    for step in range(5):
        optimizer.zero_grad()
        (parameter**3).sum().mul(step + 1).backward()
        optimizer.step()
        for i in range(2):
            epsilon = 3 * w[i] ** 2 * (step + 1)
            n[i] = 0.95 * n[i] + 0.05 * epsilon**2
            g[i] = 0.95 * g[i] + 0.05 * epsilon
            delta[i] = 0.9 * delta[i] - 1e-4 * epsilon / math.sqrt(n[i] - g[i] ** 2 + 1e-4)
            w[i] += delta[i]
    assert parameter.tolist() == pytest.approx(w, rel=1e-12)


def test_rmsprop_stays_finite_where_rounding_makes_the_variance_negative():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = optimisation.GravesRMSprop([parameter])
    for _ in range(600):
        parameter.grad = torch.tensor([15.0, 100.0, 500.0])
        optimizer.step()
    assert torch.isfinite(parameter).all()


def test_average_of_the_weights():
    """After steps to weights of 1, 2, 3 ...: the old average counts 1/10, 2/11, 3/12 and so on, at most `decay`."""
    model = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(model.weight)
    model.register_buffer("std", torch.ones(1))
    average, expected = optimisation.moving_average(model, 0.3), 0.0
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 0.3, 0.3]):
        if step == 2:  # a run is resumed
            average = optimisation.moving_average(average.module, 0.3, updates=2)
        torch.nn.init.constant_(model.weight, step + 1)
        average.update_parameters(model)
        expected = decay * expected + (1 - decay) * (step + 1)
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert average.module.std.item() == 1


@pytest.mark.parametrize("skipped", [0, 2])
def test_average_is_what_is_evaluated_and_kept(data_file, tmp_path, monkeypatch, skipped):
    """One epoch of steps, the average of whose weights is made again here. A step that is skipped changes nothing."""
    original, calls, seen = Model.losses, [], []

    def losses(self, *arguments):
        if torch.is_grad_enabled():
            calls.append(1)
            seen.append({name: value.clone() for name, value in self.state_dict().items()})
        factor = math.nan if torch.is_grad_enabled() and len(calls) == skipped else 1.0
        return tuple(value * factor for value in original(self, *arguments))

    monkeypatch.setattr(Model, "losses", losses)
    run_in_process(data_file, tmp_path, "--num_epochs", 1, "--learning_rate", 0.01, "--ema", 0.35)
    raw = torch.load(tmp_path / "rand_write_epoch_1.pt", weights_only=True)["raw_weights"]
    expected, updates = seen[0], 0
    for step, weights in enumerate([*seen[1:], raw]):
        if step + 1 != skipped:
            decay, updates = min(0.35, (1 + updates) / (10 + updates)), updates + 1
            expected = {name: decay * value + (1 - decay) * weights[name] for name, value in expected.items()}
    assert len(seen) == 6 and not torch.equal(raw["head.weight"], expected["head.weight"])
    for name in ("best", "epoch_1"):
        for key, value in weights_of(tmp_path / f"rand_write_{name}.pt").items():
            torch.testing.assert_close(value, expected[key])
    model, dataset = load_checkpoint(tmp_path / "rand_write_best.pt")[0], load_dataset(data_file)
    logged = float(read_log(tmp_path, "rand_write")[0]["validation_loss"])
    assert tasks.make_task("rand_write", dataset).evaluate(model)["loss"] == pytest.approx(logged, rel=1e-5)


def test_weight_noise_without_noise_and_with_many_lines_is_the_plain_run(data_file, tmp_path, monkeypatch):
    """The description length counts little beside the loss of very many lines."""
    monkeypatch.setattr(run, "WeightNoise", lambda network, deviation, _: WeightNoise(network, deviation, 1e12))
    flags = ["--num_epochs", 2, "--learning_rate", 0.01]
    run_in_process(data_file, tmp_path / "plain", *flags)
    run_in_process(data_file, tmp_path / "noise", *flags, "--weight_noise", 1e-12)
    plain, noise = (weights_of(tmp_path / run / "rand_write_epoch_2.pt") for run in ("plain", "noise"))
    for name in plain:
        torch.testing.assert_close(noise[name], plain[name], rtol=1e-4, atol=1e-5)


def test_weight_noise_retrains_a_network_and_tells_the_description_length(data_file, tmp_path):
    run_in_process(data_file, tmp_path / "plain", "--num_epochs", 1)
    best = tmp_path / "plain" / "rand_write_best.pt"
    flags = ["--init", best, "--num_epochs", 2, "--weight_noise"]
    for deviation in (1e-9, 0.5):
        run_in_process(data_file, tmp_path / str(deviation), *flags, deviation)
    small, large = (read_log(tmp_path / str(deviation), "rand_write") for deviation in (1e-9, 0.5))
    assert float(large[0]["train_loss"]) > float(small[0]["train_loss"]) + 5  # the loss that is told has the noise
    for rows in (small, large):  # and the validation loss has none
        assert float(rows[0]["validation_loss"]) < float(read_log(tmp_path / "plain", "rand_write")[0]["train_loss"])
    content = torch.load(tmp_path / "0.5" / "rand_write_epoch_2.pt", weights_only=True)
    network = load_checkpoint(tmp_path / "0.5" / "rand_write_epoch_2.pt")[0]
    means = torch.cat([value.flatten() for value in network.parameters()])
    deviations = torch.cat([value.flatten() for value in content["weight_noise"].values()]).rsqrt()
    prior = torch.distributions.Normal(means.mean(), ((means - means.mean()) ** 2 + deviations**2).mean().sqrt())
    nats = torch.distributions.kl_divergence(torch.distributions.Normal(means, deviations), prior).sum().item()
    lines = len(load_dataset(data_file).lines("train", False))
    assert float(large[1]["description_length"]) == pytest.approx(nats / lines, rel=1e-4)


def test_gradient_is_clipped_and_lines_are_cut(data_file, tmp_path):
    """A gradient cut to nothing moves nothing; lines cut to 5 predictions have 5 points each."""
    flags = ["--max_steps", 1, "--optimizer", "rmsprop", "--learning_rate", 1]
    torch.manual_seed(0)
    sizes = {"cell_size": 8, "num_clusters": 2, "K": 2}
    initial = Model(Config(**sizes)).head.weight
    for clip, moves in ((0, True), (1e-6, False)):
        run_in_process(data_file, tmp_path / str(clip), *flags, "--grad_clip", clip, "--timesteps", 5)
        model, content = load_checkpoint(tmp_path / str(clip) / "rand_write_interrupted.pt")
        distance = (model.head.weight - initial).abs().max().item()
        assert distance > 0.01 if moves else distance < 1e-3
        sums = content["progress"]["epoch_sums"]
        assert sums["units"] == 5 * sums["lines"] > 0


def test_precision(monkeypatch):
    cpu = torch.device("cpu")
    assert choose_precision("fp32", cpu) == "fp32" and choose_precision("bf16", cpu) == "bf16"
    for is_faster, switch, expected in ((True, "1", "bf16"), (False, "1", "fp32"), (True, "0", "fp32")):
        monkeypatch.setattr(kernels, "multiplies_bfloat16_faster", lambda is_faster=is_faster: is_faster)
        monkeypatch.setenv("HANDWRITING_KERNELS", switch)
        assert choose_precision("auto", cpu) == expected


def test_one_process_decides_on_the_precision_for_all(monkeypatch):
    store, options = dist.HashStore(), [argparse.Namespace(precision="auto", device="cpu", batch_size=8) for _ in "ab"]
    for rank, is_faster in enumerate((True, False)):
        monkeypatch.setattr(kernels, "multiplies_bfloat16_faster", lambda is_faster=is_faster: is_faster)
        choose_hardware(options[rank], Group(rank, 2, store))
    assert [each.precision for each in options] == ["bf16", "bf16"]


def test_a_resumed_run_goes_on_in_the_precision_that_it_began_with(data_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HANDWRITING_KERNELS", "1")
    files = ["--data", str(data_file), "--model_dir", str(tmp_path), "--cell_size", "8", "--batch_size", "6"]
    for is_faster, *flags in ((True, "--max_steps", "1"), (False, "--max_steps", "2", "--resume")):
        monkeypatch.setattr(kernels, "multiplies_bfloat16_faster", lambda is_faster=is_faster: is_faster)
        train.main([*files, *flags])
        _, content = load_checkpoint(tmp_path / "rand_write_interrupted.pt")
        assert content["settings"]["precision"] == "bf16"


def test_step_sizes():
    options = argparse.Namespace(learning_rate=1.0, warmup=4, anneal="none", decay_rate=0.5, num_epochs=4)
    rates = [optimisation.learning_rate(options, step, 10) for step in range(40)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and rates[39] == 1.0
    options.anneal = "epoch"
    assert [optimisation.learning_rate(options, step, 10) for step in (9, 10, 29, 30)] == [1.0, 0.5, 0.25, 0.125]
    options.anneal = "cosine"
    assert optimisation.learning_rate(options, 20, 10) == pytest.approx(0.5)
    assert optimisation.learning_rate(options, 40, 10) == pytest.approx(0.0, abs=1e-9)


def test_weights_of_any_task_are_exported_and_fit_that_task_only(data_file, tmp_path):
    run_in_process(data_file, tmp_path, "--task", "synthesis", "--num_epochs", 1)
    small, best = tmp_path / "small.pt", tmp_path / "synthesis_best.pt"
    train.main(["--export", str(small), "--init", str(best)])
    model, content = load_checkpoint(small)
    assert content["task"] == "synthesis"
    for name, value in weights_of(best).items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    for task in ("rand_write", "read"):
        with pytest.raises(InputError, match=f"not a network for the task {task}"):
            run_in_process(data_file, tmp_path / task, "--task", task, "--init", small)
    run_in_process(data_file, tmp_path / "tuned", "--task", "synthesis", "--init", small, "--max_steps", 1)
    with pytest.raises(InputError, match="--init"):
        run_in_process(data_file, tmp_path / "tuned", "--task", "synthesis", "--init", small, "--resume")


def test_deeper_network_begins_where_that_of_init_ended_and_all_of_it_learns(data_file, dataset, tmp_path):
    run_in_process(data_file, tmp_path / "two", "--task", "synthesis", "--num_epochs", 1)
    best = tmp_path / "two" / "synthesis_best.pt"
    network = load_checkpoint(best)[0]
    deeper = tasks.grow(network, 4, 0)
    assert len(deeper.layers) == 4
    task = tasks.make_task("synthesis", dataset)
    assert task.evaluate(deeper) == pytest.approx(task.evaluate(network), rel=1e-5)
    flags = ["--task", "synthesis", "--init", best, "--num_layers", 4, "--max_steps", 3]
    run_in_process(data_file, tmp_path / "four", *flags)
    trained = weights_of(tmp_path / "four" / "synthesis_interrupted.pt")
    learned = [name for name in trained if not torch.equal(trained[name], deeper.state_dict()[name])]
    assert {"layers.0.cell.weight_hh", "layers.3.weight_hh_l0", "head.weight"} <= set(learned)
    with pytest.raises(InputError, match=r"--num_layers.* 2"):
        run_in_process(data_file, tmp_path / "one", "--task", "synthesis", "--init", best, "--num_layers", 1)


def test_sizes_come_from_the_network_of_init(data_file, tmp_path):
    run_in_process(data_file, tmp_path / "first", "--num_epochs", 1)
    init = ["--init", tmp_path / "first" / "rand_write_best.pt", "--max_steps", 1]
    with pytest.raises(InputError, match=r"--cell_size.* 8"):
        run_in_process(data_file, tmp_path / "second", *init, "--cell_size", 9)
    assert not (tmp_path / "second").exists()
    run_in_process(data_file, tmp_path / "second", *init, "--cell_size", 8)
    flags = ["--data", data_file, "--model_dir", tmp_path / "third", "--batch_size", 6, *init]
    train.main(list(map(str, flags)))
    assert load_checkpoint(tmp_path / "third" / "rand_write_interrupted.pt")[1]["settings"]["cell_size"] == 8


@pytest.mark.parametrize("flag", ["num_clusters", "K", "timesteps", "weight_noise", "augment"])
def test_flags_that_a_reader_has_no_use_for_are_refused(data_file, tmp_path, flag):
    with pytest.raises(InputError, match=f"--{flag}:"):
        run_in_process(data_file, tmp_path, "--task", "read", f"--{flag}", 1)
    assert not list(tmp_path.iterdir())


def test_step_sizes_that_nobody_gave():
    for flags, rate in ((["synthesis"], 8e-4), (["read"], 2e-3), (["read", "--optimizer", "rmsprop"], 1e-4)):
        assert parse_flags(["--task", *flags]).learning_rate == rate


def test_a_reader_learns_is_evaluated_and_exported(data_file, tmp_path, capsys):
    run_in_process(data_file, tmp_path, "--task", "read", "--num_epochs", 15, "--learning_rate", 0.02)
    rows = read_log(tmp_path, "read")
    assert float(rows[-1]["train_loss"]) < 0.5 * float(rows[0]["train_loss"])
    train.main(["--export", str(tmp_path / "recogniser.pt"), "--task", "read", "--model_dir", str(tmp_path)])
    model = load_recogniser(tmp_path / "recogniser.pt")
    dataset = load_dataset(data_file)
    capsys.readouterr()
    train.main(["--evaluate", str(tmp_path / "read_best.pt"), "--data", str(data_file), "--precision", "fp32"])
    printed = capsys.readouterr().out
    lines = dataset.lines("validation", True)
    texts, read = dataset.texts[lines], model.read([dataset.points(line) for line in lines])
    errors = sum(a != b for pair in zip(texts, read, strict=True) for a, b in align(*pair))
    assert f"{len(lines)} lines" in printed
    shown = float(printed.split("characters read wrong")[1].split("%")[0])
    assert shown == pytest.approx(100 * errors / sum(map(len, texts)), abs=2)  # exported in half precision


def test_best_reader_is_the_one_that_reads_best(dataset, tmp_path, capsys, monkeypatch, curves):
    """A line has too few frames for its text, which makes each loss infinite. Label and message are a recogniser's."""
    texts = dataset.texts.astype("U200")
    texts[dataset.lines("validation", True)[0]] = "ab" * 100
    save_dataset(replace(dataset, texts=texts), tmp_path / "long.npz")
    labels, rates, original = [], [0.9, 0.5, 0.5, 0.7], tasks.Reading.evaluate
    monkeypatch.setattr(run, "save_figure", lambda figure, _: labels.append(figure.axes[0].get_ylabel()))

    def evaluate(*arguments):
        return original(*arguments) | {"error_rate": rates[len(read_rows())]}

    def read_rows():
        return read_log(tmp_path, "read") if (tmp_path / "read_log.csv").exists() else []

    monkeypatch.setattr(tasks.Reading, "evaluate", evaluate)
    run_in_process(tmp_path / "long.npz", tmp_path, "--task", "read", "--num_epochs", 4, "--max_steps", 3)
    stopped = capsys.readouterr().out.splitlines()[-1]
    assert "log and curve are in" in stopped and "samples" not in stopped
    run_in_process(tmp_path / "long.npz", tmp_path, "--task", "read", "--resume", "--max_steps", 10000)
    assert [row["validation_loss"] for row in read_rows()] == ["inf"] * 4
    best = load_checkpoint(tmp_path / "read_best.pt")[1]["progress"]
    assert (best["epoch"], best["best"]) == (3, 0.5)  # of two that are as good the later one
    assert "done: best validation error rate 50.00%" in capsys.readouterr().out
    assert set(labels) == {"loss, nats a line"}


def test_loss_falls(data_file, tmp_path):
    run_in_process(data_file, tmp_path, "--task", "synthesis", "--num_epochs", 15, "--learning_rate", 0.01)
    losses = [float(row["validation_loss"]) for row in read_log(tmp_path, "synthesis")]
    assert losses[-1] < losses[0] - 5


# ------------------------------------------------------------------------------------------------------- stop and go on


def made_once(factory, name, make) -> Path:
    """A folder that `make` fills, once for all processes of pytest-xdist."""
    base = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / name).exists():
            torch.set_num_threads(1)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(run, "draw_curve", lambda *_: None)
                make(base / f"{name} in progress")
            (base / f"{name} in progress").rename(base / name)
    return base / name


@pytest.fixture(scope="session")
def unbroken(data_file, tmp_path_factory):
    """The folder of a run of three epochs that nothing happens to."""
    return made_once(tmp_path_factory, "unbroken", lambda folder: run_in_process(data_file, folder, "--num_epochs", 3))


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("rand_write", []),
        ("synthesis", ["--anneal", "cosine", "--warmup", 3]),
        ("synthesis", ["--optimizer", "rmsprop", "--num_layers", 3]),
        ("rand_write", ["--ema", 0.9]),
        ("synthesis", ["--dropout", 0.3]),
        ("synthesis", ["--weight_noise", 0.05, "--ema", 0.9, "--augment", 0.1, "--num_layers", 1]),
        ("read", []),  # with dropout and distorted ink
        ("read", ["--ema", 0.9]),
    ],
)
def test_resumed_run_is_the_unbroken_one(data_file, tmp_path, task, flags):
    flags = ["--task", task, "--num_epochs", 3, *flags]
    run_in_process(data_file, tmp_path / "unbroken", *flags)
    run_in_process(data_file, tmp_path / "broken", *flags, "--max_steps", 7)  # in the middle of the second epoch
    assert (tmp_path / "broken" / f"{task}_interrupted.pt").is_file()
    files = ["--data", str(data_file), "--model_dir", str(tmp_path / "broken")]
    train.main([*files, "--task", task, "--resume", "--max_steps", "1000"])  # settings are the checkpoint's
    assert read_log(tmp_path / "broken", task) == read_log(tmp_path / "unbroken", task)
    assert read_log(tmp_path / "broken", task, "steps") == read_log(tmp_path / "unbroken", task, "steps")
    last = f"{task}_epoch_3.pt"
    assert_same_weights(weights_of(tmp_path / "broken" / last), weights_of(tmp_path / "unbroken" / last))
    contents = [torch.load(tmp_path / run / last, weights_only=True) for run in ("broken", "unbroken")]
    assert ("raw_weights" in contents[0]) == ("--ema" in flags)
    assert ("weight_noise" in contents[0]) == ("--weight_noise" in flags)
    for name in ("raw_weights", "weight_noise"):
        assert_same_weights(*(content.get(name, {}) for content in contents))
    best = [load_checkpoint(tmp_path / run / f"{task}_best.pt") for run in ("broken", "unbroken")]
    assert_same_weights(*(model.state_dict() for model, _ in best))
    assert best[0][1]["progress"]["best"] == best[1][1]["progress"]["best"]
    assert not (tmp_path / "broken" / f"{task}_interrupted.pt").exists()


@pytest.mark.parametrize("fatal", range(1, 10))
def test_death_while_writing_loses_an_epoch_at_most(data_file, unbroken, tmp_path, monkeypatch, fatal):
    """The program dies in place of its `fatal`-th renaming of a file; then it is resumed."""
    flags = ["--num_epochs", 3]
    original, calls = Path.replace, []

    def die(self, target):
        calls.append(target)
        if len(calls) == fatal:
            raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        run_in_process(data_file, tmp_path / "broken", *flags)
    monkeypatch.undo()
    has_epoch = any((tmp_path / "broken").glob("rand_write_epoch_*.pt"))
    run_in_process(data_file, tmp_path / "broken", *flags, *(["--resume"] if has_epoch else []))
    for name in ("best", "epoch_3"):
        assert_same_weights(*(weights_of(run / f"rand_write_{name}.pt") for run in (tmp_path / "broken", unbroken)))


def test_a_row_that_a_kill_has_lost_is_written_by_the_resumed_run(data_file, tmp_path, monkeypatch):
    """The run dies between its second checkpoint and its report."""

    def die(line):
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "tell", die)
    with pytest.raises(KeyboardInterrupt):
        run_in_process(data_file, tmp_path, "--num_epochs", 2)
    assert [row["epoch"] for row in read_log(tmp_path, "rand_write")] == ["1"]
    assert len(read_log(tmp_path, "rand_write", "steps")) == 1
    monkeypatch.undo()
    run_in_process(data_file, tmp_path, "--resume")
    assert [row["epoch"] for row in read_log(tmp_path, "rand_write")] == ["1", "2"]
    assert [row["step"] for row in read_log(tmp_path, "rand_write", "steps")] == ["10", "12"]


def test_run_that_was_quicker_is_not_overwritten(data_file, tmp_path, monkeypatch):
    """Another run begins in the same new folder, and ends, while this one reads its data."""
    original = start.load_dataset

    def slow(path):
        monkeypatch.setattr(start, "load_dataset", original)
        run_in_process(data_file, tmp_path / "new", "--num_epochs", 1)
        return original(path)

    monkeypatch.setattr(start, "load_dataset", slow)
    with pytest.raises(InputError, match="quicker"):
        run_in_process(data_file, tmp_path / "new", "--num_epochs", 1, "--seed", 1)
    assert load_checkpoint(tmp_path / "new" / "rand_write_epoch_1.pt")[1]["settings"]["seed"] == 0


@pytest.mark.parametrize("kind", ["no locks on this system", "none on this disk"])
def test_runs_do_without_locks_where_there_are_none(data_file, tmp_path, monkeypatch, kind):
    def flock(*_):
        raise OSError(95, "not supported")

    locks = None if "system" in kind else argparse.Namespace(LOCK_EX=2, LOCK_NB=4, flock=flock)
    monkeypatch.setattr("handwriting.program.fcntl", locks)
    run_in_process(data_file, tmp_path, "--max_steps", 1)
    assert (tmp_path / "rand_write_interrupted.pt").exists()


def test_flags_are_parsed_once(data_file, tmp_path, monkeypatch):
    """The settings that a run is resumed with are parsed, too; they are not the arguments."""
    parsed, parse = [], Parser.parse_known_args

    def counted(self, arguments, *others):
        parsed.extend(argument for argument in arguments if argument.startswith(("--data", "--resume", "--max_steps")))
        return parse(self, arguments, *others)

    monkeypatch.setattr(Parser, "parse_known_args", counted)
    run_in_process(data_file, tmp_path, "--max_steps", 1)
    run_in_process(data_file, tmp_path, "--max_steps", 2, "--resume")
    assert sorted(parsed) == ["--data", "--data", "--max_steps", "--max_steps", "--resume"]


def test_flags_given_anew_override_those_of_the_run(data_file, tmp_path):
    run_in_process(data_file, tmp_path, "--num_epochs", 1)
    run_in_process(data_file, tmp_path, "--num_epochs", 2, "--resume", "--learning_rate", 0.5)
    assert [float(row["learning_rate"]) for row in read_log(tmp_path, "rand_write")] == [8e-4, 0.5]


def start_and_wait_for(data_file, folder, name, *flags) -> subprocess.Popen:
    command = [sys.executable, ROOT / "train.py", "--data", data_file, "--model_dir", folder, *TINY, *TINY_MIXTURE]
    words = list(map(str, [*command, *flags]))
    process = subprocess.Popen(words, env=environment(), stdout=-1, stderr=-1, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (folder / name).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def test_killed_run_goes_on_as_if_nothing_had_been(data_file, tmp_path):
    """While it runs no other one may have its folder, and after it is killed one may."""
    flags = ["--task", "rand_write", "--num_epochs", "15"]
    process = start_and_wait_for(data_file, tmp_path / "killed", "rand_write_log.csv", *flags)
    with pytest.raises(InputError, match=r"killed: another run"):
        run_in_process(data_file, tmp_path / "killed", "--resume")
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run was over before it could be killed"
    run_in_process(data_file, tmp_path / "killed", "--resume")
    run_in_process(data_file, tmp_path / "unbroken", *flags)
    assert read_log(tmp_path / "killed", "rand_write") == read_log(tmp_path / "unbroken", "rand_write")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_leave(data_file, tmp_path, monkeypatch, capfd, number):
    send_at(monkeypatch, 7, number, lambda: [os.getpid()])
    run_in_process(data_file, tmp_path, "--num_epochs", 100000)
    output, errors = capfd.readouterr()
    assert output.count("--resume") == 1 and errors.count("stopping after this step") == 1
    assert load_checkpoint(tmp_path / "rand_write_interrupted.pt")[1]["progress"]["step"] == 8
    assert signal.getsignal(number) not in (None, signal.SIG_IGN)  # what it was before


def test_second_signal_ends_an_evaluation_and_nothing_is_lost(data_file, unbroken, tmp_path, monkeypatch, capsys):
    """The run goes on with the evaluation, and comes to where one that nothing happened to is."""
    flags = ["--num_epochs", 3]
    evaluate = tasks.Writing.evaluate

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("handwriting.training.tasks.Writing.evaluate", interrupted)
        run_in_process(data_file, tmp_path / "stopped", *flags)
    assert "stopped in an evaluation" in capsys.readouterr().out
    run_in_process(data_file, tmp_path / "stopped", *flags, "--resume")
    assert read_log(tmp_path / "stopped", "rand_write") == read_log(unbroken, "rand_write")


def test_time_limit_stops_cleanly(data_file, tmp_path):
    run_in_process(data_file, tmp_path, "--num_epochs", 100000, "--max_minutes", 0.01)
    assert (tmp_path / "rand_write_interrupted.pt").is_file()


def test_log_by_step_holds_means_of_the_steps(data_file, tmp_path):
    """Nothing is learned, and three rows of ten steps share out five epochs of six steps."""
    run_in_process(data_file, tmp_path, "--num_epochs", 5, "--learning_rate", 1e-12)
    by_epoch, by_step = read_log(tmp_path, "rand_write"), read_log(tmp_path, "rand_write", "steps")
    assert [row["step"] for row in by_step] == ["10", "20", "30"]
    for name in ("train_loss", "train_per_point"):
        mean = np.mean([float(row[name]) for row in by_epoch])
        assert np.mean([float(row[name]) for row in by_step]) == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize("task", ["rand_write", "synthesis"])
def test_short_run_shows_what_it_learned(data_file, tmp_path, capsys, curves, task):
    run_in_process(data_file, tmp_path, "--task", task, "--max_steps", 3, "--sample_every", 5)
    (row,) = read_log(tmp_path, task, "steps")
    assert row["step"] == "3"
    found = capsys.readouterr().out.splitlines()[-1]
    assert found.startswith("stopped at step 3") and f"{float(row['train_loss']):.1f} nats a line" in found
    for name in ("loss", "samples_interrupted"):
        assert (tmp_path / f"{task}_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_samples_have_texts_of_the_data(dataset, tmp_path, monkeypatch):
    """Of an alphabet without Latin letters, too."""
    texts = np.array(
        [text.translate(str.maketrans(CHARSET, " \u0430\u0431\u0432\u0433\u0434")) for text in dataset.texts]
    )
    charset = np.array(sorted(" \u0430\u0431\u0432\u0433\u0434"))
    save_dataset(replace(dataset, texts=texts, charset=charset), tmp_path / "cyrillic.npz")
    asked, write = [], tasks.Sampler.write

    def written(sampler, codes, *arguments, **settings):
        asked.extend("".join(charset[text]) for text in codes)
        return write(sampler, codes, *arguments, **settings)

    monkeypatch.setattr(tasks.Sampler, "write", written)
    flags = ["--task", "synthesis", "--num_epochs", 1, "--sample_every", 1]
    run_in_process(tmp_path / "cyrillic.npz", tmp_path, *flags)
    assert len(asked) == len(set(asked)) == 3
    assert set(asked) <= set(texts[dataset.lines("validation", True)])


def test_few_checkpoints_stay_and_the_best_is_the_best(data_file, tmp_path, curves):
    run_in_process(data_file, tmp_path, "--num_epochs", 5, "--learning_rate", 0.05, "--sample_every", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".rand_write.lock",
        "rand_write_best.pt", "rand_write_epoch_3.pt", "rand_write_epoch_4.pt", "rand_write_epoch_5.pt",
        "rand_write_log.csv", "rand_write_loss.png", "rand_write_samples_epoch_2.png",
        "rand_write_samples_epoch_4.png", "rand_write_samples_epoch_5.png", "rand_write_steps.csv",
    ]  # fmt: skip
    losses = {int(row["epoch"]): float(row["validation_loss"]) for row in read_log(tmp_path, "rand_write")}
    best = load_checkpoint(tmp_path / "rand_write_best.pt")[1]["progress"]
    assert best["epoch"] == min(losses, key=losses.get)
    assert best["best"] == pytest.approx(min(losses.values()), rel=1e-5)


def test_best_is_not_replaced_by_worse_after_going_back(data_file, tmp_path, capsys):
    """The newest checkpoints are deleted, and what comes then is worse than the best one."""
    run_in_process(data_file, tmp_path, "--num_epochs", 3, "--learning_rate", 0.01)
    losses = [float(row["validation_loss"]) for row in read_log(tmp_path, "rand_write")]
    assert losses[2] < losses[0]
    best = (tmp_path / "rand_write_best.pt").read_bytes()
    for epoch in (2, 3):
        (tmp_path / f"rand_write_epoch_{epoch}.pt").unlink()
    run_in_process(data_file, tmp_path, "--resume", "--num_epochs", 2, "--learning_rate", 1e-4)
    losses = [float(row["validation_loss"]) for row in read_log(tmp_path, "rand_write")]
    assert losses[1] < losses[0]
    assert (tmp_path / "rand_write_best.pt").read_bytes() == best
    assert "done: " in capsys.readouterr().out


def test_deleted_best_is_written_anew(data_file, tmp_path, capsys):
    run_in_process(data_file, tmp_path, "--num_epochs", 1)
    (tmp_path / "rand_write_best.pt").unlink()
    capsys.readouterr()
    run_in_process(data_file, tmp_path, "--resume")
    assert "done, without" in capsys.readouterr().out
    run_in_process(data_file, tmp_path, "--resume", "--num_epochs", 2, "--learning_rate", 10, "--grad_clip", 0)
    first, second = (float(row["validation_loss"]) for row in read_log(tmp_path, "rand_write"))
    assert first < second < math.inf
    assert load_checkpoint(tmp_path / "rand_write_best.pt")[1]["progress"]["epoch"] == 2


def test_run_without_a_finite_validation_loss_names_no_best(data_file, tmp_path, monkeypatch, capsys):
    original = Model.losses

    def losses(self, *arguments):
        factor = 1.0 if torch.is_grad_enabled() else math.nan
        return tuple(value * factor for value in original(self, *arguments))

    monkeypatch.setattr(Model, "losses", losses)
    run_in_process(data_file, tmp_path, "--num_epochs", 1)
    assert not (tmp_path / "rand_write_best.pt").exists()
    assert "done, without" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------- several processes


def children_of(process: subprocess.Popen) -> list[int]:
    """The other processes of its run."""
    command = ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="]
    rows = [row.split(None, 2) for row in subprocess.run(command, capture_output=True, text=True).stdout.splitlines()]
    return [int(pid) for pid, parent, args in rows if int(parent) == process.pid and "spawn_main" in args]


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.02)


SHARED = ["--num_epochs", 3, "--weight_noise", 0.03, "--augment", 0.1, "--ema", 0.9]


@pytest.fixture(scope="session")
def shared_run(data_file, tmp_path_factory):
    """The folder of a run of three processes, of torchrun, that nothing happens to, and all that it has printed.

    Three, as the order of their sums matters.
    """

    def run_torchrun(folder) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 3, ROOT / "train.py"]
        command += ["--data", data_file, "--model_dir", folder, *TINY, *TINY_MIXTURE, *SHARED]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment(), timeout=300)
        assert result.returncode == 0, result.stderr
        (folder / "printed.txt").write_text(result.stdout)

    return made_once(tmp_path_factory, "shared", run_torchrun)


def test_three_processes_of_torchrun_learn_what_one_learns(data_file, shared_run, tmp_path):
    """The epochs' last batches hold one line, so that two of the processes have none. Random numbers are the same."""
    run_in_process(data_file, tmp_path, *SHARED, "--learning_rate", 8e-4)
    one, three = (read_log(folder, "rand_write") for folder in (tmp_path, shared_run))
    assert (shared_run / "printed.txt").read_text().count("done: ") == 1
    assert load_checkpoint(shared_run / "rand_write_epoch_3.pt")[1]["settings"]["processes"] == 3
    assert one[-1]["step"] == three[-1]["step"] == "18"
    for name in one[0]:
        expected = [float(row[name]) for row in one]
        assert [float(row[name]) for row in three] == pytest.approx(expected, rel=1e-4), name


def send_at(monkeypatch, step, number, pids) -> None:
    """Have process 0, which is this one, send a signal to processes before a step."""
    original = run.Run.step

    def interrupted(self, batch):
        for pid in pids() if self.progress.step == step else ():
            os.kill(pid, number)
        return original(self, batch)

    monkeypatch.setattr(run.Run, "step", interrupted)


def own_and_others() -> list[int]:
    """All processes of a run that process 0, which is this one, has started."""
    return [os.getpid(), *(child.pid for child in multiprocessing.active_children())]


def test_several_processes_that_are_interrupted_and_go_on_come_to_the_end_of_an_unbroken_run(
    data_file, shared_run, tmp_path, monkeypatch, capfd
):
    """The unbroken one is torchrun's. A terminal sends Ctrl-C to all processes."""
    with monkeypatch.context() as patch:
        send_at(patch, 7, signal.SIGINT, own_and_others)
        run_in_process(data_file, tmp_path, *SHARED, "--processes", 3)
    output, errors = capfd.readouterr()
    assert output.count("--resume") == 1 and errors.split() == ["stopping", "after", "this", "step"]
    assert load_checkpoint(tmp_path / "rand_write_interrupted.pt")[1]["progress"]["step"] == 8
    run_in_process(data_file, tmp_path, "--resume", "--max_steps", 1000)
    assert read_log(tmp_path, "rand_write") == read_log(shared_run, "rand_write")
    assert_same_weights(*(weights_of(folder / "rand_write_epoch_3.pt") for folder in (tmp_path, shared_run)))
    capfd.readouterr()
    run_in_process(data_file, tmp_path, "--resume", "--num_epochs", 4, "--processes", 1)
    assert "--processes: other than before" in capfd.readouterr().out


def test_a_signal_to_one_process_stops_all(data_file, tmp_path, monkeypatch, capfd):
    """To the first one alone, as `kill` sends it."""
    send_at(monkeypatch, 7, signal.SIGTERM, lambda: [os.getpid()])
    run_in_process(data_file, tmp_path, "--num_epochs", 100000, "--processes", 2)
    output, errors = capfd.readouterr()
    assert output.count("--resume") == 1 and errors.split() == ["stopping", "after", "this", "step"]
    assert load_checkpoint(tmp_path / "rand_write_interrupted.pt")[1]["progress"]["step"] == 8
    assert not multiprocessing.active_children()


def test_processes_on_several_machines_need_gpus_on_their_own_only(monkeypatch, tmp_path):
    """Eight processes of torchrun, four on each machine, which has four GPUs."""
    chosen = []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(hardware, "choose_device", lambda _: torch.device("cuda"))
    options = parse_flags(["--model_dir", str(tmp_path), "--precision", "fp32"])  # auto asks process 0
    hardware.choose_hardware(options, Group(6, 8))
    assert options.processes == 8 and chosen == [2]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(InputError, match="more than the 3 GPUs"):
        hardware.choose_hardware(options, Group(6, 8))


@pytest.mark.parametrize(
    ("platform", "names", "expected"),
    [("linux", ["eth0", "lo"], "lo"), ("darwin", ["lo0", "en0"], "lo0"), ("linux", ["eth0"], None),
     ("win32", ["ethernet_0", "loopback_0"], None)],
)  # fmt: skip
def test_gloo_is_told_of_the_loopback_interface_where_it_finds_it(monkeypatch, platform, names, expected):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("socket.if_nameindex", lambda: [*enumerate(names)])
    assert loopback_interface() == expected


def test_killed_worker_ends_the_run_with_one_line(data_file, tmp_path):
    flags = ["--num_epochs", 100000, "--processes", 3]
    process = start_and_wait_for(data_file, tmp_path, "rand_write_log.csv", *flags)
    workers = children_of(process)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert_refused(subprocess.CompletedProcess([], process.returncode, output, errors), "--resume")
    assert_gone(workers)


def test_killed_run_leaves_no_worker_behind(data_file, tmp_path):
    flags = ["--num_epochs", 100000, "--processes", 2]
    process = start_and_wait_for(data_file, tmp_path, "rand_write_log.csv", *flags)
    workers = children_of(process)
    assert len(workers) == 1
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert errors == ""
    assert_gone(workers)


def test_error_in_all_processes_is_one_error(data_file, tmp_path, capfd):
    flags = ["--processes", 2, "--num_epochs", 100, "--learning_rate", 9e18, "--grad_clip", 0]
    with pytest.raises(InputError, match="in a row"):
        run_in_process(data_file, tmp_path, *flags)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("when", "word"), [("before", "disk 7"), ("after", "disk 7"), ("killed", "--resume"), ("stopped", "--resume")]
)
def test_error_in_another_process_is_told(when, word, monkeypatch):
    monkeypatch.setattr("handwriting.training.processes.PATIENCE", 3)
    with pytest.raises(InputError, match=word), start_group(2, fail_in_second, when) as group:
        group.connect()
        while True:
            group.sums(0)


def test_number_of_processes(data_file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for batch_size, device, expected in ((50, "cpu", 4), (24, "cpu", 3), (6, "cpu", 1), (50, "meta", 1)):
        options = argparse.Namespace(processes="auto", batch_size=batch_size, device="cpu")
        chosen = torch.device(device)
        monkeypatch.setattr("handwriting.training.hardware.choose_device", lambda _, chosen=chosen: chosen)
        assert choose_processes(options) == expected
    with pytest.raises(InputError, match="--processes 7"):
        run_in_process(data_file, tmp_path, "--processes", 7)


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_steps_that_are_not_finite_are_skipped_and_counted(data_file, tmp_path, monkeypatch):
    original, calls = Model.losses, []

    def losses(self, *arguments):
        calls.append(1)
        factor = math.nan if torch.is_grad_enabled() and len(calls) == 2 else 1.0
        return tuple(value * factor for value in original(self, *arguments))

    monkeypatch.setattr(Model, "losses", losses)
    run_in_process(data_file, tmp_path, "--num_epochs", 1)
    assert read_log(tmp_path, "rand_write")[0]["skipped_steps"] == "1"
    assert all(torch.isfinite(value).all() for value in weights_of(tmp_path / "rand_write_epoch_1.pt").values())


def test_a_run_that_went_wrong_stops(data_file, tmp_path, monkeypatch):
    original = Model.losses
    monkeypatch.setattr(Model, "losses", lambda *arguments: tuple(v * math.inf for v in original(*arguments)))
    with pytest.raises(InputError, match="in a row"):
        run_in_process(data_file, tmp_path, "--num_epochs", 100)
    assert not (tmp_path / "rand_write_best.pt").exists()


def test_a_run_that_explodes_goes_on_with_or_without_pictures(data_file, tmp_path):
    flags = ["--num_epochs", 2, "--sample_every", 2, "--learning_rate", 10, "--grad_clip", 0]
    run_in_process(data_file, tmp_path, *flags)
    assert len(read_log(tmp_path, "rand_write")) == 2


def test_data_without_validation_is_refused_at_once(dataset, tmp_path):
    save_dataset(replace(dataset, splits=np.full(len(dataset.splits), "train")), tmp_path / "all.npz")
    with pytest.raises(InputError, match=r"all\.npz.*validation"):
        run_in_process(tmp_path / "all.npz", tmp_path)


def test_a_run_interrupted_in_its_first_epoch_is_kept(data_file, tmp_path):
    run_in_process(data_file, tmp_path, "--num_epochs", 2, "--max_steps", 2)
    with pytest.raises(InputError, match="--resume"):
        run_in_process(data_file, tmp_path, "--num_epochs", 2)
    with pytest.raises(InputError, match="--max_steps"):
        run_in_process(data_file, tmp_path, "--resume", "--max_steps", 2)
    assert load_checkpoint(tmp_path / "rand_write_interrupted.pt")[1]["progress"]["step"] == 2


def test_a_new_run_does_not_overwrite_another(data_file, tmp_path):
    run_in_process(data_file, tmp_path, "--num_epochs", 1)
    before = (tmp_path / "rand_write_epoch_1.pt").read_bytes()
    with pytest.raises(InputError, match="--resume"):
        run_in_process(data_file, tmp_path, "--num_epochs", 2)
    with pytest.raises(InputError, match="cell_size"):
        run_in_process(data_file, tmp_path, "--num_epochs", 2, "--resume", "--cell_size", 9)
    with pytest.raises(InputError, match="optimizer"):
        run_in_process(data_file, tmp_path, "--num_epochs", 2, "--resume", "--optimizer", "rmsprop")
    assert (tmp_path / "rand_write_epoch_1.pt").read_bytes() == before
    run_in_process(data_file, tmp_path, "--num_epochs", 1, "--task", "synthesis")  # another task is another run


def test_resuming_on_other_data_is_refused(data_file, tmp_path, dataset):
    run_in_process(data_file, tmp_path, "--num_epochs", 1)
    save_dataset(replace(dataset, std=dataset.std * 2), tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"other\.npz"):
        run_in_process(tmp_path / "other.npz", tmp_path, "--resume", "--num_epochs", 2)


def test_resuming_with_other_texts_is_refused(data_file, tmp_path, dataset):
    """The strokes and the counts of characters are the same."""
    run_in_process(data_file, tmp_path, "--task", "synthesis", "--num_epochs", 1)
    texts = dataset.texts.copy()
    texts[[0, 1]] = texts[[1, 0]]
    assert texts[0] != texts[1]
    save_dataset(replace(dataset, texts=texts), tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"other\.npz"):
        run_in_process(tmp_path / "other.npz", tmp_path, "--task", "synthesis", "--resume", "--num_epochs", 2)


def changed(content, *names, value):
    """Content with another value at a place within it."""
    first, *others = names
    inner = changed(content[first], *others, value=value) if others else value  # which may be a new place
    if isinstance(content, list):
        return [*content[:first], inner, *content[first + 1 :]]
    return {**content, first: inner}


UNFIT = [
    (["settings"], [3, "a"]), (["progress"], [3, [], {"step": 6}]), (["log"], [{}, ["a"]]), (["step_log"], [[[]], "a"]),
    (["optimizer"], [{}, []]), (["optimizer", "param_groups", 0, "params"], [[0, 1], None]),
    (["optimizer", "state", 99], [{"step": torch.zeros(())}]),
    (["settings", "batch_size"], [None, "a", 2.5, 10**500]), (["settings", "ema"], [None, 2.0, math.nan]),
    (["settings", "optimizer"], [3, "sgd"]), (["settings", "sample_every"], [-1, []]),
    (["progress", "step"], ["6", 6.0, -1, 10**500]), (["progress", "batch"], [1, None]),
    (["progress", "seconds"], ["a", None]), (["progress", "skipped_in_row"], [-1, True]),
    (["progress", "epoch_sums"], [{"a": 1}, None]), (["progress", "row_sums", "nats"], ["a", None]),
    (["log", 0, "train_loss"], ["a", None, 10**500]), (["log", 0, "step"], [[]]), (["log", 0], [{}, {"step": 1}]),
    (["step_log"], [[{"step": 1, "train_loss": 1.0}, {"step": 1}], [{"a": 1.0}]]),
    (["optimizer", "param_groups", 0, "lr"], [None, "a"]), (["optimizer", "param_groups"], [[], None]),
    (["optimizer", "state", 0], [{}, {"a": torch.ones(1)}]),
    (["optimizer", "state", 0, "step"], [torch.tensor(-1.0), torch.tensor(math.nan), torch.ones(1)]),
    (["optimizer", "state", 0, "exp_avg"], [torch.tensor(1.0), torch.zeros(3), "abc"]),
    (["fingerprint"], [None, 3]), (["raw_weights"], [{}, None]), (["raw_weights", "head.bias"], [3, torch.tensor(1.0)]),
    (["weight_noise"], [{"a": torch.ones(1)}, []]), (["weight_noise", "precisions.0"], [torch.tensor(math.nan)]),
]  # fmt: skip


def test_run_whose_parts_do_not_fit_together_is_refused(data_file, tmp_path):
    flags = ["--ema", 0.9, "--weight_noise", 0.1]
    run_in_process(data_file, tmp_path, "--num_epochs", 1, *flags)
    path = tmp_path / "rand_write_epoch_1.pt"
    content = torch.load(path, weights_only=True)
    for names, values in UNFIT:
        for value in values:
            torch.save(changed(content, *names, value=value), path)
            before = {file: file.read_bytes() for file in tmp_path.iterdir()}
            with pytest.raises(InputError, match=r"rand_write_epoch_1\.pt") as error:
                run_in_process(data_file, tmp_path, "--resume", "--num_epochs", 2, *flags)
            assert "\n" not in str(error.value)
            assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before, names
    del content["settings"]["augment"]  # an earlier version had no such setting
    torch.save(content, path)
    run_in_process(data_file, tmp_path, "--resume", "--num_epochs", 2)
    assert load_checkpoint(tmp_path / "rand_write_epoch_2.pt")[1]["settings"]["augment"] == 0


def test_bad_input_is_named(data_file, tmp_path):
    with pytest.raises(InputError, match=r"none\.npz.*data_preprocessing\.py"):
        train.main(["--data", str(tmp_path / "none.npz"), "--model_dir", str(tmp_path)])
    for flags, word in [
        (["--resume", "--model_dir", tmp_path], "no run"), (["--evaluate", tmp_path / "none.pt"], "none.pt"),
        (["--device", "abacus"], "abacus"), (["--export", tmp_path / "a.pt", "--model_dir", tmp_path], "no such"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=word):
            train.main(["--data", str(data_file), *map(str, flags)])
    for flags in (
        ["--batch_size", "0"],
        ["--learning_rate", "-1"],
        ["--task", "draw"],
        ["--learning_rate", "nan"],
        ["--ema", "1"],
        ["--num_layers", "1001"],
        ["--seed", "-1"],
    ):
        with pytest.raises(InputError, match=flags[0]):
            train.main(["--data", str(data_file), *flags])


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoint_holds_all_that_generation_needs(data_file, tmp_path, dataset):
    run_in_process(data_file, tmp_path, "--num_epochs", 1, "--task", "synthesis", "--num_layers", 3)
    content = torch.load(tmp_path / "synthesis_best.pt", weights_only=True)
    assert content["charset"] == CHARSET and content["char_counts"] == dataset.char_counts.tolist()
    assert content["config"] == {
        "num_layers": 3,
        "cell_size": 8,
        "num_clusters": 2,
        "K": 2,
        "num_chars": len(CHARSET),
        "hand_size": 0,
    }
    model, _ = load_checkpoint(tmp_path / "synthesis_best.pt")
    assert not model.training
    assert model.std.tolist() == pytest.approx(dataset.std.tolist())

    exported = tmp_path / "small.pt"
    by_way_of = tmp_path / "new" / ".." / "small.pt"
    train.main(["--model_dir", str(tmp_path), "--task", "synthesis", "--export", str(by_way_of)])
    small, content = load_checkpoint(exported)
    assert "optimizer" not in content and exported.stat().st_size < (tmp_path / "synthesis_best.pt").stat().st_size / 2
    for name, value in small.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_damaged_checkpoints_are_refused(tmp_path):
    good = tmp_path / "good.pt"
    save_checkpoint(good, Model(Config(cell_size=4, num_clusters=2)), "", [], task="rand_write")
    data = good.read_bytes()
    content = torch.load(good, weights_only=True)
    bad = tmp_path / "bad.pt"

    def refused(*words):
        with pytest.raises(InputError, match=r"bad\.pt.*" + ".*".join(words)):
            load_checkpoint(bad)

    for damaged in (b"", b"nonsense", data[: len(data) // 2]):
        bad.write_bytes(damaged)
        refused()
    for changed in (
        {"version": 0}, {"config": content["config"] | {"cell_size": 5}}, {"config": {}}, {"charset": "abc"},
        {"weights": content["weights"] | {"std": torch.zeros(2)}},
        {"weights": content["weights"] | {"head.bias": torch.full((13,), math.nan)}},
    ):  # fmt: skip
        torch.save(content | changed, bad)
        refused()
    torch.save([1, 2], bad)
    refused()


def test_failed_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "kept.pt"
    model = Model(Config(cell_size=4, num_clusters=2))
    save_checkpoint(path, model, "", [], task="rand_write")
    before = path.read_bytes()

    def fail(content, file):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, model, "", [], task="rand_write")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["kept.pt"]


@pytest.mark.parametrize("task", ["rand_write", "synthesis"])
def test_evaluation_of_a_checkpoint_is_that_of_its_epoch(data_file, dataset, tmp_path, capsys, monkeypatch, task):
    run_in_process(data_file, tmp_path, "--num_epochs", 1, "--task", task)
    row = read_log(tmp_path, task)[0]
    assert f"data: {data_file} (rests dropped)\n" in capsys.readouterr().out
    train.main(["--data", str(data_file), "--evaluate", str(tmp_path / f"{task}_best.pt"), "--precision", "fp32"])
    output = capsys.readouterr().out
    assert f"validation split of {data_file} (rests dropped):" in output
    exported = tmp_path / "small.pt"
    for rank in "10":  # of torchrun's two processes the first one evaluates and exports
        for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "none"), ("MASTER_PORT", "0")):
            monkeypatch.setenv(name, value)
        flags = ["--data", str(data_file), "--precision", "fp32", "--init", str(tmp_path / f"{task}_best.pt")]
        train.main([*flags, "--evaluate", str(tmp_path / f"{task}_best.pt")])
        train.main([*flags, "--export", str(exported)])
        assert exported.exists() == (rank == "0")
        assert capsys.readouterr().out == ("" if rank == "1" else f"{output}wrote {exported} (0.0 MB)\n")
    for label, name in [
        ("nats a line, normalised", "validation_loss"), ("nats a line, whiteboard", "validation_loss_raw"),
        ("nats a point, normalised", "validation_per_point"), ("nats a point, whiteboard", "validation_per_point_raw"),
        ("SSE a point", "validation_sse"),
    ]:  # fmt: skip
        (line,) = (line for line in output.splitlines() if label in line)
        assert float(line.split()[-1]) == pytest.approx(float(row[name]), rel=1e-3)
    (line,) = (line for line in output.splitlines() if "SSE, mean of the axes" in line)
    assert float(line.split()[-1]) == pytest.approx(float(row["validation_sse"]) / 2, rel=1e-3)
    assert f"deviation {dataset.std[0]:.4f}" in output
    other = replace(dataset, charset=np.array(list("#7Qabc")), texts=np.char.add(dataset.texts, "#"))
    save_dataset(other, tmp_path / "other.npz")
    if task == "synthesis":
        with pytest.raises(InputError, match=r"other\.npz.*#"):
            train.main(["--data", str(tmp_path / "other.npz"), "--evaluate", str(tmp_path / "synthesis_best.pt")])


def test_files_beside_a_run_do_not_mislead_it(data_file, tmp_path):
    """A best network that does not tell its score is named; a number that is none is of no epoch."""
    run_in_process(data_file, tmp_path, "--num_epochs", 1)
    (tmp_path / "rand_write_epoch_\u00b2.pt").write_bytes((tmp_path / "rand_write_epoch_1.pt").read_bytes())
    best = tmp_path / "rand_write_best.pt"
    whole = torch.load(best, weights_only=True)
    without = {name: value for name, value in whole.items() if name != "progress"}
    for content in (without, changed(whole, "progress", "best", value=math.nan), changed(whole, "progress", value=[])):
        torch.save(content, best)
        with pytest.raises(InputError, match=r"rand_write_best\.pt: does not tell .* move it away"):
            run_in_process(data_file, tmp_path, "--resume", "--num_epochs", 2)
    best.unlink()
    run_in_process(data_file, tmp_path, "--resume", "--num_epochs", 2)
    assert (tmp_path / "rand_write_epoch_2.pt").is_file() and (tmp_path / "rand_write_epoch_\u00b2.pt").is_file()
