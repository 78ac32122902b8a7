"""The network of Graves (2013), "Generating Sequences With Recurrent Neural Networks", arXiv 1308.0850.

One class serves both tasks: random writing (section 4) and, with a soft window over a text, synthesis (section 5).
Numbers in brackets, such as (eq. 46), are the paper's equations. Shapes are written with these letters:

    T  points of a line      B  lines of a batch       H  cells of a layer       M  components of the mixture
    U  characters of a text  C  size of the alphabet   K  Gaussians of the window
    L  layers                S  points of a block

A point is (x offset, y offset, end-of-stroke bit). Inside the network offsets have mean 0 and deviation 1 over the
training lines; `Model.normalise` and `Model.denormalise` go from and to whiteboard units.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

POINTS_PER_CHARACTER = 25  # of a line of IAM-OnDB (section 5.1); an untrained window moves at this pace


@dataclass(frozen=True)
class Config:
    """The sizes of a network. `num_chars` 0 means no window: prediction, the task `rand_write`."""

    num_layers: int = 2
    cell_size: int = 400
    num_clusters: int = 20
    K: int = 10
    num_chars: int = 0

    def __post_init__(self):
        for name, least in [("num_layers", 1), ("cell_size", 1), ("num_clusters", 1), ("K", 1), ("num_chars", 0)]:
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


class State(NamedTuple):
    """All that the network carries from one point to the next. Without a window the last two have width 0."""

    hidden: Tensor  # (num_layers, B, H)
    cell: Tensor  # (num_layers, B, H)
    window: Tensor  # (B, C)
    kappa: Tensor  # (B, K)


class Window(NamedTuple):
    """Parameters of the soft window at each point, each (T, B, K): (eq. 49), (eq. 50), (eq. 51).

    As `Model.forward` returns them, kappa carries a gradient and alpha and beta none.
    """

    alpha: Tensor
    beta: Tensor
    kappa: Tensor


class Mixture(NamedTuple):
    """Parameters of the distribution of the next point, for outputs of shape (..., 1 + 6M), all in log space."""

    end_logit: Tensor  # (...), logit of e
    log_pi: Tensor  # (..., M)
    mu: Tensor  # (..., M, 2)
    log_sigma: Tensor  # (..., M, 2)
    atanh_rho: Tensor  # (..., M), the number whose tanh is rho


# Guards against overflow, beyond what data can ask for: recorded offsets are whole whiteboard units, some 0.02
# deviations apart, so that a deviation of exp(-10) is a point already and one of exp(10) the whole board, and tanh(9)
# is 1 in float32.
GREATEST_LOG_SIGMA = 10.0
GREATEST_ATANH_RHO = 9.0


def mixture(outputs: Tensor, bias: float | Tensor = 0.0) -> Mixture:
    """Read the raw outputs (..., 1 + 6M) as a mixture: (eq. 15-22). `bias` >= 0 is the paper's b, (eq. 61, 62).

    A tensor of biases must broadcast against outputs[..., 0].
    """
    clusters = (outputs.shape[-1] - 1) // 6
    bias = torch.as_tensor(bias, dtype=outputs.dtype, device=outputs.device)[..., None]
    end, pi, mu1, mu2, sigma1, sigma2, rho = outputs.split([1] + [clusters] * 6, dim=-1)
    log_sigma = torch.stack([sigma1, sigma2], dim=-1) - bias[..., None]  # (eq. 61), (..., M, 2)
    return Mixture(
        end_logit=-end[..., 0],  # (eq. 18): e = 1 / (1 + exp(e^)), so its logit is -e^
        log_pi=torch.log_softmax(pi * (1 + bias), dim=-1),  # (eq. 19) and (eq. 62)
        mu=torch.stack([mu1, mu2], dim=-1),  # (eq. 20)
        log_sigma=log_sigma.clamp(-GREATEST_LOG_SIGMA, GREATEST_LOG_SIGMA),  # (eq. 21)
        atanh_rho=rho.clamp(-GREATEST_ATANH_RHO, GREATEST_ATANH_RHO),  # (eq. 22)
    )


def log_density(mix: Mixture, offsets: Tensor) -> Tensor:
    """Log of the mixture's density at `offsets` (..., 2), normalised; result (...). (eq. 23-25) without the pen.

    With a = atanh(rho) the terms in 1 - rho^2 have exact forms that do not cancel as |rho| -> 1:
    Z / (2 (1 - rho^2)) = ((z1 + z2)^2 (1 + e^-2a) + (z1 - z2)^2 (1 + e^2a)) / 8 and
    log sqrt(1 - rho^2) = -log cosh a.
    """
    z1, z2 = ((offsets[..., None, :] - mix.mu) * torch.exp(-mix.log_sigma)).unbind(-1)  # (..., M) each
    a = mix.atanh_rho
    exponent = ((z1 + z2).square() * (1 + torch.exp(-2 * a)) + (z1 - z2).square() * (1 + torch.exp(2 * a))) / 8
    log_cosh = a.abs() + F.softplus(-2 * a.abs()) - math.log(2)
    log_normal = log_cosh - math.log(2 * math.pi) - mix.log_sigma.sum(-1) - exponent  # (eq. 24), (..., M)
    return torch.logsumexp(mix.log_pi + log_normal, dim=-1)


def negative_log_likelihood(mix: Mixture, targets: Tensor) -> Tensor:
    """Loss of each point in nats (eq. 26). targets (..., 3): normalised offsets and end-of-stroke bit; result (...)."""
    pen = F.binary_cross_entropy_with_logits(mix.end_logit, targets[..., 2], reduction="none")
    return pen - log_density(mix, targets[..., :2])


def squared_error(mix: Mixture, targets: Tensor) -> Tensor:
    """Squared distance of each target (..., 3) from the mixture's mean, in normalised units; result (...)."""
    mean = (mix.log_pi.exp()[..., None] * mix.mu).sum(-2)  # (..., 2)
    return (mean - targets[..., :2]).square().sum(-1)


