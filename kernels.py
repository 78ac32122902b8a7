"""The numbers of model.py, faster: layers over whole lines with gradients in closed form, and one point at a time.

Nothing needs this file. model.py and generate.py take what is here where `can_run` says so, and else their own plain
code; HANDWRITING_KERNELS=0 in the environment switches all of it off. Letters for shapes are those of model.py.

**How a layer learns.** Autograd would take, at every point, one product for the gradient of each weight and some forty
small operations. `FusedLSTM` runs over all T points itself. Forwards it keeps the gates and the cell of each point.
Backwards, from the last point to the first, a point costs one product: the gradients of its gates (B, 4H) by the
recurrent weights (4H, C + H) give those of (w, h) at the point before. The gates' gradients of n points (see
`chunk_length`) are kept, (n B, 4H), and then multiplied in one large product by what the points read,
(I + C + H, n B), for the gradients of the weights, and of the bias, which is the weight of a 1 that each point reads.
`FusedWindow` does the same for the window by the paper's closed forms (eq. 56-60). The products, what goes into the
gates, and the states that are kept, are in `matmul_dtype`. Gates, cells, window, and sums of gradients, all that adds
up over the line, are in the type of the weights.

What is between two products of a layer, `Cells` does in a dozen operations, and `CompiledCells` in one, which kernels.c
has. Where there is a C compiler (`cc`), that file is compiled when it is first wanted, in a second.

Gates stand in the order output, input, forget, candidate: the three sigmoids are neighbours, and so are the three that
lead to the cell. `gate_weights` brings PyTorch's order (input, forget, candidate, output) to this one.
"""

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from utils import note

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input

# exp(-60) is nothing beside the other Gaussians. Smaller numbers are stored denormalised from exp(-88) on, and a
# processor is ten times as slow on those.
MIN_EXPONENT = -60.0
MAX_HALF = torch.finfo(torch.half).max

BLOCK = 4  # points whose narrow inputs are multiplied at once: the results stay in the processor's cache
CHUNK_ROWS = 1600  # points times lines that go into one product where many can
WIDTH_STEP = 32  # rows of a multiple of it are multiplied up to a third faster


def can_run(device: torch.device) -> bool:
    """Whether the kernels are for that device, a processor, and not switched off."""
    return device.type == "cpu" and os.environ.get("HANDWRITING_KERNELS", "1") != "0"


# ---------------------------------------------------------------------------------- products with one weight many times


def pack_linear_bf16(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """`pack_linear` of a bfloat16 weight, quickest for n = `rows`.

    oneDNN puts the weight in order once, not at every product. PyTorch's compiler uses these operations; they are not
    part of its public interface.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    linear = torch.ops.mkldnn._linear_pointwise

    def product(x: Tensor, added: Tensor | None = None) -> Tensor:
        if added is None:
            return linear.default(x, packed, None, "none", [], "")
        return linear.binary(x, added, packed, None, "add")

    return product


def pack_linear_fp16(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """The function x (n, I) -> x @ weight.T for one float32 weight (N, I), kept in half precision; sums are float32's.

    A weight in half precision is half as much to read, which is most of the time for few rows.
    """
    packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), None)
    linear = torch.ops.quantized.linear_dynamic_fp16.default
    # Without it PyTorch looks for an overriding method on `packed`, some ten microseconds a call.
    no_overriding = getattr(torch._C, "DisableTorchFunctionSubclass", nullcontext)

    def product(x: Tensor) -> Tensor:
        with no_overriding():
            return linear(x, packed)

    return product


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware, and oneDNN is not told to use an older instruction set."""
    is_capped = not getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)()
    if is_capped:
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))


def works(pack: Callable, dtype: torch.dtype, *arguments: int) -> bool:
    """Try a way to pack weights on a tiny example; tell on stderr if it fails."""
    try:
        weight = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], dtype=dtype)
        product = pack(weight, *arguments)
        found = product(weight[:1])
        is_right = found.tolist() == [[14.0, 2.0]]
        if dtype == torch.bfloat16:
            is_right = is_right and product(weight[:1], found).tolist() == [[28.0, 4.0]]
    except Exception:  # operations that have gone or changed fail in any way
        is_right = False
    if not is_right:
        note(f"{pack.__name__} does not work with PyTorch {torch.__version__}; going on slower")
    return is_right


