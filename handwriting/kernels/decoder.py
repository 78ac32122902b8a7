"""One point of some lines at a time, for writing."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handwriting.kernels.cells import CANDIDATE, FORGET, INPUT, OUTPUT, SIGMOIDS, load_library
from handwriting.kernels.layers import gate_weights, takes
from handwriting.kernels.products import HAS_FP16_PACKING, pack_linear, pack_linear_fp16
from handwriting.kernels.window import MIN_EXPONENT

WHOLE = 64  # numbers: PyTorch rounds what is left over of vectors in another way, which would be the last lines'
MAX_HALF = torch.finfo(torch.half).max
GROUP, BLOCK, LARGEST = 64, 80, 32767  # those of step.c
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
        packed: Products | None = None,
    ):  # fmt: skip
        """`text` (B, U), codes with -1 for padding, if there is a window; `hand` (B, D), if the network reads hands."""
        config, B, H, zeros = model.config, batch_size, model.config.cell_size, model.mean.cpu().new_zeros
        self.model, self.text, self.hand, self.products = model, text, hand, packed or pack_products(model)
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
        text = self.text[lines] if text is None and self.text is not None else text
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


def pack_matrix(weight: Tensor, columns: int, terms: int = 1) -> tuple[Tensor, Tensor]:
    """A weight (N, I), padded, in 8 bits and step.c's order, and its scales; further terms are what rounding leaves."""
    rest = F.pad(weight, (0, columns - weight.shape[1], 0, -len(weight) % GROUP)).unflatten(1, (-1, BLOCK))
    groups, packed, scales = (len(rest) // GROUP, GROUP, columns // BLOCK, BLOCK // 2, 2), [], []
    for _ in range(terms):
        scales.append(rest.abs().amax(2, keepdim=True).div(127).clamp(min=1e-30))  # (N, blocks, 1)
        whole = (rest / scales[-1]).round()
        rest = rest - whole * scales[-1]
        packed.append(whole.view(groups).permute(2, 0, 3, 1, 4).to(torch.int8))
    return torch.stack(packed).contiguous(), torch.stack(scales)[..., 0].mT.contiguous()


def pack_bytes(model: nn.Module) -> list[np.ndarray] | None:
    """The weights of a `Model` that the kernels know, as step.c wants them: of layers 8 bits, of head and window 16.

    None if they are not finite float32 numbers, or where it cannot be compiled. Before them are the biases of the gates
    (layers, 1, 4H) and their weights of the hand (layers, 4H, D).
    """
    c, head, (first, *_), of_layers = model.config, model.head, model.layers, []
    is_finite = model.mean.dtype == torch.float32 and all(p.isfinite().all() for p in model.parameters())
    if not (is_finite and load_library("step")):
        return None
    H, inputs, wide = c.cell_size, 3 + c.hand_size + c.num_chars, -(-c.cell_size // BLOCK) * BLOCK
    for layer in model.layers:
        weights = gate_weights(getattr(layer, "cell", layer))
        of_input, of_hidden, bias = (F.pad(w.view(4, H, -1), (0, 0, 0, wide - H)).flatten(0, 1) for w in weights)
        of_x, of_hand, of_w, below = of_input.tensor_split([3, 3 + c.hand_size, inputs], dim=1)
        matrices = *pack_matrix(of_hidden, wide), *pack_matrix(below, wide)
        of_layers.append((bias.t(), of_hand, torch.cat([of_x, of_w], dim=1).t(), *matrices))
    of_heads = [pack_matrix(weight, wide, terms=2) for weight in head.weight.split(H, dim=1)]
    packed = [torch.stack(parts).contiguous() for each in (of_layers, of_heads) for parts in zip(*each, strict=True)]
    weight, bias = (first.window.weight, first.window.bias) if c.num_chars else (head.weight[:0, :H], head.bias[:0])
    biases = [F.pad(each, (0, -len(each) % GROUP)) for each in (head.bias, bias)]
    packed += [*biases, *pack_matrix(weight, wide, terms=2), torch.tensor(float(getattr(first, "max_log", 0)))]
    return [each.numpy(force=True) for each in packed]


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """Zeros that begin where vectors do, as PyTorch's memory. It would fill them by threads, new for each that asks."""
    array = torch.empty(shape, dtype=dtype).numpy()
    array.fill(0)
    return array


class CompiledDecoder:
    """What `Decoder` does, in C and with weights of 8 bits: half as much to read, and hardly anything else to do."""

    is_one_threaded = True

    def __init__(
        self, model: nn.Module, text: Tensor | None, batch_size: int, hand: Tensor | None = None,
        packed: list[np.ndarray] | None = None, start: np.ndarray | None = None,
    ):  # fmt: skip
        """As for `Decoder`; `start` (layers, B, 4H) is what is always added to the gates, if that is known."""
        c, B, L = model.config, batch_size, model.config.num_layers
        self.model, self.text, self.packed = model, text, packed or pack_bytes(model)
        bias, of_hand, *weights = self.packed
        if start is None:  # sums of matrix products may depend on how many lines there are, and on threads
            hands = model.normalise_hand(hand, B).numpy() if c.hand_size else zeros(B, 0)
            start = bias + np.stack([(of_hand * each).sum(2) for each in hands], axis=1)
        text, self.columns = (torch.zeros(B, 0), 0) if text is None else (text, text.shape[1] + 1)
        outputs, rows = model.head.out_features, start.shape[2]
        U, wide = -(-self.columns // 16) * 16, -(-outputs // GROUP) * GROUP
        places = torch.arange(1.0, U + 1).minimum((text >= 0).sum(1, keepdim=True) + 1)
        codes, z = F.pad(text, (0, U - text.shape[1]), value=-1).int(), zeros(B, max(rows, wide, 3 * c.K + GROUP))
        row, kappa, said, phi = (zeros(1, B, columns) for columns in (3 + c.num_chars, c.K, wide, U))
        cells, h = zeros(L, B, rows // 4), zeros(L, B, rows // 4, dtype=torch.int16)
        units = np.full((L, B), 1 / LARGEST, np.float32)
        self.start, self.state = np.ascontiguousarray(start), [row, kappa, cells, units, h]
        of_own, of_text, sums = zeros(L, B, rows), (codes.numpy(), places.numpy()), zeros(*z.shape, dtype=torch.int32)
        lines = [self.start, *of_text, *self.state, of_own, said, phi, z, sums]
        numbers = [B, L, rows // 4, c.num_chars, c.K, U, wide, 0]
        addresses = [array.ctypes.data for array in [*weights, *lines]]
        self.memory = lines, np.array(numbers + addresses, np.int64)
        self.take_step = partial(load_library("step").take_step, self.memory[1].ctypes.data)
        row, kappa, said, phi = (array[0] for array in (row, kappa, said, phi))
        self.x, self.w = row[:, :3], row[:, 3:]
        self.kappa, self.said, self.phi = kappa[..., None], said[:, :outputs], phi[:, : self.columns]

    def select(self, lines: np.ndarray, text: Tensor | None = None) -> "CompiledDecoder":
        """A decoder that goes on from these lines, their numbers (n,), with their own texts or others (n, U)."""
        text = self.text[lines] if text is None and self.text is not None else text
        other = CompiledDecoder(self.model, text, len(lines), None, self.packed, self.start[:, lines])
        for array, own in zip(other.state, self.state, strict=True):
            array[:] = own[:, lines]
        return other

    def step(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """What `sampling.PlainDecoder.step` does. Read kappa before the next step."""
        self.x[:] = x
        self.take_step()
        return self.said.copy(), *((self.phi.copy(), self.kappa) if self.columns else (None, None))


def says_the_same(model: nn.Module, make: Callable) -> bool:
    """Whether a decoder says what model.py says of three made-up points, but for rounding."""
    C, D, K = model.config.num_chars, model.config.hand_size, model.config.K
    text, state = torch.arange(3)[None] % C if C else None, model.initial_state(1)
    characters = model.one_hot(text) if C else None
    hand = torch.arange(D).sin().to(model.mean)[None] if D else None
    decoder = make(text, 1, hand)
    if C:  # some Gaussians before, on and beyond the text
        state.kappa.copy_(torch.linspace(0, 4, K))
        decoder.kappa[:] = state.kappa[..., None].numpy()
    for point in torch.arange(1.0, 10.0).sin().view(3, 1, 1, 3).to(model.mean):
        wanted, state, _ = model(point, characters, state, hand)
        found, _, kappa = decoder.step(point[0].numpy())
        pairs = [(found, wanted[0])] + ([(decoder.w, state.w), (kappa[..., 0], state.kappa)] if C else [])
        if not all(np.abs(a - b.numpy()).max() <= MAX_DIFFERENCE * b.abs().max() for a, b in pairs):  # true for NaN
            return False
    return True


@torch.no_grad()
@np.errstate(over="ignore", invalid="ignore")  # of networks that have diverged
def pack_model(model: nn.Module) -> Callable[..., "CompiledDecoder | Decoder"] | None:
    """The decoder for a `Model`, (text, batch_size, hand) -> decoder, with its weights packed once, as they are now.

    None if the kernels do not know all of the network, or are switched off.
    """
    config, like, (first, *upper) = model.config, model.mean, model.layers
    C, D, H, K = config.num_chars, config.hand_size, config.cell_size, config.K
    parts = [(layer, nn.LSTM, (4 * H, 3 + D + C + H)) for layer in upper]
    parts.append((model.head, nn.Linear, (1 + 6 * config.num_clusters, len(model.layers) * H)))
    cell, kind = (getattr(first, "cell", None), nn.LSTMCell) if C else (first, nn.LSTM)
    parts.append((cell, kind, (4 * H, 3 + D + C)))
    parts += [(getattr(first, "window", None), nn.Linear, (3 * K, H))] if C else []
    if not all(takes(part, kind, like, shape) for part, kind, shape in parts):
        return None
    for decoder, pack in ((CompiledDecoder, pack_bytes), (Decoder, pack_products)):
        if (packed := pack(model)) and says_the_same(model, make := partial(decoder, model, packed=packed)):
            return make
    return None
