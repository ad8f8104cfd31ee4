"""Rounding of activations to FP8, token by token, in Triton; the oracle is ``fp8.quantise``."""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["quantise"]

FP8_MAX = tl.constexpr(448.0)


@triton.jit
def _quantise(  # type: ignore[no-untyped-def]
    x_ptr, out_ptr, scale_ptr, width, x_stride, GELU: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < width
    x = tl.load(x_ptr + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
    if GELU:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = x * tl.sigmoid(2 * inner)
    scale = tl.maximum(tl.max(tl.abs(x), 0), 1e-12) / FP8_MAX
    # A quotient may round above the largest value, and e4m3 has no infinity to hold it.
    y = tl.minimum(tl.maximum(x / scale, -FP8_MAX), FP8_MAX)
    tl.store(out_ptr + row * width + column, y.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(scale_ptr + row, scale)


def quantise(x: Tensor, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """Equal ``fp8.quantise`` for ``x [M, d]`` with contiguous rows."""
    if x.stride(1) != 1:
        x = x.contiguous()
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _quantise[(rows,)](
        x, out, scale, width, x.stride(0), GELU=gelu, BLOCK=block,
        num_warps=4 if block <= 4096 else 8,
    )  # fmt: skip
    return out, scale
