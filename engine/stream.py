"""What one stream keeps between chunks: tensors and its page table.

Only the engine's thread touches it. Every tensor is replaced, never written in place, so a
snapshot or a fork is a copy of references.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.window import PageTable
from models.paged_kv import RowPages
from models.transformer import PromptKV


@dataclass(frozen=True, slots=True)
class Owed:
    """A clean pass of a stream's last chunk that has not been made (``engine/merged.py``).

    Attributes:
        latents: Clean, ``[1, F, C, H, W]``.
        prompt: Of the pass.
        row: Pages of the pass.
    """

    latents: Tensor
    prompt: PromptKV
    row: RowPages


@dataclass(slots=True)
class Stream:
    """One stream's state on the device.

    Attributes:
        table: Its pages.
        latent_hw: Latent height and width.
        recent: Clean latents of the newest frames ``[1, <= kept, C, H, W]`` float32; None before
            the first chunk.
        first: The very first clean latent ``[1, 1, C, H, W]``.
        latent_frames: Latent frames made so far.
        anchor: Stands in for the first frame of a recomputed context, where the policy wants one.
        decoder: State of the streaming decoder; None before the first chunk.
        pixels: Newest decoded pixel frames, kept only where the policy makes anchors of them.
        owed: The clean pass that the next chunk is to make; None when there is none to make.
    """

    table: PageTable
    latent_hw: tuple[int, int]
    kept_frames: int
    recent: Tensor | None = None
    first: Tensor | None = None
    latent_frames: int = 0
    anchor: Tensor | None = None
    decoder: Any = None
    pixels: Tensor | None = None
    owed: Owed | None = None

    def extend(self, latents: Tensor) -> None:
        """Remember the clean latents ``[1, F, C, H, W]`` of a finished chunk."""
        if self.first is None:
            self.first = latents[:, :1].clone()
        joined = latents if self.recent is None else torch.cat((self.recent, latents), dim=1)
        self.recent = joined[:, -self.kept_frames :]
        self.latent_frames += latents.shape[1]

    def newest(self, frames: int) -> Tensor:
        """Return the newest ``frames`` clean latents, ``[1, frames, C, H, W]``."""
        assert self.recent is not None, "a stream without frames has no newest ones"
        assert frames <= self.recent.shape[1], (frames, self.recent.shape)
        return self.recent[:, self.recent.shape[1] - frames :]
