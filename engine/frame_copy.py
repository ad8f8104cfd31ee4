"""Decodes a chunk beside the denoising of the next one, and brings its frames to the host.

On a CUDA device the decoder runs on a stream of its own and the frames leave by one copy to
pinned memory; nobody waits until somebody wants the frames. On a CPU everything has happened when
``decode`` returns. The module knows neither sessions nor chunks' order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.interface import VideoCodec

__all__ = ["FrameDecoder", "PendingFrames", "to_uint8"]


def to_uint8(pixels: Tensor) -> Tensor:
    """Round ``[T, 3, h, w]`` in [-1, 1] to contiguous uint8 ``[T, h, w, 3]`` where it is."""
    channels_last = pixels.permute(0, 2, 3, 1)
    rounded = channels_last.float().add(1.0).mul_(127.5).round_().clamp_(0, 255)
    return rounded.to(torch.uint8).contiguous()


class PendingFrames:
    """Frames that are on their way to the host.

    Args:
        frames: uint8 ``[T, h, w, 3]`` on the CPU, valid once ``done`` has happened.
        done: None when it has.
    """

    def __init__(self, frames: Tensor, done: torch.cuda.Event | None) -> None:
        self._frames, self._done = frames, done

    def ready(self) -> bool:
        """Whether ``result`` returns at once."""
        return self._done is None or self._done.query()

    def result(self) -> Tensor:
        """Wait for the frames and return them."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None
        return self._frames


class FrameDecoder:
    """A codec's decoder beside the network's stream.

    Args:
        codec: decodes latents.
        device: where it is.
        dtype: of its weights.
        overlap: use a stream of its own where the device has streams.
    """

    def __init__(
        self,
        codec: VideoCodec,
        device: torch.device,
        dtype: torch.dtype,
        *,
        overlap: bool = True,
    ) -> None:
        self._codec, self._device, self._dtype = codec, device, dtype
        self._side: torch.cuda.Stream | None = None
        if device.type == "cuda" and overlap:
            self._side = torch.cuda.Stream(device)

    @torch.inference_mode()
    def decode(self, latents: Tensor, state: Any) -> tuple[PendingFrames, Any]:
        """Start decoding the next latents ``[1, F, C, H, W]`` of a stream.

        Args:
            latents: not written to until the frames are ready.
            state: the stream's decoder state; None at its start.

        Returns:
            The frames and the state for the next call.
        """
        if self._device.type != "cuda":
            pixels, state = self._codec.decode(latents.to(self._dtype), state)
            return PendingFrames(to_uint8(pixels[0]), None), state
        stream = self._side or torch.cuda.current_stream(self._device)
        if self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream(self._device))
            latents.record_stream(self._side)
        with torch.cuda.stream(stream):
            pixels, state = self._codec.decode(latents.to(self._dtype), state)
            frames = to_uint8(pixels[0])
            host = torch.empty(frames.shape, dtype=torch.uint8, pin_memory=True)
            host.copy_(frames, non_blocking=True)
            done = torch.cuda.Event()
            done.record(stream)
        return PendingFrames(host, done), state
