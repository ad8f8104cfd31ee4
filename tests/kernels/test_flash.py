"""flash-attn over page runs, against a stand-in with its documented meaning."""

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.flash import FlashAttention, find_flash, merge
from kernels.paged import PagePlan
from kernels.sparse import SparsePages
from kernels.torch_backend import OracleAttention
from tests.kernels.plans import make_plan, over_tensors_of

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
        if c == d:  # as it defines attention to nothing
            out[a:b], lse[:, a:b] = 0, torch.inf
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


def plan_of(
    reads: list[list[int]], biased: bool, unrotated: bool, width: int | None = None
) -> PagePlan:
    return make_plan(
        write=[[0]] * len(reads),
        read=reads,
        query_frames=[[3]] * len(reads),
        grid=(2, 2),
        head_dim=HEAD_DIM,
        device=torch.device("cpu"),
        key_frames=[list(range(len(row))) for row in reads] if unrotated else None,
        key_bias=[[-0.4 * (i % 2) for i in range(len(row))] for row in reads] if biased else None,
        width=width,
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
def test_rows_in_one_stretch_each_are_read_where_they_lie(
    flash: FlashAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    attend = type(flash._version).attend

    def watch(version: Any, q: torch.Tensor, k: torch.Tensor, *rest: Any) -> Any:
        calls.append((k.data_ptr(), rest[2].tolist()))
        return attend(version, q, k, *rest)

    monkeypatch.setattr(type(flash._version), "attend", watch)
    k, v = torch.randn(2, 12, HW, HEADS, HEAD_DIM)
    q = torch.randn(2, 6, HEADS, HEAD_DIM)
    flash.paged(q, k, v, plan_of([[8, 9], [3, 4, 5]], False, False))
    assert calls == [
        (k.data_ptr(), [0, 8 * HW, 10 * HW]),
        (k.data_ptr(), [0, 3 * HW, 6 * HW]),
    ]


@pytest.mark.parametrize("flash", INSTALLED, ids=["FA2", "FA3"])
@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("unrotated", [False, True])
def test_a_plan_whose_tensors_changed_is_followed_as_a_captured_graph_must(
    flash: FlashAttention, scattered: bool, biased: bool, unrotated: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 12, HW, HEADS, HEAD_DIM, generator=generator)
    q = torch.randn(1, 6, HEADS, HEAD_DIM, generator=generator)
    before = plan_of([[2, 9, 7] if scattered else [2, 3, 4]], biased, unrotated)
    after = plan_of([[8, 1] if scattered else [8, 9]], biased, unrotated, width=3)
    expected = OracleAttention().paged(q, k, v, after)
    replayed = flash.paged(q, k, v, over_tensors_of(before, after))
    torch.testing.assert_close(replayed, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("biased", [False, True])
def test_a_row_without_pages_gives_zeros(biased: bool) -> None:
    q, k = torch.randn(2, 6, HEADS, HEAD_DIM), torch.randn(12, HW, HEADS, HEAD_DIM)
    out = INSTALLED[0].paged(q, k, k, plan_of([[], [4, 5]], biased, False))
    assert not out[0].any()
    assert out[1].any()


@pytest.mark.parametrize("flash", INSTALLED, ids=["FA2", "FA3"])
def test_prompts_go_through_it_too(flash: FlashAttention) -> None:
    q, k = torch.randn(2, 6, HEADS, HEAD_DIM), torch.randn(2, 9, HEADS, HEAD_DIM)
    expected = OracleAttention().dense(q, k, k)
    torch.testing.assert_close(flash.dense(q, k, k), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flash", INSTALLED, ids=["FA2", "FA3"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("unrotated", [False, True])
def test_the_best_pages_are_attended_to_though_the_host_does_not_know_them(
    flash: FlashAttention, biased: bool, unrotated: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 12, HW, HEADS, HEAD_DIM, generator=generator)
    reads = [[2, 3, 4, 5, 6, 7, 8], [9, 10], []]
    plan = plan_of(reads, biased, unrotated)
    q = torch.randn(3, 6, HEADS, HEAD_DIM, generator=generator)
    expected = SparsePages(OracleAttention(), 2, 1).paged(q, k, v, plan)
    actual = SparsePages(flash, 2, 1).paged(q, k, v, plan)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert not actual[2].any()
    assert not torch.allclose(actual[0], OracleAttention().paged(q, k, v, plan)[0], atol=1e-3)


def test_merging_weighs_parts_by_their_keys() -> None:
    parts = torch.stack([torch.zeros(1, 1, 2), torch.ones(1, 1, 2)])
    lses = torch.tensor([1.0, 3.0]).log().view(2, 1, 1)
    torch.testing.assert_close(merge(parts, lses), torch.full((1, 1, 2), 0.75))


@pytest.mark.parametrize(
    ("installed", "capability", "named"),
    [
        ({"flash_attn", "flash_attn_interface"}, (9, 0), ("flash_attn_interface", 3)),
        ({"flash_attn", "flash_attn_interface"}, (8, 0), ("flash_attn", 2)),
        ({"flash_attn"}, (9, 0), ("flash_attn", 2)),
    ],
)
def test_the_generation_made_for_the_device_is_taken(
    installed: set[str],
    capability: tuple[int, int],
    named: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, installed, capability)
    assert find_flash(torch.device("cuda")) == named


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({"flash_attn_interface"}, "only FlashAttention 3 is installed, which runs on sm_90, and "),
        (set(), 'flash-attn is not installed (the extra "gpu" has it)'),
    ],
)
def test_what_does_not_fit_the_device_is_said(
    installed: set[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, installed, (8, 0))
    with pytest.raises(ImportError) as refused:
        find_flash(torch.device("cuda"))
    assert said in str(refused.value)


def pretend(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], capability: tuple[int, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: object() if name in installed else None
    )
