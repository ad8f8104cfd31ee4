"""Rain, snowfall and fog: closed tiles that scroll once round in a beat, so falling never ends."""

import math

import torch
from torch import Tensor

from models.train.world_layer import Canvas, scattered
from models.train.world_scene import BEAT_FRAMES

_DROPS = 30
_FLAKES = 26


def rain_tiles(canvas: Canvas, layout: Tensor) -> tuple[Tensor, Tensor]:
    """Draw near and far streaks; see ``fall``. Far ones fall half as fast."""
    near = _streaks(canvas, layout)
    return near, 0.6 * _folded(near.roll(canvas.width // 3, -1), 2)


def snow_tiles(canvas: Canvas, layout: Tensor) -> tuple[Tensor, Tensor]:
    """Draw near and far flakes; see ``fall``. Near ones fall half as fast as rain."""
    flakes = _flakes(canvas, layout)
    return _folded(flakes, 2), 0.6 * _folded(flakes.roll(canvas.width // 3, -1), 4)


def _folded(tile: Tensor, times: int) -> Tensor:
    """Lay the parts of a tile ``[B, H, W]`` over each other: ``[B, H / times, W]``."""
    parts = tile[:, : tile.shape[1] // times * times].unflatten(1, (times, -1))
    return parts.sum(1).clamp(max=1)


def _streaks(canvas: Canvas, layout: Tensor) -> Tensor:
    x, y, bright = _points(canvas, layout, _DROPS)
    dy = _wrapped(canvas.y()[0, :, :, 0] - y[:, :, None], 1.0)  # [B, N, H]
    dx = canvas.x()[0] - x[:, :, None]  # [B, N, W]
    pixel = 1 / canvas.height
    along = (1 - dy.abs() / 0.085).clamp(0, 1)[:, :, :, None]
    across = torch.exp(-((_wrapped(dx, canvas.width / canvas.height) / (0.85 * pixel)) ** 2))
    return (along * across[:, :, None] * bright[:, :, None, None]).sum(1).clamp(max=1)


def _flakes(canvas: Canvas, layout: Tensor) -> Tensor:
    x, y, bright = _points(canvas, layout, _FLAKES)
    radius = (1.1 + 0.9 * bright) / canvas.height
    dy = _wrapped(canvas.y()[0, :, :, 0] - y[:, :, None], 1.0) / radius[:, :, None]
    dx = _wrapped(canvas.x()[0] - x[:, :, None], canvas.width / canvas.height) / radius[:, :, None]
    flakes = torch.einsum("bny,bnx->byx", torch.exp(-(dy**2)), torch.exp(-(dx**2)))
    return flakes.clamp(max=1)


def fall(tile: Tensor, frame: Tensor, height: int) -> Tensor:
    """Let a tile fall by its own height in a beat, by whole pixels a frame.

    Args:
        tile: ``[B, h, W]``, repeated downwards.
        frame: ``[B, T]`` int64 frame within the beat.
        height: Rows of the picture (H).

    Returns:
        ``[B, T, 1, H, W]``.
    """
    period = tile.shape[1]
    gone = frame * period // BEAT_FRAMES
    row = (torch.arange(height, device=tile.device) - gone[:, :, None]) % period
    batch = torch.arange(len(tile), device=tile.device)[:, None, None]
    return tile[batch, row][:, :, None]


def fog_density(canvas: Canvas, drift: Tensor) -> Tensor:
    """Return the cover ``[B, T, 1, H, W]`` of fog, thickest at the horizon.

    Args:
        canvas: Pixel grid.
        drift: ``[B, T]`` angle in radians that grows with time and with the pan.
    """
    x, y = canvas.x()[:, None], canvas.y()[:, None]
    bank = 0.52 + 0.26 * torch.exp(-(((y - 0.52) / 0.20) ** 2))
    bank = bank - 0.16 * ((y - 0.7) / 0.3).clamp(0, 1)
    turn = 2 * math.pi / canvas.turn
    swirl = torch.sin(2 * turn * x + drift[:, :, None, None, None] + 5 * y)
    return bank + 0.07 * swirl


def _points(canvas: Canvas, layout: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    field = scattered(count, 12, canvas.device)
    x = torch.remainder(field[:, 0] + layout[:, 44:45], 1.0) * (canvas.width / canvas.height)
    y = torch.remainder(field[:, 1] + layout[:, 45:46], 1.0)
    bright = 0.35 + 0.65 * torch.remainder(field[:, 2] + layout[:, 46:47], 1.0)
    return x, y, bright


def _wrapped(distance: Tensor, period: float) -> Tensor:
    return torch.remainder(distance + period / 2, period) - period / 2
