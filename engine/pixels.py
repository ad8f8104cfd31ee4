"""Between a stream's latents and the uint8 frames that leave the engine.

It runs the model's codec with each stream's own state. It does not know what a chunk is for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from engine.frame_copy import FrameDecoder, Mark, PendingFrames
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
        # The next chunk waits for an anchor, so there is nothing to do beside it.
        self._decoder = FrameDecoder(codec, device, self._dtype, overlap=not kept_frames)

    def decode(self, stream: Stream, latents: Tensor) -> PendingFrames:
        """Start decoding the stream's next latents ``[1, F, C, H, W]``.

        Returns:
            uint8 ``[T, H*8, W*8, 3]``, contiguous on the CPU when they are ready.
        """

        def keep(pixels: Tensor) -> None:
            if self._kept:
                known = stream.pixels
                joined = pixels if known is None else torch.cat((known, pixels), dim=1)
                stream.pixels = joined[:, -self._kept :]
                anchor, _ = self._codec.encode(stream.pixels[:, :1], None)
                stream.anchor = anchor.float()

        frames, stream.decoder = self._decoder.decode(latents, stream.decoder, keep)
        return frames

    def mark(self, clock: Callable[[], float]) -> Mark:
        """Mark what has been asked of the decoder until now."""
        return self._decoder.mark(clock)

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
