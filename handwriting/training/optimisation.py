"""How a run changes its weights: the paper's optimiser, the step size, the average of the weights."""

import argparse
import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class GravesRMSprop(torch.optim.Optimizer):
    """RMSprop as in the paper (eq. 38-45). torch.optim.RMSprop differs: it adds its epsilon outside of the root."""

    def __init__(self, parameters, lr: float = 1e-4):
        super().__init__(parameters, {"lr": lr, "decay": 0.95, "momentum": 0.9, "epsilon": 1e-4})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step. Takes no closure."""
        for group in self.param_groups:
            decay = group["decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, gradient = self.state[parameter], parameter.grad
                if not state:
                    state.update({name: torch.zeros_like(parameter) for name in ("n", "g", "delta")})
                n, g, delta = state["n"], state["g"], state["delta"]
                n.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)  # (eq. 38)
                g.mul_(decay).add_(gradient, alpha=1 - decay)  # (eq. 39)
                root = (n - g.square()).clamp_(min=0).add_(group["epsilon"]).sqrt_()  # rounding may leave n < g^2
                delta.mul_(group["momentum"]).addcdiv_(gradient, root, value=-group["lr"])  # (eq. 40)
                parameter.add_(delta)  # (eq. 41)


def learning_rate(options: argparse.Namespace, step: int, steps_per_epoch: int) -> float:
    """Step size of step number `step` (from 0): warm-up, then constant, per-epoch decay, or a cosine to zero."""
    rate = options.learning_rate * min(1.0, (step + 1) / (options.warmup + 1))
    if options.anneal == "epoch":
        rate *= options.decay_rate ** (step // steps_per_epoch)
    elif options.anneal == "cosine":
        rate *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / (options.num_epochs * steps_per_epoch)))
    return rate


def moving_average(model: nn.Module, decay: float, updates: int = 0) -> AveragedModel:
    """The exponential moving average of a network's weights, its `module`, after so many updates.

    The old average counts min(decay, (1 + t) / (10 + t)) in update t, from 0: first weights are forgotten soon.
    """

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        share = 1 - min(decay, int(count) / (9 + int(count)))
        for mean, weight in zip(averages, weights, strict=True):
            mean.lerp_(weight, share)

    average = AveragedModel(model, multi_avg_fn=update).requires_grad_(False)
    average.n_averaged.fill_(1 + updates)  # from 1: at 0 the class would replace the first weights, not average them
    return average
