"""Colours of light and air: what time of day and weather do to everything else.

Tables of sRGB values in [0, 1] and one function that looks them up for a batch. Knows
no shapes and no places.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from models.train.world_scene import ASPECT

# Rows: dawn, day, sunset, night.
_ZENITH = ((0.46, 0.60, 0.84), (0.18, 0.48, 0.92), (0.33, 0.20, 0.46), (0.02, 0.03, 0.13))
_HORIZON = ((1.00, 0.80, 0.82), (0.76, 0.90, 1.00), (1.00, 0.52, 0.20), (0.13, 0.17, 0.38))
_LIGHT = ((0.92, 0.84, 0.93), (1.00, 1.00, 1.00), (1.00, 0.74, 0.56), (0.36, 0.42, 0.66))
_DISC = ((1.00, 0.94, 0.86), (1.00, 0.98, 0.86), (1.00, 0.80, 0.42), (0.93, 0.94, 1.00))
_GLOW = ((1.00, 0.86, 0.80), (1.00, 0.97, 0.80), (1.00, 0.45, 0.15), (0.45, 0.52, 0.85))
_DISC_X = (0.22, 0.80, 0.70, 0.24)  # share of the picture's width
_DISC_Y = (0.46, 0.14, 0.42, 0.17)  # heights from the top
_DISC_RADIUS = (0.060, 0.055, 0.085, 0.060)
_GLOW_RADIUS = (0.34, 0.26, 0.42, 0.20)

# Columns: clear, rain, snowfall, fog.
_GREY = (0.0, 0.55, 0.42, 0.35)
_DIM = (1.0, 0.74, 0.90, 0.97)
_CLOUDS = (0.38, 0.92, 0.78, 0.30)
_DISC_SEEN = (1.0, 0.22, 0.35, 0.30)


@dataclass(frozen=True, slots=True)
class Light:
    """Light of each scene; colours ``[B, 3, 1, 1]``, numbers ``[B, 1, 1, 1]``.

    Attributes:
        zenith: Sky colour at the top.
        horizon: Sky colour at the horizon, also the colour of haze.
        ground: Multiplies the colour of the landscape.
        subject: Multiplies the colour of the subject; milder, so that a colour stays itself.
        disc: Colour of sun or moon.
        glow: Colour around it.
        disc_x: Centre, heights from the left.
        disc_y: Centre, heights from the top.
        disc_radius: Heights.
        glow_radius: Heights.
        disc_seen: How much of the disc the weather lets through.
        clouds: How much of the sky is cloud.
        night: 1 at night, else 0.
    """

    zenith: Tensor
    horizon: Tensor
    ground: Tensor
    subject: Tensor
    disc: Tensor
    glow: Tensor
    disc_x: Tensor
    disc_y: Tensor
    disc_radius: Tensor
    glow_radius: Tensor
    disc_seen: Tensor
    clouds: Tensor
    night: Tensor

    def rows(self, index: Tensor) -> "Light":
        """Return the light of the chosen scenes."""
        return Light(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def mix(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """Blend ``a`` into ``b``: ``a`` where ``share`` is 0, ``b`` where it is 1."""
    return a + (b - a) * share


def light_of(time: Tensor, weather: Tensor) -> Light:
    """Look up the light of codes ``time [B]`` and ``weather [B]``."""

    def colour(table: tuple[tuple[float, ...], ...]) -> Tensor:
        return torch.tensor(table, device=time.device)[time][:, :, None, None]

    def number(table: tuple[float, ...], code: Tensor) -> Tensor:
        return torch.tensor(table, device=time.device)[code][:, None, None, None]

    grey, dim = number(_GREY, weather), number(_DIM, weather)

    def overcast(value: Tensor) -> Tensor:
        return mix(value, value.mean(1, keepdim=True), grey) * dim

    ground = colour(_LIGHT)
    lit = mix(ground, ground.mean(1, keepdim=True), 0.5 * grey) * mix(
        torch.ones_like(dim), dim, 0.7
    )
    return Light(
        zenith=overcast(colour(_ZENITH)),
        horizon=overcast(colour(_HORIZON)),
        ground=lit,
        subject=mix(torch.ones_like(lit), ground, 0.38),
        disc=colour(_DISC),
        glow=colour(_GLOW),
        disc_x=number(_DISC_X, time) * ASPECT,
        disc_y=number(_DISC_Y, time),
        disc_radius=number(_DISC_RADIUS, time),
        glow_radius=number(_GLOW_RADIUS, time),
        disc_seen=number(_DISC_SEEN, weather),
        clouds=number(_CLOUDS, weather),
        night=(time == 3).float()[:, None, None, None],
    )
