"""Fused operations around the matrix products of a block, in Triton.

Each is one pass over memory and equals its oracle in ``norm``, ``rope`` and
``backend.TorchKernels``: statistics in float32, one rounding where the oracle has one. One
program serves one token. Pages that a pass does not name are never touched; the page number
-1 writes nothing, so shared pages and padding rows are safe by construction.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["copy_window", "gated_residual", "layer_norm", "modulate", "rms_norm", "write_kv"]


@triton.jit
def _normal(x, mask, width, eps):  # type: ignore[no-untyped-def]
    """Subtract the mean and divide by the standard deviation of a row."""
    mean = tl.sum(x, 0) / width
    centred = tl.where(mask, x - mean, 0.0)
    variance = tl.sum(centred * centred, 0) / width
    return centred * tl.rsqrt(variance + eps)


@triton.jit
def _modulate(  # type: ignore[no-untyped-def]
    x_ptr,
    shift_ptr,
    scale_ptr,
    out_ptr,
    width,
    eps,
    frame_tokens,
    shift_stride,
    scale_stride,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    frame = token // frame_tokens
    column = tl.arange(0, BLOCK)
    mask = column < width
    x = tl.load(x_ptr + token * width + column, mask=mask, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + frame * shift_stride + column, mask=mask, other=0.0)
    scale = tl.load(scale_ptr + frame * scale_stride + column, mask=mask, other=0.0)
    y = _normal(x, mask, width, eps) * (1 + scale.to(tl.float32)) + shift.to(tl.float32)
    tl.store(out_ptr + token * width + column, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _layer_norm(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, bias_ptr, out_ptr, width, eps, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < width
    x = tl.load(x_ptr + token * width + column, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=mask, other=0.0).to(tl.float32)
    y = _normal(x, mask, width, eps) * weight + bias
    tl.store(out_ptr + token * width + column, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _rms_norm(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, out_ptr, width, eps, x_stride, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < width
    x = tl.load(x_ptr + token * x_stride + column, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, 0) / width + eps) * weight
    tl.store(out_ptr + token * width + column, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gated_residual(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, gate_ptr, out_ptr, width, frame_tokens, gate_stride, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    frame = token // frame_tokens
    column = tl.arange(0, BLOCK)
    mask = column < width
    x = tl.load(x_ptr + token * width + column, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + token * width + column, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + frame * gate_stride + column, mask=mask, other=0.0).to(tl.float32)
    out = x + y * gate
    tl.store(out_ptr + token * width + column, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _rotate(x, cos, sin, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rotate adjacent pairs of a row of ``2 * HALF`` elements."""
    even, odd = tl.split(tl.reshape(x, [HALF, 2]))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), [2 * HALF])