HAS_BF16_PACKING = multiplies_bfloat16() and works(pack_linear_bf16, torch.bfloat16, 1)
HAS_FP16_PACKING = torch.backends.quantized.engine in ("fbgemm", "x86") and works(pack_linear_fp16, torch.float32)


def pack_linear(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """The function (x (n, I), added (n, N) or nothing) -> x @ weight.T + added, for one weight (N, I) and many x.

    All are of one type.
    """
    if weight.dtype == torch.bfloat16 and HAS_BF16_PACKING:
        return pack_linear_bf16(weight, rows)
    weight_t = weight.t().contiguous()
    return lambda x, added=None: x @ weight_t if added is None else torch.addmm(added, x, weight_t)


def chunk_length(B: int) -> int:
    """Points of B lines that go into one product where many can."""
    return max(1, CHUNK_ROWS // B)


def padding_to_step(width: int) -> int:
    """Columns to add to rows of that width, so that products with them are quick. Narrow ones are so already."""
    return -width % WIDTH_STEP if width > WIDTH_STEP else 0


def gate_weights(layer: nn.LSTM | nn.LSTMCell) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the input (4H, I) and of h (4H, H), and bias (4H,) of a layer, with gates in the kernels' order."""
    suffix = "_l0" if isinstance(layer, nn.LSTM) else ""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    of_input, of_hidden, *biases = (getattr(layer, name + suffix) for name in names)
    H = layer.hidden_size
    return of_input.roll(H, 0), of_hidden.roll(H, 0), (biases[0] + biases[1]).roll(H)


# ------------------------------------------------------------------------------------------------------------ kernels.c

# The vectors that a processor has, as PyTorch names them and as compilers do. Others have those of every processor.
VECTORS = {
    "AVX2": ["-mavx2", "-mfma"],
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
OPTIONS = ["-std=c11", "-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The functions of kernels.c, compiled if they are not yet. None without the file, a compiler or a place to write.

    The library is kept where Python keeps what it compiles. Its name is made of all that it depends on, and it appears
    there whole, so that processes and machines can share the folder.
    """
    source, compiler = Path(__file__).with_name("kernels.c"), shutil.which("cc")
    if not source.is_file() or not compiler:
        return None
    options = OPTIONS + VECTORS.get(torch.backends.cpu.get_cpu_capability(), [])
    key = hashlib.sha256(repr((source.read_bytes(), options, platform.platform())).encode()).hexdigest()[:16]
    path = source.parent / "__pycache__" / f"kernels-{key}.so"
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            subprocess.run([compiler, *options, "-o", beside, source], check=True, capture_output=True, timeout=60)
            beside.replace(path)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        note(f"{compiler} cannot compile kernels.c to {path.parent}; going on slower")
        return None
    number, array = ctypes.c_long, ctypes.c_void_p
    library.cells_forward.argtypes = [number] * 2 + [array] * 5
    library.cells_backward.argtypes = [number] * 2 + [array] * 4 + [number] + [array] * 2
    library.cells_forward.restype = library.cells_backward.restype = None
    return library


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


class Cells:
    """The gates and cells of some points of a layer, and what is between its products, a point at a time.

    Forwards these are (eq. 7-11) without peepholes, backwards their derivatives.
    """

    def __init__(self, gates: Tensor, cells: Tensor):
        """gates (n, B, 4, H), cells (n + 1, B, H), the first that before the first point."""
        self.gates, self.cells = gates, cells
        self.whole, self.sigmoids = gates.flatten(2).unbind(0), gates[:, :, :3].unbind(0)
        self.o, self.i, self.f, self.g = (gate.unbind(0) for gate in gates.unbind(2))  # (B, H) each
        self.cell = cells.unbind(0)
        self.d_gates, self.tanh, self.d_tanh = torch.empty_like(gates[0]), *torch.empty_like(cells[:2]).unbind(0)
        self.d_sigmoids, self.d_gate = self.d_gates[:, :3], self.d_gates.unbind(1)

    def forward(self, n: int, z: Tensor, h: Tensor) -> None:
        """Point n: what comes into the gates, z (B, 4H) -> h (B, H)."""
        o, i, f, g, before, cell = self.o[n], self.i[n], self.f[n], self.g[n], self.cell[n], self.cell[n + 1]
        self.whole[n].copy_(z)
        self.sigmoids[n].sigmoid_()  # (eq. 7, 8, 10)
        g.tanh_()
        torch.mul(f, before, out=cell).addcmul_(i, g)  # (eq. 9)
        torch.mul(torch.tanh(cell, out=self.tanh), o, out=h)  # (eq. 11)

    def backward(self, n: int, d_h: Tensor, d_cell: Tensor, d_z: Tensor) -> None:
        """Point n: d_h (B, H) -> d_z (B, 4H); d_cell (B, H) of this point becomes that of the point before."""
        o, i, f, g, tanh = self.o[n], self.i[n], self.f[n], self.g[n], torch.tanh(self.cell[n + 1], out=self.tanh)
        d_o, d_i, d_f, d_g = self.d_gate
        torch.mul(d_h, tanh, out=d_o)  # (eq. 11)
        d_cell.add_(tanh_backward(torch.mul(d_h, o, out=self.d_tanh), tanh, grad_input=self.d_tanh))
        torch.mul(d_cell, g, out=d_i)  # (eq. 9)
        torch.mul(d_cell, self.cell[n], out=d_f)
        torch.mul(d_cell, i, out=d_g)
        d_cell.mul_(f)
        sigmoid_backward(self.d_sigmoids, self.sigmoids[n], grad_input=self.d_sigmoids)
        tanh_backward(d_g, g, grad_input=d_g)
        d_z.copy_(self.d_gates.flatten(1))


class CompiledCells:
    """What `Cells` does, by kernels.c: a layer in float32 whose products are in bfloat16."""

    def __init__(self, gates: Tensor, cells: Tensor):
        """gates (n, B, 4, H), cells (n + 1, B, H), the first that before the first point."""
        self.gates, self.cells = gates, cells
        self.B, self.H = cells.shape[1:]
        self.functions, self.gate, self.cell = load_library(), gates.data_ptr(), cells.data_ptr()
        self.step = self.B * self.H * cells.element_size()  # bytes of the cells of a point

    def addresses(self, n: int) -> tuple[int, int, int]:
        """Where the cell before point n, its gates and its cell are in memory."""
        before = self.cell + n * self.step
        return before, self.gate + 4 * n * self.step, before + self.step

    def forward(self, n: int, z: Tensor, h: Tensor) -> None:
        """Point n: what comes into the gates, z (B, 4H) -> h (B, H)."""
        before, gates, cell = self.addresses(n)
        self.functions.cells_forward(self.B, self.H, z.data_ptr(), before, gates, cell, h.data_ptr())

    def backward(self, n: int, d_h: Tensor, d_cell: Tensor, d_z: Tensor) -> None:
        """Point n: d_h (B, H) -> d_z (B, 4H); d_cell (B, H) of this point becomes that of the point before."""
        gradients = d_h.data_ptr(), d_h.stride(0), d_cell.data_ptr(), d_z.data_ptr()
        self.functions.cells_backward(self.B, self.H, *self.addresses(n), *gradients)


def choose_cells(dtype: torch.dtype, matmul_dtype: torch.dtype) -> type[Cells] | type[CompiledCells]:
    """The quickest of the two that is there for a layer of that type, with products in `matmul_dtype`."""
    is_right = dtype == torch.float32 and matmul_dtype == torch.bfloat16
    return CompiledCells if is_right and load_library() else Cells


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

    def fork(self, text: Tensor | None, batch_size: int) -> "Decoder":
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
