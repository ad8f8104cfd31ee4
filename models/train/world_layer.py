"""A strip of scenery that is wider than the picture and closes on itself.

Scenery is drawn once a scene as a strip two pictures wide, then shown for every frame
through a window that moves with the camera: a pan of any length costs one look-up a
pixel. Knows nothing of what is drawn on a strip.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STRIP_PICTURES = 2


@dataclass(frozen=True, slots=True)
class Canvas:
    """Pixel grid of the picture and of a strip.

    Attributes:
        width: Picture width, pixels.
        height: Picture height, pixels; the unit of length of the world.
        device: Where everything is drawn.
    """

    width: int
    height: int
    device: torch.device

    @property
    def strip_width(self) -> int:
        """Width of a strip in pixels."""
        return STRIP_PICTURES * self.width

    @property
    def turn(self) -> float:
        """Width of a strip in heights."""
        return self.strip_width / self.height

    def row(self, y: float) -> int:
        """Return the pixel row at ``y`` heights from the top."""
        return round(y * self.height)

    def x(self, strip: bool = False) -> Tensor:
        """Return pixel centres ``[1, 1, 1, W]`` in heights from the left."""
        width = self.strip_width if strip else self.width
        return ((torch.arange(width, device=self.device) + 0.5) / self.height)[None, None, None, :]

    def y(self, top: int = 0, bottom: int | None = None) -> Tensor:
        """Return pixel centres ``[1, 1, h, 1]`` of rows ``top`` to ``bottom`` in heights."""
        rows = torch.arange(top, self.height if bottom is None else bottom, device=self.device)
        return ((rows + 0.5) / self.height)[None, None, :, None]

    def edge(self, distance: Tensor, softness_px: float = 1.0) -> Tensor:
        """Cover of a pixel whose centre lies ``distance`` heights outside a shape (< 0 inside)."""
        return (0.5 - distance * (self.height / softness_px)).clamp(0, 1)


def scroll(strip: Tensor, shift_px: Tensor, width: int) -> Tensor:
    """Show a closed strip through a window for every frame.

    Args:
        strip: ``[B, C, h, S]``.
        shift_px: ``[B, T]`` position of the window's left edge, pixels in [0, S).
        width: Width of the window, at most S.

    Returns:
        ``[B, T, C, h, width]``, linearly interpolated between columns.
    """
    padded = torch.cat([strip, strip[..., : width + 1]], dim=-1)
    whole = shift_px.floor()
    part = (shift_px - whole).to(strip.dtype)[:, :, None, None, None]
    row = torch.arange(strip.shape[0], device=strip.device)[:, None]
    views = padded.unfold(-1, width + 1, 1)  # [B, C, h, S + 1, width + 1]
    seen = views.permute(0, 3, 1, 2, 4)[row, whole.long().clamp(max=strip.shape[-1] - 1)]
    return torch.lerp(seen[..., :-1], seen[..., 1:], part)


def scattered(count: int, seed: int, device: torch.device) -> Tensor:
    """Return ``[count, 3]`` fixed points in [0, 1) that keep some distance from each other."""
    number = np.arange(count)[:, None]
    even = (number + 0.5) / count + number * np.array([0.6180340, 0.0, 0.7548777])
    loose = np.random.default_rng(seed).uniform(-0.12, 0.12, (count, 3))
    return torch.from_numpy(np.mod(even + loose, 1.0).astype(np.float32)).to(device)


def over(frames: Tensor, top: int, premultiplied: Tensor) -> None:
    """Lay ``premultiplied [B, T, 4, h, W]`` over rows from ``top`` of ``frames`` in place."""
    part = frames[..., top : top + premultiplied.shape[-2], :]
    part.mul_(1 - premultiplied[:, :, 3:]).add_(premultiplied[:, :, :3])


def spread(strip: Tensor, shift_px: Tensor, depth: Tensor, width: int) -> Tensor:
    """Show a closed strip as a floor: far rows show more of it than near ones.

    Args:
        strip: ``[B, C, h, S]``.
        shift_px: ``[B, T]`` position of the picture's centre on the strip, pixels.
        depth: ``[h]`` strip pixels for each picture pixel of a row; 1 is nearest.
        width: Picture width.

    Returns:
        ``[B, T, C, h, width]``.
    """
    channels, size = strip.shape[1], strip.shape[3]
    centred = torch.arange(width, device=strip.device) - (width - 1) / 2
    position = torch.remainder(
        shift_px[:, :, None, None].float() + depth[:, None] * centred, size
    )  # [B, T, h, width]
    whole = position.floor()
    part = (position - whole)[:, :, None]
    column = whole.long().clamp(max=size - 1)[:, :, None].expand(-1, -1, channels, -1, -1)
    padded = torch.cat([strip, strip[..., :1]], dim=-1)[:, None]
    padded = padded.expand(-1, shift_px.shape[1], -1, -1, -1)
    return torch.lerp(padded.gather(-1, column), padded.gather(-1, column + 1), part)
