"""One point of some lines at a time, for writing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handwriting.kernels.cells import CANDIDATE, FORGET, INPUT, OUTPUT, SIGMOIDS, gate_weights
from handwriting.kernels.layers import is_known
from handwriting.kernels.products import HAS_FP16_PACKING, MAX_HALF, pack_linear, pack_linear_fp16
from handwriting.kernels.window import MIN_EXPONENT

MAX_DIFFERENCE = 0.02  # in parts of the greatest number: what half precision and bfloat16 round is less
Product = Callable[[Tensor, Tensor], Tensor]


class PackedWeights:
    """The products of all layers for `Decoder`, with its rows [1, 1, x, w, h1, ...].

    The ones are for the biases: for what half precision has of them, and for the rest. (PyTorch would add a bias in an
    operation of its own.) A network trained in float32 is rounded to half precision, as it is for export.
    """

    def __init__(self, model: nn.Module):
        """`model` is a `Model` whose parts the kernels know."""
        H, inputs = model.config.cell_size, 3 + model.config.num_chars  # of x and w together
        self.first_hidden = 2 + inputs  # the column where h1 starts
        self.gates: list[Product] = []  # of each layer
        for n, layer in enumerate(model.layers):
            of_input, of_hidden, bias = gate_weights(getattr(layer, "cell", layer))
            of_input, below = of_input.tensor_split([inputs], dim=1)
            others = of_input.new_zeros(4 * H, max(n - 1, 0) * H)  # layers further down have no part in it
            self.gates.append(self.pack(torch.cat([of_input, others, below, of_hidden], dim=1), bias))
        self.head = self.pack(F.pad(model.head.weight, (inputs, 0)), model.head.bias)  # x and w have no part in it
        self.window = None
        if model.config.num_chars:
            window = model.layers[0].window
            self.window = self.pack(F.pad(window.weight, (inputs, 0)), window.bias)

    @staticmethod
    def pack(weight: Tensor, bias: Tensor) -> Product:
        """The function (x (n, 2 + I), y) that puts the n N outputs of a linear layer (N, I) into y."""
        high = bias.clamp(-MAX_HALF, MAX_HALF).half().to(bias.dtype)
        weight = torch.cat([high[:, None], (bias - high)[:, None], weight], dim=1).detach().cpu()
        fits = weight.dtype == torch.float32 and weight.abs().max() <= MAX_HALF  # False for NaN
        product = pack_linear_fp16(weight) if fits and HAS_FP16_PACKING else pack_linear(weight, rows=1)
        return lambda x, y: y.copy_(product(x).view_as(y))


class Decoder:
    """`Model.forward` with T = 1 for B lines, without its overhead: what `sampling.PlainDecoder` does, faster.

    It runs on the processor. One line's time is mostly that of reading the weights at each point. Each layer is one
    product, and so are the window and the head; between the products most is numpy's, on the same memory: an operation
    costs less there on a few hundred numbers. What there is of each, with F = 5 + C columns before h1:

        rows[n]   (B, F + n H)   what layer n reads, [1, 1, x, w, h1, ..., hn], n from 1; the window reads rows[1], the
                                 head rows[N]. x, w and h are copied to each row that has them.
        cells[n]  (B, H)         carried from point to point, as are the rows
        gates     (4, B, H)      of one layer after the other, in the order of cells.py: each in one piece of memory
        h         (B, H)         of one layer after the other
        outputs   (B, 1 + 6M)

    and with a window, where place U + 1 is what is beyond a line's text:

        columns   (B, U + 1)     each place's character, or C beyond the text
        lengths   (B,)           of the texts
        kappa     (B, K, 1)      carried from point to point
        raw       (B, 3, K, 1)   logarithms of alpha and beta, and of what kappa advances by
        u         (B, 1, U + 1)  each place's number, up to one beyond a line's text, and that again further on
    """

    def __init__(self, model: nn.Module, weights: PackedWeights, text: Tensor | None, batch_size: int):
        """`model` is the `Model` of the weights; `text` (B, U), codes with -1 for padding, for one with a window."""
        config, zeros = model.config, model.mean.cpu().new_zeros
        self.model, self.weights = model, weights
        self.H, self.num_outputs = config.cell_size, model.head.out_features
        self.rows = [zeros(batch_size, weights.first_hidden + n * self.H) for n in range(1, config.num_layers + 1)]
        for row in self.rows:
            row[:, :2] = 1
        self.cells = [zeros(batch_size, self.H).numpy() for _ in self.rows]
        if text is not None:
            self.C, self.lengths = config.num_chars, (text >= 0).sum(1).numpy()
            self.columns = F.pad(text.masked_fill(text < 0, self.C), (0, 1), value=self.C).numpy()
            self.kappa = zeros(batch_size, config.K, 1).numpy()
        self._allocate()

    def _allocate(self) -> None:
        """Make what is not carried from point to point, and views of parts: once for a number of lines."""
        B, H, first, empty = len(self.rows[0]), self.H, self.weights.first_hidden, self.rows[0].new_empty
        rows = [row.numpy() for row in self.rows]
        self.xs, self.ws = [row[:, 2:5] for row in rows], [row[:, 5:first] for row in rows]
        places = [slice(first + n * H, first + (n + 1) * H) for n in range(len(rows))]
        self.hs = [[row[:, place] for row in rows[n:]] for n, place in enumerate(places)]  # of layer n
        gates, outputs = empty(4, B, H), empty(B, self.num_outputs)
        self.head_product, self.outputs = partial(self.weights.head, self.rows[-1], outputs), outputs.numpy()
        self.gates_by_line, self.sigmoids, self.gates = gates.transpose(0, 1), gates[SIGMOIDS], [*gates.numpy()]
        self.h = np.empty_like(self.gates[0])
        if self.weights.window:
            raw = empty(B, 3, self.kappa.shape[1], 1)
            self.window_product, self.raw = partial(self.weights.window, self.rows[0], raw), raw.numpy()
            self.log_alpha, self.others = self.raw[:, 0], self.raw[:, 1:]
            self.beta, self.advance = self.others[:, 0], self.others[:, 1]
            u = np.minimum(np.arange(1, self.columns.shape[1] + 1), self.lengths[:, None] + 1)
            self.u = u[:, None].astype(self.kappa.dtype)
            self.flat_columns = (self.columns + np.arange(B)[:, None] * (self.C + 1)).ravel()  # in (B, C + 1)

    def fork(self, text: Tensor | None, batch_size: int) -> Decoder:
        """A decoder for `batch_size` lines with these texts (B, U), each of which goes on from this one's only line."""
        other = Decoder(self.model, self.weights, text, batch_size)
        for theirs, ours in zip([*other.rows, *other.cells], [*self.rows, *self.cells], strict=True):
            theirs[:] = ours
        if self.weights.window:
            other.kappa[:] = self.kappa
        return other

    def select_lines(self, lines: np.ndarray) -> None:
        """Go on with these lines only: their numbers (n,)."""
        self.rows = [row[torch.from_numpy(lines)] for row in self.rows]
        self.cells = [cell[lines] for cell in self.cells]
        if self.weights.window:
            self.columns, self.lengths, self.kappa = self.columns[lines], self.lengths[lines], self.kappa[lines]
        self._allocate()

    def step(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Read normalised points x (B, 3).

        Returns the raw outputs (B, 1 + 6M), to be copied before the next step; phi of (eq. 46) (B, U + 1), for u up to
        one beyond a line's text, and the last of them again further on; and kappa (B, K, 1), to be read before the next
        step. Without a window the last two are None.
        """
        for column in self.xs:
            column[:] = x
        phi = kappa = None
        gates, candidate, h = self.gates, self.gates[CANDIDATE], self.h
        for n, (product, row, cell) in enumerate(zip(self.weights.gates, self.rows, self.cells, strict=True)):
            product(row, self.gates_by_line)
            self.sigmoids.sigmoid_()
            np.tanh(candidate, out=candidate)
            cell *= gates[FORGET]  # (eq. 9)
            candidate *= gates[INPUT]
            cell += candidate
            np.tanh(cell, out=h)
            h *= gates[OUTPUT]  # (eq. 11)
            for column in self.hs[n]:
                column[:] = h
            if n == 0 and self.weights.window:
                phi, kappa = self._step_window(len(x)), self.kappa
        self.head_product()
        return self.outputs, phi, kappa

    def _step_window(self, B: int) -> np.ndarray:
        """Move the windows and read them, (eq. 46-51). Returns phi (B, U + 1)."""
        self.window_product()
        np.minimum(self.raw, self.model.layers[0].max_log, out=self.raw)
        np.exp(self.others, out=self.others)
        self.kappa += self.advance  # (eq. 51)
        exponent = self.kappa - self.u  # (B, K, U + 1)
        exponent *= exponent
        exponent *= self.beta
        np.subtract(self.log_alpha, exponent, out=exponent)
        np.maximum(exponent, MIN_EXPONENT, out=exponent)
        phi = np.exp(exponent, out=exponent).sum(1)  # (eq. 46)
        w = np.bincount(self.flat_columns, phi.ravel(), B * (self.C + 1)).reshape(B, -1)
        for columns in self.ws:
            columns[:] = w[:, :-1]  # (eq. 47)
        return phi


@torch.no_grad()
@np.errstate(over="ignore", invalid="ignore")  # of networks that have gone astray
def pack_model(model: nn.Module) -> PackedWeights | None:
    """The weights of a `Model` for `Decoder`; None if the kernels do not know all of it, or are switched off.

    A decoder says by itself what model.py says: of three made-up points it must be the same, but for rounding.
    """
    C, H, like = model.config.num_chars, model.config.cell_size, model.mean.cpu()
    cells = [(layer, nn.LSTM) for layer in model.layers]
    linears = [(model.head, len(cells) * H)]
    if C:
        linears.append((getattr(model.layers[0], "window", None), H))
        cells[0] = (getattr(model.layers[0], "cell", None), nn.LSTMCell)
    are_known = [is_known(cell, kind, like) and cell.hidden_size == H for cell, kind in cells]
    are_known += [is_known(linear, nn.Linear, like) and linear.in_features == width for linear, width in linears]
    if not all(are_known) or any(c.input_size != 3 + C + H * (n > 0) for n, (c, _) in enumerate(cells)):
        return None
    text = torch.arange(3)[None] % C if C else None
    weights, state = PackedWeights(model), model.initial_state(1)
    decoder = Decoder(model, weights, text, 1)
    if C:  # some Gaussians before, on and beyond the text
        state.kappa.copy_(torch.linspace(0, 4, model.config.K))
        decoder.kappa[:] = state.kappa[..., None].cpu().numpy()
    characters = model.one_hot(text.to(model.mean.device)) if C else None
    for point in torch.arange(1.0, 10.0).sin().view(3, 1, 1, 3).to(model.mean):
        outputs, state, _ = model(point, characters, state)
        found, _, kappa = decoder.step(point[0].cpu().numpy())
        pairs = [(found, outputs[0])] + ([(decoder.ws[0], state.window), (kappa[..., 0], state.kappa)] if C else [])
        for ours, theirs in pairs:
            theirs = theirs.cpu().numpy()
            if not np.abs(ours - theirs).max() <= MAX_DIFFERENCE * np.abs(theirs).max():  # true for NaN
                return None
    return weights
