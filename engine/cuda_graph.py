"""The denoising loop over static buffers, captured as CUDA graphs and replayed.

One graph holds all steps of a chunk and its clean pass for a batch of one size. What differs
between chunks (latents' noise, timesteps, pages, positions, window lengths, prompts' keys) lies
in tensors that a chunk's inputs are copied into, so the graph never waits for the host and serves
any session. Batches are padded to the next captured size with rows on the null page. The loop
is ``engine.denoise.denoise`` itself; without capture (on a CPU, or to compare) it runs eagerly
over the same buffers.

Attention that needs to know runs of pages on the host (plain SDPA, cuDNN) gets a graph for each
set of runs instead: a session's window gives one for each fill level. Their number is bounded;
the least recently used makes room. The module knows nothing of sessions or deadlines.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.batch import ChunkBatch, DeviceSchedule, Draw, OwedPass
from engine.denoise import Network, denoise
from engine.merged import MergingNetwork
from kernels.interface import Kernels
from kernels.paged import PageRun
from models.config import TransformerConfig
from models.paged_kv import KVPool, RowPages
from models.planned_kv import PlanBuffers, PlannedKV
from models.policy import CachePolicy
from models.sampler import Schedule
from models.transformer import PromptKV

__all__ = ["Bucket", "CapturedDenoiser", "choose_size"]

Runs = tuple[tuple[PageRun, ...], ...]


@dataclass(frozen=True, slots=True)
class Bucket:
    """What makes two chunks replay the same graph.

    Attributes:
        rows: batch size, padding included.
        steps: denoising passes.
        frames: latent frames of the chunk.
        latent_hw: their height and width.
        clean: whether the clean pass follows.
        fresh_noise: whether every step draws its noise anew.
        merged: whether the first pass makes an owed clean pass.
        contiguous: whether every row's pages lie in one stretch of the pool.
        runs: the pages themselves, where the attention must know them; else empty.
    """

    rows: int
    steps: int
    frames: int
    latent_hw: tuple[int, int]
    clean: bool
    fresh_noise: bool
    merged: bool
    contiguous: tuple[bool, bool]
    runs: Runs = ()


def choose_size(rows: int, sizes: Sequence[int]) -> int:
    """Return the smallest of ``sizes`` that holds ``rows``.

    Raises:
        ValueError: none does.
    """
    fitting = [size for size in sizes if size >= rows]
    if not fitting:
        raise ValueError(
            f"a batch of {rows} rows; sizes are {sorted(sizes)}; run fewer sessions together"
        )
    return min(fitting)


class _Buffers:
    """Inputs and output of all buckets of one batch size and latent shape."""

    def __init__(
        self,
        rows: int,
        steps: int,
        shape: tuple[int, ...],
        pages: PlanBuffers,
        owed_pages: PlanBuffers,
        device: torch.device,
    ) -> None:
        self.pages, self.owed_pages = pages, owed_pages
        self.owed = torch.zeros(rows, *shape, device=device)
        self.noise = torch.zeros(steps, rows, *shape, device=device)
        self.clean = torch.zeros(rows, *shape, device=device)
        # Timesteps of the steps, sigmas of the steps, timestep of the clean pass.
        self._levels = torch.zeros(2 * steps + 1, dtype=torch.float64, device=device)
        self._steps = steps

    def load_levels(self, schedule: Schedule, context_timestep: float | None) -> None:
        """Copy a schedule in without waiting for the device."""
        rest = [0.0] * (self._steps - len(schedule))
        values = [*schedule.timesteps, *rest, *schedule.sigmas, *rest, context_timestep or 0.0]
        self._levels.copy_(_pinned(torch.tensor(values, dtype=torch.float64), self._levels), True)

    def schedule(self, steps: int, fresh_noise: bool) -> DeviceSchedule:
        """Return the first ``steps`` levels as the loop reads them."""
        timesteps, sigmas = self._levels[: self._steps], self._levels[self._steps : -1]
        return DeviceSchedule(timesteps[:steps].unbind(), sigmas[:steps].unbind(), fresh_noise)

    @property
    def context_timestep(self) -> Tensor:
        """Timestep of the clean pass."""
        return self._levels[-1]


class CapturedDenoiser:
    """Runs chunks through static buffers, by graph where it can.

    Args:
        network: predicts velocities; must not synchronise with the host.
        config: its sizes.
        policy: how its cache behaves; it must have a window.
        pool: the pages.
        kernels: that write and attend.
        sizes: batch sizes to prepare for.
        max_steps: most denoising passes of a chunk.
        capture: replay graphs (needs a CUDA device); False runs eagerly.
        max_graphs: most graphs kept; the one used longest ago makes room.
    """

    def __init__(
        self,
        network: Network,
        config: TransformerConfig,
        policy: CachePolicy,
        pool: KVPool,
        kernels: Kernels,
        *,
        sizes: Sequence[int] = (1, 2, 4),
        max_steps: int = 4,
        capture: bool = True,
        max_graphs: int = 64,
    ) -> None:
        device = pool.k.device
        if capture and device.type != "cuda":
            raise ValueError(
                f"graph capture on {device}; CUDA graphs need a CUDA device; run without capture"
            )
        if policy.window_frames is None:
            raise ValueError(
                "graph capture without window_frames; the page table needs a size; set a window"
            )
        self.sizes = tuple(sorted(sizes))
        self._network, self._config, self._policy = network, config, policy
        self._pool, self._kernels, self._device = pool, kernels, device
        self._max_steps, self._capture, self._max_graphs = max_steps, capture, max_graphs
        self._window: int = policy.window_frames
        self._buffers: dict[tuple[int, int, tuple[int, int]], _Buffers] = {}
        self._graphs: OrderedDict[Bucket, torch.cuda.CUDAGraph] = OrderedDict()
        self._memory = torch.cuda.graph_pool_handle() if capture else None
        # One for all graphs: only work of one stream shares the memory of a pool.
        self._side = torch.cuda.Stream(device) if capture else None
        # Keys of the prompts on the rows of the largest batch; smaller ones use its first rows.
        self._prompt: PromptKV | None = None
        self._prompt_of_row: list[PromptKV | None] = [None] * self.sizes[-1]

    @property
    def graphs(self) -> int:
        """Graphs captured and kept."""
        return len(self._graphs)

    @torch.inference_mode()
    def chunk(
        self,
        rows: Sequence[RowPages],
        latent_hw: tuple[int, int],
        prompts: Sequence[PromptKV],
        schedule: Schedule,
        draw: Draw,
        context_timestep: float | None,
        owed: OwedPass | None = None,
    ) -> Tensor:
        """Denoise one chunk for every row; see ``engine.denoise.denoise``.

        Args:
            rows: pages of each row.
            latent_hw: height and width of the latents.
            prompts: of each row, one row each.
            schedule: steps of the sampler.
            draw: noise by step for all rows ``[B, F, C, H, W]``, on any device.
            context_timestep: of the clean pass; None leaves it out.
            owed: the clean pass of the chunk before, of as many frames; only without one here.

        Returns:
            Clean latents ``[B, F, C, H, W]`` float32. The tensor is the caller's own.
        """
        assert len(schedule) <= self._max_steps, f"{len(schedule)} steps of {self._max_steps}"
        frames = len(rows[0].query_frames)
        size = choose_size(len(rows), self.sizes)
        buffers = self._buffers_for(size, frames, latent_hw)
        buffers.pages.load(rows)
        assert owed is None or context_timestep is None, "a clean pass is owed or made"
        if owed is not None:
            assert owed.latents.shape[:2] == (len(rows), frames), "as many rows and frames"
            buffers.owed_pages.load(owed.rows)
            buffers.owed[: len(rows)].copy_(owed.latents)
        buffers.load_levels(schedule, context_timestep if owed is None else owed.timestep)
        for step in range(len(schedule)):
            noise = buffers.noise[step, : len(rows)]
            noise.copy_(_pinned(draw(step), noise), non_blocking=True)
        self._load_prompts(prompts)
        runs = buffers.pages.runs
        contiguous = (buffers.pages.contiguous, True)
        if owed is not None:
            runs += buffers.owed_pages.runs
            contiguous = (buffers.pages.contiguous, buffers.owed_pages.contiguous)
        bucket = Bucket(
            rows=size,
            steps=len(schedule),
            frames=frames,
            latent_hw=latent_hw,
            clean=context_timestep is not None,
            fresh_noise=schedule.fresh_noise,
            merged=owed is not None,
            contiguous=contiguous,
            runs=() if self._kernels.capturable else runs,
        )
        self._run(bucket, buffers)
        return buffers.clean[: len(rows)].clone()

    def _run(self, bucket: Bucket, buffers: _Buffers) -> None:
        if not self._capture:
            self._loop(bucket, buffers)
            return
        graph = self._graphs.get(bucket)
        if graph is None:
            graph = self._captured(bucket, buffers)
        self._graphs.move_to_end(bucket)
        graph.replay()

    def _captured(self, bucket: Bucket, buffers: _Buffers) -> torch.cuda.CUDAGraph:
        """Run once eagerly, so that everything lazy has happened, then capture."""
        side = self._side
        assert side is not None, "captured on a CUDA device"
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            self._loop(bucket, buffers)
        torch.cuda.current_stream(self._device).wait_stream(side)
        if len(self._graphs) >= self._max_graphs:
            self._graphs.popitem(last=False)
        graph = torch.cuda.CUDAGraph()
        # The thread that embeds texts may ask something of the device meanwhile.
        with torch.cuda.graph(
            graph, pool=self._memory, stream=side, capture_error_mode="thread_local"
        ):
            self._loop(bucket, buffers)
        self._graphs[bucket] = graph
        return graph

    def _loop(self, bucket: Bucket, buffers: _Buffers) -> None:
        assert self._prompt is not None, "prompts are loaded before the loop"
        network = self._network
        if bucket.merged:
            rows, columns = self._config.grid(*bucket.latent_hw)
            network = MergingNetwork(
                self._network,
                buffers.owed,
                buffers.context_timestep,
                PlannedKV(self._pool, buffers.owed_pages.plan(), self._kernels),
                bucket.frames * rows * columns,
            )
        latents = denoise(
            network,
            ChunkBatch(
                kv=PlannedKV(self._pool, buffers.pages.plan(), self._kernels),
                prompt=self._prompt.rows(slice(0, bucket.rows)),
                schedule=buffers.schedule(bucket.steps, bucket.fresh_noise),
                draw=buffers.noise.__getitem__,
                context_timestep=buffers.context_timestep if bucket.clean else None,
            ),
        )
        buffers.clean.copy_(latents)

    def _buffers_for(self, size: int, frames: int, latent_hw: tuple[int, int]) -> _Buffers:
        key = (size, frames, latent_hw)
        found = self._buffers.get(key)
        if found is None:
            pages, owed_pages = (
                PlanBuffers(
                    size,
                    frames,
                    self._window,
                    self._config.grid(*latent_hw),
                    self._config.head_dim,
                    self._policy.rope,
                    self._device,
                    self._policy.past_weight,
                )
                for _ in range(2)
            )
            shape = (frames, self._config.out_channels, *latent_hw)
            found = _Buffers(size, self._max_steps, shape, pages, owed_pages, self._device)
            self._buffers[key] = found
        return found

    def _load_prompts(self, prompts: Sequence[PromptKV]) -> None:
        """Copy the keys of prompts that a row did not have already."""
        if self._prompt is None:
            self._prompt = _room_for(prompts[0], self.sizes[-1])
        for index, prompt in enumerate(prompts):
            if self._prompt_of_row[index] is not prompt:
                _copy_prompt(self._prompt.rows(index), prompt)
                self._prompt_of_row[index] = prompt


def _pinned(staged: Tensor, target: Tensor) -> Tensor:
    """Move a host tensor to where a copy to a CUDA target need not wait."""
    if target.is_cuda and not staged.is_cuda and not staged.is_pinned():
        return staged.pin_memory()
    return staged


def _room_for(prompt: PromptKV, rows: int) -> PromptKV:
    """Make buffers for ``rows`` prompts like this one."""

    def room(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.new_zeros(rows, *part.shape[1:]) for part in parts)

    return PromptKV(room(prompt.k), room(prompt.v), room(prompt.image_k), room(prompt.image_v))


def _copy_prompt(target: PromptKV, source: PromptKV) -> None:
    for name in ("k", "v", "image_k", "image_v"):
        for to, value in zip(getattr(target, name), getattr(source, name), strict=True):
            to.copy_(value)
