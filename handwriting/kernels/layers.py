"""Layers over whole lines, forwards and backwards.

Autograd would take, at every point, one product for the gradient of each weight and some forty small operations.
`FusedLSTM` and `FusedWindowLSTM` run over all T points themselves, with one loop for both (`run_forward` and
`run_backward`). A layer reads, beside its inputs x (T, B, I), states (w, h) (B, C + H) of the point before; without a
window C is 0.

Forwards the gates and the cell of each point are kept. Backwards, from the last point to the first, a point costs one
product: the gradients of its gates (B, 4H) by the recurrent weights (4H, C + H) give those of the states before it. The
gates' gradients of n points (see `chunk_length`) are kept, (n B, 4H), and then multiplied in one large product by what
the points read, (I + C + H, n B), for the gradients of the weights, and of the bias, which is the weight of a 1 that
each point reads. `FusedWindow` does the same for the window by the paper's closed forms (eq. 56-60).

The products, what goes into the gates, and the states that are kept, are in the type of the states. Gates, cells,
window, and sums of gradients, all that adds up over the line, are in the type of the weights. In what runs backwards, a
name d_x stands for the loss's gradient by x.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from handwriting.kernels.cells import choose_cells, gate_weights
from handwriting.kernels.products import WIDTH_STEP, can_run, chunk_length, pack_linear, padding_to_step
from handwriting.kernels.window import FusedWindow

BLOCK = 4  # points whose narrow inputs are multiplied at once: the results stay in the processor's cache


# ------------------------------------------------------------------------------------------------ what the kernels take

PARAMETERS = {
    nn.LSTM: ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"),  # one layer, one direction, no projection
    nn.LSTMCell: ("weight_ih", "weight_hh", "bias_ih", "bias_hh"),
    nn.Linear: ("weight", "bias"),
}


def is_known(module: nn.Module | None, kind: type[nn.Module], like: Tensor) -> bool:
    """Whether a module is what the kernels know as an nn.LSTM, nn.LSTMCell or nn.Linear, whichever `kind` says.

    It must be in the type of `like`, on a processor, and nothing may be hooked in.
    """
    if type(module) is not kind or getattr(module, "batch_first", False) or is_hooked(module):
        return False
    if not can_run(like.device) or like.dtype not in (torch.float32, torch.float64):
        return False
    names, parameters = zip(*module.named_parameters(), strict=True)
    return names == PARAMETERS[kind] and all(parameter.dtype == like.dtype for parameter in parameters)


def is_hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its own `forward`."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def takes_lstm(layer: nn.Module, inputs: list[Tensor], hidden: Tensor) -> bool:
    """Whether `lstm` is for this layer. At a single point PyTorch is quicker."""
    return len(inputs[0]) > 1 and is_known(layer, nn.LSTM, hidden)


def takes_window_lstm(layer: nn.Module, points: Tensor, *before: Tensor) -> bool:
    """Whether `window_lstm` is for this `WindowLSTM`, as it stands: one point of made-up numbers must give the same.

    So whoever changes its `step` need not think of the kernel. At a single point PyTorch is quicker.
    """
    parts = ("cell", nn.LSTMCell), ("window", nn.Linear)
    are_known = all(is_known(getattr(layer, name, None), kind, points) for name, kind in parts)
    if len(points) == 1 or not are_known or is_hooked(layer):
        return False
    inputs = [points[:1, :1], *(tensor[:1] for tensor in before)]  # a point of a line
    inputs = [torch.linspace(0, 1, tensor.numel(), dtype=points.dtype).view_as(tensor) for tensor in inputs]
    inputs[-1] *= before[0].shape[1] + 1  # kappa: some Gaussians before, on and beyond the text
    with torch.no_grad():
        *wanted, window = layer(*inputs)
        *found, parameters = window_lstm(layer, points.dtype, *inputs)
    pairs = zip([*found, *parameters], [*wanted, *window], strict=True)
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)


def takes_linear(layer: nn.Module, hiddens: list[Tensor]) -> bool:
    """Whether `linear` is for this layer, and these hidden states."""
    return len({h.shape for h in hiddens}) == 1 and is_known(layer, nn.Linear, next(layer.parameters(), hiddens[0]))


def product_type(weight: Tensor, matmul_dtype: torch.dtype) -> torch.dtype:
    """The type of a layer's products: bfloat16 where that is wanted of float32 weights, else that of the weights."""
    return matmul_dtype if (weight.dtype, matmul_dtype) == (torch.float32, torch.bfloat16) else weight.dtype


# ------------------------------------------------------------------------------------------------- a line, and its loop


