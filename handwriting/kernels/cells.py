"""What is between two products of a layer: its gates and cells, forwards and backwards.

`forward` and `backward` do it in PyTorch, one operation after the other; cells.c does it in one pass over the memory.
The gates of a layer stand in the order output, input, forget, candidate: the three sigmoids are neighbours, and so are
the three that lead to the cell. cells.c has the same order.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from handwriting.program import note

OUTPUT, INPUT, FORGET, CANDIDATE = range(4)
SIGMOIDS = slice(OUTPUT, FORGET + 1)  # the gates that are sigmoids; the candidate is a tanh
sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


def forward(z: Tensor, before: Tensor, gates: Tensor, cell: Tensor, h: Tensor) -> None:
    """A point (eq. 7-11, no peepholes): z (B, 4H) and the cell before it (B, H) -> gates (B, 4, H), cell, h (B, H)."""
    gates.copy_(z.view_as(gates))
    gates[:, SIGMOIDS].sigmoid_()  # (eq. 7, 8, 10)
    o, i, f, g = gates.unbind(1)
    g.tanh_()
    torch.mul(f, before, out=cell).addcmul_(i, g)  # (eq. 9)
    torch.mul(torch.tanh(cell), o, out=h)  # (eq. 11)


def backward(before: Tensor, gates: Tensor, cell: Tensor, d_h: Tensor, d_cell: Tensor, d_z: Tensor) -> None:
    """The way back: d_h (B, H) -> d_z (B, 4H); d_cell (B, H) of this point becomes that of the point before."""
    (o, i, f, g), tanh = gates.unbind(1), torch.tanh(cell)
    d_cell.add_(tanh_backward(d_h * o, tanh))  # (eq. 11)
    d_sigmoids = torch.stack([d_h * tanh, d_cell * g, d_cell * before], dim=1)  # (eq. 9, 11)
    d_z = d_z.view_as(gates)
    d_z[:, SIGMOIDS] = sigmoid_backward(d_sigmoids, gates[:, SIGMOIDS])
    d_z[:, CANDIDATE] = tanh_backward(d_cell * i, g)
    d_cell.mul_(f)


def choose_cells(dtype: torch.dtype, matmul_dtype: torch.dtype) -> tuple[Callable, Callable]:
    """`forward` and `backward`: for a float32 layer those of cells.c, if it can be compiled."""
    library, low = load_library("cells") if dtype == torch.float32 else None, int(matmul_dtype == torch.bfloat16)
    if library is None:
        return forward, backward
    return (  # the stride is that of d_h
        lambda *args: library.cells_forward(*args[-1].shape, low, *map(Tensor.data_ptr, args)),
        lambda *args: library.cells_backward(*args[0].shape, low, args[3].stride(0), *map(Tensor.data_ptr, args)),
    )


# The vectors that a processor has, as PyTorch names them and as compilers do. Others have those of every processor.
VECTORS = {
    "AVX2": ["-mavx2", "-mfma"],
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
OPTIONS = ["-std=c11", "-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
N, A = ctypes.c_long, ctypes.c_void_p  # numbers and arrays, which the functions of each file are given
FUNCTIONS = {
    "cells": {
        "cells_forward": [N] * 3 + [A] * 5, "cells_backward": [N] * 4 + [A] * 6,
        "mixture_losses": [N] * 2 + [ctypes.c_float] * 2 + [A] * 5,
    },
    "step": {"take_step": [A]},
}  # fmt: skip


@functools.cache
def load_library(name: str) -> ctypes.CDLL | None:
    """The functions of a C file, "cells" or "step". None without the file, a compiler (`cc`) or a place to write.

    It is compiled when first wanted, in a second, and kept where Python keeps what it compiles: whole, and by a name
    made of all that it depends on, so that threads, processes and machines can share the folder.
    """
    source, compiler = Path(__file__).with_name(f"{name}.c"), shutil.which("cc")
    if not source.is_file() or not compiler:
        return None
    options = OPTIONS + VECTORS.get(vectors := torch.backends.cpu.get_cpu_capability(), [])
    if vectors == "AVX512" and getattr(torch.cpu, "get_capabilities", dict)().get("avx512_vnni"):
        options.append("-mavx512vnni")
    texts = [path.read_bytes() for path in [source, *sorted(source.parent.glob("*.h"))]]
    key = hashlib.sha256(repr((texts, options, platform.platform())).encode()).hexdigest()[:16]
    path = source.parent / "__pycache__" / f"{name}-{key}.so"
    beside = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            subprocess.run([compiler, *options, "-o", beside, source], check=True, capture_output=True, timeout=60)
            beside.replace(path)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        note(f"{compiler} cannot compile {source.name} to {path.parent}; going on slower")
        return None
    for function, arguments in FUNCTIONS[name].items():
        getattr(library, function).argtypes, getattr(library, function).restype = arguments, None
    return library
