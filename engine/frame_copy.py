"""Decodes a chunk beside the denoising of the next one, and brings its frames to the host.

On a CUDA device the decoder runs on a stream of its own and the frames leave by one copy to
pinned memory; nobody waits until somebody wants the frames. On a CPU everything has happened when
``decode`` returns. The module knows neither sessions nor chunks' order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from models.interface import VideoCodec

__all__ = ["FrameDecoder", "Mark", "PendingFrames", "to_uint8"]


def to_uint8(pixels: Tensor) -> Tensor:
    """Round ``[T, 3, h, w]`` in [-1, 1] to contiguous uint8 ``[T, h, w, 3]`` where it is."""
    channels_last = pixels.permute(0, 2, 3, 1)
    rounded = channels_last.float().add(1.0).mul_(127.5).round_().clamp_(0, 255)
    return rounded.to(torch.uint8).contiguous()


class Mark:
    """A place in the order of a device's work: when it is reached, without waiting for it.

    Args:
        device: whose work; on a CPU the place is reached when it is made.
        clock: seconds.
        stream: of the device; the current one when None.
    """

    def __init__(
        self,
        device: torch.device,
        clock: Callable[[], float],
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        self._host_s = clock()
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(stream or torch.cuda.current_stream(device))

    def until(self, later: Mark) -> float:
        """Return the seconds from here to ``later``; waits until both are reached."""
        if self._event is None or later._event is None:
            return later._host_s - self._host_s
        later._event.synchronize()
        return self._event.elapsed_time(later._event) / 1000


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
    def decode(
        self, latents: Tensor, state: Any, look: Callable[[Tensor], None] = lambda pixels: None
    ) -> tuple[PendingFrames, Any]:
        """Start decoding the next latents ``[1, F, C, H, W]`` of a stream.

        Args:
            latents: not written to until the frames are ready.
            state: the stream's decoder state; None at its start.
            look: called with the pixels ``[1, T, 3, h, w]`` where they are, on the decoder's
                stream.

        Returns:
            The frames and the state for the next call.
        """
        if self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream(self._device))
            # Neither is given to somebody else while the decoder may still read it.
            for tensor in (latents, *(state or ())):
                if isinstance(tensor, Tensor) and tensor.is_cuda:
                    tensor.record_stream(self._side)
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            pixels, state = self._codec.decode(latents.to(self._dtype), state)
            look(pixels)
            return self._leave(to_uint8(pixels[0])), state

    def mark(self, clock: Callable[[], float]) -> Mark:
        """Mark what has been asked of the decoder until now."""
        return Mark(self._device, clock, self._side)

    def _leave(self, frames: Tensor) -> PendingFrames:
        """Start the copy to the host."""
        if self._device.type != "cuda":
            return PendingFrames(frames.cpu(), None)
        host = torch.empty(frames.shape, dtype=torch.uint8, pin_memory=True)
        host.copy_(frames, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self._device))
        return PendingFrames(host, done)
