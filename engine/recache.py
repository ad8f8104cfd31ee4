"""How a model rebuilds its window of keys and values: one strategy each, chosen by its policy.

A strategy plans at most one pass over clean latents before a chunk; somebody else runs it. Which
one a checkpoint wants is a fact about its training: LongLive (Yang et al. 2025, arXiv:2509.22622)
recaches on a prompt change in one pass where all frames see each other, Krea Realtime rebuilds a
short context block by block before every chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.stream import Stream
from models.paged_kv import RowPages
from models.policy import CachePolicy


@dataclass(frozen=True, slots=True)
class RecachePass:
    """One pass to run before a chunk.

    Attributes:
        latents: Clean ``[1, F, C, H, W]``.
        row: What it writes and attends to.
        block_causal: Latent frames of a block, or None where all frames see each other.
    """

    latents: Tensor
    row: RowPages
    block_causal: int | None


class RecacheStrategy(Protocol):
    """When and how to rebuild."""

    @property
    def clean_pass(self) -> bool:
        """Whether a chunk ends with a pass that leaves its clean keys in the cache."""
        ...

    @property
    def rewrites_window(self) -> bool:
        """Whether a changed prompt's pass writes the keys of every frame of the newest chunk."""
        ...

    def plan(self, stream: Stream, prompt_changed: bool) -> RecachePass | None:
        """Plan the pass before the next chunk; None when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class OnPromptChange:
    """Rebuild the whole window when the prompt changes, and only then.

    Attributes:
        keep_sink: Leave the sink's keys alone once the stream is longer than the window.
        block_causal: Latent frames of a block; None is LongLive's pass without a mask.
    """

    keep_sink: bool
    block_causal: int | None
    clean_pass: bool = True
    rewrites_window: bool = True

    def plan(self, stream: Stream, prompt_changed: bool) -> RecachePass | None:
        """See ``RecacheStrategy.plan``."""
        if not prompt_changed or stream.recent is None:
            return None
        row = stream.table.recache(self.keep_sink)
        return RecachePass(stream.newest(len(row.query_frames)), row, self.block_causal)


@dataclass(frozen=True, slots=True)
class EveryChunk:
    """Rebuild a short context before every chunk, its positions counted from 0 (Krea).

    The newest latents are ``context_frames`` long; the first of them is replaced by the stream's
    anchor: its very first latent, or one made from pixels (``Stream.anchor``). There is no clean
    pass, since the next rebuild does its work.

    Attributes:
        context_frames: Latent frames of the context.
        block_causal: Latent frames of a block.
        keep_first: Always use the stream's first latent.
    """

    context_frames: int
    block_causal: int
    keep_first: bool
    clean_pass: bool = False
    rewrites_window: bool = True

    def plan(self, stream: Stream, prompt_changed: bool) -> RecachePass | None:
        """See ``RecacheStrategy.plan``."""
        if stream.recent is None:
            return None
        frames = min(self.context_frames, stream.latent_frames)
        latents = stream.newest(frames)
        anchor = stream.first if self.keep_first else stream.anchor
        if stream.latent_frames > self.context_frames and anchor is not None:
            latents = torch.cat((anchor, latents[:, 1:]), dim=1)
        stream.table.clear()
        stream.table.append(frames)
        return RecachePass(latents, stream.table.row(frames), self.block_causal)


@dataclass(frozen=True, slots=True)
class Never:
    """Leave the window as it is: a new prompt acts through cross-attention alone."""

    clean_pass: bool = True
    rewrites_window: bool = False

    def plan(self, stream: Stream, prompt_changed: bool) -> RecachePass | None:
        """See ``RecacheStrategy.plan``."""
        return None


def strategy_for(policy: CachePolicy) -> RecacheStrategy:
    """Return the strategy that ``policy`` names."""
    if policy.recache == "none":
        return Never()
    if policy.recache == "every_chunk":
        assert policy.window_frames is not None, "a recomputed context needs window_frames"
        return EveryChunk(
            context_frames=policy.window_frames - policy.chunk_frames,
            block_causal=policy.chunk_frames,
            keep_first=policy.keep_sink_on_recache,
        )
    return OnPromptChange(
        keep_sink=policy.keep_sink_on_recache,
        block_causal=policy.chunk_frames if policy.recache == "block_causal" else None,
    )