def log_window_weights(window: Window, num_chars: int) -> Tensor:
    """log phi(t, u) for u = 1 .. num_chars (eq. 46). Parameters (..., K), result (..., num_chars)."""
    u = torch.arange(1, num_chars + 1, dtype=window.kappa.dtype, device=window.kappa.device)
    distance = window.kappa[..., None] - u  # (..., K, U)
    return torch.logsumexp(window.alpha.log()[..., None] - window.beta[..., None] * distance.square(), dim=-2)


class WindowLSTM(nn.Module):
    """The first layer of synthesis: an LSTM whose cells place a window over the text and read it at the next point.

    The gates stand in the order output, input, forget, candidate, so that the three sigmoids are neighbours, and so
    are the three that lead to the cell.
    """

    def __init__(self, config: Config):
        super().__init__()
        H, C, K = config.cell_size, config.num_chars, config.K
        self.input = nn.Linear(3, 4 * H)
        self.recurrent = nn.Linear(C + H, 4 * H, bias=False)  # of (w, h) at the point before
        self.window = nn.Linear(H, 3 * K)  # (eq. 48)
        bound = H**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        with torch.no_grad():
            self.input.bias[2 * H : 3 * H] = 1.0  # forget gates start open
            self.window.bias.copy_(
                torch.tensor([1 / K, 1.0, 1 / POINTS_PER_CHARACTER]).log().repeat_interleave(K)
            )  # alphas that add up to 1, windows about one character wide, the pace of writing

    def forward(self, points: Tensor, characters: Tensor, state: State, matmul_dtype: torch.dtype):
        """Run over a whole line.

        points (T, B, 3), characters (B, U, C) one-hot with rows of zeros for padding, state of the network.
        Returns windows and hidden side by side (T, B, C + H) in `matmul_dtype`, Window, and the last cell (B, H).
        """
        before = torch.cat([state.window, state.hidden[0]], dim=-1)  # (B, C + H)
        outputs, cell, alpha, beta, kappa = Recurrence.apply(
            points, self.input.weight, self.input.bias, self.recurrent.weight, before, state.cell[0], matmul_dtype,
            torch.is_grad_enabled(), self.window.weight, self.window.bias, characters, state.kappa,
        )  # fmt: skip
        return outputs, Window(alpha, beta, kappa), cell

    def forward_by_steps(self, points: Tensor, characters: Tensor, state: State):
        """The same, point by point, as the equations stand in the paper: what `forward` is tested against."""
        w, h, c, kappa = state.window, state.hidden[0], state.cell[0], state.kappa
        outputs, parameters = [], []
        for x in points:
            gates = self.input(x) + self.recurrent(torch.cat([w, h], dim=-1))  # (B, 4H)
            o, i, f, g = gates.chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()  # (eq. 7-9), without peepholes
            h = o.sigmoid() * c.tanh()  # (eq. 10, 11)
            alpha, beta, pace = self.window(h).exp().chunk(3, dim=-1)  # (eq. 48-51)
            kappa = kappa + pace  # (eq. 51)
            window = Window(alpha, beta, kappa)
            phi = log_window_weights(window, characters.shape[1]).exp()  # (eq. 46), (B, U)
            w = (phi[:, None, :] @ characters)[:, 0]  # (eq. 47), (B, C)
            outputs.append(torch.cat([w, h], dim=-1))
            parameters.append(window)
        window = Window(*(torch.stack(p) for p in zip(*parameters, strict=True)))
        return torch.stack(outputs), window, c


