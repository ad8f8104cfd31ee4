"""FP8 (e4m3) in Triton: activations rounded token by token, and a window of keys and values.

The oracle of the first is ``fp8.quantise``, of the second ``fp8_attention.EmulatedFp8Attention``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["quantise", "window"]

FP8_MAX = tl.constexpr(448.0)
TOKEN_ALIGNMENT = 16
"""A row of a tensor descriptor is a multiple of so many bytes, so as many tokens of e4m3."""


@triton.jit
def _load(x_ptr, column, width, GELU: tl.constexpr):  # type: ignore[no-untyped-def]
    x = tl.load(x_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    if GELU:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = x * tl.sigmoid(2 * inner)
    return x


@triton.jit
def _store(x, scale, out_ptr, column, width):  # type: ignore[no-untyped-def]
    # A quotient may round above the largest value, and e4m3 has no infinity to hold it.
    y = tl.minimum(tl.maximum(x / scale, -FP8_MAX), FP8_MAX)
    tl.store(out_ptr + column, y.to(out_ptr.dtype.element_ty), mask=column < width)


@triton.jit
def _quantise(  # type: ignore[no-untyped-def]
    x_ptr, out_ptr, scale_ptr, width, x_stride, GELU: tl.constexpr, HEAD: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    """One row, in two pieces, since rounding 8960 up to a power of two nearly doubles the work."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * x_stride
    out_ptr += row * width
    head_at = tl.arange(0, HEAD)
    head = _load(x_ptr, head_at, width, GELU)
    largest = tl.max(tl.abs(head), 0)
    if TAIL > 0:
        tail_at = HEAD + tl.arange(0, TAIL)
        tail = _load(x_ptr, tail_at, width, GELU)
        largest = tl.maximum(largest, tl.max(tl.abs(tail), 0))
    scale = tl.maximum(largest, 1e-12) / FP8_MAX
    _store(head, scale, out_ptr, head_at, width)
    if TAIL > 0:
        _store(tail, scale, out_ptr, tail_at, width)
    tl.store(scale_ptr + row, scale)


@triton.jit
def _window(  # type: ignore[no-untyped-def]
    k_ptr,
    v_ptr,
    table_ptr,
    lengths_ptr,
    k_out_ptr,
    v_out_ptr,
    width,
    page_tokens,
    slots,
    tokens,
    padded,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    head = tl.program_id(1)
    row = tl.program_id(2)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    alive = token < tl.load(lengths_ptr + row) * page_tokens
    page = tl.load(table_ptr + row * slots + token // page_tokens, mask=alive, other=0)
    column = head * HEAD_DIM + tl.arange(0, HEAD_DIM)
    source = page.to(tl.int64) * page_tokens + token % page_tokens
    at = source[:, None] * width + column[None, :]
    k = tl.load(k_ptr + at, mask=alive[:, None], other=0.0).to(tl.float32)
    v = tl.load(v_ptr + at, mask=alive[:, None], other=0.0).to(tl.float32)
    k = tl.minimum(tl.maximum(k, -FP8_MAX), FP8_MAX).to(k_out_ptr.dtype.element_ty)
    v = tl.minimum(tl.maximum(v, -FP8_MAX), FP8_MAX).to(v_out_ptr.dtype.element_ty)
    to = (row.to(tl.int64) * tokens + token)[:, None] * width + column[None, :]
    tl.store(k_out_ptr + to, k, mask=alive[:, None])
    turned = (row.to(tl.int64) * width + column)[:, None] * padded + token[None, :]
    # To the end of the row, a multiple of 16: a finer mask would be stored byte by byte.
    tl.store(v_out_ptr + turned, tl.trans(v), mask=(token < padded)[None, :])


def quantise(x: Tensor, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """Equal ``fp8.quantise`` for ``x [M, d]`` with contiguous rows."""
    if x.stride(1) != 1:
        x = x.contiguous()
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    head = 1 << (width.bit_length() - 1)
    tail = triton.next_power_of_2(width - head) if width > head else 0
    _quantise[(rows,)](
        x, out, scale, width, x.stride(0), GELU=gelu, HEAD=head, TAIL=tail,
        num_warps=1 if width <= 2048 else 4,
    )  # fmt: skip
    return out, scale


def window(
    k_pages: Tensor, v_pages: Tensor, table: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Copy windows of pages in e4m3, laid out for the tensor cores; what is too large saturates.

    Args:
        k_pages: ``[P, pt, N, D]`` contiguous.
        v_pages: as ``k_pages``.
        table: ``[B, W]`` int32, contiguous.
        lengths: ``[B]`` int32; keys past them are left as they come.

    Returns:
        Keys ``[B*W, pt, N, D]``, a row's pages one after another, and values ``[B, N, D, S]``, S
        being W*pt rounded up to a multiple of 16.
    """
    _, page_tokens, heads, head_dim = k_pages.shape
    rows, slots = table.shape
    tokens = slots * page_tokens
    padded = -(-tokens // TOKEN_ALIGNMENT) * TOKEN_ALIGNMENT
    kind = torch.float8_e4m3fn
    k = torch.empty(rows * slots, page_tokens, heads, head_dim, dtype=kind, device=table.device)
    v = torch.empty(rows, heads, head_dim, padded, dtype=kind, device=table.device)
    block = 128 if k_pages.is_cuda else 16
    _window[(triton.cdiv(tokens, block), heads, rows)](
        k_pages, v_pages, table, lengths, k, v, heads * head_dim, page_tokens, slots,
        tokens, padded, HEAD_DIM=head_dim, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return k, v
