"""Attention over disjoint sets of keys, merged into attention over all of them, in Triton.

Each part is normalised over its own keys, and its log-sum-exp says how much it weighs. Knows
nothing of pages.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["merge_parts"]


@triton.jit
def _merge(  # type: ignore[no-untyped-def]
    parts_ptr,
    lses_ptr,
    out_ptr,
    lse_ptr,
    queries,
    heads,
    parts_stride,
    lses_stride,
    PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    """Weigh the parts of ``[PARTS, B, T, N, D]`` by their log-sum-exp ``[PARTS, B, N, T]``."""
    head = tl.program_id(1)
    row = tl.program_id(2)
    query = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    alive = query < queries
    column = tl.arange(0, HEAD_DIM)
    lse_at = (row * heads + head) * queries + query
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for part in tl.static_range(PARTS):
        lse = tl.load(lses_ptr + part * lses_stride + lse_at, mask=alive, other=float("-inf"))
        top = tl.maximum(top, lse)
    safe = tl.where(top == float("-inf"), 0.0, top)
    at = ((row * queries + query) * heads + head).to(tl.int64)[:, None] * HEAD_DIM + column[None, :]
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for part in tl.static_range(PARTS):
        lse = tl.load(lses_ptr + part * lses_stride + lse_at, mask=alive, other=float("-inf"))
        weight = tl.exp(lse - safe)
        x = tl.load(parts_ptr + part * parts_stride + at, mask=alive[:, None], other=0.0)
        acc += weight[:, None] * x.to(tl.float32)
        total += weight
    sums = tl.where(total == 0, 1.0, total)
    acc = acc / sums[:, None]
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=alive[:, None])
    lse = tl.where(total == 0, float("-inf"), safe + tl.log(sums))
    tl.store(lse_ptr + lse_at, lse, mask=alive)


def merge_parts(parts: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """Merge attention over disjoint sets of keys.

    Args:
        parts: ``[K, B, T, N, D]`` contiguous, each normalised over its own keys.
        lses: ``[K, B, N, T]`` float32, natural log of each part's sum of exponentials.

    Returns:
        ``[B, T, N, D]`` in the dtype of ``parts`` and the log-sum-exp ``[B, N, T]`` over all.
    """
    assert parts.is_contiguous(), "parts must be contiguous"
    assert lses.is_contiguous(), "log-sum-exps must be contiguous"
    count, rows, queries, heads, head_dim = parts.shape
    out, lse = torch.empty_like(parts[0]), torch.empty_like(lses[0])
    block = 16 if parts.device.type == "cpu" else 32
    _merge[(triton.cdiv(queries, block), heads, rows)](
        parts, lses, out, lse, queries, heads, parts.stride(0), lses.stride(0),
        PARTS=count, BLOCK_M=block, HEAD_DIM=head_dim,
    )  # fmt: skip
    return out, lse
