"""The network of Graves (2013), "Generating Sequences With Recurrent Neural Networks", arXiv 1308.0850.

One class serves both tasks: random writing (section 4) and, with a soft window over a text, synthesis (section 5).
Numbers in brackets, such as (eq. 46), are the paper's equations. Shapes are written with these letters:

    T  points of a line      B  lines of a batch       H  cells of a layer       M  components of the mixture
    U  characters of a text  C  size of the alphabet   K  Gaussians of the window      D  numbers of a hand

A point is (x offset, y offset, end-of-stroke bit). Inside the network offsets have mean 0 and standard deviation 1
over the training lines; `Model.normalise` and `Model.denormalise` go from and to whiteboard units.

On a processor handwriting/kernels computes the same faster. Without that folder all works, only slower.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The folder may be deleted; a __pycache__ that is left of it has no origin. A file missing inside it is an error.
if getattr(find_spec("handwriting.kernels"), "origin", None):
    from handwriting import kernels
else:
    kernels = None

POINTS_PER_CHARACTER = 25  # of a line of IAM-OnDB (section 5.1); an untrained window moves at this pace
BOUNDS = dict(num_layers=(1, 1000), cell_size=(1, 10**5), num_clusters=(1, 10**4), K=(1, 10**4))
BOUNDS |= dict(num_chars=(0, 10**5), hand_size=(0, 1000))
LOSS_CHUNK = 64  # points whose mixtures are computed at once, so that they stay in the processor's cache


@dataclass(frozen=True)
class Config:
    """The sizes of a network. `num_chars` 0 means no window (prediction), `hand_size` 0 no vector for the hand."""

    num_layers: int = 2
    cell_size: int = 400
    num_clusters: int = 20
    K: int = 10
    num_chars: int = 0
    hand_size: int = 0

    def __post_init__(self):
        for name, (least, most) in BOUNDS.items():
            if type(value := getattr(self, name)) is not int or not least <= value <= most:
                raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


class State(NamedTuple):
    """All that the network carries from one point to the next. Without a window the last two have width 0."""

    hidden: Tensor  # (num_layers, B, H)
    cell: Tensor  # (num_layers, B, H)
    w: Tensor  # (B, C), what the window shows (eq. 47)
    kappa: Tensor  # (B, K)


# ------------------------------------------------------------------------------------------- the window (section 5.1)


class Window(NamedTuple):
    """Parameters of the soft window, each (..., K). Only kappa has a gradient where a kernel ran."""

    alpha: Tensor  # importance (eq. 49)
    beta: Tensor  # inverse width (eq. 50)
    kappa: Tensor  # position (eq. 51)


def window_weights(window: Window, num_chars: int) -> Tensor:
    """phi(t, u) for u = 1 .. num_chars (eq. 46). Parameters (..., K), result (..., num_chars)."""
    alpha, beta, kappa = (parameter[..., None] for parameter in window)  # (..., K, 1)
    u = torch.arange(1, num_chars + 1, dtype=kappa.dtype, device=kappa.device)
    return (alpha * torch.exp(-beta * (kappa - u).square())).sum(-2)


class WindowLSTM(nn.Module):
    """The first layer of synthesis: an LSTM whose cells place a window over the text and read it at the next point."""

    # Guard against overflow: logarithms are cut off here. A trained window's go up to 12 where it leaves the text; with
    # this, kappa squared, times alpha and beta, is within float32 for a hundred thousand points.
    max_log = 16.0

    def __init__(self, config: Config):
        super().__init__()
        H, C, D, K = config.cell_size, config.num_chars, config.hand_size, config.K
        self.cell = nn.LSTMCell(3 + D + C, H)  # (eq. 7-11) without peepholes, of the input (x_t, hand, w_{t-1})
        self.window = nn.Linear(H, 3 * K)  # (eq. 48)
        open_forget_gates(self.cell.bias_ih)
        with torch.no_grad():
            # Alphas that add up to 1, windows about one character wide, the pace of writing. On the processor: of a
            # tensor without memory (meta) a logarithm imports PyTorch's compiler, which takes a second.
            pace = torch.tensor([1 / K, 1.0, 1 / POINTS_PER_CHARACTER], device="cpu")
            self.window.bias.copy_(pace.log().repeat_interleave(K))

    def step(
        self, x: Tensor, characters: Tensor, hidden: Tensor, cell: Tensor, w: Tensor, kappa: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Window]:
        """One point: x (B, 3 + D), characters (B, U, C); of the one before hidden, cell (B, H), w (B, C), kappa (B, K).

        Returns hidden, cell, w and the window's parameters (B, K) of this point.
        """
        hidden, cell = self.cell(torch.cat([x, w], dim=-1), (hidden, cell))  # (eq. 52)
        alpha, beta, advance = self.window(hidden).clamp(max=self.max_log).exp().chunk(3, dim=-1)  # (eq. 48-50)
        window = Window(alpha, beta, kappa + advance)  # (eq. 51)
        phi = window_weights(window, characters.shape[1])  # (eq. 46), (B, U)
        w = (phi[:, None, :] @ characters)[:, 0]  # (eq. 47), (B, C)
        return hidden, cell, w, window

    def forward(
        self, points: Tensor, characters: Tensor, hidden: Tensor, cell: Tensor, w: Tensor, kappa: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Window]:
        """A whole line: points (T, B, 3 + D), the others as for `step`.

        Returns hidden (T, B, H) and w (T, B, C) of all points, the last cell (B, H), and the window (T, B, K).
        """
        steps = []
        for x in points:
            hidden, cell, w, window = self.step(x, characters, hidden, cell, w, kappa)
            kappa = window.kappa
            steps.append((hidden, w, *window))
        hiddens, ws, *windows = map(torch.stack, zip(*steps, strict=True))
        return hiddens, ws, cell, Window(*windows)


# --------------------------------------------------------------------------- the mixture and its loss (section 4.1)


class Mixture(NamedTuple):
    """Parameters of the distribution of the next point, for outputs of shape (..., 1 + 6M), all in log space."""

    end_logit: Tensor  # (...), logit of e
    log_pi: Tensor  # (..., M)
    mu: Tensor  # (..., M, 2)
    log_sigma: Tensor  # (..., M, 2)
    atanh_rho: Tensor  # (..., M), the number whose tanh is rho


# Raw outputs are that of the pen, then for each parameter those of all M components, in this order.
PI, MU, SIGMA, RHO = 0, slice(1, 3), slice(3, 5), 5

# Guards against overflow, beyond what data can ask for: recorded offsets are whole whiteboard units, some 0.02
# standard deviations apart, so exp(-10) is narrower than any and exp(10) wider than the board; tanh(9) is 1 in float32.
MAX_LOG_SIGMA = 10.0
MAX_ATANH_RHO = 9.0


def mixture(outputs: Tensor, bias: float | Tensor = 0.0) -> Mixture:
    """Read the raw outputs (..., 1 + 6M) as a mixture: (eq. 15-22). `bias` >= 0 is the paper's b, (eq. 61, 62).

    A tensor of biases must broadcast against outputs[..., 0].
    """
    bias = torch.as_tensor(bias, dtype=outputs.dtype, device=outputs.device)[..., None]
    components = outputs[..., 1:].unflatten(-1, (6, -1))  # (..., 6, M)
    log_sigma = components[..., SIGMA, :].mT - bias[..., None]  # (eq. 61), (..., M, 2)
    return Mixture(
        end_logit=-outputs[..., 0],  # (eq. 18): e = 1 / (1 + exp(e^)), so its logit is -e^
        log_pi=torch.log_softmax(components[..., PI, :] * (1 + bias), dim=-1),  # (eq. 19) and (eq. 62)
        mu=components[..., MU, :].mT,  # (eq. 20)
        log_sigma=log_sigma.clamp(-MAX_LOG_SIGMA, MAX_LOG_SIGMA),  # (eq. 21)
        atanh_rho=components[..., RHO, :].clamp(-MAX_ATANH_RHO, MAX_ATANH_RHO),  # (eq. 22)
    )


def log_density(mix: Mixture, offsets: Tensor) -> Tensor:
    """Log of the mixture's density at `offsets` (..., 2), normalised; result (...). (eq. 23-25) without the pen.

    With a = atanh(rho), 1 / (1 - rho^2) = cosh^2 a; so the terms have exact forms that do not cancel as |rho| -> 1:
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


