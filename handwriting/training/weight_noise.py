"""Adaptive weight noise: each weight has a mean and a standard deviation, and both are learned.

Alex Graves, "Practical Variational Inference for Neural Networks" (NIPS 2011), the diagonal Gaussian posterior with a
Gaussian prior. The best networks of the 2013 paper are trained with it. Written with

    mu_i, s_i   mean and standard deviation of weight i, of W weights
    m, v        mean and variance of the prior that all weights share
    L(w)        loss of a training line in nats, the mean over the N lines
    e_i         standard normal noise

A step samples the weights w_i = mu_i + s_i e_i and goes down the gradient of

    L(w) + KL / N                                                                            (1)
    KL = sum_i log(sqrt(v) / s_i) + ((mu_i - m)^2 + s_i^2 - v) / (2 v)                       (2)

KL, the divergence of the posterior from the prior, is the description length of the weights in nats. It is least for

    m = sum_i mu_i / W,    v = sum_i ((mu_i - m)^2 + s_i^2) / W                              (3)

where the second term of (2) adds up to zero. The derivatives by m and v are zero there: both count as constants in

    d(1) / d mu_i    = dL/dw_i + (mu_i - m) / (N v)                                          (4)
    d(1) / d log s_i = dL/dw_i s_i e_i + (s_i^2 / v - 1) / N                                 (5)

The first term of (5) is the derivative through the sampled weight. Graves has s_i^2 (dL/dw_i)^2 there, which holds for
the gradient of one line: the square of a batch's mean is not the mean of the lines' squares. (5) is right for a batch
of any size, and for the mean of several processes' gradients, but it has more noise.
"""

import math

import torch
from torch import nn

# The step size of log s in units of that of the means, as the gradient (5) is mostly noise. With Adam at a step size a
# and batches of B lines, log s settles within some sqrt(N / B) / (2 a RATE) steps, and then wanders by
# sqrt(a RATE sqrt(N / B)) / 2: for 10,000 lines, B = 25 and a = 8E-4 these are 1,300 steps and 20 % of s.
RATE = 10.0


class WeightNoise(nn.Module):
    """The standard deviations of a network's weights, as their logarithms. The network's own parameters are the means.

    Between `sample` and `restore` the network has sampled weights.
    """

    def __init__(self, network: nn.Module, deviation: float, num_lines: int):
        """All deviations begin at `deviation`. `num_lines` is N, the lines of the training split."""
        super().__init__()
        self.means = list(network.parameters())  # in a list, they are not parameters of this module
        self.num_weights, self.num_lines = sum(mean.numel() for mean in self.means), num_lines
        self.log_deviations = nn.ParameterList(torch.full_like(mean, math.log(deviation)) for mean in self.means)

    @torch.no_grad()
    def prior(self) -> tuple[float, float]:
        """Mean and variance of the best prior (3)."""
        mean = sum(mu.sum(dtype=torch.float64).item() for mu in self.means) / self.num_weights
        pairs = zip(self.means, self.log_deviations, strict=True)
        squares = [((mu - mean).square() + (2 * log).exp()).sum(dtype=torch.float64).item() for mu, log in pairs]
        return mean, sum(squares) / self.num_weights

    @torch.no_grad()
    def description_length(self) -> float:
        """Description length of the weights (2) under the best prior, in nats a training line."""
        logs = sum(log.sum(dtype=torch.float64).item() for log in self.log_deviations)
        return (self.num_weights * math.log(self.prior()[1]) / 2 - logs) / self.num_lines

    @torch.no_grad()
    def sample(self, seed: int) -> None:
        """Add noise to the weights. The same seed gives the same noise, in every process."""
        generator = torch.Generator(self.means[0].device).manual_seed(seed)
        self.saved, self.noise = [mu.clone() for mu in self.means], []  # noise: s e, one tensor for each of the means
        for mu, log in zip(self.means, self.log_deviations, strict=True):
            self.noise.append(torch.empty_like(mu).normal_(generator=generator).mul_(log.exp()))
            mu.add_(self.noise[-1])

    @torch.no_grad()
    def restore(self) -> None:
        """Give the weights their means again. The gradients of L(w) that they have become those of (1)."""
        for mu, saved in zip(self.means, self.saved, strict=True):
            mu.copy_(saved)
        mean, variance = self.prior()
        for mu, log, noise in zip(self.means, self.log_deviations, self.noise, strict=True):
            log.grad = mu.grad * noise + ((2 * log).exp() / variance - 1) / self.num_lines  # (5)
            mu.grad.add_(mu - mean, alpha=1 / (self.num_lines * variance))  # (4)
