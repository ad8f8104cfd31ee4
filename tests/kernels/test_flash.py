"""flash-attn over page runs, against a stand-in with its documented meaning."""

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.backend import OracleAttention
from kernels.flash import FlashAttention, merge
from kernels.paged import PagePlan, make_plan

HW, HEADS, HEAD_DIM = 4, 2, 8


def varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What flash-attn computes: sequence i's queries over sequence i's keys."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert len(cu_seqlens_q) == len(cu_seqlens_k)
    out = torch.full_like(q, float("nan"))
    lse = torch.full((q.shape[1], q.shape[0]), float("nan"))
    for i in range(len(cu_seqlens_q) - 1):
        a, b = int(cu_seqlens_q[i]), int(cu_seqlens_q[i + 1])
        c, d = int(cu_seqlens_k[i]), int(cu_seqlens_k[i + 1])
        assert b - a <= max_seqlen_q
        assert d - c <= max_seqlen_k
        if a == b:
            continue
        scores = torch.einsum("tnd,snd->nts", q[a:b], k[c:d]) / HEAD_DIM**0.5
        out[a:b] = torch.einsum("nts,snd->tnd", scores.softmax(-1), v[c:d])
        lse[:, a:b] = scores.logsumexp(-1)
    return out, lse


class Flash2(ModuleType):
    """Returns log-sum-exps only when asked, among three results."""

    @staticmethod
    def flash_attn_varlen_func(*tensors: Any, return_attn_probs: bool = False, **rest: Any) -> Any:
        out, lse = varlen(*tensors, **rest)
        return (out, lse, None) if return_attn_probs else out


class EarlyFlash3(ModuleType):
    """Has no such option and always returns two results."""

    @staticmethod
    def flash_attn_varlen_func(*tensors: Any, **rest: Any) -> Any:
        return varlen(*tensors, **rest)


INSTALLED = [FlashAttention(Flash2("flash_attn"), 2), FlashAttention(EarlyFlash3("flash3"), 3)]


def plan_of(reads: list[list[int]], biased: bool, unrotated: bool) -> PagePlan:
    return make_plan(
        write=[[0]] * len(reads),
        read=reads,
        query_frames=[[3]] * len(reads),
        grid=(2, 2),
        head_dim=HEAD_DIM,
        device=torch.device("cpu"),
        key_frames=[list(range(len(row))) for row in reads] if unrotated else None,
        key_bias=[[-0.4 * (i % 2) for i in range(len(row))] for row in reads] if biased else None,
    )


@pytest.mark.parametrize("flash", INSTALLED, ids=["FA2", "FA3"])
@settings(max_examples=40, deadline=None)
@given(
    starts=st.lists(st.integers(0, 8), min_size=1, max_size=3),
    lengths=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    scattered=st.booleans(),
    biased=st.booleans(),
    unrotated=st.booleans(),
)
def test_any_rows_of_pages_equal_the_oracle(
    flash: FlashAttention,
    starts: list[int],
    lengths: list[int],
    scattered: bool,
    biased: bool,
    unrotated: bool,
) -> None:
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 12, HW, HEADS, HEAD_DIM, generator=generator)
    step = 5 if scattered else 1
    reads = [
        [(start + step * i) % 12 for i in range(n)]
        for start, n in zip(starts, lengths, strict=False)
    ]
    plan = plan_of(reads, biased, unrotated)
    q = torch.randn(len(reads), 6, HEADS, HEAD_DIM, generator=generator)
    expected = OracleAttention().paged(q, k, v, plan)
    torch.testing.assert_close(flash.paged(q, k, v, plan), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flash", INSTALLED, ids=["FA2", "FA3"])
def test_rows_in_single_runs_take_one_call_and_no_copy(
    flash: FlashAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    attend = type(flash._version).attend

    def watch(version: Any, q: torch.Tensor, k: torch.Tensor, *rest: Any) -> Any:
        calls.append((k.data_ptr(), len(rest[1]) - 1))
        return attend(version, q, k, *rest)

    monkeypatch.setattr(type(flash._version), "attend", watch)
    k, v = torch.randn(2, 12, HW, HEADS, HEAD_DIM)
    q = torch.randn(2, 6, HEADS, HEAD_DIM)
    flash.paged(q, k, v, plan_of([[8, 9], [3, 4, 5]], False, False))
    assert calls == [(k.data_ptr(), 4)]  # a gap, the second row, a gap, the first row


@pytest.mark.parametrize("flash", INSTALLED, ids=["FA2", "FA3"])
def test_prompts_go_through_it_too(flash: FlashAttention) -> None:
    q, k = torch.randn(2, 6, HEADS, HEAD_DIM), torch.randn(2, 9, HEADS, HEAD_DIM)
    expected = OracleAttention().dense(q, k, k)
    torch.testing.assert_close(flash.dense(q, k, k), expected, atol=1e-5, rtol=1e-5)


def test_merging_weighs_parts_by_their_keys() -> None:
    parts = torch.stack([torch.zeros(1, 1, 2), torch.ones(1, 1, 2)])
    lses = torch.tensor([1.0, 3.0]).log().view(2, 1, 1)
    torch.testing.assert_close(merge(parts, lses), torch.full((1, 1, 2), 0.75))
