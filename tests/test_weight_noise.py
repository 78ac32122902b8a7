"""Adaptive weight noise against automatic differentiation, and against a problem whose solution is known."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from handwriting.training.weight_noise import WeightNoise

LINES = 7


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def loss_of(network: nn.Module, weights: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    x = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)
    return torch.func.functional_call(network, weights or {}, x).square().mean()


def make_noise(network: nn.Module) -> WeightNoise:
    """With deviations that differ."""
    noise = WeightNoise(network, 0.075, LINES)
    with torch.no_grad():
        for log in noise.log_deviations:
            log.add_(torch.randn_like(log))
    return noise


def test_deviations_begin_where_they_are_told_to(network):
    noise = WeightNoise(network, 0.075, LINES)
    assert all(log.exp().eq(torch.full_like(log, math.log(0.075)).exp()).all() for log in noise.log_deviations)
    assert sum(log.numel() for log in noise.parameters()) == 4 * 3 + 4 + 4 + 1


def test_description_length_and_gradients_are_those_of_automatic_differentiation(network):
    noise, names = make_noise(network), [name for name, _ in network.named_parameters()]
    before = copy.deepcopy(network.state_dict())
    noise.sample(5)
    sampled = copy.deepcopy(network.state_dict())
    loss = loss_of(network)
    loss.backward()
    noise.restore()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())

    means = [before[name].clone().requires_grad_() for name in names]
    logs = [log.detach().clone().requires_grad_() for log in noise.log_deviations]
    standard = [(sampled[name] - before[name]) / log.detach().exp() for name, log in zip(names, logs, strict=True)]
    weights = [mean + log.exp() * e for mean, log, e in zip(means, logs, standard, strict=True)]
    mu, log = (torch.cat([value.flatten() for value in values]) for values in (means, logs))
    prior = Normal(mu.mean(), ((mu - mu.mean()).square() + (2 * log).exp()).mean().sqrt())  # the gradient goes through
    description = kl_divergence(Normal(mu, log.exp()), prior).sum() / LINES
    expected = loss_of(network, dict(zip(names, weights, strict=True)))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert noise.description_length() == pytest.approx(description.item(), rel=1e-12)
    (expected + description).backward()
    for own, reference in zip([*network.parameters(), *noise.log_deviations], [*means, *logs], strict=True):
        torch.testing.assert_close(own.grad, reference.grad)


def test_no_other_prior_describes_the_weights_in_fewer_nats(network):
    noise = make_noise(network)
    mu, log = (torch.cat([v.detach().flatten() for v in values]) for values in (noise.means, noise.log_deviations))
    mean, variance = noise.prior()
    for factor, shift in ((1.0, 0.1), (1.0, -0.1), (0.9, 0.0), (1.1, 0.0)):
        other = Normal(torch.tensor(mean + shift), torch.tensor(variance**0.5 * factor))
        assert kl_divergence(Normal(mu, log.exp()), other).sum() / LINES > noise.description_length()


def test_noise_follows_from_the_seed_and_has_the_deviations():
    network = nn.Linear(400, 100)
    noise, before = WeightNoise(network, 0.3, LINES), network.weight.detach().clone()
    sampled = []
    for seed in (1, 1, 2):
        noise.sample(seed)
        sampled.append(network.weight.detach() - before)
        network(torch.ones(400)).sum().backward()
        noise.restore()
    assert torch.equal(sampled[0], sampled[1]) and not torch.equal(sampled[0], sampled[2])
    assert sampled[0].std().item() == pytest.approx(0.3, rel=0.02) and abs(sampled[0].mean().item()) < 0.01
    assert abs((sampled[0] * sampled[2]).mean().item()) < 0.01 * 0.3**2 * 3


def test_deviations_become_those_of_the_posterior():
    """Losses with the curvature h have a normal posterior: its deviation is 1 / sqrt(N h + 1 / v)."""
    torch.manual_seed(0)
    curvature = torch.tensor([0.1, 1.0, 10.0, 100.0]).repeat_interleave(50)
    network, targets = nn.Linear(200, 1, bias=False), torch.randn(200)
    network.weight.data.copy_(targets)  # a network that is retrained
    noise = WeightNoise(network, 0.075, 50)
    optimizer = torch.optim.Adam(
        [{"params": network.parameters()}, {"params": noise.parameters(), "lr": 0.01}], lr=1e-3
    )
    sums, steps = torch.zeros_like(curvature), 3000
    for step in range(steps):
        optimizer.zero_grad()
        noise.sample(step)
        (curvature * (network.weight - targets).square() / 2).sum().backward()
        noise.restore()
        optimizer.step()
        sums += noise.log_deviations[0].detach()[0] * (step >= steps // 2)
    found = (sums / (steps // 2)).reshape(4, 50).mean(1)
    expected = -(50 * curvature + 1 / noise.prior()[1]).log().reshape(4, 50).mean(1) / 2
    assert found.tolist() == pytest.approx(expected.tolist(), abs=0.15)
