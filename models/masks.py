"""Which latent frame may see which, and the same for tokens.

Masks are made between frames, where they are tiny, and widened to tokens once. True means
"may be seen". They know nothing of positions: a mask over frames says who attends, the view
that holds it says where each frame stands in time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["block_causal", "chunk_starts", "teacher_forcing", "to_tokens"]


def chunk_starts(frames: int, chunk: int, independent_first_frame: bool = False) -> list[int]:
    """First frame of each chunk of a clip: chunks of ``chunk``, after a single frame if asked.

    The last chunk is shorter when the clip does not divide.
    """
    assert min(frames, chunk) > 0, f"{frames} frames in chunks of {chunk}"
    if independent_first_frame:
        return [0, *range(1, frames, chunk)]
    return list(range(0, frames, chunk))


def _chunk_of(frames: int, starts: Sequence[int], device: torch.device | str | None) -> Tensor:
    """Chunk index ``[F]`` of every frame."""
    bounds = torch.tensor(starts, device=device)
    return torch.searchsorted(bounds, torch.arange(frames, device=device), right=True) - 1


def block_causal(
    frames: int,
    starts: Sequence[int],
    window: int | None = None,
    sink: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Let each chunk see itself and what came before it.

    Args:
        frames: latent frames of the clip (F).
        starts: first frame of each chunk, ascending from 0.
        window: frames seen at most, the chunk itself and the sink included; None is all.
        sink: frames at the start that are never out of sight.
        device: of the result.

    Returns:
        ``[F, F]`` boolean, queries by keys.
    """
    ends = torch.tensor([*starts[1:], frames], device=device)
    end = ends[_chunk_of(frames, starts, device)][:, None]  # [F, 1]
    key = torch.arange(frames, device=device)
    seen = key < end
    if window is not None:
        seen &= (key >= end - (window - sink)) | (key < sink)
    return seen


def teacher_forcing(
    frames: int, starts: Sequence[int], device: torch.device | str | None = None
) -> Tensor:
    """Mask of a sequence of clean frames followed by the same frames with noise.

    Clean chunks are block-causal among themselves; a noisy chunk sees the clean chunks before
    it and itself.

    Returns:
        ``[2F, 2F]`` boolean, queries by keys.
    """
    chunk = _chunk_of(frames, starts, device)
    clean = chunk[:, None] >= chunk
    before = chunk[:, None] > chunk
    own = chunk[:, None] == chunk
    top = torch.cat((clean, torch.zeros_like(clean)), dim=1)
    return torch.cat((top, torch.cat((before, own), dim=1)))


def to_tokens(mask: Tensor, frame_tokens: int) -> Tensor:
    """Widen a frame mask ``[..., F, F]`` to tokens ``[..., F*hw, F*hw]``."""
    return mask.repeat_interleave(frame_tokens, -2).repeat_interleave(frame_tokens, -1)
