"""What the engine is given: a loaded model, in terms the engine needs and no more.

The protocols know nothing of sessions, schedules or pages. A codec's state is an immutable value,
so that a fork or a snapshot of a stream is a second reference to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from models.transformer import CausalWan

if TYPE_CHECKING:
    from models.entry import ModelEntry

__all__ = ["CodecState", "LoadedModel", "TextEncoder", "VideoCodec"]

CodecState = tuple[Tensor, ...]
"""Memory of a codec between chunks of a stream: tensors nobody writes to. None in its place is
the start of a stream."""


class TextEncoder(Protocol):
    """Turns prompts into embeddings."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed prompts as ``[B, text_len, text_dim]``; rows after a prompt's end are zero."""
        ...


class VideoCodec(Protocol):
    """Latents to pixels and back, chunk after chunk."""

    def decode(self, latents: Tensor, state: CodecState | None) -> tuple[Tensor, CodecState]:
        """Decode the next latent frames of a stream.

        Args:
            latents: ``[B, F, C, H, W]``.
            state: from the chunk before; None at the start of the stream.

        Returns:
            Pixels ``[B, T, 3, H*8, W*8]`` in [-1, 1] with T of ``frames_for``, and the state
            for the next chunk.
        """
        ...

    def encode(self, pixels: Tensor, state: CodecState | None) -> tuple[Tensor, CodecState]:
        """Encode the next pixel frames ``[B, T, 3, h, w]`` in [-1, 1] as latents."""
        ...

    def frames_for(self, latent_frames: int, first: bool) -> int:
        """Pixel frames that ``latent_frames`` decode to; ``first`` at the start of a stream."""
        ...

    def state_bytes(self, height: int, width: int) -> int:
        """Bytes of one stream's decoder state at ``height x width`` pixels."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        entry: what it is: sampler, cache policy, sizes, frame rate, licence.
        transformer: the network, in evaluation mode.
        text: its text encoder.
        codec: its video codec.
        device: where the network and the codec are.
        dtype: of the network's weights and activations.
    """

    entry: "ModelEntry"
    transformer: CausalWan
    text: TextEncoder
    codec: VideoCodec
    device: torch.device
    dtype: torch.dtype