def run_forward(
    x: Tensor, weight: Tensor, recurrent: Tensor, before: Tensor, cell: Tensor, keep: bool,
    window: FusedWindow | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """A layer over a line: x (T, B, I) with a column of ones, weight (4H, I) with the bias for it, recurrent
    (4H, C + H), and of the point before the line states (B, C + H) and cell (B, H).

    The product with x is in the type of x, the other in that of `before`. Returns states (T + 1, B, C + H), of which
    states[t] is (w, h) before point t, the last cell (B, H), and gates and cells for the way back, in chunks of
    `chunk_length` points: all of them if told to `keep` them.
    """
    (T, B, width), H, low = x.shape, cell.shape[1], before.dtype
    C, length = before.shape[1] - H, chunk_length(B)
    states = before.new_empty(T + 1, B, C + H)
    states[0] = before
    state, ws, hs = states.unbind(0), states[:, :, None, :C].unbind(0), states[:, :, C:].unbind(0)
    # Of wide rows many are multiplied at once, so that the weights are read once; narrow ones a block at a time.
    input_points = length if width > WIDTH_STEP else BLOCK
    input_product = pack_linear(weight.to(x.dtype), input_points * B)
    recurrent_product = pack_linear(recurrent.to(low), B)
    chunks, make_cells = [], choose_cells(cell.dtype, low)
    h = cell.new_empty(B, H)
    for t in range(T):
        if t % input_points == 0:
            of_inputs = input_product(x[t : t + input_points].reshape(-1, width)).to(low)
            of_input = of_inputs.view(-1, B, 4 * H).unbind(0)
        n = t % length  # of this point in its chunk
        if n == 0:
            if keep or not chunks:
                points = min(length, T - t)
                chunks.append(make_cells(cell.new_empty(points, B, 4, H), cell.new_empty(points + 1, B, H)))
            chunks[-1].cells[0] = cell
        chunks[-1].forward(n, recurrent_product(state[t], of_input[t % input_points]), h)
        hs[t + 1].copy_(h)
        if window:
            ws[t + 1].copy_(window.forward(t, h))
        cell = chunks[-1].cells[n + 1]
    return states, cell.clone(), [tensor for chunk in chunks for tensor in (chunk.gates, chunk.cells)]


def run_backward(
    saved: tuple[Tensor, ...], d_states: Tensor, d_cell: Tensor, needs_d_x: bool, window: FusedWindow | None = None
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """The way back through `run_forward`. `saved` is x, weight, recurrent, and of its results states, gates and cells.

    From the gradients d_states (T, B, C + H) by states[1:] and d_cell (B, H) by the last cell it comes to those by x
    (None if they are not needed), weight, recurrent, before and cell.
    """
    x, weight, recurrent, states, *kept = saved
    make_cells = choose_cells(weight.dtype, states.dtype)
    chunks = [make_cells(gates, cells) for gates, cells in zip(kept[::2], kept[1::2], strict=True)]
    (T, B, width), H, low = x.shape, weight.shape[0] // 4, states.dtype
    C, length = states.shape[2] - H, min(chunk_length(B), T)
    recurrent_product = pack_linear(recurrent.t().to(low), B)
    weight_low, x_low = weight.to(low), x.to(low)
    d_x = x_low.new_empty(x.shape) if needs_d_x else None
    # Each column is what a gate reads at a point of a line: (x, w, h). To have these as columns, and the gradients
    # as rows, is quicker than the other way round. Zeros, because oneDNN reads beyond the columns of a short chunk:
    # it multiplies them by 0, but what memory holds may be no number.
    reads = states.new_zeros(width + C + H, length * B)
    d_weights_t = weight.new_zeros(len(reads), 4 * H)
    d_cell = d_cell.clone(memory_format=torch.contiguous_format)
    d_after = d_states.unbind(0)
    d_before = d_after[-1]  # by (w, h) of point t, from elsewhere and through the point after
    d_state = d_cell.new_empty(B, C + H)
    d_w, d_h = d_state[:, None, :C], d_state[:, C:]
    d_gates = states.new_empty(length, B, 4 * H)
    d_gate = d_gates.unbind(0)
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
    return d_x, *d_weights_t.t().split([width, C + H], dim=1), d_before, d_cell


# --------------------------------------------------------------------------------------------- a layer without a window


def lstm(
    layer: nn.LSTM, matmul_dtype: torch.dtype, inputs: list[Tensor], hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """`Model.run_lstm`: inputs (T, B, I in all), hidden and cell (B, H) before the first point.

    Returns hidden (T, B, H) in the type of the products, and the last cell (B, H).
    """
    of_input, recurrent, bias = gate_weights(layer)
    low = product_type(recurrent, matmul_dtype)
    weight = torch.cat([of_input, bias[:, None]], dim=1)
    padding = padding_to_step(weight.shape[1])
    kind = low if inputs[-1].dtype == low else weight.dtype
    ones = torch.ones(1, 1, 1 + padding, dtype=kind).expand(*inputs[-1].shape[:2], -1)
    x = torch.cat([*(part.to(kind) for part in inputs), ones], dim=2)
    return FusedLSTM.apply(x, F.pad(weight, (0, padding)), recurrent, hidden.to(low), cell, torch.is_grad_enabled())


class FusedLSTM(torch.autograd.Function):
    """A layer of LSTM over a whole line, and its gradient in closed form: see the top of this file."""

    @staticmethod
    def forward(ctx, x, weight, recurrent, before, cell, keep):
        """The arguments of `run_forward`, with C = 0. Returns hidden (T, B, H) and the last cell (B, H)."""
        states, last, kept = run_forward(x, weight, recurrent, before, cell, keep)
        ctx.save_for_backward(x, weight, recurrent, states, *kept)
        return states[1:], last

    @staticmethod
    @once_differentiable
    def backward(ctx, d_hiddens, d_cell):
        """Gradients in the order of the arguments of `forward`."""
        return *run_backward(ctx.saved_tensors, d_hiddens.contiguous(), d_cell, ctx.needs_input_grad[0]), None


# ------------------------------------------------------------------------------------------------ a layer with a window


def window_lstm(
    layer: nn.Module, matmul_dtype: torch.dtype,
    points: Tensor, characters: Tensor, hidden: Tensor, cell: Tensor, w: Tensor, kappa: Tensor,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    """`WindowLSTM.forward`, with hidden (T, B, H) and w (T, B, C) in the type of the products, and no gradient by alpha
    and beta.

    points (T, B, 3), characters (B, U, C); before the first point hidden and cell (B, H), w (B, C), kappa (B, K).
    """
    of_input, of_hidden, bias = gate_weights(layer.cell)
    low, C, padding = product_type(bias, matmul_dtype), w.shape[1], (0, padding_to_step(w.shape[1] + hidden.shape[1]))
    of_point, of_window = of_input.split([points.shape[2], C], dim=1)
    # The padding stands for more characters, which no text has.
    of_window, w, characters = (F.pad(tensor, padding) for tensor in (of_window, w, characters))
    window = FusedWindow(len(points), torch.is_grad_enabled(), layer, characters, kappa.detach())
    hidden, w, cell, *parameters = FusedWindowLSTM.apply(
        F.pad(points, (0, 1), value=1.0), torch.cat([of_point, bias[:, None]], dim=1),
        torch.cat([of_window, of_hidden], dim=1), torch.cat([w, hidden], dim=1).to(low), cell,
        window, layer.window.weight, layer.window.bias, kappa,
    )  # fmt: skip
    return hidden, w[..., :C], cell, tuple(parameters)


class FusedWindowLSTM(torch.autograd.Function):
    """A layer of LSTM with its window over a whole line, and its gradient in closed form: see the top of this file."""

    @staticmethod
    def forward(ctx, x, weight, recurrent, before, cell, window, window_weight, window_bias, kappa):
        """The arguments of `run_forward`, the window, and what there is a gradient by in it.

        Returns h (T, B, H), w (T, B, C), the last cell, and alpha, beta and kappa (T, B, K each; the first two without
        gradient).
        """
        states, last, kept = run_forward(x, weight, recurrent, before, cell, window.keep, window)
        ctx.save_for_backward(x, weight, recurrent, states, *kept)
        ctx.window = window
        w, h = states[1:].tensor_split([before.shape[1] - cell.shape[1]], dim=2)
        alphas, betas = (p.contiguous() for p in window.parameters.chunk(3, dim=2)[:2])
        ctx.mark_non_differentiable(alphas, betas)
        return h, w, last, alphas, betas, window.kappas[1:, ..., 0]

    @staticmethod
    @once_differentiable
    def backward(ctx, d_hiddens, d_ws, d_cell, _d_alphas, _d_betas, d_kappas):
        """Gradients in the order of the arguments of `forward`."""
        window, states = ctx.window, ctx.saved_tensors[3]
        window.start_backward(d_kappas)
        d_states = torch.cat([d_ws, d_hiddens], dim=2)
        gradients = run_backward(ctx.saved_tensors, d_states, d_cell, ctx.needs_input_grad[0], window)
        d_parameters = window.d_parameters.flatten(0, 1)
        hiddens = states[1:, :, d_ws.shape[2] :].flatten(0, 1)
        d_weight = (d_parameters.t().to(states.dtype) @ hiddens).to(d_parameters.dtype)
        return *gradients, None, d_weight, d_parameters.sum(0), window.d_kappa[..., 0]


# ------------------------------------------------------------------------------------------------------------- the head


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