def run_lstm(
    layer: nn.LSTM, inputs: Tensor, hidden: Tensor, cell: Tensor, matmul_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """An LSTM without a window over a whole line: (eq. 7-11), without peepholes.

    inputs (T, B, I), hidden and cell (B, H) before the first point. Returns hidden (T, B, H) in `matmul_dtype`, and
    the last cell (B, H). On the processor `Recurrence` does this, elsewhere PyTorch.
    """
    device = inputs.device.type
    if device != "cpu":
        with torch.autocast(device, matmul_dtype) if matmul_dtype == torch.bfloat16 else nullcontext():
            outputs, (_, cell) = layer(inputs, (hidden[None], cell[None]))
        return outputs.to(matmul_dtype), cell[0].to(hidden.dtype)
    H = layer.hidden_size  # torch's gates stand in the order input, forget, candidate, output: roll them
    weight, recurrent = layer.weight_ih_l0.roll(H, 0), layer.weight_hh_l0.roll(H, 0)
    bias = (layer.bias_ih_l0 + layer.bias_hh_l0).roll(H)
    return Recurrence.apply(inputs, weight, bias, recurrent, hidden, cell, matmul_dtype, torch.is_grad_enabled())


def product_with(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """The function x (n, I) -> x @ weight.T for one weight (N, I) and many x, quickest for n = `rows`.

    For bfloat16 on a processor oneDNN puts the weight in order once, not at every product. PyTorch's compiler uses
    these operations, they are not part of its public interface: without them it is the plain product.
    """
    if weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and can_pack():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        linear = torch.ops.mkldnn._linear_pointwise.default
        return lambda x: linear(x, packed, None, "none", [], "")
    weight_t = weight.t().contiguous()
    return lambda x: x @ weight_t


def can_pack() -> bool:
    """Whether PyTorch and the processor have what `product_with` uses."""
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    return all(hasattr(torch.ops.mkldnn, name) for name in names) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


# Of the window's Gaussians: exp(-60) is nothing beside the others, and numbers so small that they are stored
# denormalised, as exp(-90) is in float32, take a processor ten times as long.
LEAST_EXPONENT = -60.0

BLOCK = 4  # points whose intermediate results stay in the processor's cache
SPAN = 16 * BLOCK  # points whose gradients go into one product for the weights' gradients
STRETCH = 3 * SPAN  # points that the loss takes at a time, so that no large tensor is as long as a line


class WindowSteps:
    """The window at all points of B lines, forwards (eq. 46-51) and backwards (eq. 56-60), a point at a time.

    Calls are by point t from 0, `forward` upwards and then, any number of times, `start_backward` and `backward`
    downwards. What has one value for each Gaussian has the shape (B, K, 1).
    """

    def __init__(self, T: int, weight: Tensor, bias: Tensor, characters: Tensor, kappa: Tensor):
        """weight (3K, H) and bias (3K,) of (eq. 48), characters (B, U, C), kappa (B, K) before the first point."""
        (B, K), (_, U, C) = kappa.shape, characters.shape
        self.weight, self.weight_t, self.bias, self.K = weight, weight.t(), bias, K
        self.characters = characters
        self.u = torch.arange(1, U + 1, dtype=kappa.dtype, device=kappa.device)
        self.parameters = kappa.new_empty(T, B, 3 * K)  # alpha, beta, and the step of kappa
        self.kappas = kappa.new_empty(T + 1, B, K, 1)  # kappas[t + 1] is that of point t
        self.kappas[0] = kappa[..., None]
        self.at, (self.alpha, self.beta, self.pace) = self.parameters.unbind(0), self.by_point(self.parameters)
        self.kappa = self.kappas.unbind(0)
        self.exponent, self.phi, self.w = (kappa.new_empty(B, *sizes) for sizes in ((K, U), (1, U), (1, C)))

    def by_point(self, parameters: Tensor) -> list[tuple[Tensor, ...]]:
        """(T, B, 3K) -> for each of the three parameters T views (B, K, 1)."""
        return [parameter.unbind(0) for parameter in parameters.unflatten(2, (3, self.K, 1)).unbind(2)]

    def forward(self, t: int, h: Tensor) -> Tensor:
        """h (B, H) of point t -> its window w (B, 1, C), valid until the next call."""
        torch.addmm(self.bias, h, self.weight_t, out=self.at[t]).exp_()  # (eq. 48-51)
        torch.add(self.kappa[t], self.pace[t], out=self.kappa[t + 1])  # (eq. 51)
        exponent = torch.sub(self.kappa[t + 1], self.u, out=self.exponent)  # (B, K, U)
        exponent.square_().mul_(self.beta[t]).neg_().clamp_(min=LEAST_EXPONENT).exp_()
        torch.bmm(self.alpha[t].mT, exponent, out=self.phi)  # (eq. 46)
        return torch.bmm(self.phi, self.characters, out=self.w)  # (eq. 47)

    def start_backward(self, d_kappas: Tensor) -> None:
        """d_kappas (T, B, K): the gradient of the loss with respect to what `Recurrence` returns as kappa."""
        self.characters_t = self.characters.transpose(1, 2).contiguous()  # (B, C, U)
        self.d_parameters = torch.empty_like(self.parameters)  # before the exponential of (eq. 49-51)
        self.d_at, (self.d_alpha, self.d_beta, self.d_pace) = (
            self.d_parameters.unbind(0), self.by_point(self.d_parameters)
        )  # fmt: skip
        self.d_kappas, self.d_kappa = d_kappas[..., None].unbind(0), torch.zeros_like(self.kappas[0])
        self.distance, self.bell, self.d_phi = (torch.empty_like(p) for p in (self.exponent, self.exponent, self.phi))
        self.first, self.second = (torch.empty_like(self.d_kappa) for _ in range(2))

    def backward(self, t: int, d_w: Tensor, d_h: Tensor) -> Tensor:
        """d_w (B, 1, C), and d_h (B, H) from elsewhere -> d_h, to which is added what comes through the window."""
        distance = torch.sub(self.kappa[t + 1], self.u, out=self.distance)  # (B, K, U)
        bell = torch.mul(distance, distance, out=self.bell).mul_(self.beta[t]).neg_().clamp_(min=LEAST_EXPONENT).exp_()
        epsilon = bell.mul_(self.alpha[t]).mul_(torch.bmm(d_w, self.characters_t, out=self.d_phi))  # (eq. 56)
        torch.sum(epsilon, 2, keepdim=True, out=self.d_alpha[t])  # (eq. 57)
        first = torch.sum(epsilon.mul_(distance), 2, keepdim=True, out=self.first)  # of epsilon (kappa - u)
        second = torch.sum(epsilon.mul_(distance), 2, keepdim=True, out=self.second)  # of epsilon (kappa - u)^2
        torch.mul(second, self.beta[t], out=self.d_beta[t]).neg_()  # (eq. 58)
        self.d_kappa.add_(self.d_kappas[t]).addcmul_(self.beta[t], first, value=-2)  # (eq. 59)
        torch.mul(self.pace[t], self.d_kappa, out=self.d_pace[t])  # (eq. 60)
        return d_h.addmm_(self.d_at[t], self.weight)


class Recurrence(torch.autograd.Function):
    """A layer of LSTM over a whole line, with or without a window, and its gradient in closed form.

    Autograd would take a product for the weights' gradient, and some forty small ones, at every point. Here a point
    costs one product in each direction and a few element-wise ones, and the weights' gradients are a few large
    products. In `matmul_dtype` are the recurrent product, the products of backward, the states and what is kept for
    backward; in the weights' type cells, window, and sums of gradients, all that adds up over the line, and the forget
    gates, whose rounding would be multiplied over the line.
    """

    @staticmethod
    def forward(
        ctx, x, weight, bias, recurrent, before, cell, matmul_dtype, keep,
        window_weight=None, window_bias=None, characters=None, kappa=None,
    ):  # fmt: skip
        """x (T, B, I), weight (4H, I), bias (4H,), recurrent (4H, C + H), before (B, C + H) = (w, h), cell (B, H);
        for a window window_weight (3K, H), window_bias (3K,), characters (B, U, C), kappa (B, K); else C is 0. `keep`
        tells whether backward will be wanted.

        The product with x is in the type of x. Returns (w, h) (T, B, C + H) in matmul_dtype, the last cell (B, H),
        and with a window alpha, beta and kappa (T, B, K each; the first two without gradient).
        """
        (T, B, width), H = x.shape, cell.shape[1]
        C = before.shape[1] - H
        window = WindowSteps(T, window_weight, window_bias, characters, kappa) if C else None
        states = x.new_empty(T + 1, B, C + H, dtype=matmul_dtype)  # states[t] = (w, h) before point t
        states[0] = before
        state, ws, hs = states.unbind(0), states[:, :, None, :C].unbind(0), states[:, :, C:].unbind(0)
        input_product = product_with(weight.to(x.dtype), BLOCK * B)
        recurrent_product = product_with(recurrent.to(matmul_dtype), B)
        kept, forget_gates = [], []  # for each span what backward multiplies by, (SPAN, B, 5, H) and (SPAN, B, H)
        gates, cells = cell.new_empty(BLOCK, B, 4 * H), cell.new_empty(BLOCK + 1, B, H)  # of one block
        tanhs, hiddens, factors = (cell.new_empty(BLOCK, B, *sizes) for sizes in ((H,), (H,), (5, H)))
        product = cell.new_empty(B, 4 * H)
        cells[0] = cell
        steps = [  # views of the above for each point of a block: (B, 4H), (B, 3H), and (B, H)
            (gate, gate[:, : 3 * H], gate[:, 3 * H :], *gate.view(B, 4, H).unbind(1), *rest)
            for gate, *rest in zip(gates, cells[:-1], cells[1:], tanhs, hiddens, strict=True)
        ]
        for start in range(0, T, BLOCK):
            S = min(BLOCK, T - start)
            gates[:S].view(S * B, 4 * H).copy_(input_product(x[start : start + S].reshape(S * B, width))).add_(bias)
            for t, step in zip(range(start, start + S), steps, strict=False):
                gate, sigmoids, candidate, o, i, f, g, c_before, c, tanh, h = step
                gate += product.copy_(recurrent_product(state[t]))  # a sum of two types would make room for one anew
                sigmoids.sigmoid_()  # (eq. 7, 8, 10), without peepholes
                candidate.tanh_()
                torch.mul(f, c_before, out=c).addcmul_(i, g)  # (eq. 9)
                torch.mul(torch.tanh(c, out=tanh), o, out=h)  # (eq. 11)
                hs[t + 1].copy_(h)
                if window:
                    ws[t + 1].copy_(window.forward(t, h))
            if keep:
                if start % SPAN == 0:
                    kept.append(states.new_empty(min(SPAN, T - start), B, 5, H))
                    forget_gates.append(cell.new_empty(min(SPAN, T - start), B, H))
                Recurrence.work_out(factors[:S], gates[:S], cells[:S], tanhs[:S], hiddens[:S])
                kept[-1][start % SPAN :][:S].copy_(factors[:S])
                forget_gates[-1][start % SPAN :][:S].copy_(gates[:S, :, 2 * H : 3 * H])
            cells[0] = cells[S]

        ctx.save_for_backward(x, weight, recurrent, states, *kept, *forget_gates)
        ctx.window = window
        if not window:
            return states[1:], cells[S].clone()
        alphas, betas = (p.contiguous() for p in window.parameters.chunk(3, dim=2)[:2])
        ctx.mark_non_differentiable(alphas, betas)
        return states[1:], cells[S].clone(), alphas, betas, window.kappas[1:, ..., 0]

    @staticmethod
    def work_out(factors: Tensor, gates: Tensor, cells: Tensor, tanhs: Tensor, hiddens: Tensor) -> None:
        """Put what backward multiplies by at S points into (S, B, 5, H), from gates (S, B, 4H) and three (S, B, H).

        By d h to give d of the output gate; by d cell to give d of the three others; by d h to give d cell. The
        derivatives of sigmoid and tanh are s (1 - s) and 1 - t^2.
        """
        gates = gates.unflatten(2, (4, -1))  # (S, B, 4, H)
        o, i, _, g = gates.unbind(2)
        of_output, of_input, of_forget, of_candidate, to_cell = factors.unbind(2)
        torch.addcmul(gates[:, :, :3], gates[:, :, :3], gates[:, :, :3], value=-1, out=factors[:, :, :3])
        of_output.mul_(tanhs)
        of_input.mul_(g)
        of_forget.mul_(cells)
        torch.addcmul(i, torch.mul(i, g, out=of_candidate), g, value=-1, out=of_candidate)
        torch.addcmul(o, hiddens, tanhs, value=-1, out=to_cell)  # h = o tanh(c)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_states, d_cell, _alpha=None, _beta=None, d_kappas=None):
        """Gradients in the order of the arguments of `forward`. A name d_x stands for the loss's gradient by x.

        d_states (T, B, C + H), d_cell (B, H), d_kappas (T, B, K).
        """
        x, weight, recurrent, states, *kept = ctx.saved_tensors
        kept, forget_gates = kept[: len(kept) // 2], kept[len(kept) // 2 :]
        window = ctx.window
        (T, B, width), H, low = x.shape, weight.shape[0] // 4, states.dtype
        C = states.shape[2] - H
        recurrent_product = product_with(recurrent.t().to(low), B)
        weight_low, x_low = weight.to(low), x.to(low)
        d_x = x_low.new_empty(x.shape) if ctx.needs_input_grad[0] else None
        d_weight, d_recurrent, d_bias = (torch.zeros_like(p) for p in (weight, recurrent, weight[:, 0]))
        d_cell = d_cell.clone()
        d_before = torch.zeros_like(states[0])  # by (w, h), through the point after
        d_gates = states.new_empty(SPAN, B, 4 * H)
        d_gate, product = d_cell.new_empty(B, 4 * H), d_cell.new_empty(B, C + H)
        d_output_gate, d_other_gates = d_gate[:, :H], d_gate.view(B, 4, H)[:, 1:]
        factors, d_block = d_cell.new_empty(BLOCK, B, 5, H), d_cell.new_empty(BLOCK, B, C + H)
        of_output, of_others, to_cell, d_state, d_w, d_h = (
            part.unbind(0)
            for part in (
                factors[:, :, 0], factors[:, :, 1:4], factors[:, :, 4],
                d_block, d_block[:, :, None, :C], d_block[:, :, C:],
            )
        )  # fmt: skip
        if window:
            window.start_backward(d_kappas)
        for start in reversed(range(0, T, BLOCK)):
            S = min(BLOCK, T - start)
            factors[:S].copy_(kept[start // SPAN][start % SPAN :][:S])
            d_block[:S].copy_(d_states[start : start + S])
            for s in reversed(range(S)):
                t = start + s
                d_state[s].add_(product.copy_(d_before))
                d_hidden = window.backward(t, d_w[s], d_h[s]) if window else d_h[s]
                d_cell.addcmul_(d_hidden, to_cell[s])
                torch.mul(of_output[s], d_hidden, out=d_output_gate)
                torch.mul(of_others[s], d_cell[:, None], out=d_other_gates)
                d_cell.mul_(forget_gates[t // SPAN][t % SPAN])  # to the cell of the point before (eq. 9)
                d_before = recurrent_product(d_gates[t % SPAN].copy_(d_gate))
            if start % SPAN == 0:
                span = slice(start, min(start + SPAN, T))
                flat = d_gates[: span.stop - start].flatten(0, 1)
                d_weight += flat.t() @ x_low[span].reshape(-1, width)
                d_recurrent += flat.t() @ states[span].view(-1, C + H)
                d_bias += flat.sum(0)
                if d_x is not None:
                    torch.mm(flat, weight_low, out=d_x[span].view(-1, width))

        d_x = None if d_x is None else d_x.to(x.dtype)
        gradients = (d_x, d_weight, d_bias, d_recurrent, d_before.to(weight.dtype), d_cell, None, None)
        if not window:
            return *gradients, None, None, None, None
        d_parameters = window.d_parameters.flatten(0, 1)
        d_window_weight = (d_parameters.t().to(low) @ states[1:, :, C:].reshape(T * B, H)).to(weight.dtype)
        return *gradients, d_window_weight, d_parameters.sum(0), None, window.d_kappa[..., 0]


class Head(torch.autograd.Function):
    """The linear layer over all layers' hidden states (eq. 17), which are put side by side a span at a time.

    It is computed in the weights' type; the products of its gradients are in the type of the hidden states.
    """

    @staticmethod
    def forward(ctx, weight, bias, *hiddens):
        """weight (N, L H), bias (N,), L times (T, B, H). Returns (T, B, N)."""
        ctx.save_for_backward(weight, *hiddens)
        outputs = weight.new_empty(*hiddens[0].shape[:2], len(weight))
        for rows in zip(*(h.split(SPAN) for h in (outputs, *hiddens)), strict=True):
            rows = [row.flatten(0, 1) for row in rows]
            torch.addmm(bias, torch.cat(rows[1:], dim=1).to(weight.dtype), weight.t(), out=rows[0])
        return outputs

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


class Model(nn.Module):
    """Layers of LSTM with skip connections from the input to every layer and from every layer to the output.

    Prediction (eq. 1-11 and 15-26) and, where `config.num_chars` > 0, synthesis (eq. 46-53). Set `matmul_dtype` to
    torch.bfloat16 for faster products: the parameters, the window's position, the mixture and the loss stay float32.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.matmul_dtype = torch.float32
        H = config.cell_size
        layers = []
        for n in range(config.num_layers):
            if n == 0 and config.num_chars:
                layers.append(WindowLSTM(config))
                continue
            lstm = nn.LSTM(3 + config.num_chars + (H if n else 0), H)
            with torch.no_grad():
                lstm.bias_ih_l0[H : 2 * H] += 1.0  # forget gates start open
            layers.append(lstm)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(config.num_layers * H, 1 + 6 * config.num_clusters)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("std", torch.ones(2))

    def normalise(self, points: Tensor) -> Tensor:
        """(..., 3) with offsets in whiteboard units -> the same with offsets of mean 0 and deviation 1."""
        return torch.cat([(points[..., :2] - self.mean) / self.std, points[..., 2:]], dim=-1)

    def denormalise(self, points: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return torch.cat([points[..., :2] * self.std + self.mean, points[..., 2:]], dim=-1)

    def one_hot(self, text: Tensor) -> Tensor:
        """Codes (B, U), -1 for padding -> (B, U, C) with rows of zeros for padding, so that it has no effect."""
        characters = F.one_hot(text.clamp(min=0), self.config.num_chars) * (text >= 0)[..., None]
        return characters.to(self.mean.dtype)

    def initial_state(self, batch_size: int) -> State:
        """All zeros: the pen has not moved and the window stands before the first character (kappa 0, u from 1)."""
        c, zeros = self.config, self.mean.new_zeros
        layers = (c.num_layers, batch_size, c.cell_size)
        window_size = c.K if c.num_chars else 0
        return State(zeros(layers), zeros(layers), zeros(batch_size, c.num_chars), zeros(batch_size, window_size))

    def forward(
        self, points: Tensor, characters: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State, Window | None]:
        """Read points, predict the next ones. A sampler calls this with T = 1, training with whole lines.

        points (T, B, 3) normalised; characters (B, U, C) from `one_hot`, for a network with a window; state from
        the points before, none at the start. Returns raw outputs (T, B, 1 + 6M) for `mixture`, the state after the
        last point, and the window's parameters (None without one).
        """
        B = points.shape[1]
        if (characters is None) == (self.config.num_chars > 0):
            raise ValueError("a network with a window needs a text, one without takes none")
        if not len(points):
            raise ValueError("there are no points to read")
        state = self.initial_state(B) if state is None else state
        window, windows = None, state.window[None]
        low_points = points.to(self.matmul_dtype)
        hiddens, cells = [], []
        for n, layer in enumerate(self.layers):
            if isinstance(layer, WindowLSTM):
                outputs, window, cell = layer(points, characters, state, self.matmul_dtype)
                windows, hidden = outputs.split([self.config.num_chars, self.config.cell_size], dim=-1)
                low_points = torch.cat([low_points, windows], dim=-1)  # (T, B, 3 + C): upper layers see w_t (eq. 53)
            else:
                # skip connection from the input, (T, B, 3 + C + H)
                inputs = torch.cat([low_points, hiddens[-1]], dim=-1) if n else points
                hidden, cell = run_lstm(layer, inputs, state.hidden[n], state.cell[n], self.matmul_dtype)
            hiddens.append(hidden)  # (T, B, H)
            cells.append(cell)  # (B, H)
        outputs = Head.apply(self.head.weight, self.head.bias, *hiddens)  # (T, B, 1 + 6M)
        after = State(
            hidden=torch.stack([h[-1] for h in hiddens]).to(points.dtype),
            cell=torch.stack(cells),
            window=windows[-1].to(points.dtype),
            kappa=window.kappa[-1] if window else state.kappa,
        )
        return outputs, after, window

    def losses(self, points: Tensor, mask: Tensor, text: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss in nats (eq. 26) and squared error of each prediction, in normalised units, zero beyond a line's end.

        points (T + 1, B, 3) in whiteboard units, mask (T, B) true where points[t + 1] belongs to the line, text
        (B, U) codes with -1 for padding. Returns two tensors (T, B), the second without gradient.
        """
        points, characters = self.normalise(points), None if text is None else self.one_hot(text)
        state, losses, errors = None, [], []
        for start in range(0, len(mask), STRETCH):
            stretch = points[start : start + STRETCH + 1]
            outputs, state, _ = self(stretch[:-1], characters, state)  # the gradient goes back through the state
            mix = mixture(outputs)
            losses.append(negative_log_likelihood(mix, stretch[1:]))
            with torch.no_grad():
                errors.append(squared_error(mix, stretch[1:]))
        zero = points.new_zeros(())
        return torch.where(mask, torch.cat(losses), zero), torch.where(mask, torch.cat(errors), zero)


GREATEST_HALF = torch.finfo(torch.half).max


def product_into(weight: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The function (x (n, I), y) that puts x @ weight.T into y, of n N numbers, for one weight (N, I) and many x.

    A float32 weight is kept in half precision if it fits and PyTorch can multiply by it here: half as much to read.
    Sums are float32's.
    """
    weight = weight.detach().cpu()
    fits = weight.dtype == torch.float32 and weight.abs().max() <= GREATEST_HALF
    if fits and torch.backends.quantized.engine in ("fbgemm", "x86"):
        packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), None)
        linear = torch.ops.quantized.linear_dynamic_fp16.default

        def product(x: Tensor) -> Tensor:
            # Without this PyTorch looks for an overriding method on `packed`, some ten microseconds a call.
            with torch._C.DisableTorchFunctionSubclass():
                return linear(x, packed)
    else:
        product = product_with(weight, rows=1)
    return lambda x, y: y.copy_(product(x).view_as(y))


class Products:
    """The products of all layers for `Decoder`, with its rows [1, 1, x, w, h1, ...].

    The ones are for the biases: for what half precision has of them, and for the rest. (PyTorch would add a bias in an
    operation of its own.) A network trained in float32 is rounded to half precision, as it is for export.
    """

    made: ClassVar = WeakKeyDictionary()  # for each network: what tells its weights, and their `Products`

    def __init__(self, model: Model):
        H, inputs = model.config.cell_size, 3 + model.config.num_chars  # the second of x and w together
        self.first = 2 + inputs  # where h1 starts
        self.gates = []  # of each layer
        for n, layer in enumerate(model.layers):
            if isinstance(layer, WindowLSTM):
                weight, bias = torch.cat([layer.input.weight, layer.recurrent.weight], dim=1), layer.input.bias
            else:
                of_inputs, below = layer.weight_ih_l0.tensor_split([inputs], dim=1)
                others = below.new_zeros(4 * H, max(n - 1, 0) * H)  # layers further down have no part in it
                # torch's gates stand in the order input, forget, candidate, output
                weight = torch.cat([of_inputs, others, below, layer.weight_hh_l0], dim=1).roll(H, 0)
                bias = (layer.bias_ih_l0 + layer.bias_hh_l0).roll(H)
            self.gates.append(self.product(weight, bias))
        self.head = self.product(F.pad(model.head.weight, (inputs, 0)), model.head.bias)  # x and w have no part in it
        self.window = None
        if model.config.num_chars:
            window = model.layers[0].window
            self.window = self.product(F.pad(window.weight, (inputs, 0)), window.bias)

    @staticmethod
    def product(weight: Tensor, bias: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """That of a linear layer, with the bias as two columns before the weight (N, I)."""
        high = bias.clamp(-GREATEST_HALF, GREATEST_HALF).half().to(bias.dtype)
        return product_into(torch.cat([high[:, None], (bias - high)[:, None], weight], dim=1))

    @classmethod
    def of(cls, model: Model) -> "Products":
        """Those of `model`, made when they are first wanted and again when its weights have changed.

        What goes past PyTorch's own count of changes, through `.data` or numpy, is not seen.
        """
        weights = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()]
        if model not in cls.made or cls.made[model][0] != weights:
            cls.made[model] = weights, cls(model)
        return cls.made[model][1]


class Decoder:
    """The same network for writing point by point, B lines at once: `Model.forward` with T = 1, without its overhead.

    It runs on the processor. For each layer one row a line holds all that it reads, [1, 1, x, w, h1, ...] up to its own
    h, so that the layer is one product; of the first layer's rows the window is another, of the last one's the head.
    Between the products most is numpy's, on the same memory, for what an operation costs there on a few hundred
    numbers. One line's time is mostly that of reading the weights at each point.
    """

    def __init__(self, model: Model, text: Tensor | None, batch_size: int):
        """`text` (B, U), codes with -1 for padding, for a network with a window.

        Raises ValueError for codes that the network has no character for, as one without a window has for none.
        """
        if text is not None and text.numel() and text.max() >= model.config.num_chars:
            raise ValueError(f"codes must be below {model.config.num_chars}, the size of the alphabet")
        config, zeros = model.config, model.mean.cpu().new_zeros
        self.products, self.H, self.num_outputs = Products.of(model), config.cell_size, model.head.out_features
        self.rows = [zeros(batch_size, self.products.first + n * self.H) for n in range(1, config.num_layers + 1)]
        for row in self.rows:
            row[:, :2] = 1
        self.cells = [zeros(batch_size, self.H).numpy() for _ in range(config.num_layers)]
        if text is not None:
            self.C, self.lengths = config.num_chars, (text >= 0).sum(1).numpy()  # (B,)
            # The column to which each phi is added: its character's, or one more for what is beyond the text.
            self.columns = F.pad(text.masked_fill(text < 0, self.C), (0, 1), value=self.C).numpy()  # (B, U + 1)
            self.kappa = zeros(batch_size, config.K, 1).numpy()
        self._make_views()

    def _make_views(self) -> None:
        """Name the parts of the rows, and make room for results, after the number of lines has changed."""
        B, H, first, empty = len(self.rows[0]), self.H, self.products.first, self.rows[0].new_empty
        rows = [row.numpy() for row in self.rows]
        self.xs, self.ws = [row[:, 2:5] for row in rows], [row[:, 5:first] for row in rows]
        ends = [first + (n + 1) * H for n in range(len(rows))]
        # Where each layer's h goes: into its own row and those of the layers above.
        self.hs = [[row[:, end - H : end] for row in rows[n:]] for n, end in enumerate(ends)]

        gates, outputs = empty(4, B, H), empty(B, self.num_outputs)  # each gate in one piece: quicker for numpy
        self.sigmoids, self.candidate, self.outputs = gates[:3], gates[3].numpy(), outputs.numpy()
        self.output_gate, self.input_gate, self.forget_gate = self.sigmoids.numpy()
        self.h = np.empty_like(self.candidate)
        self.layer_products = [
            partial(product, row, gates.transpose(0, 1))
            for product, row in zip(self.products.gates, self.rows, strict=True)
        ]
        self.head_product = partial(self.products.head, self.rows[-1], outputs)
        if self.products.window:
            raw = empty(B, 3, self.kappa.shape[1], 1)  # log alpha, log beta, log of the step of kappa
            self.window_product = partial(self.products.window, self.rows[0], raw)
            self.log_alpha, self.others = raw.numpy()[:, 0], raw.numpy()[:, 1:]
            self.beta, self.pace = self.others[:, 0], self.others[:, 1]  # (B, K, 1) each
            # Up to one beyond a line's text, and that again where the longest of the texts goes on.
            u = np.minimum(np.arange(1, self.columns.shape[1] + 1), self.lengths[:, None] + 1)  # (B, U + 1)
            self.u = u[:, None].astype(self.kappa.dtype)
            self.places = (self.columns + np.arange(B)[:, None] * (self.C + 1)).ravel()  # in (B, C + 1)

    def keep(self, lines: np.ndarray) -> None:
        """Go on with these lines (places, (n,)) only."""
        self.rows = [row[torch.from_numpy(lines)] for row in self.rows]
        self.cells = [cell[lines] for cell in self.cells]
        if self.products.window:
            self.columns, self.lengths, self.kappa = self.columns[lines], self.lengths[lines], self.kappa[lines]
        self._make_views()

    def step(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Read normalised points x (B, 3).

        Returns the raw outputs (B, 1 + 6M), to be copied before the next step; phi of (eq. 46) (B, U + 1), for u up to
        one beyond a line's text, and the last of them again further on; and whether phi one beyond the text is the
        greatest of all (B,), or the window so far beyond it that all are nothing. Without a window the last two are
        None.
        """
        for place in self.xs:
            place[:] = x
        phi = is_past = None
        for n, (product, cell, places) in enumerate(zip(self.layer_products, self.cells, self.hs, strict=True)):
            product()
            self.sigmoids.sigmoid_()
            np.tanh(self.candidate, out=self.candidate)
            cell *= self.forget_gate  # (eq. 9)
            self.candidate *= self.input_gate
            cell += self.candidate
            np.tanh(cell, out=self.h)
            self.h *= self.output_gate  # (eq. 11)
            for place in places:
                place[:] = self.h
            if n == 0 and self.products.window:
                self.window_product()
                np.exp(self.others, out=self.others)
                self.kappa += self.pace  # (eq. 51)
                exponent = self.kappa - self.u  # (B, K, U + 1)
                exponent *= exponent
                exponent *= self.beta
                np.subtract(self.log_alpha, exponent, out=exponent)
                np.maximum(exponent, LEAST_EXPONENT, out=exponent)
                phi = np.exp(exponent, out=exponent).sum(1)  # (eq. 46)
                is_past = phi[:, ::-1].argmax(1) == 0  # the last of equals, for a window far beyond all
                if is_past.any():  # but not one that is on nothing before that
                    is_past &= self.kappa.max((1, 2)) > self.lengths + 0.5
                w = np.bincount(self.places, phi.ravel(), len(x) * (self.C + 1)).reshape(len(x), -1)
                for place in self.ws:
                    place[:] = w[:, :-1]  # (eq. 47)
        self.head_product()
        return self.outputs, phi, is_past
