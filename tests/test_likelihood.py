"""benchmarks/likelihood.py: the masses of unit squares against finer ones, its sums against an evaluation."""

import numpy as np
import pytest
import torch
from conftest import CHARSET, ROOT

from benchmarks.likelihood import KINDS, cell_masses, kinds_of, main, measure, measure_lines, square_code
from handwriting.program import InputError
from handwriting.training import tasks
from model import Config, Mixture, Model, log_density
from utils import load_checkpoint


def some_mixture(deviation: float, atanh_rho: float) -> tuple[Model, Mixture]:
    model = Model(Config(cell_size=4))
    model.mean.copy_(torch.tensor([8.0, 0.5]))
    model.std.copy_(torch.tensor([40.0, 35.0]))
    mu = torch.tensor([[[0.02, -0.01], [0.1, 0.3]]]).double()
    log_sigma = torch.tensor([[[1.0, 1.7], [2.0, 0.6]]]).double().mul(deviation / 40).log()
    log_pi = torch.tensor([[0.3, 0.7]]).double().log()
    return model, Mixture(torch.zeros(1), log_pi, mu, log_sigma, torch.tensor([[atanh_rho, -atanh_rho]]).double())


@pytest.mark.parametrize(("deviation", "atanh_rho"), [(0.7, 0.0), (1.5, 1.0), (4.0, -2.0), (20.0, 2.5)])
def test_a_square_has_the_mean_of_the_density_in_it(deviation, atanh_rho):
    model, mix = some_mixture(deviation, atanh_rho)
    offsets = torch.tensor([[9.0, 0.0], [12.0, 11.0], [8.0, 3.0]]).double()
    found = square_code(Mixture(*(part.expand(3, *part.shape[1:]) for part in mix)), offsets, model)
    fine = (torch.arange(200).double() + 0.5) / 200 - 0.5
    for offset, nats in zip(offsets, found, strict=True):
        places = torch.cartesian_prod(fine + offset[0], fine + offset[1])
        normalised = (places - model.mean) / model.std
        density = log_density(mix, normalised).exp().mean() / model.std.double().prod()
        assert nats.item() == pytest.approx(-density.log().item(), abs=0.01)


@pytest.mark.parametrize("deviation", [1e-3, 0.1, 0.5, 2.0])
def test_all_squares_add_up_to_one(deviation):
    model, mix = some_mixture(deviation, 1.5)
    offsets = torch.cartesian_prod(torch.arange(-20, 50).double(), torch.arange(-30, 40).double())
    parts = Mixture(*(part.expand(len(offsets), *part.shape[1:]) for part in mix))
    assert (-square_code(parts, offsets, model)).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_masses_far_out_are_those_of_the_other_side():
    x, y = torch.tensor([[20.0, 20.5]]).double(), torch.tensor([[25.0, 26.0]]).double()
    rho = torch.tensor([0.6]).double()
    right = cell_masses(x, y, rho)
    assert 0 < right.item() < 1e-100
    torch.testing.assert_close(right, cell_masses(-x.flip(-1), -y.flip(-1), rho), rtol=1e-9, atol=0)


@pytest.mark.parametrize("rho", [0.0, -0.7, 0.97])
def test_masses_are_the_shares_of_points_drawn(rho):
    torch.manual_seed(0)
    x, noise = torch.randn(2, 400_000, dtype=torch.float64)
    edges = torch.arange(-6.0, 7.0, dtype=torch.float64)
    drawn = np.column_stack([x, rho * x + (1 - rho**2) ** 0.5 * noise])
    expected = np.histogram2d(*drawn.T, bins=[edges.numpy()] * 2)[0] / len(drawn)
    cells = torch.stack([edges[:-1], edges[1:]], dim=1)  # (12, 2)
    found = cell_masses(cells[:, None].expand(12, 12, 2), cells.expand(12, 12, 2), torch.full((12, 12), rho).double())
    np.testing.assert_allclose(found, expected, atol=0.003)


def test_kinds_of_points():
    raw = torch.tensor([[0, 0, 0], [0, 0, 0], [2, 2, 0], [3, 0, 1], [0, 1, 0], [9, 9, 1]]).float()[:, None]
    mask = torch.tensor([1, 1, 1, 1, 0]).bool()[:, None]
    assert [KINDS[kind] for kind in kinds_of(raw, mask)] == [
        "the pen has not moved", "it moved less than 3 units", "other steps", "first of a stroke"
    ]  # fmt: skip


@pytest.mark.parametrize("charset", ["", CHARSET])
def test_its_sums_are_those_of_an_evaluation(dataset, charset):
    torch.manual_seed(0)
    model = Model(Config(cell_size=8, num_clusters=2, K=2, num_chars=len(charset)))
    model.mean.copy_(torch.from_numpy(dataset.mean))
    model.std.copy_(torch.from_numpy(dataset.std))
    task = tasks.make_task("synthesis" if charset else "rand_write", dataset)
    lines = dataset.lines("validation", bool(charset))
    figures, kinds = measure_lines(model, task, lines)
    loss, moved, code, error = figures.mean(0)
    found = task.evaluate(model)
    assert len(figures) == len(kinds) == found["points"]
    assert [loss, error] == pytest.approx([found["per_point"], found["sse"]], rel=1e-5)
    scale = model.std.log().sum().item()
    assert code <= moved + scale + 0.01  # Jensen, but for chance
    assert code == pytest.approx(loss + scale, abs=0.01)  # wide components: a density hardly changes in a square


def test_another_deviation_changes_the_loss_and_not_the_code(dataset):
    torch.manual_seed(1)
    model = Model(Config(cell_size=8, num_clusters=3))
    model.std.fill_(40.0)
    task = tasks.make_task("rand_write", dataset)
    batch = task.batch(dataset.lines("validation", False)[:2], torch.device("cpu"))
    before = measure(model, batch, torch.Generator().manual_seed(0))
    # The same network in another unit: what it reads and says is scaled, its inputs' weights the other way.
    with torch.no_grad():
        model.std.mul_(1.01)
        for layer in model.layers:
            layer.weight_ih_l0[:, :2] *= 1.01
        bias, weight = model.head.bias[1:].view(6, -1), model.head.weight[1:].view(6, 3, -1)
        bias[1:3] /= 1.01
        weight[1:3] /= 1.01
        bias[3:5] -= np.log(1.01)
    after = measure(model, batch, torch.Generator().manual_seed(0))
    assert (after - before)[:, 0].numpy() == pytest.approx(-2 * np.log(1.01), abs=1e-4)
    torch.testing.assert_close(after[:, 2], before[:, 2], atol=1e-4, rtol=0)


def test_the_command_prints_the_loss_and_refuses_what_does_not_write(checkpoints, dataset, data_file, capsys):
    path = checkpoints / "rand_write.pt"
    main([str(path), "--data", str(data_file)])
    found = tasks.make_task("rand_write", dataset).evaluate(load_checkpoint(path)[0])
    output = capsys.readouterr().out
    assert f"| the loss | {found['loss']:.1f}" in output and f"SSE {found['sse']:.3f}" in output
    rows = [[cell.strip() for cell in line.split("|")] for line in output.splitlines() if line.startswith("|")]
    shares = [float(row[2].rstrip("%")) for row in rows if row[1] in KINDS]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    with pytest.raises(InputError, match=r"recogniser\.pt: is no network that writes"):
        main([str(ROOT / "save" / "recogniser.pt"), "--data", str(data_file)])
