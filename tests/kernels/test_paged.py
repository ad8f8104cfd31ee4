"""Plans of pages and the torch backend over them."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention import reference
from kernels.norm import rms_norm
from kernels.paged import NO_PAGE, PagePlan, PageRun, page_runs
from kernels.rope import rotate
from kernels.torch_backend import OracleAttention, RunAttention, TorchKernels
from tests.kernels.plans import make_plan

CPU = torch.device("cpu")
GRID = (2, 3)
HW = 6
HEADS, HEAD_DIM = 2, 12


class Norm(NamedTuple):
    q_weight: torch.Tensor
    k_weight: torch.Tensor
    eps: float = 1e-6


def norms(seed: int = 0) -> Norm:
    generator = torch.Generator().manual_seed(seed)
    width = HEADS * HEAD_DIM
    return Norm(
        1 + 0.1 * torch.randn(width, generator=generator),
        1 + 0.1 * torch.randn(width, generator=generator),
    )


def plan_of(rows: int = 1, **overrides: object) -> PagePlan:
    values: dict[str, object] = {
        "write": [(3, 4)] * rows,
        "read": [(1, 2, 3, 4)] * rows,
        "query_frames": [(7, 8)] * rows,
        "grid": GRID,
        "head_dim": HEAD_DIM,
        "device": CPU,
    }
    return make_plan(**{**values, **overrides})  # type: ignore[arg-type]


def pools(pages: int = 12, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (pages, HW, HEADS, HEAD_DIM)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def test_neighbouring_pages_become_one_run() -> None:
    assert page_runs((4, 5, 6, 9)) == (PageRun(4, 3), PageRun(9, 1))


def test_a_change_of_bias_ends_a_run() -> None:
    runs = page_runs((4, 5, 6), (0.0, -1.0, -1.0))
    assert runs == (PageRun(4, 1), PageRun(5, 2, -1.0))


def test_a_ring_that_fills_a_stretch_is_one_run_whatever_its_first_page() -> None:
    plan = plan_of(read=[(1, 2, 6, 7, 3, 4, 5)])
    assert plan.runs == ((PageRun(1, 7),),)
    assert plan.contiguous


def test_pages_that_lie_apart_are_not_one_stretch() -> None:
    plan = plan_of(rows=2, read=[(1, 2, 3, 4), (1, 3, 4)])
    assert plan.runs[1] == (PageRun(1, 1), PageRun(3, 2))
    assert not plan.contiguous


def test_rows_of_different_length_share_a_table() -> None:
    plan = plan_of(rows=2, read=[(5,), (7, 8, 9)])
    assert plan.table.tolist() == [[5, 0, 0], [7, 8, 9]]
    assert plan.lengths.tolist() == [1, 3]


@pytest.mark.parametrize("stored_rotated", [True, False])
def test_written_pages_hold_normed_keys_and_raw_values(stored_rotated: bool) -> None:
    k_pages, v_pages = pools()
    norm = norms()
    q, k, v = (torch.randn(1, 2 * HW, HEADS * HEAD_DIM) for _ in range(3))
    plan = plan_of(key_frames=None if stored_rotated else [(0, 1, 2, 3)])
    out = TorchKernels().write_kv(q, k, v, norm, plan, k_pages, v_pages)
    heads = (HEADS, HEAD_DIM)
    keys = rms_norm(k, norm.k_weight, norm.eps).unflatten(-1, heads)
    if stored_rotated:
        keys = rotate(keys, plan.cos, plan.sin)
    queries = rotate(rms_norm(q, norm.q_weight, norm.eps).unflatten(-1, heads), plan.cos, plan.sin)
    assert torch.equal(out, queries)
    assert torch.equal(k_pages[3:5].flatten(0, 1), keys[0])
    assert torch.equal(v_pages[3:5].flatten(0, 1), v[0].unflatten(-1, heads))


def test_no_page_writes_nothing_and_other_pages_stay() -> None:
    k_pages, v_pages = pools()
    before = k_pages.clone(), v_pages.clone()
    q = torch.randn(1, 2 * HW, HEADS * HEAD_DIM)
    plan = plan_of(write=[(NO_PAGE, 4)])
    TorchKernels().write_kv(q, q, q, norms(), plan, k_pages, v_pages)
    kept = [page for page in range(12) if page != 4]
    assert torch.equal(k_pages[kept], before[0][kept])
    assert torch.equal(v_pages[kept], before[1][kept])
    assert not torch.equal(k_pages[4], before[0][4])


@settings(max_examples=25, deadline=None)
@given(
    reads=st.lists(
        st.lists(st.integers(0, 11), min_size=1, max_size=6, unique=True), min_size=1, max_size=3
    ),
    unrotated=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_attention_over_pages_is_attention_over_their_tokens(
    reads: list[list[int]], unrotated: bool, biased: bool, seed: int
) -> None:
    k_pages, v_pages = pools(seed=seed)
    rows = len(reads)
    plan = plan_of(
        rows,
        read=reads,
        key_frames=[list(range(len(pages))) for pages in reads] if unrotated else None,
        key_bias=[[-0.3 * (i % 3) for i in range(len(pages))] for pages in reads]
        if biased
        else None,
    )
    q = torch.randn(rows, 2 * HW, HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(seed))
    for attend in (OracleAttention(), RunAttention()):
        out = attend.paged(q, k_pages, v_pages, plan)
        for row in range(rows):
            pages = plan.table[row, : plan.lengths[row]].long()
            k, v = k_pages[pages].flatten(0, 1)[None], v_pages[pages].flatten(0, 1)[None]
            if plan.key_cos is not None and plan.key_sin is not None:
                k = rotate(k, plan.key_cos[row, : k.shape[1]], plan.key_sin[row, : k.shape[1]])
            bias = None
            if plan.bias is not None:
                bias = plan.bias[row, : len(pages)].repeat_interleave(HW)
            expected = reference(q[row : row + 1], k, v, key_bias=bias).float()
            torch.testing.assert_close(out[row : row + 1], expected, atol=2e-6, rtol=1e-5)


def test_one_run_is_read_in_place() -> None:
    k_pages, v_pages = pools()
    seen: list[int] = []

    class Watching(RunAttention):
        def dense(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            seen.append(k.untyped_storage().data_ptr())
            return super().dense(q, k, v)

    q = torch.randn(1, 2 * HW, HEADS, HEAD_DIM)
    Watching().paged(q, k_pages, v_pages, plan_of(read=[(2, 1, 4, 3)]))
    assert seen == [k_pages.untyped_storage().data_ptr()]
