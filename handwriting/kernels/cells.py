"""What is between two products of a layer: its gates and cells, forwards and backwards.

`Cells` does it in a dozen operations, `CompiledCells` in one, which cells.c has. Where there is a C compiler (`cc`),
that file is compiled when it is first wanted, in a second.

The gates of a layer stand in the order output, input, forget, candidate: the three sigmoids are neighbours, and so are
the three that lead to the cell. cells.c has the same order.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor, nn

from handwriting.program import note

OUTPUT, INPUT, FORGET, CANDIDATE = range(4)
SIGMOIDS = slice(OUTPUT, FORGET + 1)  # the gates that are sigmoids; the candidate is a tanh


def gate_weights(layer: nn.LSTM | nn.LSTMCell) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the input (4H, I) and of h (4H, H), and bias (4H,) of a layer, with gates in the kernels' order."""
    suffix = "_l0" if isinstance(layer, nn.LSTM) else ""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    of_input, of_hidden, *biases = (getattr(layer, name + suffix) for name in names)

    def reorder(weight: Tensor) -> Tensor:
        i, f, g, o = weight.chunk(4)  # PyTorch's order: input, forget, candidate, output
        return torch.cat([o, i, f, g])

    return reorder(of_input), reorder(of_hidden), reorder(biases[0] + biases[1])


# ------------------------------------------------------------------------------------------------------------ cells.c

# The vectors that a processor has, as PyTorch names them and as compilers do. Others have those of every processor.
VECTORS = {
    "AVX2": ["-mavx2", "-mfma"],
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
OPTIONS = ["-std=c11", "-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The functions of cells.c, compiled if they are not yet. None without the file, a compiler or a place to write.

    The library is kept where Python keeps what it compiles. Its name is made of all that it depends on, and it appears
    there whole, so that processes and machines can share the folder.
    """
    source, compiler = Path(__file__).with_name("cells.c"), shutil.which("cc")
    if not source.is_file() or not compiler:
        return None
    options = OPTIONS + VECTORS.get(torch.backends.cpu.get_cpu_capability(), [])
    key = hashlib.sha256(repr((source.read_bytes(), options, platform.platform())).encode()).hexdigest()[:16]
    path = source.parent / "__pycache__" / f"cells-{key}.so"
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            subprocess.run([compiler, *options, "-o", beside, source], check=True, capture_output=True, timeout=60)
            beside.replace(path)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        note(f"{compiler} cannot compile cells.c to {path.parent}; going on slower")
        return None
    number, array = ctypes.c_long, ctypes.c_void_p
    library.cells_forward.argtypes = [number] * 2 + [array] * 5
    library.cells_backward.argtypes = [number] * 2 + [array] * 4 + [number] + [array] * 2
    library.cells_forward.restype = library.cells_backward.restype = None
    return library


# -------------------------------------------------------------------------------------------------------------- cells

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input


class Cells:
    """The gates and cells of some points of a layer, and what is between its products, a point at a time.

    Forwards these are (eq. 7-11) without peepholes, backwards their derivatives.
    """

    def __init__(self, gates: Tensor, cells: Tensor):
        """gates (n, B, 4, H), cells (n + 1, B, H), the first that before the first point."""
        self.gates, self.cells = gates, cells
        self.whole, self.sigmoids = gates.flatten(2).unbind(0), gates[:, :, SIGMOIDS].unbind(0)
        self.o, self.i, self.f, self.g = (gate.unbind(0) for gate in gates.unbind(2))  # (B, H) each
        self.cell = cells.unbind(0)
        self.d_gates, self.tanh, self.d_tanh = torch.empty_like(gates[0]), *torch.empty_like(cells[:2]).unbind(0)
        self.d_sigmoids, self.d_gate = self.d_gates[:, SIGMOIDS], self.d_gates.unbind(1)

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
    """What `Cells` does, by cells.c: a layer in float32 whose products are in bfloat16."""

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
    """`CompiledCells` for a float32 layer with bfloat16 products where cells.c can be compiled, else `Cells`."""
    is_right = dtype == torch.float32 and matmul_dtype == torch.bfloat16
    return CompiledCells if is_right and load_library() else Cells
