"""The rows of one tick, joined into tensors.

Everything a denoising loop needs is in the batch when it starts; which sessions the rows belong to
it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from models.kv import KVView
from models.paged_kv import RowPages
from models.sampler import Schedule
from models.transformer import PromptKV


@dataclass(frozen=True, slots=True)
class DeviceSchedule:
    """A schedule whose numbers lie on the device, where a captured graph reads them.

    Attributes:
        timesteps: one float64 number each.
        sigmas: the same.
        fresh_noise: as in ``models.sampler.Sampler``.
    """

    timesteps: tuple[Tensor, ...]
    sigmas: tuple[Tensor, ...]
    fresh_noise: bool = True


@dataclass(frozen=True, slots=True)
class OwedPass:
    """A clean pass of the chunk before, to be made with this chunk's first pass.

    Attributes:
        rows: pages of each row of that chunk.
        latents: its clean latents ``[B, F, C, H, W]``.
        timestep: of the pass.
    """

    rows: Sequence[RowPages]
    latents: Tensor
    timestep: float


Draw = Callable[[int], Tensor]
"""Noise of a step, ``[B, F, C, H, W]`` float32: 0 is where the chunk starts from."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance of the denoising steps; the clean pass takes the prompt alone.

    Attributes:
        scale: See ``models.sampler.Sampler.guidance``.
        empty: Keys and values of the empty prompt: one row, in a batch as many as it has.
    """

    scale: float
    empty: PromptKV


@dataclass(frozen=True, slots=True)
class ChunkBatch:
    """One chunk for each of B rows, all of the same shape and schedule.

    Attributes:
        kv: What each row writes and attends to in every pass.
        prompt: Keys and values of each row's prompt.
        schedule: Timesteps and sigmas of the steps.
        draw: Noise by step.
        context_timestep: Of the clean pass; None leaves it out.
        guidance: None is none.
    """

    kv: KVView
    prompt: PromptKV
    schedule: Schedule | DeviceSchedule
    draw: Draw
    context_timestep: float | Tensor | None
    guidance: Guidance | None = None
