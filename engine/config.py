"""How an engine is set up, and what that makes of a device's memory."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from models.interface import LoadedModel
from models.paged_kv import KVPool

SMALL_TEXT_DIM = 1024
"""Text encoders up to this width take milliseconds and run between two ticks."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of an engine.

    Attributes:
        max_sessions: Live sessions at most.
        max_jobs: Jobs at most at the same time.
        max_batch: Most sessions in one forward pass.
        max_load: Share of the device's time that realtime streams may be promised.
        memory_share: Share of the device's free memory for caches and decoder states.
        page_tokens: Tokens of a page; None is a whole latent frame where all sizes allow it.
        prompt_bytes: Of each of the two caches of prompts.
        encode_ahead: Embed texts on a thread of their own, so that a large text encoder stops no
            stream; a change then takes effect when its text is ready. None: if it is large.
        noise_threads: Threads that draw noise before it is needed; 0 draws it on the spot. None: 2
            beside a GPU, whose host has time; on a CPU they would only take it from the network.
        adapt_steps: Lower the steps of streams whose viewers stall.
        devices: That share every stream, each with its part of the heads.
    """

    max_sessions: int = 16
    max_jobs: int = 2
    max_batch: int = 8
    max_load: float = 0.9
    memory_share: float = 0.5
    page_tokens: int | None = None
    prompt_bytes: int = 256 << 20
    encode_ahead: bool | None = None
    noise_threads: int | None = None
    adapt_steps: bool = True
    devices: int = 1

    def embeds_ahead(self, text_dim: int) -> bool:
        """Whether texts are embedded on a thread of their own by an encoder of that width."""
        return text_dim > SMALL_TEXT_DIM if self.encode_ahead is None else self.encode_ahead

    def noise_threads_beside(self, device: torch.device) -> int:
        """Return how many threads draw noise before ``device`` needs it."""
        if self.noise_threads is None:
            return 2 if device.type == "cuda" else 0
        return self.noise_threads


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What an engine reserves.

    Attributes:
        page_tokens: Tokens of a page.
        pages: Of the pool, the null page included.
        extent_pages: Of one stream of the model's first size.
        decoder_bytes: For all decoders' states.
    """

    page_tokens: int
    pages: int
    extent_pages: int
    decoder_bytes: int


def plan_memory(model: LoadedModel, config: EngineConfig, free_bytes: int) -> MemoryPlan:
    """Divide ``free_bytes`` of the device among streams.

    Raises:
        ValueError: Not even one stream fits, or the page size does not divide a latent frame.
    """
    sizes = model.entry.sizes
    network = model.entry.transformer
    frame_tokens = [math.prod(network.grid_of(size)) for size in sizes]
    page_tokens = config.page_tokens or math.gcd(*frame_tokens)
    for (width, height), tokens in zip(sizes, frame_tokens, strict=True):
        if tokens % page_tokens:
            raise ValueError(
                f"pages of {page_tokens} tokens with {width}x{height}; a latent frame of that size "
                f"has {tokens} tokens and a page must divide it; change page_tokens"
            )
    frames = model.entry.cache.planned_window
    # On the CPU all devices' parts lie in the same memory, which is that of one device.
    heads = network.num_heads // (1 if model.device.type == "cpu" else config.devices)
    page_bytes = KVPool.page_bytes(
        network.num_layers, page_tokens, heads, network.head_dim, model.dtype
    )
    extent = frames * frame_tokens[0] // page_tokens
    width, height = sizes[0]
    decoder = model.codec.state_bytes(height, width)
    wanted = config.max_sessions + config.max_jobs
    streams = min(wanted, int(free_bytes * config.memory_share) // (extent * page_bytes + decoder))
    if streams < 1:
        raise ValueError(
            f"{free_bytes} bytes of memory are free and a stream takes "
            f"{extent * page_bytes + decoder}; at most {config.memory_share:.0%} may be used; "
            "choose a smaller model or a device with more memory"
        )
    return MemoryPlan(page_tokens, 1 + streams * extent, extent, streams * decoder)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on ``device`` now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def make_current(device: torch.device) -> None:
    """Make ``device`` the calling thread's own: kernels and graphs are launched on that one."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
