"""Makes latents for streams: opens them, recaches, denoises a chunk for several at once.

It owns the pages and the memory behind them and runs the network; whose turn it is, what a prompt
says and what latents look like as pixels it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from engine.batch import ChunkBatch, Draw, Guidance
from engine.denoise import ChunkDenoiser, Network, Trace, denoise
from engine.page_pool import PagePool
from engine.prompts import ByteCache, kv_bytes
from engine.recache import strategy_for
from engine.stream import Stream
from engine.window import PageTable
from models.config import TransformerConfig
from models.interface import LoadedModel
from models.kv import KVView
from models.paged_kv import KVPool, PagedKV, RowPages
from models.policy import CachePolicy, RopeMode
from models.sampler import Schedule
from models.transformer import PromptKV

STACK_BYTES = 1 << 29
"""Of the prompts kept as rows of a batch, and as much of the empty prompt's, but always the newest
batch's."""


class MakeView(Protocol):
    """Makes the view that a batch's passes over one chunk have of the pool."""

    def __call__(
        self,
        pool: KVPool,
        rows: Sequence[RowPages],
        grid: tuple[int, int],
        rope: RopeMode,
        *,
        block_causal: int | None,
        past_weight: float,
    ) -> KVView:
        """See ``PagedKV``."""
        ...


class _Stacks:
    """Batches of prompts: for the same prompts the same object, which other devices then know."""

    def __init__(self) -> None:
        self._made: ByteCache[tuple[int, ...], tuple[tuple[PromptKV, ...], PromptKV]] = ByteCache(
            STACK_BYTES, lambda made: kv_bytes(made[1])
        )

    def of(self, prompts: Sequence[PromptKV]) -> PromptKV:
        """Put the rows of several prompts into one batch, in order."""
        if len(prompts) == 1:
            return prompts[0]
        # The prompts are kept beside their batch, so that no other one gets the id of one of them.
        key = tuple(map(id, prompts))
        return self._made.get(key, lambda: (tuple(prompts), PromptKV.stack(prompts)))[1]


@torch.inference_mode()
def guidance_of(model: LoadedModel) -> Guidance | None:
    """Prepare the guidance that a model's sampler asks for; None when it asks for none."""
    scale = model.entry.sampler.guidance
    if scale == 1:
        return None
    return Guidance(scale, model.transformer.prompt_kv(model.text.encode([""])))


