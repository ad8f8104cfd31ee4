"""Few-step denoising: noise in, one clean latent chunk per row out.

The loop knows nothing of texts, pages or deadlines: the scheduler has chosen the rows and
``ChunkBatch`` holds every input. It takes no decision from a tensor's value.

Sampler: re-noise to the next sigma after each clean estimate, as in Self Forcing (Huang et al.
2025, arXiv:2506.08009), on the straight path ``x_s = (1 - s) * x0 + s * noise`` of rectified flow
(Liu et al. 2022, arXiv:2209.03003).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from engine.batch import ChunkBatch, Draw, OwedPass
from models.kv import KVView
from models.paged_kv import RowPages
from models.sampler import Schedule, implied_noise, renoise, x0_from_velocity
from models.transformer import PromptKV


class Network(Protocol):
    """The transformer, or whatever replays it."""

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt: PromptKV, kv: KVView) -> Tensor:
        """Predict the velocity ``[B, F, C, H, W]``."""
        ...


class Trace(Protocol):
    """Watches a loop's intermediate tensors; the parity suite is one."""

    def __call__(self, name: str, step: int, value: Tensor) -> None:
        """Take ``flow`` or ``x0`` of a step; the clean pass is the step after the last."""
        ...


class ChunkDenoiser(Protocol):
    """Denoises chunks over a pool of pages, as ``engine.cuda_graph`` does by replaying graphs."""

    @property
    def graphs(self) -> int:
        """Graphs captured and kept."""

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
        """Return clean latents ``[B, F, C, H, W]`` float32, as ``denoise`` does.

        A pass that is ``owed`` is made on the way (``engine/merged.py``).
        """
        ...


def denoise(network: Network, batch: ChunkBatch, trace: Trace | None = None) -> Tensor:
    """Denoise one chunk for every row of ``batch`` and leave its clean keys in the cache.

    Args:
        network: Predicts velocity, noise - x0.
        batch: Rows to denoise.
        trace: Called after every pass.

    Returns:
        Clean latents ``[B, F, C, H, W]`` float32.
    """
    noisy = clean = noise = batch.draw(0)
    schedule = batch.schedule
    steps: list[tuple[float | Tensor, float | Tensor]] = list(
        zip(schedule.timesteps, schedule.sigmas, strict=True)
    )
    for step, (timestep, sigma) in enumerate(steps):
        if step > 0:
            noisy = renoise(clean, noise, sigma)
        flow = _velocity(network, batch, noisy, _times(noisy, timestep))
        clean = x0_from_velocity(noisy, flow, sigma)
        if step + 1 < len(steps):
            fresh = schedule.fresh_noise
            noise = batch.draw(step + 1) if fresh else implied_noise(noisy, flow, sigma)
        if trace is not None:
            trace("flow", step, flow)
            trace("x0", step, clean)

    # The cache still holds keys of noisy tokens. One more pass overwrites them with keys of the
    # frames that viewers see; the next chunk attends to these.
    if batch.context_timestep is not None:
        flow = network(clean, _times(clean, batch.context_timestep), batch.prompt, batch.kv)
        if trace is not None:
            trace("flow", len(steps), flow)
    return clean


def _velocity(network: Network, batch: ChunkBatch, noisy: Tensor, times: Tensor) -> Tensor:
    """Predict the velocity of a step, guided where the batch asks for it."""
    if batch.guidance is None:
        return network(noisy, times, batch.prompt, batch.kv)
    # The prompt's own pass comes first: a clean pass with the same prompt can be merged into it.
    # What the other one leaves in the cache is never read: a clean pass, a recache or the next
    # chunk's merged pass overwrites it.
    prompted = network(noisy, times, batch.prompt, batch.kv)
    return torch.lerp(
        network(noisy, times, batch.guidance.empty, batch.kv), prompted, batch.guidance.scale
    )


def _times(latents: Tensor, timestep: float | Tensor) -> Tensor:
    """One timestep for every frame of every row, ``[B, F]``."""
    if isinstance(timestep, Tensor):
        return timestep.to(torch.float32).expand(latents.shape[:2])
    return torch.full(latents.shape[:2], timestep, dtype=torch.float32, device=latents.device)
