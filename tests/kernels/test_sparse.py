"""Attention over the best pages of a window."""

import pytest
import torch

from kernels.paged import PagePlan
from kernels.sparse import SparsePages
from kernels.torch_backend import OracleAttention, RunAttention
from tests.kernels.plans import make_plan

HW, HEADS, HEAD_DIM = 4, 2, 8


def plan_of(reads: list[list[int]], writes: list[list[int]], width: int | None = None) -> PagePlan:
    return make_plan(
        write=writes,
        read=reads,
        query_frames=[list(range(len(row))) for row in writes],
        grid=(2, 2),
        head_dim=HEAD_DIM,
        device=torch.device("cpu"),
        width=width,
    )


def tensors(pages: int = 16, rows: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, pages, HW, HEADS, HEAD_DIM, generator=generator)
    return torch.randn(rows, 2 * HW, HEADS, HEAD_DIM, generator=generator), k, v


@pytest.mark.parametrize("inner", [OracleAttention(), RunAttention()])
def test_pages_with_all_the_weight_are_found(inner: OracleAttention) -> None:
    q, k, v = tensors()
    q[:] = q[:, :1]
    k[:] *= 0.1
    for page in (5, 9):  # keys along the queries: nearly all of the softmax
        k[page] = 8 * q[0, :1]
    plan = plan_of([list(range(1, 13))], [[11, 12]])
    full = inner.paged(q, k, v, plan)
    sparse = SparsePages(inner, keep=2, sink_frames=1).paged(q, k, v, plan)
    expected = inner.paged(q, k, v, plan_of([[1, 5, 9, 11, 12]], [[11, 12]]))
    torch.testing.assert_close(sparse, expected)
    assert (sparse - full).norm() / full.norm() < 0.05


def test_a_window_that_is_small_enough_is_attended_whole() -> None:
    q, k, v = tensors()
    plan = plan_of([[3, 4, 5, 6]], [[5, 6]])
    sparse = SparsePages(OracleAttention(), keep=2, sink_frames=1)
    assert torch.equal(sparse.paged(q, k, v, plan), OracleAttention().paged(q, k, v, plan))


def test_short_rows_of_a_batch_keep_all_their_pages() -> None:
    q, k, v = tensors(rows=2)
    reads, writes = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]], [[2, 3], [10, 11]]
    plan = plan_of(reads, writes)
    sparse = SparsePages(OracleAttention(), keep=2, sink_frames=1).paged(q, k, v, plan)
    alone = OracleAttention().paged(q[:1], k, v, plan_of(reads[:1], writes[:1]))
    torch.testing.assert_close(sparse[:1], alone)


def test_own_pages_and_sink_are_kept_whatever_their_score() -> None:
    q, k, _ = tensors()
    q[:] = q[:, :1].abs()
    k[:] = k.abs()
    for page in (1, 11, 12):
        k[page] = -k[page]
    plan = plan_of([list(range(1, 13))], [[11, 12]])
    narrowed = SparsePages(OracleAttention(), keep=2, sink_frames=1)._narrowed(q, k, plan, 5)
    assert {1, 11, 12} <= set(narrowed.table[0].tolist())
    assert narrowed.lengths.tolist() == [5]


def test_unrotated_keys_are_scored_and_attended_at_their_places() -> None:
    q, k, v = tensors()
    read = list(range(1, 13))
    plan = make_plan(
        write=[[11, 12]], read=[read], query_frames=[[10, 11]], grid=(2, 2), head_dim=HEAD_DIM,
        device=torch.device("cpu"), key_frames=[list(range(12))],
    )  # fmt: skip
    sparse = SparsePages(RunAttention(), keep=2, sink_frames=1)
    chosen = sparse._narrowed(q, k, plan, 5).table[0].tolist()
    small = make_plan(
        write=[[11, 12]], read=[chosen], query_frames=[[10, 11]], grid=(2, 2), head_dim=HEAD_DIM,
        device=torch.device("cpu"), key_frames=[[page - 1 for page in chosen]],
    )  # fmt: skip
    expected = OracleAttention().paged(q, k, v, small)
    torch.testing.assert_close(sparse.paged(q, k, v, plan), expected)


def test_the_name_says_that_it_is_an_approximation() -> None:
    assert SparsePages(RunAttention(), 3, 1).name == "sdpa, best 3 pages"


def test_a_sink_whose_pages_were_copied_behind_the_others_is_still_kept() -> None:
    q, k, _ = tensors()
    q[:] = q[:, :1].abs()
    k[:] = k.abs()
    k[13] = -k[13]  # the sink's page scores worst of all, and has the highest number
    plan = plan_of([[13, *range(1, 12)]], [[10, 11]])
    narrowed = SparsePages(OracleAttention(), keep=2, sink_frames=1)._narrowed(q, k, plan, 5)
    assert {13, 10, 11} <= set(narrowed.table[0].tolist())
    assert 0 in narrowed.frames[0].tolist()
