"""One point of some lines at a time, for writing."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handwriting.kernels.cells import CANDIDATE, FORGET, INPUT, OUTPUT, SIGMOIDS
from handwriting.kernels.layers import gate_weights, takes
from handwriting.kernels.products import HAS_FP16_PACKING, pack_linear, pack_linear_fp16
from handwriting.kernels.window import MIN_EXPONENT

WHOLE = 64  # numbers: PyTorch rounds what is left over of vectors in another way, which would be the last lines'
MAX_HALF = torch.finfo(torch.half).max
MAX_DIFFERENCE = 0.02  # in parts of the greatest number: what half precision and bfloat16 round is less
Product = Callable[[Tensor], Tensor]
# Of each layer's gates, the head and the window; and of each layer's gates that with the hand, (B, D) -> (B, 4H).
Products = tuple[list[Product], Product, Product | None, list[Product]]


def pack_products(model: nn.Module) -> Products:
    """The products of a `Model` that the kernels know, with the rows of a `Decoder`, (B, columns) -> (B, N)."""
    c, gates, of_hands = model.config, [], []
    H, inputs = c.cell_size, 3 + c.num_chars  # inputs: x and w together
    for n, layer in enumerate(model.layers):
        of_input, of_hidden, bias = gate_weights(getattr(layer, "cell", layer))
        of_x, of_hand, of_w, below = of_input.tensor_split([3, 3 + c.hand_size, inputs + c.hand_size], dim=1)
        of_hands += [pack_rows(of_hand)] if c.hand_size else []
        others = of_input.new_zeros(4 * H, max(n - 1, 0) * H)  # layers further down have no part in it
        gates.append(pack_product(torch.cat([of_x, of_w, others, below, of_hidden], dim=1), bias))
    head, window = model.head, getattr(model.layers[0], "window", None)  # x and w have no part in these
    of_head = pack_product(F.pad(head.weight, (inputs, 0)), head.bias)
    of_window = pack_product(F.pad(window.weight, (inputs, 0)), window.bias) if window else None
    return gates, of_head, of_window, of_hands


def pack_product(weight: Tensor, bias: Tensor) -> Product:
    """The product of a linear layer (N, I) with rows [1, 1, ...] (B, 2 + I): the ones are for the bias.

    The first is for what half precision has of it, the second for the rest. Float32 networks are rounded to that.
    """
    high = bias.clamp(-MAX_HALF, MAX_HALF).half().to(bias.dtype)
    return pack_rows(torch.cat([high[:, None], (bias - high)[:, None], weight], dim=1))


def pack_rows(weight: Tensor) -> Product:
    """The product (B, I) -> (B, N) of a weight (N, I). In half precision a row does not depend on those beside it."""
    weight = weight.detach().cpu()
    fits = weight.dtype == torch.float32 and weight.abs().max() <= MAX_HALF  # False for NaN
    return pack_linear_fp16(weight) if fits and HAS_FP16_PACKING else pack_linear(weight, rows=1)


class Decoder:
    """`Model.forward` with T = 1 for B lines, without its overhead: what `sampling.PlainDecoder` does, faster.

    It runs on the processor. One line's time is mostly that of reading the weights at each point. Each layer is one
    product, and so are the window and the head; between the products most is numpy's, on the same memory: an operation
    costs less there on a few hundred numbers. Carried from point to point are kappa, the cells (B, H) of each layer,
    and `row` (B, 5 + C + N H), [1, 1, x, w, h1, ..., hN]: layer n reads it up to hn, the window up to h1.
    """

    def __init__(
        self, model: nn.Module, text: Tensor | None, batch_size: int, hand: Tensor | None = None,
        products: Products | None = None,
    ):  # fmt: skip
        """`text` (B, U), codes with -1 for padding, for a network with a window; `hand` (B, D), for one that reads
        hands; `products` those of `model`.
        """
        config, B, H, zeros = model.config, batch_size, model.config.cell_size, model.mean.cpu().new_zeros
        self.model, self.text, self.hand, self.products = model, text, hand, products or pack_products(model)
        self.of_hand = [zeros(())] * config.num_layers  # what the hand, the same at all points, adds to the gates
        if config.hand_size:
            hand = model.normalise_hand(hand, B).cpu()
            self.of_hand = [product(hand).view(B, 4, H) for product in self.products[3]]
        places = 5 + config.num_chars + H * np.arange(config.num_layers + 1)  # the columns where h1, h2, ... start
        self.row = zeros(B, places[-1])
        self.row[:, :2] = 1
        self.reads = [self.row[:, :end] for end in places[1:]]
        _, self.x, self.w, *self.hs, _ = np.split(self.row.numpy(), [2, 5, *places], axis=1)
        self.cells, self.kappa = [zeros(B, H).numpy() for _ in self.hs], zeros(B, config.K, 1).numpy()
        memory = zeros(4, -(-B * H // WHOLE) * WHOLE)  # of the gates of one layer after the other
        gates = memory[:, : B * H].unflatten(1, (B, H))
        self.gates_by_line, self.sigmoids, self.gates = gates.transpose(0, 1), memory[SIGMOIDS], [*gates.numpy()]
        self.h = np.empty_like(self.gates[0])
        if text is not None:
            C, U, self.max_log = config.num_chars, text.shape[1], model.layers[0].max_log
            # Each place's number, up to one beyond a line's text, and that again further on: (B, 1, U + 1).
            u = torch.arange(1, U + 2).minimum((text >= 0).sum(1, keepdim=True) + 1)
            self.u = u[:, None].to(self.row.dtype).numpy()
            # Each place's character, or C beyond the text, as a column of all lines' (B, C + 1).
            columns = F.pad(text.masked_fill(text < 0, C), (0, 1), value=C) + torch.arange(B)[:, None] * (C + 1)
            self.columns = columns.flatten().numpy()

    def select(self, lines: np.ndarray, text: Tensor | None = None) -> "Decoder":
        """A decoder that goes on from these lines, their numbers (n,), with their own texts or others (n, U)."""
        if text is None and self.text is not None:
            text = self.text[lines]
        hand = None if self.hand is None else self.hand[lines]
        other = Decoder(self.model, text, len(lines), hand, self.products)
        other.row[:], other.kappa, other.cells = self.row[lines], self.kappa[lines], [c[lines] for c in self.cells]
        return other

    def step(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """What `sampling.PlainDecoder.step` does. Read kappa before the next step."""
        self.x[:] = x
        phi = kappa = None
        gates, candidate, h = self.gates, self.gates[CANDIDATE], self.h
        of_gates, of_head, of_window, _ = self.products
        for n, (product, read, cell, place) in enumerate(zip(of_gates, self.reads, self.cells, self.hs, strict=True)):
            torch.add(product(read).view_as(self.gates_by_line), self.of_hand[n], out=self.gates_by_line)
            self.sigmoids.sigmoid_()
            np.tanh(candidate, out=candidate)
            cell *= gates[FORGET]  # (eq. 9)
            candidate *= gates[INPUT]
            cell += candidate
            np.tanh(cell, out=h)
            np.multiply(h, gates[OUTPUT], out=place)  # (eq. 11)
            if n == 0 and of_window:
                B, kappa = len(x), self.kappa
                logs = of_window(read).view(B, 3, -1, 1).numpy()  # each (B, K, 1)
                np.minimum(logs, self.max_log, out=logs)
                log_alpha, others = logs[:, 0], logs[:, 1:]
                np.exp(others, out=others)  # (eq. 50, 51): beta, and what kappa advances by
                kappa += others[:, 1]  # (eq. 51)
                exponent = kappa - self.u  # (B, K, U + 1)
                exponent *= exponent
                exponent *= others[:, 0]
                np.subtract(log_alpha, exponent, out=exponent)
                np.maximum(exponent, MIN_EXPONENT, out=exponent)
                phi = np.exp(exponent, out=exponent).sum(1)  # (eq. 46)
                w = np.bincount(self.columns, phi.ravel(), B * (self.w.shape[1] + 1)).reshape(B, -1)
                self.w[:] = w[:, :-1]  # (eq. 47)
        return of_head(self.row).numpy(), phi, kappa


@torch.no_grad()
@np.errstate(over="ignore", invalid="ignore")  # of networks that have diverged
def pack_model(model: nn.Module) -> Products | None:
    """The products of a `Model` for `Decoder`; None if the kernels do not know all of it, or are switched off.

    A decoder says by itself what model.py says: of three made-up points it must be the same, but for rounding.
    """
    config, like, (first, *upper) = model.config, model.mean.cpu(), model.layers
    C, D, H, K = config.num_chars, config.hand_size, config.cell_size, config.K
    parts = [(layer, nn.LSTM, (4 * H, 3 + D + C + H)) for layer in upper]
    parts.append((model.head, nn.Linear, (1 + 6 * config.num_clusters, len(model.layers) * H)))
    cell, kind = (getattr(first, "cell", None), nn.LSTMCell) if C else (first, nn.LSTM)
    parts.append((cell, kind, (4 * H, 3 + D + C)))
    parts += [(getattr(first, "window", None), nn.Linear, (3 * K, H))] if C else []
    if not all(takes(part, kind, like, shape) for part, kind, shape in parts):
        return None
    text, state = torch.arange(3)[None] % C if C else None, model.initial_state(1)
    characters = model.one_hot(text.to(model.mean.device)) if C else None
    hand = torch.arange(D).sin().to(model.mean)[None] if D else None
    decoder = Decoder(model, text, 1, hand)
    if C:  # some Gaussians before, on and beyond the text
        state.kappa.copy_(torch.linspace(0, 4, K))
        decoder.kappa[:] = state.kappa[..., None].cpu().numpy()
    for point in torch.arange(1.0, 10.0).sin().view(3, 1, 1, 3).to(model.mean):
        wanted, state, _ = model(point, characters, state, hand)
        found, _, kappa = decoder.step(point[0].cpu().numpy())
        for a, b in [(found, wanted[0])] + ([(decoder.w, state.w), (kappa[..., 0], state.kappa)] if C else []):
            b = b.cpu().numpy()
            if not np.abs(a - b).max() <= MAX_DIFFERENCE * np.abs(b).max():  # true for NaN
                return None
    return decoder.products
