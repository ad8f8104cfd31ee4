"""The denoising loop over static buffers: equal to the plain one, eagerly and captured."""

import warnings
from dataclasses import replace

import pytest
import torch

from engine.batch import ChunkBatch, OwedPass
from engine.cuda_graph import CapturedDenoiser, choose_size
from engine.denoise import denoise
from engine.page_pool import PagePool
from engine.window import PageTable
from kernels.interface import Kernels
from kernels.torch_backend import TorchKernels
from models.config import TransformerConfig
from models.paged_kv import KVPool, PagedKV
from models.policy import CachePolicy, RopeMode
from models.sampler import Sampler, Schedule
from models.transformer import CausalWan, PromptKV
from tests.kernels.triton_modules import gpu

CONFIG = TransformerConfig(
    dim=32, ffn_dim=64, num_heads=2, num_layers=2, text_dim=16, text_len=5, freq_dim=16
)
LATENT_HW = (4, 6)
GRID = (2, 3)
POLICY = CachePolicy(window_frames=5, sink_frames=1, chunk_frames=2)
CPU_ONLY = torch.device("cpu")


class Streams:
    """Streams over one pool, each with its own window, prompt and noise."""

    def __init__(
        self, count: int, policy: CachePolicy, device: torch.device, config: TransformerConfig
    ) -> None:
        torch.manual_seed(0)
        self.device, self.policy = device, policy
        self.dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self.network = CausalWan(config).eval()
        for parameter in self.network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        self.network = self.network.to(device, self.dtype)
        pages = count * 5 + 1
        self.pool = KVPool(
            config.num_layers, pages, 6, config.num_heads, config.head_dim, self.dtype, device
        )
        allocator = PagePool(pages)
        tables = [
            PageTable.open(allocator, 5, policy.sink_frames, 1, policy.rope) for _ in range(count)
        ]
        self.tables = [table for table in tables if table is not None]
        assert len(self.tables) == count
        context = torch.randn(count, config.text_len, config.text_dim, device=device)
        prompts = self.network.prompt_kv(context.to(self.dtype))
        self.prompts = [
            PromptKV(tuple(k.clone() for k in rows.k), tuple(v.clone() for v in rows.v))
            for rows in (prompts.rows(i) for i in range(count))
        ]

    def noise(self, which: list[int], chunk: int, step: int) -> torch.Tensor:
        def one(stream: int) -> torch.Tensor:
            seed = 1000 * stream + 10 * chunk + step
            generator = torch.Generator().manual_seed(seed)
            return torch.randn(1, 2, 16, *LATENT_HW, generator=generator)

        return torch.cat([one(stream) for stream in which]).to(self.device)

    def plain(
        self, which: list[int], chunk: int, schedule: Schedule, kernels: Kernels
    ) -> torch.Tensor:
        rows = []
        for stream in which:
            self.tables[stream].append(2)
            rows.append(self.tables[stream].row(2))
        view = PagedKV(self.pool, rows, GRID, self.policy.rope, kernels)
        return denoise(
            self.network,
            ChunkBatch(
                kv=view,
                prompt=PromptKV.stack([self.prompts[stream] for stream in which]),
                schedule=schedule,
                draw=lambda step: self.noise(which, chunk, step),
                context_timestep=0.0,
            ),
        )

    def static(
        self,
        denoiser: CapturedDenoiser,
        which: list[int],
        chunk: int,
        schedule: Schedule,
        owed: torch.Tensor | None = None,
        clean: bool = True,
    ) -> torch.Tensor:
        debt = None
        if owed is not None:
            debt = OwedPass([self.tables[stream].row(2) for stream in which], owed, 0.0)
        rows = []
        for stream in which:
            self.tables[stream].append(2)
            rows.append(self.tables[stream].row(2))
        return denoiser.chunk(
            rows,
            LATENT_HW,
            [self.prompts[stream] for stream in which],
            schedule,
            lambda step: self.noise(which, chunk, step),
            0.0 if clean and owed is None else None,
            debt,
        )


def make(streams: Streams, kernels: Kernels, capture: bool = False) -> CapturedDenoiser:
    return CapturedDenoiser(
        streams.network, CONFIG, streams.policy, streams.pool, kernels, sizes=(1, 2, 4),
        capture=capture,
    )  # fmt: skip


SCHEDULES = [[0, 1], [0, 1], [1], [0, 1], [1, 0, 2], [0, 1, 2]]
"""Which streams run together in each tick: batches grow, shrink and change order."""


@pytest.mark.parametrize("rope", ["absolute", "window"])
@torch.inference_mode()
def test_static_buffers_give_the_latents_of_the_plain_loop(rope: RopeMode) -> None:
    policy = replace(POLICY, rope=rope)
    plain = Streams(3, policy, CPU_ONLY, CONFIG)
    static = Streams(3, policy, CPU_ONLY, CONFIG)
    denoiser = make(static, TorchKernels())
    chunks = [0, 0, 0]
    for which in SCHEDULES:
        schedule = Sampler().schedule(2 if len(which) > 1 else 4)
        expected = plain.plain(which, chunks[which[0]], schedule, TorchKernels())
        actual = static.static(denoiser, which, chunks[which[0]], schedule)
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)
        for stream in which:
            chunks[stream] += 1


