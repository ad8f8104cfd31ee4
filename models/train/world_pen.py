"""Drawing tools for landscapes: colours under a light, repeating cells, ridges, layered parts.

Knows strips and floors, but no place.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.train.world_layer import Canvas
from models.train.world_light import Light, mix
from models.train.world_sky import HORIZON

STRIP_TOP = 0.20
STRIP_BOTTOM = 0.66
"""Rows that far and middle strips cover, heights from the top."""


@dataclass(frozen=True, slots=True)
class Pen:
    """What every drawing function needs for one group of scenes of the same place."""

    canvas: Canvas
    light: Light
    layout: Tensor

    def colour(self, red: float, green: float, blue: float) -> Tensor:
        """Return a landscape colour ``[B, 3, 1, 1]`` under the scene's light."""
        base = torch.tensor((red, green, blue), device=self.canvas.device)
        return base[None, :, None, None] * self.light.ground

    def number(self, index: int) -> Tensor:
        """Return a uniform number ``[B, 1, 1, 1]`` of the layout."""
        return self.layout[:, index % self.layout.shape[1], None, None, None]

    def strip(self) -> tuple[Tensor, Tensor]:
        """Return ``x`` and ``y`` of far and middle strips."""
        top, bottom = self.canvas.row(STRIP_TOP), self.canvas.row(STRIP_BOTTOM)
        return self.canvas.x(strip=True), self.canvas.y(top, bottom)

    def floor(self) -> tuple[Tensor, Tensor]:
        """Return ``x`` and depth (0 at the horizon, 1 at the lower edge) of the floor."""
        y = self.canvas.y(self.canvas.row(HORIZON))
        return self.canvas.x(strip=True), ((y - HORIZON) / (1 - HORIZON)).clamp(0, 1)

    def wave(self, x: Tensor, waves: int, index: int) -> Tensor:
        """Return a sine along the strip that closes on itself, with a phase of the layout."""
        turn = 2 * math.pi / self.canvas.turn
        return torch.sin(x * (waves * turn) + 2 * math.pi * self.number(index))

    def cells(self, x: Tensor, count: int, index: int) -> tuple[Tensor, Callable[[int], Tensor]]:
        """Divide the strip into ``count`` cells.

        Returns the distance ``[1, 1, 1, S]`` from the cell's centre, and a function that
        gives each cell's own number ``[B, 1, 1, S]`` for a key.
        """
        width = self.canvas.turn / count
        cell = (x[0, 0, 0] / width).long().clamp(max=count - 1)
        local = x - (cell + 0.5) * width

        def own(key: int) -> Tensor:
            column = (cell + index + key * 17) % self.layout.shape[1]
            return self.layout[:, None, None, :].index_select(3, column)

        return local, own


def painted(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Lay (colour ``[B, 3, ?, ?]``, cover ``[B, 1, h, S]``) parts over each other, first lowest."""
    rgb, alpha = parts[0][0] * parts[0][1], parts[0][1]
    for colour, cover in parts[1:]:
        rgb = rgb * (1 - cover) + colour * cover
        alpha = alpha * (1 - cover) + cover
    return torch.cat([rgb, alpha], dim=1)


def hills(pen: Pen, base: float, height: float, waves: tuple[int, ...], index: int) -> Tensor:
    """Return the ridge ``[B, 1, 1, S]`` of soft hills, heights from the top."""
    x, _ = pen.strip()
    rise = torch.stack([pen.wave(x, w, index + i) / (i + 1) for i, w in enumerate(waves)]).sum(0)
    return base - height * (0.5 + 0.33 * rise)


def far_colour(pen: Pen, red: float, green: float, blue: float, haze: float) -> Tensor:
    """Return a landscape colour seen through a share of haze."""
    return mix(pen.colour(red, green, blue), pen.light.horizon, haze)


def bar(
    canvas: Canvas, local: Tensor, y: Tensor, x: Tensor, top: Tensor, bottom: Tensor, half: float
) -> Tensor:
    """Cover of an upright bar with a round head."""
    reach = (y - (top + half)).clamp(max=0.0)
    return canvas.edge(torch.hypot(local - x, reach) - half) * canvas.edge(y - bottom)
