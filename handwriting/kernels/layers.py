"""Layers over whole lines, forwards and backwards.

Autograd would take, at every point, one product for the gradient of each weight and some forty small operations.
`FusedLSTM` runs over all T points itself. Forwards it keeps the gates and the cell of each point. Backwards, from the
last point to the first, a point costs one product: the gradients of its gates (B, 4H) by the recurrent weights
(4H, C + H) give those of (w, h) at the point before. The gates' gradients of n points (see `chunk_length`) are kept,
(n B, 4H), and then multiplied in one large product by what the points read, (I + C + H, n B), for the gradients of the
weights, and of the bias, which is the weight of a 1 that each point reads. `FusedWindow` does the same for the window by
the paper's closed forms (eq. 56-60). The products, what goes into the gates, and the states that are kept, are in
`matmul_dtype`. Gates, cells, window, and sums of gradients, all that adds up over the line, are in the type of the
weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from handwriting.kernels.cells import choose_cells
from handwriting.kernels.products import WIDTH_STEP, chunk_length, gate_weights, pack_linear, padding_to_step

# exp(-60) is nothing beside the other Gaussians. Smaller numbers are stored denormalised from exp(-88) on, and a
# processor is ten times as slow on those.
MIN_EXPONENT = -60.0

BLOCK = 4  # points whose narrow inputs are multiplied at once: the results stay in the processor's cache


# ---------------------------------------------------------------------------------------------------------- whole lines


def lstm(
    layer: nn.LSTM, matmul_dtype: torch.dtype, inputs: list[Tensor], hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """`Model.run_lstm`: inputs (T, B, I in all), hidden and cell (B, H) before the first point.

    Returns hidden (T, B, H) in `matmul_dtype`, and the last cell (B, H).
    """
    of_input, of_hidden, bias = gate_weights(layer)
    weight = torch.cat([of_input, bias[:, None]], dim=1)
    padding = padding_to_step(weight.shape[1])
    ones = inputs[-1].new_ones(1, 1, 1 + padding).expand(*inputs[-1].shape[:2], -1)
    x = torch.cat([*(part.to(ones.dtype) for part in inputs), ones], dim=2)
    return FusedLSTM.apply(
        x, F.pad(weight, (0, padding)), of_hidden, hidden, cell, matmul_dtype, torch.is_grad_enabled()
    )


def window_lstm(
    layer: nn.Module, matmul_dtype: torch.dtype,
    points: Tensor, characters: Tensor, hidden: Tensor, cell: Tensor, w: Tensor, kappa: Tensor,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    """`forward` of a `WindowLSTM`, with hidden (T, B, H) and w (T, B, C) in `matmul_dtype`, and no gradient by alpha
    and beta.

    points (T, B, 3), characters (B, U, C); before the first point hidden and cell (B, H), w (B, C), kappa (B, K).
    """
    of_input, of_hidden, bias = gate_weights(layer.cell)
    C, padding = w.shape[1], (0, padding_to_step(w.shape[1] + hidden.shape[1]))
    of_point, of_window = of_input.split([points.shape[2], C], dim=1)
    # The padding stands for more characters, which no text has.
    of_window, w, characters = (F.pad(tensor, padding) for tensor in (of_window, w, characters))
    recurrent = torch.cat([of_window, of_hidden], dim=1)  # (4H, C + H), of (w, h) at the point before
    hidden, w, cell, alpha, beta, kappa = FusedLSTM.apply(
        F.pad(points, (0, 1), value=1.0), torch.cat([of_point, bias[:, None]], dim=1), recurrent,
        torch.cat([w, hidden], dim=1), cell, matmul_dtype, torch.is_grad_enabled(),
        layer.window.weight, layer.window.bias, layer.max_log, characters, kappa,
    )  # fmt: skip
    return hidden, w[..., :C], cell, (alpha, beta, kappa)


class FusedWindow:
    """The window at all points of B lines, forwards (eq. 46-51) and backwards (eq. 56-60), a point at a time.

    `forward` is called for t from 0 upwards; then, any number of times, `start_backward`, and `backward` downwards.
    What has one value for each Gaussian has the shape (B, K, 1).
    """

    def __init__(
        self, T: int, needs_backward: bool,
        weight: Tensor, bias: Tensor, max_log: float, characters: Tensor, kappa: Tensor,
    ):  # fmt: skip
        """weight (3K, H) and bias (3K,) of (eq. 48), whose results are cut off at `max_log`; characters (B, U, C);
        kappa (B, K) before the first point.
        """
        (B, K), (_, U, C) = kappa.shape, characters.shape
        self.weight, self.weight_t, self.bias, self.K = weight, weight.t(), bias, K
        self.max_log, self.characters = max_log, characters
        self.u = torch.arange(1, U + 1, dtype=kappa.dtype, device=kappa.device)
        self.parameters = kappa.new_empty(T, B, 3 * K)  # alpha, beta, and what kappa advances by
        self.kappas = kappa.new_empty(T + 1, B, K, 1)  # kappas[t + 1] is that of point t
        self.kappas[0] = kappa[..., None]
        self.rows, (self.alpha, self.beta, self.advance) = self.parameters.unbind(0), self.by_point(self.parameters)
        self.kappa = self.kappas.unbind(0)
        # The Gaussians, without alpha; if there is no way back, those of all points are in the same memory.
        self.bells = kappa.new_empty(T if needs_backward else 1, B, K, U).expand(T, B, K, U)
        self.bell = self.bells.unbind(0)
        self.phi, self.w = (kappa.new_empty(B, 1, size) for size in (U, C))

    def by_point(self, parameters: Tensor) -> list[tuple[Tensor, ...]]:
        """(T, B, 3K) -> for each of the three parameters T views (B, K, 1)."""
        return [parameter.unbind(0) for parameter in parameters.unflatten(2, (3, self.K, 1)).unbind(2)]

    def forward(self, t: int, h: Tensor) -> Tensor:
        """h (B, H) of point t -> its window w (B, 1, C), valid until the next call."""
        torch.addmm(self.bias, h, self.weight_t, out=self.rows[t]).clamp_(max=self.max_log).exp_()  # (eq. 48-50)
        torch.add(self.kappa[t], self.advance[t], out=self.kappa[t + 1])  # (eq. 51)
        exponent = torch.sub(self.kappa[t + 1], self.u, out=self.bell[t])  # (B, K, U)
        bell = exponent.square_().mul_(self.beta[t]).neg_().clamp_(min=MIN_EXPONENT).exp_()
        torch.bmm(self.alpha[t].mT, bell, out=self.phi)  # (eq. 46)
        return torch.bmm(self.phi, self.characters, out=self.w)  # (eq. 47)

    def start_backward(self, d_kappas: Tensor) -> None:
        """d_kappas (T, B, K): the gradient of the loss by the kappas that `FusedLSTM` returns."""
        self.characters_t = self.characters.transpose(1, 2).contiguous()  # (B, C, U)
        self.d_parameters = torch.empty_like(self.parameters)  # before the exponential of (eq. 49-51)
        # By what is cut off the gradient is 0. A hair off: the last digits of two exponentials may differ.
        F.threshold_(self.bells, 1.0001 * math.exp(MIN_EXPONENT), 0.0)  # (exponentials of -inf take ten times as long)
        signs = (self.parameters < 0.9999 * math.exp(self.max_log)).to(self.parameters.dtype)
        signs[:, :, self.K : 2 * self.K].neg_()  # the minus of (eq. 58)
        self.signs = signs.unbind(0)
        self.d_rows, (self.d_alpha, self.d_beta, self.d_advance) = (
            self.d_parameters.unbind(0), self.by_point(self.d_parameters)
        )  # fmt: skip
        self.d_kappas, self.d_kappa = d_kappas[..., None].unbind(0), torch.zeros_like(self.kappas[0])
        B, K, U = self.bell[0].shape
        self.distance, self.d_phi = torch.empty_like(self.bell[0]), torch.empty_like(self.phi)
        self.epsilons = self.phi.new_empty(3, B, K, U)  # epsilon times 1, kappa - u, and (kappa - u)^2
        self.moments = self.phi.new_empty(3, B, K, 1)  # their sums over the text
        self.epsilon, self.moment = self.epsilons.unbind(0), self.moments.unbind(0)

    def backward(self, t: int, d_w: Tensor, d_h: Tensor) -> Tensor:
        """d_w (B, 1, C), and d_h (B, H) from elsewhere -> d_h, to which is added what comes through the window."""
        epsilon, epsilon_1, epsilon_2 = self.epsilon
        distance = torch.sub(self.kappa[t + 1], self.u, out=self.distance)  # (B, K, U)
        torch.mul(self.bell[t], self.alpha[t], out=epsilon)
        epsilon.mul_(torch.bmm(d_w, self.characters_t, out=self.d_phi))  # (eq. 56)
        torch.mul(epsilon, distance, out=epsilon_1)
        torch.mul(epsilon_1, distance, out=epsilon_2)
        torch.sum(self.epsilons, 3, keepdim=True, out=self.moments)
        moment_0, moment_1, moment_2 = self.moment
        self.d_alpha[t].copy_(moment_0)  # (eq. 57)
        torch.mul(moment_2, self.beta[t], out=self.d_beta[t])  # (eq. 58), but for its sign
        self.d_kappa.add_(self.d_kappas[t]).addcmul_(self.beta[t], moment_1, value=-2)  # (eq. 59)
        torch.mul(self.advance[t], self.d_kappa, out=self.d_advance[t])  # (eq. 60)
        return d_h.addmm_(self.d_rows[t].mul_(self.signs[t]), self.weight)


class FusedLSTM(torch.autograd.Function):
    """A layer of LSTM over a whole line, with or without a window, and its gradient in closed form: see above."""

    @staticmethod
    def forward(
        ctx, x, weight, recurrent, before, cell, matmul_dtype, needs_backward,
        window_weight=None, window_bias=None, max_log=None, characters=None, kappa=None,
    ):  # fmt: skip
        """x (T, B, I) with a column of ones, weight (4H, I) with the bias for it, recurrent (4H, C + H), before
        (B, C + H) = (w, h), cell (B, H); for a window window_weight (3K, H), window_bias (3K,), max_log, characters
        (B, U, C), kappa (B, K); else C is 0.

        The product with x is in the type of x. Returns h (T, B, H) in matmul_dtype and the last cell (B, H); with a
        window h, w (T, B, C), the cell, and alpha, beta and kappa (T, B, K each; the first two without gradient).
        """
        (T, B, width), H = x.shape, cell.shape[1]
        C, length = before.shape[1] - H, chunk_length(B)
        window = FusedWindow(T, needs_backward, window_weight, window_bias, max_log, characters, kappa) if C else None
        states = x.new_empty(T + 1, B, C + H, dtype=matmul_dtype)  # states[t] = (w, h) before point t
        states[0] = before
        state, ws, hs = states.unbind(0), states[:, :, None, :C].unbind(0), states[:, :, C:].unbind(0)
        # Of wide rows many are multiplied at once, so that the weights are read once; narrow ones a block at a time.
        input_points = length if width > WIDTH_STEP else BLOCK
        input_product = pack_linear(weight.to(x.dtype), input_points * B)
        recurrent_product = pack_linear(recurrent.to(matmul_dtype), B)
        chunks, make_cells = [], choose_cells(cell.dtype, matmul_dtype)
        h = cell.new_empty(B, H)
        for t in range(T):
            if t % input_points == 0:
                of_inputs = input_product(x[t : t + input_points].reshape(-1, width)).to(matmul_dtype)
                of_input = of_inputs.view(-1, B, 4 * H).unbind(0)
            n = t % length  # of this point in its chunk
            if n == 0:
                if needs_backward or not chunks:
                    points = min(length, T - t)
                    chunks.append(make_cells(cell.new_empty(points, B, 4, H), cell.new_empty(points + 1, B, H)))
                chunks[-1].cells[0] = cell
            chunks[-1].forward(n, recurrent_product(state[t], of_input[t % input_points]), h)
            hs[t + 1].copy_(h)
            if window:
                ws[t + 1].copy_(window.forward(t, h))
            cell = chunks[-1].cells[n + 1]

        kept = [tensor for chunk in chunks for tensor in (chunk.gates, chunk.cells)]
        ctx.save_for_backward(x, weight, recurrent, states, *kept)
        ctx.window = window
        if not window:
            return states[1:], cell.clone()
        w, h = states[1:].split([C, H], dim=2)
        alphas, betas = (p.contiguous() for p in window.parameters.chunk(3, dim=2)[:2])
        ctx.mark_non_differentiable(alphas, betas)
        return h, w, cell.clone(), alphas, betas, window.kappas[1:, ..., 0]

    @staticmethod
    @once_differentiable
    def backward(ctx, d_hiddens, *d_others):
        """Gradients in the order of the arguments of `forward`. A name d_x stands for the loss's gradient by x.

        d_hiddens (T, B, H), d_others: d_cell (B, H), or with a window d_ws (T, B, C), d_cell, two unused, and d_kappas
        (T, B, K).
        """
        d_ws, d_cell, _, _, d_kappas = d_others if ctx.window else (None, *d_others, None, None, None)
        x, weight, recurrent, states, *kept = ctx.saved_tensors
        make_cells = choose_cells(weight.dtype, states.dtype)
        chunks = [make_cells(gates, cells) for gates, cells in zip(kept[::2], kept[1::2], strict=True)]
        window = ctx.window
        (T, B, width), H, low = x.shape, weight.shape[0] // 4, states.dtype
        C, length = states.shape[2] - H, min(chunk_length(B), T)
        recurrent_product = pack_linear(recurrent.t().to(low), B)
        weight_low, x_low = weight.to(low), x.to(low)
        d_x = x_low.new_empty(x.shape) if ctx.needs_input_grad[0] else None
        # Each column is what a gate reads at a point of a line: (x, w, h). To have these as columns, and the gradients
        # as rows, is quicker than the other way round. Zeros, because oneDNN reads beyond the columns of a short chunk:
        # it multiplies them by 0, but what memory holds may be no number.
        reads = states.new_zeros(width + C + H, length * B)
        d_weights_t = weight.new_zeros(len(reads), 4 * H)
        d_cell = d_cell.clone(memory_format=torch.contiguous_format)
        d_after = (torch.cat([d_ws, d_hiddens], dim=2) if window else d_hiddens.contiguous()).unbind(0)
        d_before = d_after[-1]  # by (w, h) of point t, from elsewhere and through the point after
        d_state = d_cell.new_empty(B, C + H)
        d_w, d_h = d_state[:, None, :C], d_state[:, C:]
        d_gates = states.new_empty(length, B, 4 * H)
        d_gate = d_gates.unbind(0)
        if window:
            window.start_backward(d_kappas)
        for t in reversed(range(T)):
            n = t % length
            d_state.copy_(d_before)
            d_hidden = window.backward(t, d_w, d_h) if window else d_h
            chunks[t // length].backward(n, d_hidden, d_cell, d_gate[n])
            d_before = recurrent_product(d_gate[n], d_after[t - 1] if t else None)
            if n == 0:
                rows = slice(t, min(t + length, T))
                flat = d_gates[: rows.stop - t].flatten(0, 1)
                read = reads[:, : len(flat)]
                read[:width].copy_(x_low[rows].reshape(-1, width).t())
                read[width:].copy_(states[rows].view(-1, C + H).t())
                d_weights_t += (read @ flat).to(weight.dtype)
                if d_x is not None:
                    torch.mm(flat, weight_low, out=d_x[rows].view(-1, width))

        d_x = None if d_x is None else d_x.to(x.dtype)
        d_weight, d_recurrent = d_weights_t.t().split([width, C + H], dim=1)
        gradients = (d_x, d_weight, d_recurrent, d_before.to(weight.dtype), d_cell, None, None)
        if not window:
            return *gradients, None, None, None, None, None
        d_parameters = window.d_parameters.flatten(0, 1)
        d_window_weight = (d_parameters.t().to(low) @ states[1:, :, C:].reshape(T * B, H)).to(weight.dtype)
        return *gradients, d_window_weight, d_parameters.sum(0), None, None, window.d_kappa[..., 0]


def linear(layer: nn.Linear, hiddens: list[Tensor]) -> Tensor:
    """`Model.run_head`: all layers' hidden states, L times (T, B, H) -> (T, B, N)."""
    return FusedLinear.apply(layer.weight, layer.bias, *hiddens)


class FusedLinear(torch.autograd.Function):
    """A linear layer of the weights' type, the products of whose gradients are in the type of the hidden states."""

    @staticmethod
    def forward(ctx, weight, bias, *hiddens):
        """weight (N, L H), bias (N,), L times (T, B, H). Returns (T, B, N)."""
        ctx.save_for_backward(weight, *hiddens)
        return F.linear(torch.cat(hiddens, dim=2).to(weight.dtype), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_outputs):
        """Gradients in the order of the arguments of `forward`."""
        weight, *hiddens = ctx.saved_tensors
        low = d_outputs.to(hiddens[0].dtype).flatten(0, 1)
        parts = weight.to(low.dtype).split(hiddens[0].shape[2], dim=1)
        d_weight = torch.cat([low.t() @ h.flatten(0, 1) for h in hiddens], dim=1).to(weight.dtype)
        d_hiddens = [(low @ part).view_as(h) for part, h in zip(parts, hiddens, strict=True)]
        return d_weight, d_outputs.sum((0, 1)), *d_hiddens
