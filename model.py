"""The network of Graves (2013), "Generating Sequences With Recurrent Neural Networks", arXiv 1308.0850.

One class serves both tasks: random writing (section 4) and, with a soft window over a text, synthesis (section 5).
Numbers in brackets, such as (eq. 46), are the paper's equations. Shapes are written with these letters:

    T  points of a line      B  lines of a batch       H  cells of a layer       M  components of the mixture
    U  characters of a text  C  size of the alphabet   K  Gaussians of the window

A point is (x offset, y offset, end-of-stroke bit). Inside the network offsets have mean 0 and deviation 1 over the
training lines; `Model.normalise` and `Model.denormalise` go from and to whiteboard units.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

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
    """Parameters of the soft window at each point, each (T, B, K): (eq. 49), (eq. 50), (eq. 51)."""

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

    def forward(self, points: Tensor, characters: Tensor, state: State, product_dtype: torch.dtype):
        """Run over a whole line.

        points (T, B, 3), characters (B, U, C) one-hot with rows of zeros for padding, state of the network.
        Returns hidden (T, B, H), windows (T, B, C), Window, and the last cell (B, H).
        """
        before = torch.cat([state.window, state.hidden[0]], dim=-1)  # (B, C + H)
        outputs, alpha, beta, kappa, cell = WindowFunction.apply(
            self.input(points), self.recurrent.weight, self.window.weight, self.window.bias,
            characters, before, state.cell[0], state.kappa, product_dtype, torch.is_grad_enabled(),
        )  # fmt: skip
        windows, hidden = outputs.split([characters.shape[-1], self.window.in_features], dim=-1)
        return hidden, windows, Window(alpha, beta, kappa), cell

    def forward_by_steps(self, points: Tensor, characters: Tensor, state: State):
        """The same, point by point, as the equations stand in the paper: what `forward` is tested against."""
        w, h, c, kappa = state.window, state.hidden[0], state.cell[0], state.kappa
        hiddens, windows, parameters = [], [], []
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
            hiddens.append(h)
            windows.append(w)
            parameters.append(window)
        window = Window(*(torch.stack(p) for p in zip(*parameters, strict=True)))
        return torch.stack(hiddens), torch.stack(windows), window, c


# Of the Gaussians in `WindowFunction`: exp(-60) is nothing beside the others, and numbers so small that they are stored
# denormalised, as exp(-90) is in float32, take a processor ten times as long.
LEAST_EXPONENT = -60.0


class WindowFunction(torch.autograd.Function):
    """`WindowLSTM` over a whole line, with its gradient in closed form.

    Autograd would take a product for the weights' gradient, and some forty small ones, at every point. Here a point
    costs one product in each direction and a few element-wise ones, and the weights' gradients are one large product
    at the end. Products are in `product_dtype`; everything that adds up over the line stays in the inputs' type.
    """

    @staticmethod
    def forward(ctx, gates, weight, window_weight, window_bias, characters, before, cell, kappa, product_dtype, train):
        """gates (T, B, 4H) from the points, weight (4H, C + H), window_weight (3K, H), window_bias (3K,),
        characters (B, U, C), before (B, C + H) = (w, h), cell (B, H), kappa (B, K).

        Returns (w, h) (T, B, C + H), alpha, beta and kappa (T, B, K each; the first two without gradient), and the
        last cell (B, H).
        """
        T, B, H = gates.shape[0], gates.shape[1], cell.shape[1]
        U, C = characters.shape[1:]
        K = kappa.shape[1]
        gates = gates.clone()
        product_weight = weight.t().to(product_dtype).contiguous()
        window_weight_t = window_weight.t()
        u = torch.arange(1, U + 1, dtype=gates.dtype, device=gates.device)

        states = gates.new_empty(T + 1, B, C + H)  # states[t] = (w, h) before point t
        states[0] = before
        squashed = gates.new_empty(T, B, H)  # tanh of the cells
        cells = gates.new_empty(T + 1, B, H)
        cells[0] = cell
        parameters = gates.new_empty(T, B, 3 * K)  # alpha, beta, and the step of kappa
        kappas = gates.new_empty(T + 1, B, K)
        kappas[0] = kappa
        for t in range(T):
            gate = gates[t]
            gate += states[t].to(product_dtype) @ product_weight
            gate[:, : 3 * H].sigmoid_()
            gate[:, 3 * H :].tanh_()
            o, i, f, g = gate.view(B, 4, H).unbind(1)
            torch.mul(f, cells[t], out=cells[t + 1]).addcmul_(i, g)
            h = torch.tanh(cells[t + 1], out=squashed[t]) * o
            p = torch.addmm(window_bias, h, window_weight_t, out=parameters[t]).exp_()
            alpha, beta, pace = p.view(B, 3, K, 1).unbind(1)  # (B, K, 1) each
            torch.add(kappas[t], pace[..., 0], out=kappas[t + 1])
            distance = kappas[t + 1][:, :, None] - u  # (B, K, U)
            bell = distance.square_().mul_(-beta).clamp_(min=LEAST_EXPONENT).exp_()
            phi = alpha.view(B, 1, K) @ bell  # (B, 1, U)
            states[t + 1, :, :C] = (phi @ characters)[:, 0]
            states[t + 1, :, C:] = h

        alphas, betas, _ = parameters.split(K, dim=-1)
        alphas, betas = alphas.contiguous(), betas.contiguous()
        if train:
            # Turn the gates, in place, into what backward multiplies by: d gate = d cell * factor, and for the
            # output gate d h * factor.
            o, i, f, g = gates.view(T, B, 4, H).unbind(2)
            to_cell = squashed.square().neg_().add_(1).mul_(o)  # d cell / d h
            kept = f.clone()
            o.copy_(o * (1 - o) * squashed)
            f.copy_(f * (1 - f) * cells[:-1])
            input_factor = i * (1 - i) * g
            g.copy_((1 - g * g) * i)
            i.copy_(input_factor)
            ctx.save_for_backward(
                gates, to_cell, kept, states, parameters, kappas, weight, window_weight, characters, u
            )
            ctx.product_dtype = product_dtype
        ctx.mark_non_differentiable(alphas, betas)
        return states[1:], alphas, betas, kappas[1:], cells[T].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_states, _alpha, _beta, d_kappas, d_cell):
        """The paper's (eq. 56-60) for the window, the usual rules for the LSTM.

        From forward: factors (T, B, 4H) and to_cell (T, B, H), what d h and d cell are multiplied by to give
        d gates and d cell; kept (T, B, H), the forget gates.
        """
        factors, to_cell, kept, states, parameters, kappas, weight, window_weight, characters, u = ctx.saved_tensors
        T, B, H = kept.shape
        U, C = characters.shape[1:]
        K = kappas.shape[-1]
        product_weight = weight.to(ctx.product_dtype)
        d_gates = torch.empty_like(factors)
        d_parameters = torch.empty_like(parameters)
        d_before = torch.zeros_like(states[0])  # d loss / d (w, h) through the point after
        d_cell = d_cell.clone()
        d_kappa = torch.zeros_like(kappas[0])
        for t in reversed(range(T)):
            d_w, d_h = (d_before + d_states[t]).split([C, H], dim=-1)
            alpha, beta, pace = parameters[t].view(B, 3, K).unbind(1)  # (B, K) each
            distance = kappas[t + 1][:, :, None] - u  # (B, K, U)
            d_phi = characters @ d_w[:, :, None]  # (B, U, 1)
            bell = (distance.square() * -beta[:, :, None]).clamp_(min=LEAST_EXPONENT).exp_()
            epsilon = bell.mul_(alpha[:, :, None]).mul_(d_phi.view(B, 1, U))  # (eq. 56), (B, K, U): alpha bell d phi
            torch.sum(epsilon, 2, out=d_parameters[t, :, :K])  # (eq. 57)
            first = epsilon.mul_(distance).sum(2)  # sum over u of epsilon (kappa - u), (B, K)
            second = epsilon.mul_(distance).sum(2)  # and of epsilon (kappa - u)^2
            torch.mul(beta, second, out=d_parameters[t, :, K : 2 * K]).neg_()  # (eq. 58)
            d_kappa = d_kappa + d_kappas[t] - 2 * beta * first  # (eq. 59)
            torch.mul(pace, d_kappa, out=d_parameters[t, :, 2 * K :])  # (eq. 60)
            d_h = torch.addmm(d_h, d_parameters[t], window_weight)
            d_cell.addcmul_(d_h, to_cell[t])
            factor, d_gate = factors[t].view(B, 4, H), d_gates[t].view(B, 4, H)
            torch.mul(factor[:, 0], d_h, out=d_gate[:, 0])
            torch.mul(factor[:, 1:], d_cell[:, None], out=d_gate[:, 1:])
            d_cell.mul_(kept[t])
            d_before = (d_gates[t].to(ctx.product_dtype) @ product_weight).to(d_gates.dtype)

        flat = d_gates.view(T * B, 4 * H)
        inputs = states[:-1].reshape(T * B, C + H)
        d_weight = (flat.to(ctx.product_dtype).t() @ inputs.to(ctx.product_dtype)).to(weight.dtype)
        d_flat = d_parameters.view(T * B, 3 * K)
        d_window_weight = d_flat.t() @ states[1:, :, C:].reshape(T * B, H)
        return d_gates, d_weight, d_window_weight, d_flat.sum(0), None, d_before, d_cell, d_kappa, None, None


class Model(nn.Module):
    """Layers of LSTM with skip connections from the input to every layer and from every layer to the output.

    Prediction (eq. 1-11 and 15-26) and, where `config.num_chars` > 0, synthesis (eq. 46-53). The parameters, the
    window, the mixture and the loss are float32; set `product_dtype` to torch.bfloat16 for faster products.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.product_dtype = torch.float32
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
        state = self.initial_state(B) if state is None else state
        hiddens, cells, inputs, window = [], [], points, None
        low = self.product_dtype == torch.bfloat16
        for n, layer in enumerate(self.layers):
            if isinstance(layer, WindowLSTM):
                hidden, windows, window, cell = layer(points, characters, state, self.product_dtype)
                points = torch.cat([points, windows], dim=-1)  # the upper layers see w_t (eq. 53), (T, B, 3 + C)
            else:
                with torch.autocast(points.device.type, self.product_dtype) if low else nullcontext():
                    hidden, (_, cell) = layer(inputs, (state.hidden[n : n + 1], state.cell[n : n + 1]))
                hidden, cell = hidden.to(points.dtype), cell[0].to(state.cell.dtype)
            inputs = torch.cat([points, hidden], dim=-1)  # skip connection, (T, B, 3 + C + H)
            hiddens.append(hidden)  # (T, B, H)
            cells.append(cell)  # (B, H)
        outputs = self.head(torch.cat(hiddens, dim=-1))  # (eq. 17), (T, B, 1 + 6M)
        after = State(
            hidden=torch.stack([h[-1] for h in hiddens]),
            cell=torch.stack(cells),
            window=windows[-1] if window else state.window,
            kappa=window.kappa[-1] if window else state.kappa,
        )
        return outputs, after, window

    def losses(self, points: Tensor, mask: Tensor, text: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss in nats (eq. 26) and squared error of each prediction, in normalised units, zero beyond a line's end.

        points (T + 1, B, 3) in whiteboard units, mask (T, B) true where points[t + 1] belongs to the line, text
        (B, U) codes with -1 for padding. Returns two tensors (T, B).
        """
        points = self.normalise(points)
        outputs, _, _ = self(points[:-1], None if text is None else self.one_hot(text))
        mix = mixture(outputs)
        zero = outputs.new_zeros(())
        return (
            torch.where(mask, negative_log_likelihood(mix, points[1:]), zero),
            torch.where(mask, squared_error(mix, points[1:]), zero),
        )


class Stepper:
    """The same network for writing point by point, B lines at once: `Model.forward` with T = 1, without its overhead.

    One row a line holds all that the layers read, [x, w, h1, h2, ...], and each layer is one product of its first
    part with weights packed for it. Nothing is allocated between points but a few small temporaries.
    """

    def __init__(self, model: Model, text: Tensor | None, batch_size: int):
        """`text` (B, U), codes with -1 for padding, for a network with a window."""
        config = model.config
        H, C = config.cell_size, config.num_chars
        self.first, self.size = 3 + C, H  # where h1 starts in a row
        zeros = model.mean.new_zeros
        self.row = zeros(batch_size, self.first + config.num_layers * H)
        self.cells = [zeros(batch_size, H) for _ in range(config.num_layers)]
        self.packed = []  # (weight (n, 4H), bias (4H,)) of each layer, gates in the order of `WindowLSTM`
        for n, layer in enumerate(model.layers):
            weight, own = zeros(4 * H, self.first + (n + 1) * H), self.first + n * H
            if isinstance(layer, WindowLSTM):
                weight[:, :3], weight[:, 3:], bias = layer.input.weight, layer.recurrent.weight, layer.input.bias
            else:
                order = torch.arange(4 * H).view(4, H)[[3, 0, 1, 2]].flatten()  # torch has i, f, g, o
                weight[:, : self.first] = layer.weight_ih_l0[order, : self.first]
                if n:  # the layer below; those further down have no part in it
                    weight[:, own - H : own] = layer.weight_ih_l0[order, self.first :]
                weight[:, own:] = layer.weight_hh_l0[order]
                bias = (layer.bias_ih_l0 + layer.bias_hh_l0)[order]
            self.packed.append((weight.t(), bias))
        self.head = (model.head.weight.t(), model.head.bias)
        self.window = self.characters = None
        if C:
            self.window = (model.layers[0].window.weight.t(), model.layers[0].window.bias)
            self.characters = model.one_hot(text)  # (B, U, C)
            self.lengths = (text >= 0).sum(1)  # (B,)
            self.kappa = zeros(batch_size, config.K)
            self.u = torch.arange(1, text.shape[1] + 2, dtype=self.row.dtype, device=self.row.device)
        self._make_views()

    def _make_views(self) -> None:
        """Name the parts of the rows, after their number has changed."""
        B, H = len(self.row), self.size
        self.x, self.w = self.row[:, :3], self.row[:, 3 : self.first]
        self.hidden = self.row[:, self.first :]
        starts = [self.first + n * H for n in range(len(self.cells))]
        self.inputs = [self.row[:, : start + H] for start in starts]
        self.hs = [self.row[:, start : start + H] for start in starts]
        self.gates = self.row.new_empty(B, 4 * H)
        self.sigmoids, self.candidate = self.gates[:, : 3 * H], self.gates[:, 3 * H :]
        self.output_gate, self.input_gate, self.forget_gate = self.sigmoids.chunk(3, dim=1)
        if self.window:
            self.beyond = self.u > self.lengths[:, None] + 1  # (B, U + 1), what no line's text reaches

    def keep(self, lines: Tensor) -> None:
        """Go on with these lines (places, (n,)) only."""
        self.row = self.row[lines]
        self.cells = [cell[lines] for cell in self.cells]
        if self.window:
            self.characters, self.lengths = self.characters[lines], self.lengths[lines]
            self.kappa = self.kappa[lines]
        self._make_views()

    def step(self, x: Tensor, output: Tensor) -> Tensor | None:
        """Read normalised points x (B, 3), write the raw outputs to `output` (B, 1 + 6M).

        Returns log phi of (eq. 46) (B, U + 1), -inf beyond a line's text and one, or None without a window.
        """
        self.x.copy_(x)
        log_phi = None
        for n, (weight, bias) in enumerate(self.packed):
            torch.addmm(bias, self.inputs[n], weight, out=self.gates)
            self.sigmoids.sigmoid_()
            self.candidate.tanh_()
            cell = self.cells[n].mul_(self.forget_gate).addcmul_(self.input_gate, self.candidate)
            torch.mul(cell.tanh(), self.output_gate, out=self.hs[n])
            if n == 0 and self.window:
                raw = torch.addmm(self.window[1], self.hs[0], self.window[0])
                alpha, beta, pace = raw.exp_().chunk(3, dim=1)
                self.kappa += pace
                log_phi = log_window_weights(Window(alpha, beta, self.kappa), len(self.u))
                log_phi.masked_fill_(self.beyond, -torch.inf)
                phi = log_phi[:, :-1].exp()
                self.w.copy_((phi[:, None] @ self.characters)[:, 0])
        torch.addmm(self.head[1], self.hidden, self.head[0], out=output)
        return log_phi
