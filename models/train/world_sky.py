"""The sky: gradient, sun or moon, stars, and clouds on a strip of their own."""

import math

import torch
from torch import Tensor

from models.train.world_layer import Canvas, scattered
from models.train.world_light import Light, mix

HORIZON = 0.58
"""Where sky meets ground, heights from the top, in every scene."""

CLOUD_BOTTOM = 0.44
_STARS = 26


def sky(canvas: Canvas, light: Light, layout: Tensor) -> Tensor:
    """Paint the still part of the sky ``[B, 3, h, W]`` down to the horizon.

    Args:
        canvas: Pixel grid.
        light: Light of each scene.
        layout: ``[B, 64]`` uniform numbers; the first of them place the stars.
    """
    x, y = canvas.x(), canvas.y(0, canvas.row(HORIZON))
    colour = mix(light.zenith, light.horizon, (y / HORIZON).pow(1.6))
    distance = torch.hypot(x - light.disc_x, y - light.disc_y)
    halo = torch.exp(-((distance / light.glow_radius) ** 2))
    colour = mix(
        colour, light.glow, halo * mix(light.disc_seen, light.disc_seen * 0.5, light.night)
    )
    colour = mix(
        colour, torch.ones_like(colour), _stars(canvas, layout, y) * light.night * light.disc_seen
    )
    disc = canvas.edge(distance - light.disc_radius, 1.5)
    # The moon is a crescent: a second disc cuts it, but leaves a dim rest.
    cut = canvas.edge(
        torch.hypot(x - light.disc_x - 0.032, y - light.disc_y + 0.018) - light.disc_radius * 0.86,
        1.5,
    )
    disc = disc * (1 - 0.85 * cut * light.night)
    return mix(colour, light.disc, disc * light.disc_seen.clamp(min=0.3))


def _stars(canvas: Canvas, layout: Tensor, y: Tensor) -> Tensor:
    """Return brightness ``[B, 1, h, W]`` of a sparse field of still stars."""
    x = canvas.x()
    turn = canvas.width / canvas.height
    field = scattered(_STARS, 11, canvas.device)
    star_x = torch.remainder(field[:, 0] + layout[:, :1], 1.0) * turn
    star_y = torch.remainder(field[:, 1] + layout[:, 1:2], 1.0) * 0.46
    bright = 0.45 + 0.55 * field[:, 2]
    near_x = torch.exp(-(((x[0] - star_x[:, :, None]) * canvas.height / 0.62) ** 2))
    near_y = torch.exp(-(((y[0, :, :, 0] - star_y[:, :, None]) * canvas.height / 0.62) ** 2))
    return torch.einsum("bsy,bsx,s->byx", near_y, near_x, bright).clamp(max=1)[:, None]


def clouds(canvas: Canvas, light: Light, layout: Tensor) -> Tensor:
    """Paint clouds, premultiplied ``[B, 4, h, W]``: the first picture of a closed strip of them."""
    x, y = canvas.x(), canvas.y(0, canvas.row(CLOUD_BOTTOM))
    turn = 2 * math.pi / canvas.turn
    phase = layout[:, 2:14, None, None] * 2 * math.pi
    billow = torch.zeros(1, device=canvas.device)
    for index, (waves, tall, weight) in enumerate(
        ((3, 7.0, 0.9), (5, -9.0, 0.8), (8, 13.0, 0.6), (13, -21.0, 0.42), (21, 29.0, 0.26))
    ):
        bend = 1.3 * torch.sin(y * tall * 0.7 + phase[:, index + 5 : index + 6])
        billow = billow + weight * torch.sin(
            x * waves * turn + bend + y * tall + phase[:, index : index + 1]
        )
    cover = torch.sigmoid((billow - 1.9 + 3.2 * light.clouds) * 3.0)
    band = torch.sin(math.pi * ((y + 0.10) / (CLOUD_BOTTOM + 0.10)).clamp(0, 1)) ** 0.6
    alpha = cover * band * (0.35 + 0.55 * light.clouds)
    white = mix(light.horizon, torch.ones_like(light.horizon), 0.55 * (1 - light.night))
    shade = mix(light.zenith, light.horizon, 0.55) * 0.9
    lit = torch.sigmoid(billow * 1.2 - (y - 0.18) * 8)
    return torch.cat([mix(shade, white, lit) * alpha, alpha], dim=1)
