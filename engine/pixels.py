"""Between a stream's latents and the uint8 frames that leave the engine.

It runs the model's codec with each stream's own state. It does not know what a chunk is for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from engine.stream import Stream
from models.interface import VideoCodec


class Pixels:
    """A codec on the engine's device.

    Args:
        codec: Of the model.
        device: Where it is.
        kept_frames: Newest pixel frames to keep with a stream: those that its recomputed context
            covers where the policy makes anchors of pixels, else 0.
    """

    def __init__(self, codec: VideoCodec, device: torch.device, kept_frames: int = 0) -> None:
        self._codec = codec
        self._device = device
        self._kept = kept_frames
        weight = next(codec.parameters(), None) if isinstance(codec, nn.Module) else None
        self._dtype = torch.float32 if weight is None else weight.dtype

    @torch.inference_mode()
    def decode(self, stream: Stream, latents: Tensor) -> Tensor:
        """Decode the stream's next latents ``[1, F, C, H, W]``.

        Returns:
            uint8 ``[T, H*8, W*8, 3]``, contiguous on the CPU.
        """
        pixels, stream.decoder = self._codec.decode(latents.to(self._dtype), stream.decoder)
        if self._kept:
            joined = pixels if stream.pixels is None else torch.cat((stream.pixels, pixels), dim=1)
            stream.pixels = joined[:, -self._kept :]
            stream.anchor, _ = self._codec.encode(stream.pixels[:, :1], None)
            stream.anchor = stream.anchor.float()
        return to_frames(pixels[0])

    @torch.inference_mode()
    def encode(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Encode ``[T, h, w, 3]`` uint8, T one more than a multiple of four.

        Returns:
            Latents ``[1, F, C, H, W]`` float32.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self._device)
        pixels = pixels.permute(0, 3, 1, 2)[None].to(self._dtype) / 127.5 - 1.0
        latents, _ = self._codec.encode(pixels, None)
        return latents.float()


def to_frames(pixels: Tensor) -> Tensor:
    """Round ``[T, 3, h, w]`` in [-1, 1] to uint8 ``[T, h, w, 3]`` on the CPU."""
    scaled = pixels.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu()


def state_bytes(state: Any) -> int:
    """Return the bytes of a codec's state."""
    return sum(tensor.nbytes for tensor in state or () if tensor is not None)
