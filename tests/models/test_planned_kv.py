"""The accelerator's view of the pool equals the plain one."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.torch_backend import TorchKernels
from models.config import TransformerConfig
from models.paged_kv import KVPool, PagedKV, RowPages
from models.planned_kv import PlanBuffers, PlannedKV, plan_rows
from models.policy import RopeMode
from models.transformer import CausalWan

CPU = torch.device("cpu")
CONFIG = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=2, num_layers=2, text_dim=16, text_len=5, freq_dim=16
)
GRID = (2, 3)


@dataclass
class Setting:
    network: CausalWan = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.network = CausalWan(CONFIG).eval()
        for parameter in self.network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)

    def pool(self) -> KVPool:
        pool = KVPool(
            CONFIG.num_layers, 14, 6, CONFIG.num_heads, CONFIG.head_dim, torch.float32, CPU
        )
        generator = torch.Generator().manual_seed(1)
        pool.k.copy_(torch.randn(pool.k.shape, generator=generator))
        pool.v.copy_(torch.randn(pool.v.shape, generator=generator))
        return pool


SETTING = Setting()


@st.composite
def batches(data: st.DrawFn) -> list[RowPages]:
    """Rows over disjoint pages, at any position, with windows of any length."""
    free = data(st.permutations(range(1, 14)))
    rows = []
    for _ in range(data(st.integers(1, 2))):
        past = data(st.integers(0, 4))
        pages, free = free[: past + 2], free[past + 2 :]
        start = data(st.integers(0, 30))
        rows.append(
            RowPages(
                write=tuple(pages[past:]),
                read=tuple(pages),
                query_frames=(start + past, start + past + 1),
                key_frames=tuple(range(start, start + past + 2)),
                past=tuple(0 < i < past for i in range(past + 2)),
            )
        )
    return rows


@settings(max_examples=20, deadline=None)
@given(
    rows=batches(),
    rope=st.sampled_from(("absolute", "window")),
    past_weight=st.sampled_from((1.0, 0.3)),
)
@torch.inference_mode()
def test_a_pass_gives_the_same_velocity_and_the_same_pages(
    rows: list[RowPages], rope: RopeMode, past_weight: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(len(rows), 2, 16, 4, 6, generator=generator)
    context = torch.randn(len(rows), 5, 16, generator=generator)
    times = torch.full((len(rows), 2), 500.0)
    prompt = SETTING.network.prompt_kv(context)
    plain, planned = SETTING.pool(), SETTING.pool()
    plan = plan_rows(rows, GRID, rope, CONFIG.head_dim, CPU, past_weight)
    expected = SETTING.network(
        latents, times, prompt, PagedKV(plain, rows, GRID, rope, past_weight=past_weight)
    )
    actual = SETTING.network(latents, times, prompt, PlannedKV(planned, plan, TorchKernels()))
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(planned.k, plain.k, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(planned.v, plain.v, atol=1e-6, rtol=1e-6)


def test_missing_rows_become_padding_that_reads_nothing() -> None:
    buffers = PlanBuffers(3, 2, 4, GRID, CONFIG.head_dim, "absolute", CPU)
    buffers.load([RowPages((5, 6), (4, 5, 6), (8, 9), (7, 8, 9))])
    plan = buffers.plan()
    assert plan.write.tolist() == [[5, 6], [0, 0], [0, 0]]
    assert plan.lengths.tolist() == [3, 0, 0]
    assert plan.table.tolist()[0] == [4, 5, 6, 0]


def test_loading_again_changes_the_tensors_of_an_older_plan() -> None:
    buffers = PlanBuffers(1, 1, 3, GRID, CONFIG.head_dim, "absolute", CPU)
    buffers.load([RowPages((5,), (4, 5), (8,), (7, 8))])
    plan = buffers.plan()
    buffers.load([RowPages((9,), (8, 9, 7), (2,), (0, 2, 1))])
    assert plan.table.tolist() == [[7, 8, 9]]
    assert plan.lengths.tolist() == [3]


def test_pages_smaller_than_a_frame_are_refused() -> None:
    buffers = PlanBuffers(1, 1, 3, GRID, CONFIG.head_dim, "absolute", CPU)
    with pytest.raises(AssertionError, match="whole latent frame"):
        buffers.load([RowPages((5, 6), (5, 6), (0,), (0,))])
