"""Layers over whole lines, forwards and backwards.

A layer reads, beside its inputs x (T, B, I), states (w, h) (B, C + H) of the point before; without a window C is 0.
Autograd would take, at every point, one product for the gradient of each weight and some forty small operations. Here
a point costs one: the gradients of its gates (B, 4H) by the recurrent weights (4H, C + H) give those of the states
before it. The gates' gradients of n points, (n B, 4H), are then multiplied at once by what the points read,
(I + C + H, n B), for the gradients of the weights. A name d_x stands for the loss's gradient by x.

Products, what goes into the gates, and states are in the type of the states. Gates, cells, window, and sums of
gradients, all that adds up over the line, are in the type of the weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from handwriting.kernels.cells import choose_cells
from handwriting.kernels.products import can_run, pack_linear
from handwriting.kernels.window import FusedWindow

BLOCK = 4  # points whose narrow inputs are multiplied at once: the results stay in the processor's cache
CHUNK_ROWS = 1600  # points times lines that go into one product where many can
WIDTH_STEP = 32  # rows of a multiple of it are multiplied up to a third faster; narrow ones are quick already
PARAMETERS = {
    nn.LSTM: ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"],  # of one layer, one direction, no projection
    nn.LSTMCell: ["weight_ih", "weight_hh", "bias_ih", "bias_hh"],
    nn.Linear: ["weight", "bias"],
}


def takes(layer: nn.Module | None, kind: type[nn.Module], like: Tensor, shape: tuple[int, int] | None = None) -> bool:
    """Whether a layer is a plain `kind` of the type of `like`, without hooks, its first weight of `shape` if given."""
    if type(layer) is not kind or layer._forward_hooks or layer._forward_pre_hooks or not can_run(like.device):
        return False
    names = [name for name, parameter in layer.named_parameters() if parameter.dtype == like.dtype]
    is_usual = names == PARAMETERS[kind] and not getattr(layer, "batch_first", False)
    fits = shape is None or next(layer.parameters()).shape == shape
    return is_usual and fits and like.dtype in (torch.float32, torch.float64)


def takes_window_lstm(layer: nn.Module, points: Tensor, characters: Tensor, *before: Tensor) -> bool:
    """Whether `window_lstm` gives what this `WindowLSTM` does at one made-up point: its `step` may be changed."""
    H, _, C, K = (tensor.shape[1] for tensor in before)
    parts = ("cell", nn.LSTMCell, (4 * H, points.shape[2] + C)), ("window", nn.Linear, (3 * K, H))
    are_known = [takes(getattr(layer, name, None), kind, points, shape) for name, kind, shape in parts]
    if not all(are_known) or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    inputs = [points[:1, :1], *(tensor[:1] for tensor in (characters, *before))]  # a point of a line
    inputs = [torch.linspace(0, 1, tensor.numel(), dtype=points.dtype).view_as(tensor) for tensor in inputs]
    inputs[-1] *= characters.shape[1] + 1  # kappa: some Gaussians before, on and beyond the text
    with torch.no_grad():
        *wanted, wanted_window = layer(*inputs)
        *found, window = window_lstm(layer, points.dtype, *inputs)
    pairs = zip([*found, *window], [*wanted, *wanted_window], strict=True)
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)


def gate_weights(layer: nn.LSTM | nn.LSTMCell) -> list[Tensor]:
    """Weights of the input (4H, I) and of h (4H, H), and bias (4H,) of a layer, with gates in the order of cells.py."""
    of_input, of_hidden, *biases = (getattr(layer, name) for name in PARAMETERS[type(layer)])
    chunks = (weight.chunk(4) for weight in (of_input, of_hidden, biases[0] + biases[1]))
    return [torch.cat([o, i, f, g]) for i, f, g, o in chunks]  # PyTorch's order: input, forget, candidate, output


def product_type(dtype: torch.dtype, matmul_dtype: torch.dtype) -> torch.dtype:
    """The type of a layer's products: bfloat16 where that is wanted of float32 weights, else that of the weights."""
    return matmul_dtype if (dtype, matmul_dtype) == (torch.float32, torch.bfloat16) else dtype


