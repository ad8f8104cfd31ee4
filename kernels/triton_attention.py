"""Softmax attention over pages of keys, in Triton.

One program takes a block of queries of one head and walks over the keys of its row with a
running maximum and sum, as in FlashAttention (Dao et al. 2022, arXiv:2205.14135). Everything
that changes from chunk to chunk (page table, number of pages, score bias) is read from device
tensors, so one captured graph serves every window. A page need not be a power of two tokens:
keys are counted through the whole window and a block of keys may begin in one page and end in
the next. When the queries do not fill the device's last wave the keys are split and the parts
merged by their log-sum-exp. The kernel knows nothing of rotation: keys lie as they are used.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention_tiles import AttentionTiles
from kernels.triton_merge import merge_parts

__all__ = ["paged_attention"]

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
FP8_SHIFT = tl.constexpr(8.0)
"""Powers of two by which weights are raised: at most 256, so that e4m3 keeps more of the small ones."""


@triton.jit
def _page_of(table_ptr, index, length):  # type: ignore[no-untyped-def]
    return tl.load(table_ptr + tl.minimum(index, length - 1)).to(tl.int64)


@triton.jit
def _load_keys(  # type: ignore[no-untyped-def]
    k_ptr,
    v_ptr,
    table_ptr,
    bias_ptr,
    start,
    first_token,
    keys,
    length,
    page_tokens,
    token_stride,
    head_offset,
    column,
    value_row,
    value_stride,
    CONTIGUOUS: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    SMALL_PAGES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EIGHT: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Load keys ``start … start + BLOCK_N`` of a row: ``k, v [BLOCK_N, D]`` and their bias."""
    offset = tl.arange(0, BLOCK_N)
    position = start + offset
    bias = tl.zeros([BLOCK_N], tl.float32)
    if SMALL_PAGES or HAS_BIAS:
        page_index = tl.minimum(position // page_tokens, length - 1)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + page_index) * LOG2_E
    if DESCRIPTOR:
        at = (first_token + start).to(tl.int32)
        k = k_ptr.load([at, head_offset])
        if EIGHT:
            v = tl.trans(v_ptr.load([value_row.to(tl.int32), start]))
        else:
            v = v_ptr.load([at, head_offset])
        if MASKED:  # what lies behind the keys may be no number, which no weight makes nothing
            v = tl.where((position < keys)[:, None], v, 0.0)
    else:
        if CONTIGUOUS:
            token = first_token + position
        elif SMALL_PAGES:
            page = tl.load(table_ptr + page_index).to(tl.int64)
            token = page * page_tokens + position % page_tokens
        else:
            page_at = start // page_tokens
            inside = start - page_at * page_tokens + offset
            here = _page_of(table_ptr, page_at, length) * page_tokens
            there = _page_of(table_ptr, page_at + 1, length) * page_tokens - page_tokens
            token = tl.where(inside < page_tokens, here, there) + inside
        at = token[:, None] * token_stride + head_offset + column[None, :]
        value_at = at
        if EIGHT:
            value_at = (value_row + column[None, :]) * value_stride + position[:, None]
        if MASKED:
            seen = (position < keys)[:, None]
            k = tl.load(k_ptr + at, mask=seen, other=0.0)
            v = tl.load(v_ptr + value_at, mask=seen, other=0.0)
        else:
            k = tl.load(k_ptr + at)
            v = tl.load(v_ptr + value_at)
    return k, v, bias


@triton.jit
def _step(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    bias,
    acc,
    total,
    top,
    position,
    keys,
    score_scale,
    HAS_BIAS: tl.constexpr,
    EIGHT: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Take one block of keys into the running sums; ``top`` is a power of two.

    Scores are scaled where their top is subtracted, which is one instruction for both.
    """
    if WIDE:
        q, k, v = q.to(tl.float32), k.to(tl.float32), v.to(tl.float32)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if HAS_BIAS:
        scores += (bias / score_scale)[None, :]
    if MASKED:
        scores = tl.where((position < keys)[None, :], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1) * score_scale)
    if EIGHT:
        weights = tl.exp2(scores * score_scale - (new_top - FP8_SHIFT)[:, None])
    else:
        weights = tl.exp2(scores * score_scale - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(weights, 1)
    acc = acc * shrink[:, None]
    acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, total, new_top


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    table_ptr,
    length_ptr,
    bias_ptr,
    score_scale,
    queries,
    page_tokens,
    width,
    q_row,
    q_token,
    q_head,
    kv_token,
    kv_head,
    out_part,
    out_row,
    out_token,
    out_head,
    lse_part,
    value_stride,
    HAS_BIAS: tl.constexpr,
    EIGHT: tl.constexpr,
    CONTIGUOUS: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    SMALL_PAGES: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    STAGES: tl.constexpr,
):
    head = tl.program_id(1)
    row = tl.program_id(2) // SPLITS
    part = tl.program_id(2) % SPLITS
    table_ptr += row * width
    if HAS_BIAS:
        bias_ptr += row * width
    length = tl.load(length_ptr + row)
    keys = length * page_tokens
    blocks = tl.cdiv(keys, BLOCK_N)
    share = tl.cdiv(blocks, SPLITS)
    first_block = tl.minimum(part * share, blocks)
    last_block = tl.minimum(first_block + share, blocks)
    full_blocks = tl.minimum(last_block, keys // BLOCK_N)
    first_token = tl.load(table_ptr).to(tl.int64) * page_tokens

    query = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.arange(0, HEAD_DIM)
    alive = query < queries
    q_at = row.to(tl.int64) * q_row + head * q_head
    q = tl.load(
        q_ptr + q_at + query[:, None] * q_token + column[None, :], mask=alive[:, None], other=0.0
    )
    if EIGHT and not WIDE:
        q = q.to(tl.float8e4nv)
    head_offset = head * kv_head
    value_row = (row * tl.num_programs(1) + head).to(tl.int64) * HEAD_DIM
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for block in tl.range(first_block, full_blocks, num_stages=STAGES):
        start = block * BLOCK_N
        k, v, bias = _load_keys(
            k_ptr, v_ptr, table_ptr, bias_ptr, start, first_token, keys, length, page_tokens,
            kv_token, head_offset, column, value_row, value_stride, CONTIGUOUS, DESCRIPTOR,
            SMALL_PAGES, HAS_BIAS, EIGHT, False, BLOCK_N,
        )  # fmt: skip
        acc, total, top = _step(
            q, k, v, bias, acc, total, top, 0, keys, score_scale, HAS_BIAS, EIGHT, False, PRECISION,
            WIDE,
        )  # fmt: skip
    # At most one block, so stages of it would only take shared memory.
    for block in tl.range(tl.maximum(full_blocks, first_block), last_block, num_stages=1):
        start = block * BLOCK_N
        k, v, bias = _load_keys(
            k_ptr, v_ptr, table_ptr, bias_ptr, start, first_token, keys, length, page_tokens,
            kv_token, head_offset, column, value_row, value_stride, CONTIGUOUS, DESCRIPTOR,
            SMALL_PAGES, HAS_BIAS, EIGHT, True, BLOCK_N,
        )  # fmt: skip
        position = start + tl.arange(0, BLOCK_N)
        acc, total, top = _step(
            q, k, v, bias, acc, total, top, position, keys, score_scale, HAS_BIAS, EIGHT, True,
            PRECISION, WIDE,
        )  # fmt: skip
    sums = tl.where(total == 0, 1.0, total)
    acc = acc / sums[:, None]
    out_at = part.to(tl.int64) * out_part + row.to(tl.int64) * out_row + head * out_head
    tl.store(
        out_ptr + out_at + query[:, None] * out_token + column[None, :],
        acc.to(out_ptr.dtype.element_ty),
        mask=alive[:, None],
    )
    if EIGHT:
        top -= FP8_SHIFT
    lse = tl.where(total == 0, float("-inf"), (top + tl.log2(sums)) * LN_2)
    lse_at = part * lse_part + (row * tl.num_programs(1) + head) * queries
    tl.store(lse_ptr + lse_at + query, lse, mask=alive)


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    table: Tensor,
    lengths: Tensor,
    *,
    bias: Tensor | None = None,
    contiguous: bool = False,
    tiles: AttentionTiles,
) -> tuple[Tensor, Tensor]:
    """Attend from ``q [B, T, N, D]`` over the pages of each row.

    Args:
        q: queries, last dimension contiguous.
        k_pages: ``[P, pt, N, D]`` contiguous.
        v_pages: as ``k_pages``; where those are e4m3, ``[B, N, D, S]`` of the same dtype, tokens
            last as the tensor cores take them. Queries and weights are then rounded to e4m3 too.
        table: ``[B, W]`` int32 page numbers, contiguous.
        lengths: ``[B]`` int32: pages attended; a row of none gives zeros.
        bias: ``[B, W]`` float32 added to the scores of a page, or None.
        contiguous: the pages of every row follow ``table[:, 0]`` in ascending order; the rest of
            the table is then not read.
        tiles: how to cut the work. ``tiles.descriptor`` needs ``contiguous`` and a Hopper GPU.

    Returns:
        ``[B, T, N, D]`` in the dtype of ``q`` and the log-sum-exp ``[B, N, T]`` float32.
    """
    rows, queries, heads, head_dim = q.shape
    page_tokens = k_pages.shape[1]
    assert k_pages.is_contiguous(), "pages must be contiguous"
    assert v_pages.is_contiguous(), "pages must be contiguous"
    eight = k_pages.dtype == torch.float8_e4m3fn
    assert contiguous or not eight, "FP8 keys are a window's copy, which is one stretch"
    assert q.stride(3) == 1, "heads must be contiguous"
    assert contiguous or not tiles.descriptor, "descriptors need pages in one stretch"
    parts = torch.empty(tiles.splits, *q.shape, dtype=q.dtype, device=q.device)
    lses = torch.empty(tiles.splits, rows, heads, queries, dtype=torch.float32, device=q.device)
    keys, values = k_pages, v_pages
    if tiles.descriptor:
        from triton.tools.tensor_descriptor import TensorDescriptor

        block = [tiles.keys, head_dim]
        keys = TensorDescriptor.from_tensor(k_pages.view(-1, heads * head_dim), block)
        if eight:
            turned = v_pages.view(-1, v_pages.shape[-1])
            values = TensorDescriptor.from_tensor(turned, block[::-1])
        else:
            values = TensorDescriptor.from_tensor(v_pages.view(-1, heads * head_dim), block)
    _attend[(triton.cdiv(queries, tiles.queries), heads, rows * tiles.splits)](
        q, keys, values, parts, lses, table, lengths, bias,
        LOG2_E.value / math.sqrt(head_dim), queries, page_tokens, table.shape[1],
        q.stride(0), q.stride(1), q.stride(2), heads * head_dim, head_dim,
        parts.stride(0), parts.stride(1), parts.stride(2), parts.stride(3), lses.stride(0),
        v_pages.shape[-1],
        HAS_BIAS=bias is not None, EIGHT=eight, CONTIGUOUS=contiguous, DESCRIPTOR=tiles.descriptor,
        SMALL_PAGES=page_tokens < tiles.keys, SPLITS=tiles.splits,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        # Triton's interpreter has no half-precision products.
        WIDE=q.device.type == "cpu",
        BLOCK_M=tiles.queries, BLOCK_N=tiles.keys, HEAD_DIM=head_dim, STAGES=tiles.stages,
        num_warps=tiles.warps,
    )  # fmt: skip
    if tiles.splits == 1:
        return parts[0], lses[0]
    return merge_parts(parts, lses)