@triton.jit
def _write_kv(  # type: ignore[no-untyped-def]
    q_ptr,
    k_ptr,
    v_ptr,
    q_weight_ptr,
    k_weight_ptr,
    cos_ptr,
    sin_ptr,
    write_ptr,
    q_out_ptr,
    k_pages_ptr,
    v_pages_ptr,
    width,
    half_dim,
    eps,
    page_tokens,
    q_stride,
    k_stride,
    v_stride,
    ROTATE_KEYS: tl.constexpr,
    HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    page = tl.load(write_ptr + token // page_tokens).to(tl.int64)
    column = tl.arange(0, 2 * HALF)
    mask = column < width
    pair = tl.arange(0, HALF)
    angle = token * half_dim + pair % half_dim
    cos = tl.load(cos_ptr + angle)
    sin = tl.load(sin_ptr + angle)
    kind = q_out_ptr.dtype.element_ty

    q = tl.load(q_ptr + token * q_stride + column, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(q_weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
    q = q * tl.rsqrt(tl.sum(q * q, 0) / width + eps) * weight
    q = _rotate(q.to(kind).to(tl.float32), cos, sin, HALF)
    tl.store(q_out_ptr + token * width + column, q.to(kind), mask=mask)
    if page >= 0:
        at = (page * page_tokens + token % page_tokens) * width + column
        k = tl.load(k_ptr + token * k_stride + column, mask=mask, other=0.0).to(tl.float32)
        weight = tl.load(k_weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
        k = k * tl.rsqrt(tl.sum(k * k, 0) / width + eps) * weight
        if ROTATE_KEYS:
            k = _rotate(k.to(kind).to(tl.float32), cos, sin, HALF)
        tl.store(k_pages_ptr + at, k.to(k_pages_ptr.dtype.element_ty), mask=mask)
        v = tl.load(v_ptr + token * v_stride + column, mask=mask, other=0.0)
        tl.store(v_pages_ptr + at, v.to(v_pages_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _copy_window(  # type: ignore[no-untyped-def]
    k_pages_ptr,
    v_pages_ptr,
    table_ptr,
    lengths_ptr,
    cos_ptr,
    sin_ptr,
    k_out_ptr,
    v_out_ptr,
    width,
    half_dim,
    page_tokens,
    slots,
    HALF: tl.constexpr,
):
    inside = tl.program_id(0)
    slot = tl.program_id(1)
    row = tl.program_id(2)
    if slot < tl.load(lengths_ptr + row):
        page = tl.load(table_ptr + row * slots + slot).to(tl.int64)
        token = (row * slots + slot).to(tl.int64) * page_tokens + inside
        column = tl.arange(0, 2 * HALF)
        mask = column < width
        angle = token * half_dim + tl.arange(0, HALF) % half_dim
        cos = tl.load(cos_ptr + angle)
        sin = tl.load(sin_ptr + angle)
        at = (page * page_tokens + inside) * width + column
        k = tl.load(k_pages_ptr + at, mask=mask, other=0.0).to(tl.float32)
        k = _rotate(k, cos, sin, HALF)
        tl.store(k_out_ptr + token * width + column, k.to(k_out_ptr.dtype.element_ty), mask=mask)
        v = tl.load(v_pages_ptr + at, mask=mask, other=0.0)
        tl.store(v_out_ptr + token * width + column, v, mask=mask)


def _warps(block: int) -> int:
    return 4 if block <= 4096 else 8


def _per_frame(values: Tensor, tokens: int) -> tuple[Tensor, int, int]:
    """Return per-frame values ``[B, F, d]`` that one stride reaches, that stride, and hw."""
    rows, frames, _ = values.shape
    if values.stride(2) != 1 or (rows > 1 and values.stride(0) != frames * values.stride(1)):
        values = values.contiguous()
    return values, values.stride(1), tokens // frames


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Equal ``norm.modulate``: ``x [B, T, d]`` contiguous, ``shift, scale [B, F, d]``."""
    x = x.contiguous()
    rows, tokens, width = x.shape
    shift, shift_stride, frame_tokens = _per_frame(shift, tokens)
    scale, scale_stride, _ = _per_frame(scale, tokens)
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _modulate[(rows * tokens,)](
        x, shift, scale, out, width, eps, frame_tokens, shift_stride, scale_stride,
        BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Equal ``norm.layer_norm`` over the last dimension."""
    x = x.contiguous()
    width = x.shape[-1]
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _layer_norm[(x.numel() // width,)](
        x, weight, bias, out, width, eps, BLOCK=block, num_warps=_warps(block)
    )
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Equal ``norm.rms_norm`` over the last dimension."""
    x = x.contiguous()
    width = x.shape[-1]
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _rms_norm[(x.numel() // width,)](
        x, weight, out, width, eps, width, BLOCK=block, num_warps=_warps(block)
    )
    return out


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Equal ``norm.gated_residual``: ``x, y [B, T, d]``, ``gate [B, F, d]``."""
    x, y = x.contiguous(), y.contiguous()
    rows, tokens, width = x.shape
    gate, gate_stride, frame_tokens = _per_frame(gate, tokens)
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _gated_residual[(rows * tokens,)](
        x, y, gate, out, width, frame_tokens, gate_stride, BLOCK=block, num_warps=_warps(block)
    )
    return out


def _token_stride(x: Tensor) -> tuple[Tensor, int]:
    """Return ``x [B, T, d]`` that one stride reaches, so that slices of a fused product pass."""
    if x.stride(2) != 1 or (x.shape[0] > 1 and x.stride(0) != x.shape[1] * x.stride(1)):
        x = x.contiguous()
    return x, x.stride(1)


def write_kv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    write: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    *,
    rotate_keys: bool,
) -> Tensor:
    """Norm and rotate queries and keys and write keys and values to their pages, in one pass.

    Args:
        q: raw queries ``[B, T, d]``.
        k: raw keys, the same.
        v: values, the same.
        q_weight: ``[d]``.
        k_weight: ``[d]``.
        eps: of both norms.
        cos: ``[B, T, D/2]`` float32, contiguous.
        sin: as ``cos``.
        write: ``[B, F]`` int32 pages, contiguous; -1 writes nothing.
        k_pages: ``[P, pt, N, D]`` contiguous.
        v_pages: as ``k_pages``.
        rotate_keys: whether keys are written rotated.

    Returns:
        Rotated queries ``[B, T, N, D]``.
    """
    rows, tokens, width = q.shape
    _, page_tokens, heads, head_dim = k_pages.shape
    assert heads * head_dim == width, f"pages hold {heads}x{head_dim}, queries are {width} wide"
    assert write.shape[1] * page_tokens == tokens, "pages do not hold the tokens of the pass"
    q, q_stride = _token_stride(q)
    k, k_stride = _token_stride(k)
    v, v_stride = _token_stride(v)
    out = torch.empty(rows, tokens, heads, head_dim, dtype=q.dtype, device=q.device)
    block = triton.next_power_of_2(width)
    _write_kv[(rows * tokens,)](
        q, k, v, q_weight, k_weight, cos, sin, write, out, k_pages, v_pages,
        width, head_dim // 2, eps, page_tokens, q_stride, k_stride, v_stride,
        ROTATE_KEYS=rotate_keys, HALF=block // 2, num_warps=_warps(block),
    )  # fmt: skip
    return out


def copy_window(
    k_pages: Tensor, v_pages: Tensor, table: Tensor, lengths: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """Copy windows whose keys are stored unrotated, rotated to their places in the window.

    Args:
        k_pages: ``[P, pt, N, D]`` contiguous.
        v_pages: as ``k_pages``; copied as they are, so that one table serves both.
        table: ``[B, W]`` int32, contiguous.
        lengths: ``[B]`` int32; pages past them are left as they come.
        cos: ``[B, W*pt, D/2]`` float32, contiguous.
        sin: as ``cos``.

    Returns:
        Keys and values ``[B*W, pt, N, D]``: row b's pages are ``b*W … b*W + lengths[b]``.
    """
    _, page_tokens, heads, head_dim = k_pages.shape
    rows, slots = table.shape
    width = heads * head_dim
    k = torch.empty(rows * slots, *k_pages.shape[1:], dtype=k_pages.dtype, device=table.device)
    v = torch.empty_like(k)
    block = triton.next_power_of_2(width)
    _copy_window[(page_tokens, slots, rows)](
        k_pages, v_pages, table, lengths, cos, sin, k, v,
        width, head_dim // 2, page_tokens, slots, HALF=block // 2, num_warps=_warps(block),
    )  # fmt: skip
    return k, v
