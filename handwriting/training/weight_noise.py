"""Adaptive weight noise: each weight has a mean and a standard deviation, and both are learned.

Alex Graves, "Practical Variational Inference for Neural Networks" (NIPS 2011), the diagonal Gaussian posterior with a
Gaussian prior. The best networks of the 2013 paper are trained with it. Each of W weights has a mean mu_i and a
standard deviation s_i, all share a prior of mean m and variance v, and L(w) is the loss of a training line in nats, the
mean over the N lines. A step samples w_i = mu_i + s_i e_i, e_i standard normal, and goes down the gradient of

    L(w) + KL / N                                                                            (1)
    KL = sum_i log(sqrt(v) / s_i) + ((mu_i - m)^2 + s_i^2 - v) / (2 v)                       (2)

KL, the divergence of the posterior from the prior, is the description length of the weights in nats. It is least for

    m = sum_i mu_i / W,    v = sum_i ((mu_i - m)^2 + s_i^2) / W                              (3)

where the second term of (2) adds up to zero. The derivatives by m and v are zero there: both count as constants in

    d(1) / d mu_i  = dL/dw_i + (mu_i - m) / (N v)                                            (4)
    d(1) / d s_i^2 = <(dL/dw_i)^2> / 2 + (1 / v - 1 / s_i^2) / (2 N)                         (5)

The first term of (5) has the gradients of single lines, whose mean square stands for the curvature. (5) is zero for

    1 / s_i^2 = N <(dL/dw_i)^2> + 1 / v                                                      (6)

Graves goes down (5). That takes many epochs, as the right deviations differ by two orders of magnitude. Here each step
takes 1 / s_i^2 a share of the way to (6), as do Khan et al., "Fast and Scalable Bayesian Deep Learning by
Weight-Perturbation in Adam" (2018). The mean square is B times the square of (4), clipped as for the step, of B lines:
their gradients are independent, and their mean (4) is zero where training leads to.
"""

import math

import torch
from torch import nn

SHARE = 0.01  # of the way to (6) in a step: a mean over some hundred steps


class WeightNoise(nn.Module):
    """The precisions of a network's weights, 1 / s^2. The network's own parameters are the means.

    Between `sample` and `restore` the network has sampled weights.
    """

    def __init__(self, network: nn.Module, deviation: float, num_lines: int):
        """All deviations begin at `deviation`. `num_lines` is N, the lines of the training split."""
        super().__init__()
        self.means = list(network.parameters())  # in a list, they are not parameters of this module
        self.num_weights, self.num_lines = sum(mean.numel() for mean in self.means), num_lines
        first = (torch.full_like(mean, deviation**-2) for mean in self.means)
        self.precisions = nn.ParameterList(first).requires_grad_(False)

    @torch.no_grad()
    def prior(self) -> tuple[float, float]:
        """Mean and variance of the best prior (3)."""
        mean = sum(mu.sum(dtype=torch.float64).item() for mu in self.means) / self.num_weights
        pairs = zip(self.means, self.precisions, strict=True)
        squares = [((mu - mean).square() + 1 / each).sum(dtype=torch.float64).item() for mu, each in pairs]
        return mean, sum(squares) / self.num_weights

    @torch.no_grad()
    def description_length(self) -> float:
        """Description length of the weights (2) under the best prior, in nats a training line."""
        logs = sum(each.log().sum(dtype=torch.float64).item() for each in self.precisions)
        return (self.num_weights * math.log(self.prior()[1]) + logs) / (2 * self.num_lines)

    @torch.no_grad()
    def sample(self, seed: int) -> None:
        """Add noise to the weights. The same seed gives the same noise, in every process."""
        generator = torch.Generator(self.means[0].device).manual_seed(seed)
        self.saved = [mu.clone() for mu in self.means]
        for mu, precision in zip(self.means, self.precisions, strict=True):
            mu.add_(torch.empty_like(mu).normal_(generator=generator).mul_(precision.rsqrt()))

    @torch.no_grad()
    def restore(self) -> None:
        """Give the weights their means again. The gradients of L(w) that they have become those of (1)."""
        for mu, saved in zip(self.means, self.saved, strict=True):
            mu.copy_(saved)
        mean, variance = self.prior()
        for mu in self.means:
            mu.grad.add_(mu - mean, alpha=1 / (self.num_lines * variance))  # (4)

    @torch.no_grad()
    def learn(self, batch_size: int) -> None:
        """Change the deviations by the gradients that the weights have, those of (1) for `batch_size` lines."""
        least = 1 / self.prior()[1]
        for mu, precision in zip(self.means, self.precisions, strict=True):
            precision.lerp_(mu.grad.square().mul_(self.num_lines * batch_size).add_(least), SHARE)  # (6)