class Generator:
    """The network with its cache.

    Args:
        network: Predicts velocities.
        config: Its sizes.
        policy: How its cache behaves.
        pool: Memory of the keys and values.
        make_view: Another paged view, for a device that has a faster one.
        denoiser: Makes chunks in its own way, over the same pool; None is the plain loop.
        guidance: Of the denoising steps; only the plain loop can.
    """

    def __init__(
        self,
        network: Network,
        config: TransformerConfig,
        policy: CachePolicy,
        pool: KVPool,
        make_view: MakeView = PagedKV,
        denoiser: ChunkDenoiser | None = None,
        guidance: Guidance | None = None,
    ) -> None:
        assert denoiser is None or guidance is None, "guidance is the plain loop's"
        self.pages = PagePool(pool.pages)
        self.pool = pool
        self.policy = policy
        self._network = network
        self._config = config
        self._make_view = make_view
        self._denoiser = denoiser
        self._guidance = guidance
        self._stacks, self._empty_stacks = _Stacks(), _Stacks()
        self._recache = strategy_for(policy)

    @classmethod
    def of(cls, model: LoadedModel, pool: KVPool) -> Generator:
        """Build the generator that runs a model's transformer as it is."""
        entry = model.entry
        guidance = guidance_of(model)
        return cls(model.transformer, entry.transformer, entry.cache, pool, guidance=guidance)

    @property
    def asynchronous(self) -> bool:
        """Whether asking for a chunk never waits for the device; the plain loop's views do."""
        return self._denoiser is not None

    @property
    def graphs(self) -> int:
        """Captured graphs that are kept; none where chunks run eagerly."""
        return 0 if self._denoiser is None else self._denoiser.graphs

    @property
    def keeps_cache(self) -> bool:
        """Whether a stream's next chunk needs the keys and values of its last one."""
        return self._recache.clean_pass

    def window_frames(self, total_latents: int | None) -> int:
        """Return the latent frames of a stream's extent; a window without end needs its length."""
        if self.policy.window_frames is not None:
            return self.policy.window_frames
        assert total_latents is not None, "a model without a window needs the stream's length"
        return total_latents

    def pages_for(self, latent_hw: tuple[int, int], total_latents: int | None) -> int:
        """Return the pages that a stream takes."""
        return self.window_frames(total_latents) * self._pages_per_frame(latent_hw)

    def open(self, latent_hw: tuple[int, int], total_latents: int | None = None) -> Stream | None:
        """Take a stream in; None when there are not enough pages."""
        window = self.window_frames(total_latents)
        table = PageTable.open(
            self.pages,
            window,
            self.policy.sink_frames,
            self._pages_per_frame(latent_hw),
            self.policy.rope,
        )
        return None if table is None else Stream(table, latent_hw, kept_frames=window)

    def fork(self, stream: Stream) -> Stream:
        """Return a second stream with the same past; the pages are shared until one writes."""
        self.settle(stream)
        return replace(stream, table=stream.table.fork())

    def close(self, stream: Stream) -> None:
        """Give a stream's pages back."""
        stream.table.close()

    @torch.inference_mode()
    def prefill(self, stream: Stream, latents: Tensor, prompt: PromptKV) -> None:
        """Put given clean latents ``[1, F, C, H, W]`` at the start of a stream, block by block.

        What does not fill a chunk comes first: the single frame of a start image, for example.
        """
        size = self.policy.chunk_frames
        head = latents.shape[1] % size
        for start in (*([0] if head else []), *range(head, latents.shape[1], size)):
            block = latents[:, start : head if start < head else start + size]
            stream.table.append(block.shape[1])
            row = stream.table.row(block.shape[1])
            self._clean_pass([stream], block, [row], prompt)
            stream.extend(block.float())

    @torch.inference_mode()
    def chunk(
        self,
        streams: Sequence[Stream],
        frames: int,
        prompts: Sequence[PromptKV],
        prompt_changed: Sequence[bool],
        schedule: Schedule,
        draw: Draw,
        last: bool = False,
        trace: Trace | None = None,
    ) -> Tensor:
        """Make the next chunk of every stream.

        Args:
            streams: All of the same latent size.
            frames: Latent frames of the chunk.
            prompts: One for each stream.
            prompt_changed: Whether each stream's window is to be rebuilt under a new prompt.
            schedule: Steps of the sampler.
            draw: Noise by step, for all rows.
            last: No chunk follows for any of them, so the clean pass is left out.
            trace: Watches the passes.

        Returns:
            Clean latents ``[B, frames, C, H, W]`` float32.
        """
        rows = self._open_chunk(streams, frames, prompts, prompt_changed)
        skip = last or not self._recache.clean_pass
        context = None if skip else self.policy.context_timestep
        if self._denoiser is not None and trace is None:
            latents = self._denoiser.chunk(
                rows, streams[0].latent_hw, prompts, schedule, draw, context
            )
        else:
            batch = self._batch(streams[0], rows, prompts, schedule, draw, context)
            latents = denoise(self._network, batch, trace)
        for row, stream in enumerate(streams):
            stream.extend(latents[row : row + 1])
        return latents

    @torch.inference_mode()
    def recache(self, stream: Stream, prompt: PromptKV, prompt_changed: bool = True) -> None:
        """Run the pass, if any, that the model's policy wants before the next chunk."""
        plan = self._recache.plan(stream, prompt_changed)
        if plan is not None:
            self._clean_pass([stream], plan.latents, [plan.row], prompt, plan.block_causal)

    def settle(self, stream: Stream) -> None:
        """Make what is still to be done for a stream's last chunk; here it never is anything."""

    def _open_chunk(
        self,
        streams: Sequence[Stream],
        frames: int,
        prompts: Sequence[PromptKV],
        prompt_changed: Sequence[bool],
    ) -> list[RowPages]:
        """Recache where the policy wants it, make room for the next chunk and return its rows."""
        for stream, prompt, changed in zip(streams, prompts, prompt_changed, strict=True):
            self.recache(stream, prompt, changed)
        for stream in streams:
            stream.table.append(frames)
        return [stream.table.row(frames) for stream in streams]

    def _batch(
        self,
        first: Stream,
        rows: Sequence[RowPages],
        prompts: Sequence[PromptKV],
        schedule: Schedule,
        draw: Draw,
        context_timestep: float | None,
    ) -> ChunkBatch:
        """Join what the plain loop takes; ``first`` stands for the size of all rows."""
        guidance = self._guidance
        if guidance is not None:
            empty = self._empty_stacks.of([guidance.empty] * len(prompts))
            guidance = replace(guidance, empty=empty)
        return ChunkBatch(
            kv=self._view(first, rows),
            prompt=self._stacks.of(prompts),
            schedule=schedule,
            draw=draw,
            context_timestep=context_timestep,
            guidance=guidance,
        )

    def _clean_pass(
        self,
        streams: Sequence[Stream],
        latents: Tensor,
        rows: Sequence[RowPages],
        prompt: PromptKV,
        block_causal: int | None = None,
    ) -> None:
        view = self._view(streams[0], rows, block_causal)
        times = torch.full(latents.shape[:2], self.policy.context_timestep, device=latents.device)
        self._network(latents, times, prompt, view)

    def _view(
        self, stream: Stream, rows: Sequence[RowPages], block_causal: int | None = None
    ) -> KVView:
        return self._make_view(
            self.pool,
            rows,
            self._config.grid(*stream.latent_hw),
            self.policy.rope,
            block_causal=block_causal,
            # The recompute of a context is plain attention (as in the public implementations).
            past_weight=1.0 if block_causal is not None else self.policy.past_weight,
        )

    def _pages_per_frame(self, latent_hw: tuple[int, int]) -> int:
        rows, columns = self._config.grid(*latent_hw)
        assert rows * columns % self.pool.page_tokens == 0, (latent_hw, self.pool.page_tokens)
        return rows * columns // self.pool.page_tokens
