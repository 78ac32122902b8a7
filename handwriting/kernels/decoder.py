"""One point of some lines at a time, for writing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handwriting.kernels.layers import MIN_EXPONENT
from handwriting.kernels.products import HAS_FP16_PACKING, MAX_HALF, gate_weights, pack_linear, pack_linear_fp16

# -------------------------------------------------------------------------------------------------- one point at a time


class PackedWeights:
    """The products of all layers for `Decoder`, with its rows [1, 1, x, w, h1, ...].

    The ones are for the biases: for what half precision has of them, and for the rest. (PyTorch would add a bias in an
    operation of its own.) A network trained in float32 is rounded to half precision, as it is for export.
    """

    def __init__(self, model: nn.Module):
        """`model` is a `Model`."""
        H, inputs = model.config.cell_size, 3 + model.config.num_chars  # of x and w together
        self.first_hidden = 2 + inputs  # the column where h1 starts
        self.gates = []  # of each layer
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
    def pack(weight: Tensor, bias: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The function (x (n, 2 + I), y) that puts the n N outputs of a linear layer (N, I) into y."""
        high = bias.clamp(-MAX_HALF, MAX_HALF).half().to(bias.dtype)
        weight = torch.cat([high[:, None], (bias - high)[:, None], weight], dim=1).detach().cpu()
        fits = weight.dtype == torch.float32 and weight.abs().max() <= MAX_HALF  # False for NaN
        product = pack_linear_fp16(weight) if fits and HAS_FP16_PACKING else pack_linear(weight, rows=1)
        return lambda x, y: y.copy_(product(x).view_as(y))


class Decoder:
    """`Model.forward` with T = 1 for B lines, without its overhead: what `generate.PlainDecoder` does, faster.

    It runs on the processor. For each layer one row a line holds all that it reads, [1, 1, x, w, h1, ...] up to its own
    h, so that the layer is one product; of the first layer's rows the window is another, of the last one's the head.
    Between the products most is numpy's, on the same memory: an operation costs less there on a few hundred numbers.
    One line's time is mostly that of reading the weights at each point.
    """

    def __init__(self, model: nn.Module, weights: PackedWeights, text: Tensor | None, batch_size: int):
        """`model` is the `Model` of the weights; `text` (B, U), codes with -1 for padding, for one with a window."""
        config, zeros = model.config, model.mean.cpu().new_zeros
        self.model, self.weights = model, weights
        self.H, self.num_outputs = config.cell_size, model.head.out_features
        self.rows = [zeros(batch_size, self.weights.first_hidden + n * self.H) for n in range(1, config.num_layers + 1)]
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
        """Name the parts of the rows, and allocate results, after the number of lines has changed."""
        B, H, first, empty = len(self.rows[0]), self.H, self.weights.first_hidden, self.rows[0].new_empty
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
            for product, row in zip(self.weights.gates, self.rows, strict=True)
        ]
        self.head_product = partial(self.weights.head, self.rows[-1], outputs)
        if self.weights.window:
            raw = empty(B, 3, self.kappa.shape[1], 1)  # the logarithms of alpha, beta, and what kappa advances by
            self.window_product = partial(self.weights.window, self.rows[0], raw)
            self.raw = raw.numpy()
            self.log_alpha, self.others = self.raw[:, 0], self.raw[:, 1:]
            self.beta, self.advance = self.others[:, 0], self.others[:, 1]  # (B, K, 1) each
            # Up to one beyond a line's text, and that again where the longest of the texts goes on.
            u = np.minimum(np.arange(1, self.columns.shape[1] + 1), self.lengths[:, None] + 1)  # (B, U + 1)
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
        self._make_views()

    def step(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Read normalised points x (B, 3).

        Returns the raw outputs (B, 1 + 6M), to be copied before the next step; phi of (eq. 46) (B, U + 1), for u up to
        one beyond a line's text, and the last of them again further on; and kappa (B, K, 1), to be read before the next
        step. Without a window the last two are None.
        """
        for column in self.xs:
            column[:] = x
        phi = kappa = None
        for n, (product, cell, columns) in enumerate(zip(self.layer_products, self.cells, self.hs, strict=True)):
            product()
            self.sigmoids.sigmoid_()
            np.tanh(self.candidate, out=self.candidate)
            cell *= self.forget_gate  # (eq. 9)
            self.candidate *= self.input_gate
            cell += self.candidate
            np.tanh(cell, out=self.h)
            self.h *= self.output_gate  # (eq. 11)
            for column in columns:
                column[:] = self.h
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
