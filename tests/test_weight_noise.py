"""Adaptive weight noise against automatic differentiation, and against a problem whose solution is known."""

import copy

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
        for precision in noise.precisions:
            precision.mul_(torch.randn_like(precision).exp())
    return noise


def test_deviations_begin_where_they_are_told_to(network):
    noise = WeightNoise(network, 0.075, LINES)
    assert torch.cat([each.flatten() for each in noise.precisions]).tolist() == pytest.approx(21 * [1 / 0.075**2])


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
    noises = [sampled[name] - before[name] for name in names]
    mu = torch.cat([value.flatten() for value in means])
    deviations = torch.cat([value.flatten() for value in noise.precisions]).rsqrt()
    prior = Normal(mu.mean(), ((mu - mu.mean()).square() + deviations.square()).mean().sqrt())  # as the gradient goes
    description = kl_divergence(Normal(mu, deviations), prior).sum() / LINES
    weights = {name: mean + each for name, mean, each in zip(names, means, noises, strict=True)}
    expected = loss_of(network, weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert noise.description_length() == pytest.approx(description.item(), rel=1e-12)
    (expected + description).backward()
    for own, reference in zip(network.parameters(), means, strict=True):
        torch.testing.assert_close(own.grad, reference.grad)


def test_no_other_prior_describes_the_weights_in_fewer_nats(network):
    noise = make_noise(network)
    mu, precision = (torch.cat([v.detach().flatten() for v in values]) for values in (noise.means, noise.precisions))
    mean, variance = noise.prior()
    for factor, shift in ((1.0, 0.1), (1.0, -0.1), (0.9, 0.0), (1.1, 0.0)):
        other = Normal(torch.tensor(mean + shift), torch.tensor(variance**0.5 * factor))
        assert kl_divergence(Normal(mu, precision.rsqrt()), other).sum() / LINES > noise.description_length()


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
    """Of 1,000 lines y ~ N(x w, 1), each with all weights: the posterior's deviation is 1 / sqrt(N x^2 + 1 / v)."""
    torch.manual_seed(0)
    x, lines = torch.tensor([0.1, 0.3, 1.0, 3.0]).repeat_interleave(50), 1000
    network = nn.Linear(200, 1, bias=False)
    weights = torch.randn(200)
    y = x * weights + torch.randn(lines, 200)
    network.weight.data.copy_(weights)  # a network that is retrained
    noise = WeightNoise(network, 0.075, lines)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    sums, steps = torch.zeros_like(x), 1500
    for step in range(steps):
        optimizer.zero_grad()
        noise.sample(step)
        batch = y[torch.randint(lines, (10,))]
        ((batch - x * network.weight).square() / 2).sum(1).mean().backward()
        noise.restore()
        optimizer.step()
        noise.learn(len(batch))
        sums += noise.precisions[0].log()[0] * (step >= steps // 2)
    found = (sums / (steps - steps // 2)).reshape(4, 50).mean(1)
    expected = (lines * x.square() + 1 / noise.prior()[1]).log().reshape(4, 50).mean(1)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=0.1)
