"""Rain, snowfall and fog: closed tiles that scroll, so falling never ends."""

import math

import torch
from torch import Tensor

from models.train.world_layer import Canvas, scattered

_DROPS = 30
_FLAKES = 34


def rain_tile(canvas: Canvas, layout: Tensor) -> Tensor:
    """Draw streaks on a tile that closes on itself ``[B, H, W]`` in [0, 1]."""
    x, y, bright = _points(canvas, layout, _DROPS)
    dy = _wrapped(canvas.y()[0, :, :, 0] - y[:, :, None], 1.0)  # [B, N, H]
    dx = canvas.x()[0] - x[:, :, None]  # [B, N, W]
    pixel = 1 / canvas.height
    along = (1 - dy.abs() / 0.085).clamp(0, 1)[:, :, :, None]
    # A streak leans: its axis moves to the left as it goes down.
    lean = _wrapped(dx[:, :, None, :] + 0.22 * dy[:, :, :, None], canvas.width / canvas.height)
    across = torch.exp(-((lean / (0.85 * pixel)) ** 2))
    return (along * across * bright[:, :, None, None]).sum(1).clamp(max=1)


def snow_tile(canvas: Canvas, layout: Tensor) -> Tensor:
    """Draw soft flakes on a tile that closes on itself ``[B, H, W]`` in [0, 1]."""
    x, y, bright = _points(canvas, layout, _FLAKES)
    radius = (1.1 + 0.9 * bright) / canvas.height
    dy = _wrapped(canvas.y()[0, :, :, 0] - y[:, :, None], 1.0) / radius[:, :, None]
    dx = _wrapped(canvas.x()[0] - x[:, :, None], canvas.width / canvas.height) / radius[:, :, None]
    flakes = torch.einsum("bny,bnx->byx", torch.exp(-(dy**2)), torch.exp(-(dx**2)))
    return flakes.clamp(max=1)


def fall(tile: Tensor, frame: Tensor, down: int, across: int) -> Tensor:
    """Scroll a tile by whole pixels a frame.

    Args:
        tile: ``[B, H, W]``.
        frame: ``[B, T]`` int64 frame numbers of the world.
        down: Pixels down for each frame.
        across: Pixels to the right for each frame.

    Returns:
        ``[B, T, 1, H, W]``.
    """
    _, height, width = tile.shape
    row = torch.arange(height, device=tile.device) - down * frame[:, :, None]
    column = torch.arange(width, device=tile.device) - across * frame[:, :, None]
    batch = torch.arange(len(tile), device=tile.device)[:, None, None, None]
    seen = tile[batch, (row % height)[..., None], (column % width)[:, :, None, :]]
    return seen[:, :, None]


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
