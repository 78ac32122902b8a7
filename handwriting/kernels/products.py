"""Products of one weight with many rows, and which type of them the processor multiplies fastest."""

import functools
import os
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from handwriting.program import note

CLEARLY = 0.9  # of float32's time at most: less than that is noise, or not worth the digits


def can_run(device: torch.device) -> bool:
    """Whether the kernels are for that device, a processor, and not switched off."""
    return device.type == "cpu" and os.environ.get("HANDWRITING_KERNELS", "1") != "0"


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware, and oneDNN is not told to use an older instruction set."""
    if not getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)():
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))


@functools.cache
def multiplies_bfloat16_faster() -> bool:
    """Whether a layer's products, of 400 cells and 32 lines, clearly take less time in bfloat16: both are tried, 0.1 s.

    Some processors have instructions for it that are slower than those for float32.
    """
    best = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    for _ in range(8 if multiplies_bfloat16() else 0):  # in turns, and the best of each: others may be at work, too
        for dtype in best:
            x, z, weight = (torch.ones(shape, dtype=dtype) for shape in ((4, 32, 400), (4, 32, 1600), (1600, 400)))
            product = pack_linear(weight, rows=32)
            started = time.perf_counter()
            for n in range(4):
                product(x[n], z[n])
            x.flatten(0, 1).t() @ z.flatten(0, 1)
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.bfloat16] < CLEARLY * best[torch.float32]


def pack_linear(weight: Tensor, rows: int) -> Callable[..., Tensor]:
    """(x (n, I), added (n, N) = None) -> x @ weight.T + added, all of one type, for one weight (N, I) and many x.

    It is quickest for n = `rows`.
    """
    if weight.dtype == torch.bfloat16 and HAS_BF16_PACKING:
        return pack_linear_bf16(weight, rows)
    weight_t = weight.t().contiguous()
    return lambda x, added=None: x @ weight_t if added is None else torch.addmm(added, x, weight_t)


def pack_linear_bf16(weight: Tensor, rows: int) -> Callable[..., Tensor]:
    """`pack_linear` of a bfloat16 weight: oneDNN puts the weight in order once, not at every product.

    PyTorch's compiler uses these operations; they are not part of its public interface.
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


def works(pack: Callable, dtype: torch.dtype, *arguments: int) -> bool:
    """Whether a way to pack weights is right on a tiny example; a note says so if it is not."""
    try:
        weight = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], dtype=dtype)
        x, product = weight[:1], pack(weight, *arguments)
        is_right = product(x).tolist() == [[14.0, 2.0]]
        is_right &= dtype != torch.bfloat16 or product(x, product(x)).tolist() == [[28.0, 4.0]]
    except Exception:  # operations that have gone or changed fail in any way
        is_right = False
    if not is_right:
        note(f"{pack.__name__} does not work with PyTorch {torch.__version__}; going on slower")
    return is_right


HAS_BF16_PACKING = multiplies_bfloat16() and works(pack_linear_bf16, torch.bfloat16, 1)
HAS_FP16_PACKING = torch.backends.quantized.engine in ("fbgemm", "x86") and works(pack_linear_fp16, torch.float32)
