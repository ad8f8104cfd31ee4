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

__all__ = ["merge_parts", "paged_attention"]

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


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
    CONTIGUOUS: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    SMALL_PAGES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
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
        if MASKED:
            seen = (position < keys)[:, None]
            k = tl.load(k_ptr + at, mask=seen, other=0.0)
            v = tl.load(v_ptr + at, mask=seen, other=0.0)
        else:
            k = tl.load(k_ptr + at)
            v = tl.load(v_ptr + at)
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
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Take one block of keys into the running sums; scores are in powers of two."""
    if WIDE:
        q, k, v = q.to(tl.float32), k.to(tl.float32), v.to(tl.float32)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * score_scale
    if HAS_BIAS:
        scores += bias[None, :]
    if MASKED:
        scores = tl.where((position < keys)[None, :], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - new_top[:, None])
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
    HAS_BIAS: tl.constexpr,
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
    head_offset = head * kv_head
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for block in tl.range(first_block, full_blocks, num_stages=STAGES):
        start = block * BLOCK_N
        k, v, bias = _load_keys(
            k_ptr, v_ptr, table_ptr, bias_ptr, start, first_token, keys, length, page_tokens,
            kv_token, head_offset, column, CONTIGUOUS, DESCRIPTOR, SMALL_PAGES, HAS_BIAS, False,
            BLOCK_N,
        )  # fmt: skip
        acc, total, top = _step(
            q, k, v, bias, acc, total, top, 0, keys, score_scale, HAS_BIAS, False, PRECISION,
            WIDE,
        )  # fmt: skip
    # At most one block, so stages of it would only take shared memory.
    for block in tl.range(tl.maximum(full_blocks, first_block), last_block, num_stages=1):
        start = block * BLOCK_N
        k, v, bias = _load_keys(
            k_ptr, v_ptr, table_ptr, bias_ptr, start, first_token, keys, length, page_tokens,
            kv_token, head_offset, column, CONTIGUOUS, DESCRIPTOR, SMALL_PAGES, HAS_BIAS, True,
            BLOCK_N,
        )  # fmt: skip
        position = start + tl.arange(0, BLOCK_N)
        acc, total, top = _step(
            q, k, v, bias, acc, total, top, position, keys, score_scale, HAS_BIAS, True, PRECISION,
            WIDE,
        )  # fmt: skip
    sums = tl.where(total == 0, 1.0, total)
    acc = acc / sums[:, None]
    out_at = part.to(tl.int64) * out_part + row.to(tl.int64) * out_row + head * out_head
    tl.store(
        out_ptr + out_at + query[:, None] * out_token + column[None, :],
        acc.to(out_ptr.dtype.element_ty),
        mask=alive[:, None],
    )
    lse = tl.where(total == 0, float("-inf"), (top + tl.log2(sums)) * LN_2)
    lse_at = part * lse_part + (row * tl.num_programs(1) + head) * queries
    tl.store(lse_ptr + lse_at + query, lse, mask=alive)


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
        v_pages: as ``k_pages``.
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
    assert q.stride(3) == 1, "heads must be contiguous"
    assert contiguous or not tiles.descriptor, "descriptors need pages in one stretch"
    parts = torch.empty(tiles.splits, *q.shape, dtype=q.dtype, device=q.device)
    lses = torch.empty(tiles.splits, rows, heads, queries, dtype=torch.float32, device=q.device)
    keys, values = k_pages, v_pages
    if tiles.descriptor:
        from triton.tools.tensor_descriptor import TensorDescriptor

        block = [tiles.keys, head_dim]
        keys = TensorDescriptor.from_tensor(k_pages.view(-1, heads * head_dim), block)
        values = TensorDescriptor.from_tensor(v_pages.view(-1, heads * head_dim), block)
    _attend[(triton.cdiv(queries, tiles.queries), heads, rows * tiles.splits)](
        q, keys, values, parts, lses, table, lengths, bias,
        LOG2_E.value / math.sqrt(head_dim), queries, page_tokens, table.shape[1],
        q.stride(0), q.stride(1), q.stride(2), heads * head_dim, head_dim,
        parts.stride(0), parts.stride(1), parts.stride(2), parts.stride(3), lses.stride(0),
        HAS_BIAS=bias is not None, CONTIGUOUS=contiguous, DESCRIPTOR=tiles.descriptor,
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