@pytest.mark.parametrize("rope", ["absolute", "window"])
@torch.inference_mode()
def test_an_owed_clean_pass_is_made_in_the_first_pass(rope: RopeMode) -> None:
    policy = replace(POLICY, rope=rope)
    plain = Streams(2, policy, CPU_ONLY, CONFIG)
    static = Streams(2, policy, CPU_ONLY, CONFIG)
    denoiser = make(static, TorchKernels())
    schedule, owed = Sampler().schedule(2), None
    for chunk in range(5):
        expected = plain.plain([0, 1], chunk, schedule, TorchKernels())
        owed = static.static(denoiser, [0, 1], chunk, schedule, owed, clean=False)
        torch.testing.assert_close(owed, expected, atol=5e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_result_outlives_the_next_chunk() -> None:
    streams = Streams(1, POLICY, CPU_ONLY, CONFIG)
    denoiser = make(streams, TorchKernels())
    first = streams.static(denoiser, [0], 0, Sampler().schedule(2))
    kept = first.clone()
    streams.static(denoiser, [0], 1, Sampler().schedule(2))
    assert torch.equal(first, kept)


@torch.inference_mode()
def test_a_changed_prompt_reaches_its_row_alone() -> None:
    outputs = []
    for changed in (False, True):
        streams = Streams(2, POLICY, CPU_ONLY, CONFIG)
        denoiser = make(streams, TorchKernels())
        streams.static(denoiser, [0, 1], 0, Sampler().schedule(1))
        if changed:
            old = streams.prompts[1]
            streams.prompts[1] = PromptKV(tuple(k + 1 for k in old.k), tuple(v + 1 for v in old.v))
        outputs.append(streams.static(denoiser, [0, 1], 1, Sampler().schedule(1)))
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert not torch.allclose(outputs[0][1], outputs[1][1])


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 4), (4, 4)])
def test_a_batch_takes_the_smallest_size_that_holds_it(rows: int, size: int) -> None:
    assert choose_size(rows, (4, 1, 2)) == size


def test_a_batch_above_all_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"5 rows; sizes are \[1, 2, 4\]"):
        choose_size(5, (4, 1, 2))


def test_capture_without_a_cuda_device_is_refused() -> None:
    streams = Streams(1, POLICY, CPU_ONLY, CONFIG)
    with pytest.raises(ValueError, match="graph capture on cpu"):
        make(streams, TorchKernels(), capture=True)


def test_capture_without_a_window_is_refused() -> None:
    streams = Streams(1, POLICY, CPU_ONLY, CONFIG)
    with pytest.raises(ValueError, match="without window_frames"):
        CapturedDenoiser(
            streams.network, CONFIG, CachePolicy(), streams.pool, TorchKernels(), capture=False
        )


# On a GPU: the same streams eagerly and captured, and what a replay does to the host.


def gpu_kernels() -> Kernels:
    from kernels.triton_backend import TritonKernels

    return TritonKernels()


@gpu
@pytest.mark.parametrize("rope", ["absolute", "window"])
@torch.inference_mode()
def test_a_replayed_chunk_equals_the_eager_one(rope: RopeMode) -> None:
    policy = replace(POLICY, rope=rope)
    device = torch.device("cuda")
    eager, captured = (Streams(3, policy, device, CONFIG) for _ in range(2))
    kernels = gpu_kernels()
    by_hand, by_graph = make(eager, kernels), make(captured, kernels, capture=True)
    chunks = [0, 0, 0]
    for which in SCHEDULES * 2:
        schedule = Sampler().schedule(2 if len(which) > 1 else 4)
        expected = eager.static(by_hand, which, chunks[which[0]], schedule)
        actual = captured.static(by_graph, which, chunks[which[0]], schedule)
        assert torch.equal(actual, expected)
        for stream in which:
            chunks[stream] += 1
    assert torch.equal(captured.pool.k[:, 1:], eager.pool.k[:, 1:])
    # (1 row, 4 steps), (2 rows, 2 steps), (4 rows, 2 steps): window and position never matter.
    assert by_graph.graphs == 3


@gpu
@torch.inference_mode()
def test_a_replayed_merged_pass_equals_the_eager_one() -> None:
    device = torch.device("cuda")
    eager, captured = (Streams(2, POLICY, device, CONFIG) for _ in range(2))
    kernels = gpu_kernels()
    by_hand, by_graph = make(eager, kernels), make(captured, kernels, capture=True)
    schedule, first, second = Sampler().schedule(2), None, None
    for chunk in range(6):
        first = eager.static(by_hand, [0, 1], chunk, schedule, first, clean=False)
        second = captured.static(by_graph, [0, 1], chunk, schedule, second, clean=False)
        assert torch.equal(first, second)
    assert by_graph.graphs == 2


@gpu
@torch.inference_mode()
def test_a_replay_never_waits_for_the_device() -> None:
    streams = Streams(1, POLICY, torch.device("cuda"), CONFIG)
    denoiser = make(streams, gpu_kernels(), capture=True)
    schedule = Sampler().schedule(4)
    noises = [streams.noise([0], 9, step) for step in range(4)]
    for _ in range(3):
        streams.static(denoiser, [0], 0, schedule)
    streams.tables[0].append(2)
    row = streams.tables[0].row(2)
    torch.cuda.synchronize()  # noqa: TID251
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            denoiser.chunk([row], LATENT_HW, streams.prompts, schedule, noises.__getitem__, 0.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # The mode itself warns that it is a prototype.
    seen = [str(wait.message) for wait in waits]
    assert [message for message in seen if "called a synchronizing" in message] == []