class FusedLSTM(torch.autograd.Function):
    """A layer of LSTM over a whole line, with its window or without one, and its gradient in closed form."""

    @staticmethod
    def forward(ctx, keep, window, x, weight, recurrent, before, cell, *_of_window):
        """x (T, B, I) with a column of ones, weight (4H, I) with the bias for it, recurrent (4H, C + H), and of the
        point before the line states (B, C + H) and cell (B, H). `keep` what the way back needs, or else not.

        The product with x is in the type of x, the other in that of `before`. The weight, bias and kappa (B, K) of a
        `window` follow, so that autograd asks for their gradients; it has its own copies. Returns states (T, B, C + H),
        the last cell (B, H), and kappas (T, B, K), None without a window.
        """
        (T, B, width), H, low = x.shape, cell.shape[1], before.dtype
        C, length = before.shape[1] - H, max(1, CHUNK_ROWS // B)
        states = before.new_empty(T + 1, B, C + H)  # states[t] is (w, h) before point t
        states[0] = before
        state, ws, hs = states.unbind(0), states[:, :, None, :C].unbind(0), states[:, :, C:].unbind(0)
        # Of wide rows many are multiplied at once, so that the weights are read once; narrow ones a block at a time.
        input_points = length if width > WIDTH_STEP else BLOCK
        input_product = pack_linear(weight.to(x.dtype), input_points * B)
        recurrent_product = pack_linear(recurrent.to(low), B)
        cells_forward, _ = choose_cells(cell.dtype, low)
        h, kept = cell.new_empty(B, H), []  # of each chunk gates (n, B, 4, H) and cells (n + 1, B, H), one before it
        for t in range(T):
            if t % input_points == 0:
                products = input_product(x[t : t + input_points].reshape(-1, width)).to(low)
                product = products.view(-1, B, 4 * H).unbind(0)
            n = t % length  # of this point in its chunk
            if n == 0:
                if keep or not kept:
                    points = min(length, T - t)
                    kept += cell.new_empty(points, B, 4, H), cell.new_empty(points + 1, B, H)
                gates, cells = (tensor.unbind(0) for tensor in kept[-2:])
                cells[0].copy_(cell)
            cell = cells[n + 1]
            cells_forward(recurrent_product(state[t], product[t % input_points]), cells[n], gates[n], cell, h)
            hs[t + 1].copy_(h)
            if window:
                ws[t + 1].copy_(window.forward(t, h))
        ctx.window = window
        ctx.save_for_backward(x, weight, recurrent, states, *kept)
        return states[1:], cell.clone(), window.kappas[1:, ..., 0] if window else None

    @staticmethod
    @once_differentiable
    def backward(ctx, d_states, d_cell, d_kappas):
        """Gradients in the order of the arguments of `forward`."""
        x, weight, recurrent, states, *kept = ctx.saved_tensors
        (T, B, width), H, low, window = x.shape, weight.shape[0] // 4, states.dtype, ctx.window
        C, length = states.shape[2] - H, len(kept[0])
        _, cells_backward = choose_cells(weight.dtype, low)
        recurrent_product = pack_linear(recurrent.t().to(low), B)
        weight_low, x_low = weight.to(low), x.to(low)
        d_x = torch.empty_like(x_low) if ctx.needs_input_grad[2] else None
        d_weights_t = weight.new_zeros(width + C + H, 4 * H)
        # Where rows are bfloat16, each column is what a gate reads at a point of a line: (x, w, h). To have these as
        # columns, and the gradients as rows, is quicker than the other way round. Zeros, because oneDNN reads beyond
        # the columns of a short chunk: it multiplies them by 0, but what memory holds may be no number.
        is_low = low != weight.dtype
        reads = states.new_zeros(len(d_weights_t), length * B if is_low else 0)
        d_cell = d_cell.clone(memory_format=torch.contiguous_format)
        d_after = d_states.contiguous().unbind(0)
        d_before = d_after[-1]  # by (w, h) of point t, from elsewhere and through the point after
        d_state = d_cell.new_empty(B, C + H)
        d_w, d_h = d_state[:, None, :C], d_state[:, C:]
        d_gates = states.new_empty(length, B, 4 * H)
        d_gate = d_gates.unbind(0)
        if window:
            window.start_backward(d_kappas)
        for t in reversed(range(T)):
            n = t % length
            if n == length - 1 or t == T - 1:  # a chunk's last point
                cells, gates = kept.pop().unbind(0), kept.pop().unbind(0)
            d_state.copy_(d_before)
            if window:
                window.backward(t, d_w, d_h)
            cells_backward(cells[n], gates[n], cells[n + 1], d_h, d_cell, d_gate[n])
            d_before = recurrent_product(d_gate[n], d_after[t - 1] if t else None)
            if n == 0:
                rows = slice(t, min(t + length, T))
                flat = d_gates[: rows.stop - t].flatten(0, 1)
                parts_t = x_low[rows].reshape(-1, width).t(), states[rows].view(-1, C + H).t()
                if is_low:
                    read = reads[:, : len(flat)]
                    read[:width], read[width:] = parts_t
                    d_weights_t += (read @ flat).to(weight.dtype)
                else:
                    d_weights_t[:width].addmm_(parts_t[0], flat)
                    d_weights_t[width:].addmm_(parts_t[1], flat)
                if d_x is not None:
                    torch.mm(flat, weight_low, out=d_x[rows].view(-1, width))
        d_x = None if d_x is None else d_x.to(x.dtype)
        of_window = window.parameter_gradients(states[1:, :, C:]) if window else ()
        return None, None, d_x, *d_weights_t.t().split([width, C + H], dim=1), d_before, d_cell, *of_window


def padding_to_step(width: int) -> int:
    """The columns to add to rows of that width, so that products with them are quick."""
    return -width % WIDTH_STEP if width > WIDTH_STEP else 0


def lstm(
    layer: nn.LSTM, matmul_dtype: torch.dtype, inputs: list[Tensor], hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """`Model.run_lstm`, with hidden (T, B, H) in the type of the products."""
    of_input, recurrent, bias = gate_weights(layer)
    low = product_type(bias.dtype, matmul_dtype)
    padding = padding_to_step(of_input.shape[1] + 1)
    weight = F.pad(torch.cat([of_input, bias[:, None]], dim=1), (0, padding))
    kind = low if inputs[-1].dtype == low else weight.dtype
    ones = torch.ones(1, 1, 1 + padding, dtype=kind).expand(*inputs[-1].shape[:2], -1)
    x = torch.cat([*(part.to(kind) for part in inputs), ones], dim=2)
    return FusedLSTM.apply(torch.is_grad_enabled(), None, x, weight, recurrent, hidden.to(low), cell)[:2]


def window_lstm(
    layer: nn.Module, matmul_dtype: torch.dtype,
    points: Tensor, characters: Tensor, hidden: Tensor, cell: Tensor, w: Tensor, kappa: Tensor,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    """`WindowLSTM.forward`: hidden (T, B, H), w (T, B, C) in the products' type; no gradient by alpha and beta."""
    of_input, of_hidden, bias = gate_weights(layer.cell)
    low, keep, (C, H) = product_type(bias.dtype, matmul_dtype), torch.is_grad_enabled(), (w.shape[1], hidden.shape[1])
    of_point, of_window = of_input.split([points.shape[2], C], dim=1)
    padding = padding_to_step(C + H)  # columns of zeros, as if the alphabet were larger
    of_window, w, characters = (F.pad(tensor, (0, padding)) for tensor in (of_window, w, characters))
    window = FusedWindow(len(points), keep, layer, characters, kappa.detach())
    states, cell, kappas = FusedLSTM.apply(
        keep, window, F.pad(points, (0, 1), value=1.0), torch.cat([of_point, bias[:, None]], dim=1),
        torch.cat([of_window, of_hidden], dim=1), torch.cat([w, hidden], dim=1).to(low), cell,
        layer.window.weight, layer.window.bias, kappa,
    )  # fmt: skip
    w, _, hidden = states.split([C, padding, H], dim=2)
    alphas, betas, _ = window.parameters.chunk(3, dim=2)
    return hidden, w, cell, (alphas, betas, kappas)


def linear(layer: nn.Linear, hiddens: list[Tensor]) -> Tensor:
    """`Model.run_head`: all layers' hidden states, (T, B, H) each -> (T, B, N)."""
    return FusedLinear.apply(layer.weight, layer.bias, torch.cat(hiddens, dim=2))


class FusedLinear(torch.autograd.Function):
    """A linear layer of the weights' type, the products of whose gradients are in the type of what it reads."""

    @staticmethod
    def forward(ctx, weight, bias, x):
        """weight (N, I), bias (N,), x (T, B, I). Returns (T, B, N)."""
        ctx.save_for_backward(weight, x)
        return F.linear(x.to(weight.dtype), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_outputs):
        """Gradients in the order of the arguments of `forward`."""
        weight, x = ctx.saved_tensors
        low = d_outputs.to(x.dtype).flatten(0, 1)
        d_weight = (low.t() @ x.flatten(0, 1)).to(weight.dtype)
        return d_weight, d_outputs.sum((0, 1)), (low @ weight.to(low.dtype)).view_as(x)
