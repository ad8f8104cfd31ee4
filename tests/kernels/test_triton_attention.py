"""Triton attention over pages equals softmax attention over their tokens."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention import reference
from kernels.attention_tiles import AttentionTiles
from tests.kernels.triton_modules import DEVICE, load

triton_attention: Any = load("triton_attention")

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def dense(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    pages: list[int],
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one row and its log-sum-exp, in float64."""
    k, v = k_pages[pages].flatten(0, 1)[None], v_pages[pages].flatten(0, 1)[None]
    spread = None
    if bias is not None:
        spread = bias[: len(pages)].repeat_interleave(k_pages.shape[1])
    scores = torch.einsum("btnd,bsnd->bnts", q.double(), k.double()) / q.shape[-1] ** 0.5
    if spread is not None:
        scores = scores + spread.double()
    return reference(q, k, v, key_bias=spread), scores.logsumexp(-1)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    reads=st.lists(
        st.lists(st.integers(0, 8), min_size=1, max_size=4, unique=True), min_size=1, max_size=2
    ),
    stretch=st.booleans(),
    page_tokens=st.sampled_from((3, 6, 24, 40)),
    queries=st.integers(1, 40),
    heads=st.integers(1, 2),
    head_dim=st.sampled_from((16, 64)),
    biased=st.booleans(),
    splits=st.integers(1, 3),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
    seed=st.integers(0, 99),
)
def test_every_page_table_gives_attention_over_its_tokens(
    reads: list[list[int]],
    stretch: bool,
    page_tokens: int,
    queries: int,
    heads: int,
    head_dim: int,
    biased: bool,
    splits: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    if stretch:
        reads = [[min(row[0], 4) + i for i in range(len(row))] for row in reads]
    rows, width = len(reads), max(map(len, reads)) + 1
    table = torch.full((rows, width), 10_000, dtype=torch.int32)  # past the length: never read
    for row, pages in enumerate(reads):
        table[row, : len(pages)] = torch.tensor(pages)
    lengths = torch.tensor([len(pages) for pages in reads], dtype=torch.int32, device=DEVICE)
    k_pages = draw(seed, 9, page_tokens, heads, head_dim, dtype=dtype)
    v_pages = draw(seed + 1, 9, page_tokens, heads, head_dim, dtype=dtype)
    q = draw(seed + 2, rows, queries, heads, head_dim, dtype=dtype)
    bias = draw(seed + 3, rows, width) if biased else None
    out, lse = triton_attention.paged_attention(
        q, k_pages, v_pages, table.to(DEVICE), lengths, bias=bias, contiguous=stretch,
        tiles=AttentionTiles(16, 16, 4, 2, splits),
    )  # fmt: skip
    for row, pages in enumerate(reads):
        row_bias = None if bias is None else bias[row]
        want, want_lse = dense(q[row : row + 1], k_pages, v_pages, pages, row_bias)
        error = (out[row : row + 1].double() - want).abs().max().item()
        assert error < TOLERANCE[dtype], error
        error = (lse[row : row + 1].double() - want_lse).abs().max().item()
        assert error < TOLERANCE[dtype], error


@pytest.mark.parametrize("splits", [1, 2])
def test_a_row_without_pages_gives_zeros(splits: int) -> None:
    pages = draw(0, 2, 6, 1, 16)
    out, lse = triton_attention.paged_attention(
        draw(1, 2, 5, 1, 16), pages, pages,
        torch.tensor([[0], [1]], dtype=torch.int32, device=DEVICE),
        torch.tensor([0, 1], dtype=torch.int32, device=DEVICE),
        tiles=AttentionTiles(16, 16, 4, 2, splits),
    )  # fmt: skip
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    assert torch.isneginf(lse[0]).all()
    assert torch.isfinite(lse[1]).all()


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("descriptor", [False, True])
def test_what_lies_behind_a_row_does_not_matter(descriptor: bool, splits: int) -> None:
    pages = torch.full((2, 9, 10, 2, 16), float("nan"), device=DEVICE)  # as memory may come
    pages[:, 2:4] = draw(0, 2, 2, 10, 2, 16)
    q = draw(1, 1, 7, 2, 16)
    out, _ = triton_attention.paged_attention(
        q, pages[0], pages[1],
        torch.tensor([[2, 0, 0]], dtype=torch.int32, device=DEVICE),
        torch.tensor([2], dtype=torch.int32, device=DEVICE),
        contiguous=True,
        tiles=AttentionTiles(16, 16, 4, 2, splits, descriptor),
    )  # fmt: skip
    want, _ = dense(q, pages[0], pages[1], [2, 3], None)
    torch.testing.assert_close(out, want.float(), atol=1e-5, rtol=1e-5)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 3), min_size=1, max_size=2),
    page_tokens=st.sampled_from((3, 16, 20)),
    queries=st.integers(1, 20),
    heads=st.integers(1, 2),
    biased=st.booleans(),
    splits=st.integers(1, 2),
    descriptor=st.booleans(),
    seed=st.integers(0, 99),
)
def test_keys_in_fp8_are_attended_to_with_their_values_turned(
    lengths: list[int],
    page_tokens: int,
    queries: int,
    heads: int,
    biased: bool,
    splits: int,
    descriptor: bool,
    seed: int,
) -> None:
    rows, width, head_dim = len(lengths), 3, 32
    kind = torch.float8_e4m3fn
    k, v = (draw(seed + i, rows * width, page_tokens, heads, head_dim).to(kind) for i in (0, 1))
    q = draw(seed + 2, rows, queries, heads, head_dim).to(kind).to(torch.bfloat16)
    turned = torch.full((rows, heads, head_dim, 64), float("nan"), device=DEVICE).to(kind)
    turned[..., : width * page_tokens] = v.view(rows, -1, heads, head_dim).permute(0, 2, 3, 1)
    table = torch.arange(rows * width, dtype=torch.int32, device=DEVICE).view(rows, width)
    bias = draw(seed + 3, rows, width) if biased else None
    out, lse = triton_attention.paged_attention(
        q, k, turned, table, torch.tensor(lengths, dtype=torch.int32, device=DEVICE), bias=bias,
        contiguous=True, tiles=AttentionTiles(16, 32, 4, 2, splits, descriptor),
    )  # fmt: skip
    # Compiled, the weights are rounded to e4m3 too; the interpreter leaves them as they are.
    tolerance = 2e-2 if DEVICE.type == "cpu" else 0.3
    for row, pages in enumerate(table.tolist()):
        if not lengths[row]:
            assert not out[row].any()
            continue
        row_bias = None if bias is None else bias[row]
        some = pages[: lengths[row]]
        want, want_lse = dense(q[row : row + 1], k.float(), v.float(), some, row_bias)
        assert (out[row : row + 1].double() - want).abs().max().item() < tolerance
        assert (lse[row : row + 1].double() - want_lse).abs().max().item() < 1e-3
