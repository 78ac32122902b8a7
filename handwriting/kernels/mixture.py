"""The mixture's loss (eq. 26) and its gradient in closed form (eq. 27-37), in one pass over the memory, by cells.c."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from handwriting.kernels.cells import load_library
from handwriting.kernels.products import can_run


def takes_mixture(plain: Callable, outputs: Tensor, targets: Tensor, *bounds: float) -> bool:
    """Whether `mixture_losses` gives what plain(outputs, targets) does at made-up points, and its gradient."""
    width, fits = outputs.shape[-1], outputs.dtype == targets.dtype == torch.float32
    fits &= targets.shape == (*outputs.shape[:-1], 3)  # the C code reads a target for each row
    if not fits or width % 6 != 1 or not can_run(outputs.device) or not load_library("cells"):
        return False
    with torch.inference_mode(False), torch.enable_grad():
        made_up = (37 * torch.arange(14 * width) % 101 / 50.0 - 1).view(14, width)  # from -1 to 1
        for row in range(12):  # and a parameter of all components beyond the bounds
            made_up[row, 1:].view(6, -1)[row // 2] += (max(bounds) + 2) * (-1) ** row
        points, found = torch.tensor([[0.3, -0.2, 0.0], [-1.0, 2.0, 1.0]]).repeat(7, 1), []
        for function, arguments in ((plain, ()), (mixture_losses, bounds)):
            y = made_up.clone().requires_grad_()
            losses, errors = function(y, points, *arguments)
            found.append((losses, errors, *torch.autograd.grad(losses.sum(), y)))
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(*found, strict=True))


class FusedMixture(torch.autograd.Function):
    """`Model.run_mixture`: losses and squared errors of predictions. The way there computes the gradient, too."""

    @staticmethod
    def forward(ctx, outputs, targets, *bounds):
        """outputs (..., 1 + 6M), targets (..., 3), MAX_LOG_SIGMA, MAX_ATANH_RHO. Returns two tensors (...), float32."""
        outputs, targets = outputs.contiguous(), targets.contiguous()
        (losses, errors), d_outputs = outputs.new_empty(2, *outputs.shape[:-1]), torch.empty_like(outputs)
        arrays = map(Tensor.data_ptr, (outputs, targets, losses, errors, d_outputs))
        load_library("cells").mixture_losses(losses.numel(), outputs.shape[-1] // 6, *bounds, *arrays)
        ctx.save_for_backward(d_outputs)
        ctx.mark_non_differentiable(errors)
        return losses, errors

    @staticmethod
    @once_differentiable
    def backward(ctx, d_losses, _):
        """Gradients in the order of the arguments of `forward`."""
        return ctx.saved_tensors[0] * d_losses[..., None], None, None, None


mixture_losses = FusedMixture.apply