@torch.no_grad()
def squared_error(mix: Mixture, targets: Tensor) -> Tensor:
    """Squared distance of each target (..., 3) from the mixture's mean, in normalised units; result (...)."""
    mean = (mix.log_pi.exp()[..., None] * mix.mu).sum(-2)  # (..., 2)
    return (mean - targets[..., :2]).square().sum(-1)


# ---------------------------------------------------------------------------------- the network (sections 2, 4 and 5)


def open_forget_gates(bias: Tensor) -> None:
    """Add 1 to the forget gates' part of a bias (4H,). PyTorch's gates stand in the order i, f, g, o."""
    with torch.no_grad():
        bias.chunk(4)[1].add_(1.0)


class Model(nn.Module):
    """Layers of LSTM with skip connections from the input to every layer and from every layer to the output.

    Prediction (eq. 1-26) and, where `config.num_chars` > 0, synthesis (eq. 46-53). Set `matmul_dtype` to
    torch.bfloat16 for faster products: the parameters, the window's position, the mixture and the loss stay float32.
    Training hides the share `dropout` of each layer's cells from what is above, for a whole line (arXiv 1512.05287).
    """

    mean: Tensor  # (2,), of the offsets in the training lines, in whiteboard units
    std: Tensor  # (2,)

    def __init__(self, config: Config):
        super().__init__()
        self.config, self.matmul_dtype, self.dropout = config, torch.float32, 0.0
        H, C, D = config.cell_size, config.num_chars, config.hand_size
        self.layers = nn.ModuleList()
        for n in range(config.num_layers):
            if n == 0 and C:
                self.layers.append(WindowLSTM(config))
            else:
                self.layers.append(nn.LSTM(3 + D + C + (H if n else 0), H))
                open_forget_gates(self.layers[n].bias_ih_l0)
        self.head = nn.Linear(config.num_layers * H, 1 + 6 * config.num_clusters)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("std", torch.ones(2))
        if D:  # mean and deviation of the vectors of the training forms' hands
            self.register_buffer("hand_mean", torch.zeros(D))
            self.register_buffer("hand_std", torch.ones(D))

    def normalise(self, points: Tensor) -> Tensor:
        """(..., 3) with offsets in whiteboard units -> the same with offsets of mean 0 and standard deviation 1."""
        return torch.cat([(points[..., :2] - self.mean) / self.std, points[..., 2:]], dim=-1)

    def denormalise(self, points: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return torch.cat([points[..., :2] * self.std + self.mean, points[..., 2:]], dim=-1)

    def normalise_hand(self, hand: Tensor | None, batch_size: int) -> Tensor:
        """Vectors of hands (B, D) -> the same with mean 0 and deviation 1; of None and NaN, no hand, zeros."""
        hand = self.hand_mean.expand(batch_size, -1) if hand is None else hand
        return ((hand - self.hand_mean) / self.hand_std).nan_to_num()

    def one_hot(self, text: Tensor) -> Tensor:
        """Codes (B, U), -1 for padding -> (B, U, C) with rows of zeros for padding, so that it has no effect."""
        characters = F.one_hot(text.clamp(min=0), self.config.num_chars) * (text >= 0)[..., None]
        return characters.to(self.mean.dtype)

    def initial_state(self, batch_size: int) -> State:
        """All zeros: the pen has not moved and the window stands before the first character (kappa 0, u from 1)."""
        c, zeros = self.config, self.mean.new_zeros
        layers, kappa = (c.num_layers, batch_size, c.cell_size), (batch_size, c.K if c.num_chars else 0)
        return State(zeros(layers), zeros(layers), zeros(batch_size, c.num_chars), zeros(kappa))

    def forward(
        self, points: Tensor, characters: Tensor | None = None, state: State | None = None, hand: Tensor | None = None
    ) -> tuple[Tensor, State, Window | None]:
        """Read points, predict the next ones: T = 1 to write, whole lines to train.

        points (T, B, 3) normalised; characters (B, U, C) from `one_hot`, for a network with a window; state from
        the points before, none at the start; hand (B, D) from the encoder. Returns raw outputs (T, B, 1 + 6M) for
        `mixture`, the state after the last point, and the window's parameters (T, B, K) (None without one).
        """
        hiddens, after, window = self.run_layers(points, characters, state, hand)
        return self.run_head(hiddens), after, window

    def run_layers(
        self, points: Tensor, characters: Tensor | None, state: State | None = None, hand: Tensor | None = None
    ) -> tuple[list[Tensor], State, Window | None]:
        """`forward` without the head: the same, but all layers' hidden states, (T, B, H) each, for the outputs."""
        if (characters is None) == (self.config.num_chars > 0):
            raise ValueError("a network with a window needs a text, one without takes none")
        if not len(points):
            raise ValueError("there are no points to read")
        state = self.initial_state(points.shape[1]) if state is None else state
        if self.config.hand_size:
            hand = self.normalise_hand(hand, points.shape[1]).expand(len(points), -1, -1)
            points = torch.cat([points, hand], dim=-1)  # (T, B, 3 + D)
        inputs, w, window = [points], state.w[None], None  # inputs: what each layer reads beside other layers' h
        hiddens, last, cells = [], [], []  # of each layer, (T, B, H) and (B, H)
        for layer, hidden, cell in zip(self.layers, state.hidden, state.cell, strict=True):
            if isinstance(layer, WindowLSTM):
                hidden, w, cell, window = self.run_window(layer, points, characters, hidden, cell, state.w, state.kappa)
                inputs, window = [points, w], Window(*window)  # upper layers see x_t and w_t (eq. 53)
            else:
                hidden, cell = self.run_lstm(layer, inputs + hiddens[-1:], hidden, cell)  # skip connection
            last.append(hidden[-1])
            cells.append(cell)
            if self.dropout:
                hidden = hidden * F.dropout(torch.ones_like(hidden[:1]), self.dropout, self.training)
            hiddens.append(hidden)
        last, kappa = torch.stack(last).to(points.dtype), window.kappa[-1] if window else state.kappa
        return hiddens, State(last, torch.stack(cells), w[-1].to(points.dtype), kappa), window

    def losses(
        self, points: Tensor, mask: Tensor, text: Tensor | None = None, hand: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss in nats (eq. 26) and squared error of each prediction, in normalised units, zero beyond a line's end.

        points (T + 1, B, 3) in whiteboard units, mask (T, B) true where points[t + 1] belongs to the line, text
        (B, U) codes with -1 for padding, hand (B, D) or None. Returns two tensors (T, B), the second without gradient.
        """
        points, characters = self.normalise(points), None if text is None else self.one_hot(text)
        hiddens, _, _ = self.run_layers(points[:-1], characters, hand=hand)
        chunks = zip(*(tensor.split(LOSS_CHUNK) for tensor in (points[1:], *hiddens)), strict=True)
        losses, errors = self.run_mixture((self.run_head(parts), targets) for targets, *parts in chunks)
        zero = points.new_zeros(())
        return torch.where(mask, losses, zero), torch.where(mask, errors, zero)

    # Each of these: if there is a kernel that fits, it computes; else the lines below it do the same in plain PyTorch.

    def run_window(self, layer: WindowLSTM, points: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor, Window]:
        """`WindowLSTM.forward`, whose arguments and results these are."""
        if kernels and len(points) > 1 and kernels.takes_window_lstm(layer, points, *others):
            return kernels.window_lstm(layer, self.matmul_dtype, points, *others)
        return layer(points, *others)

    def run_lstm(self, layer: nn.LSTM, inputs: list[Tensor], hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """A layer without a window (eq. 7-11, no peepholes) over a line.

        inputs (T, B, I in all), side by side what it reads; hidden and cell (B, H) before the first point.
        Returns hidden (T, B, H) of all points and the last cell (B, H).
        """
        if kernels and len(inputs[0]) > 1 and kernels.takes(layer, nn.LSTM, hidden):
            return kernels.lstm(layer, self.matmul_dtype, inputs, hidden, cell)
        x = torch.cat([part.to(hidden.dtype) for part in inputs], dim=-1)
        low = self.matmul_dtype == torch.bfloat16 and len(x) > 1  # at one point, to change the weights takes longer
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            outputs, (_, last) = layer(x, (hidden[None], cell[None]))
        return outputs, last[0].to(cell.dtype)

    def run_head(self, hiddens: list[Tensor]) -> Tensor:
        """All layers' hidden states, (T, B, H) each -> raw outputs (T, B, 1 + 6M) (eq. 17)."""
        if kernels and kernels.takes(self.head, nn.Linear, self.mean):
            return kernels.linear(self.head, hiddens)
        return self.head(torch.cat(hiddens, dim=-1).to(self.mean.dtype))

    def run_mixture(self, chunks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Loss and squared error (T, B) of chunks of raw outputs (t, B, 1 + 6M) and their targets (t, B, 3)."""

        def plain(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            mix = mixture(outputs)
            return negative_log_likelihood(mix, targets), squared_error(mix, targets)

        found, bounds, function, arguments = [], (MAX_LOG_SIGMA, MAX_ATANH_RHO), plain, ()
        for outputs, targets in chunks:
            if kernels and not found and kernels.takes_mixture(plain, outputs, targets, *bounds):
                function, arguments = kernels.mixture_losses, bounds
            found.append(function(outputs, targets, *arguments))
        losses, errors = zip(*found, strict=True)
        return torch.cat(losses), torch.cat(errors)
