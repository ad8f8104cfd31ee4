"""The subjects: shaded sprites drawn from signed distances, one for each phase of a second.

A sprite is drawn once a scene on a small square grid and placed by the renderer. Each
subject is a list of painted parts. Local coordinates: the subject's radius is 1, x to
the right (the way it faces), y down. Knows nothing of where the subject is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SPRITE = 64
"""Texels along a side."""

REACH = 1.30
"""Half the side of a sprite in radii."""

PHASES = 16
"""Sprites in one second of a subject's own movement (wings, wheels, sails)."""

# In the order of the attribute's codes; kept apart in hue and brightness under every light.
_COLOURS = (
    (0.86, 0.10, 0.12),
    (1.00, 0.50, 0.05),
    (1.00, 0.88, 0.12),
    (0.12, 0.66, 0.20),
    (0.12, 0.30, 0.90),
    (0.52, 0.16, 0.74),
    (1.00, 0.50, 0.74),
    (0.97, 0.97, 0.97),
)
_BEAM = math.hypot(0.5, 0.6, 0.62)
_TO_LIGHT = (-0.5 / _BEAM, -0.6 / _BEAM, 0.62 / _BEAM)


@dataclass(slots=True)
class _Sprite:
    """A picture being painted: ``rgb [B, 3, A, S, S]`` premultiplied, ``alpha [B, 1, A, S, S]``."""

    x: Tensor
    y: Tensor
    phase: Tensor
    colour: Tensor
    tint: Tensor
    rgb: Tensor
    alpha: Tensor

    def paint(self, distance: Tensor, colour: Tensor, rim: float = 0.35) -> None:
        """Lay a part over what is there; ``distance`` in radii, below 0 inside.

        The rim is darkened so that a subject stands out from ground of its own colour.
        """
        texel = 2 * REACH / SPRITE
        cover = (0.5 - distance / (1.6 * texel)).clamp(0, 1)
        shade = 1 - rim * (1 + distance / 0.11).clamp(0, 1)
        self.rgb = self.rgb * (1 - cover) + colour * shade * cover
        self.alpha = self.alpha * (1 - cover) + cover

    def fixed(self, red: float, green: float, blue: float) -> Tensor:
        """Return a colour of a part that does not take the subject's, under its light."""
        base = torch.tensor((red, green, blue), device=self.x.device)
        return base[None, :, None, None, None] * self.tint

    def lit(self, shade: Tensor | float, white: Tensor | float = 0.0) -> Tensor:
        """Return the subject's colour times ``shade``, plus a share of white."""
        full = self.colour * self.tint * shade
        return (full + (self.tint - full) * white).clamp(0, 1)


def _circle(x: Tensor, y: Tensor, radius: float) -> Tensor:
    return torch.hypot(x, y) - radius


def _ellipse(x: Tensor, y: Tensor, a: float, b: float) -> Tensor:
    return (torch.hypot(x / a, y / b) - 1) * min(a, b)


def _box(x: Tensor, y: Tensor, a: float, b: float, corner: float = 0.0) -> Tensor:
    dx, dy = x.abs() - (a - corner), y.abs() - (b - corner)
    outside = torch.hypot(dx.clamp(min=0), dy.clamp(min=0))
    return outside + torch.maximum(dx, dy).clamp(max=0) - corner


def _convex(x: Tensor, y: Tensor, *corners: tuple[float, float]) -> Tensor:
    """Distance to a convex polygon whose corners run clockwise on the screen."""
    sides = []
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        length = math.hypot(bx - ax, by - ay)
        sides.append(((x - ax) * (by - ay) - (y - ay) * (bx - ax)) / length)
    return torch.stack(sides).amax(0)


def _ball_shade(x: Tensor, y: Tensor, a: float, b: float) -> tuple[Tensor, Tensor]:
    """Return diffuse and highlight of an ellipsoid with half axes ``a`` and ``b``."""
    nx, ny = x / a, y / b
    nz = (1 - nx * nx - ny * ny).clamp(min=0).sqrt()
    lambert = (nx * _TO_LIGHT[0] + ny * _TO_LIGHT[1] + nz * _TO_LIGHT[2]).clamp(min=0)
    shine = torch.exp(-(((nx + 0.38) ** 2 + (ny + 0.42) ** 2) / 0.045))
    return 0.52 + 0.56 * lambert, 0.75 * shine


def _swing(s: _Sprite, degrees: float, cycles: int, pivot_y: float) -> tuple[Tensor, Tensor]:
    """Return coordinates of a part that swings about a pivot."""
    angle = math.radians(degrees) * torch.sin(2 * math.pi * cycles * s.phase)
    y = s.y - pivot_y
    return s.x * angle.cos() + y * angle.sin(), y * angle.cos() - s.x * angle.sin() + pivot_y


def _ball(s: _Sprite) -> None:
    diffuse, shine = _ball_shade(s.x, s.y, 1, 1)
    s.paint(_circle(s.x, s.y, 0.98), s.lit(diffuse, shine), 0.2)


def _cube(s: _Sprite) -> None:
    x, y = s.x, s.y
    s.paint(
        _convex(x, y, (-0.92, -0.48), (0.0, -0.02), (0.0, 1.0), (-0.92, 0.54)), s.lit(0.80), 0.15
    )
    s.paint(_convex(x, y, (0.92, -0.48), (0.92, 0.54), (0.0, 1.0), (0.0, -0.02)), s.lit(0.56), 0.15)
    s.paint(
        _convex(x, y, (0.0, -0.96), (0.92, -0.48), (0.0, 0.0), (-0.92, -0.48)),
        s.lit(1.0, 0.30),
        0.15,
    )


def _sailboat(s: _Sprite) -> None:
    x, y = _swing(s, 4.0, 1, 0.8)
    s.paint(_box(x - 0.02, y + 0.10, 0.045, 0.90), s.fixed(0.40, 0.27, 0.17), 0.0)
    belly = 0.86 + 0.20 * (x + 0.6)
    s.paint(_convex(x, y, (0.10, -0.96), (0.92, 0.50), (0.10, 0.50)), s.lit(belly))
    s.paint(_convex(x, y, (-0.06, -0.80), (-0.06, 0.50), (-0.74, 0.50)), s.lit(belly, 0.25))
    hull = s.fixed(0.46, 0.30, 0.19) * (1.25 - 0.5 * (y - 0.6).clamp(0, 1))
    s.paint(_convex(x, y, (-1.08, 0.60), (1.12, 0.60), (0.70, 0.98), (-0.76, 0.98)), hull)
    s.paint(_box(x - 0.02, y - 0.64, 1.02, 0.06), s.lit(0.9), 0.0)


def _balloon(s: _Sprite) -> None:
    x, y = _swing(s, 2.5, 1, -0.3)
    for side in (-0.17, 0.17):
        s.paint(
            _box(x - side - (y - 0.75) * side * -0.5, y - 0.55, 0.02, 0.25),
            s.fixed(0.35, 0.26, 0.18),
            0.0,
        )
    s.paint(_box(x, y - 0.84, 0.20, 0.15, 0.05), s.fixed(0.58, 0.38, 0.20))
    top = _circle(x, y + 0.28, 0.72)
    cone = _convex(x, y, (-0.66, 0.0), (0.66, 0.0), (0.20, 0.58), (-0.20, 0.58))
    diffuse, shine = _ball_shade(x, y + 0.20, 0.78, 0.85)
    gore = x / (0.735 - 0.62 * (y + 0.1).clamp(min=0)).clamp(min=0.1)
    stripe = (torch.sin(gore.clamp(-1, 1).asin() * 6) * 4).clamp(-0.5, 0.5) + 0.5
    s.paint(
        torch.minimum(top, cone),
        s.lit(diffuse * (0.80 + 0.20 * stripe), 0.24 * stripe + 0.5 * shine),
    )


def _bird(s: _Sprite) -> None:
    flap = torch.sin(4 * math.pi * s.phase)
    x, y = s.x, s.y - 0.10 * flap

    def wing(lift: Tensor, shade: float) -> None:
        root_x, root_y = x + 0.05, y + 0.10
        tip = 1.05 * lift
        tip = torch.where(tip < 0, tip.clamp(max=-0.12), tip.clamp(min=0.12))
        # Shear makes the wing swing: its far end moves most.
        out = -root_y / tip
        width = 0.40 * (1 - 0.55 * out.clamp(0, 1))
        beyond = torch.maximum(-out, out - 1) * tip.abs()
        distance = torch.maximum((root_x + 0.28 * out.clamp(-0.5, 1.5)).abs() - width, beyond)
        s.paint(distance, s.lit(shade))

    wing(0.35 + 0.55 * flap, 0.62)
    s.paint(
        _convex(x, y, (-1.16, -0.22), (-0.50, -0.12), (-0.50, 0.14), (-1.10, 0.20)), s.lit(0.75)
    )
    diffuse, shine = _ball_shade(x, y, 0.74, 0.40)
    s.paint(
        _convex(x, y, (0.92, -0.32), (1.24, -0.16), (0.92, -0.06)), s.fixed(1.0, 0.62, 0.10), 0.1
    )
    s.paint(_ellipse(x, y, 0.76, 0.40), s.lit(diffuse, 0.4 * shine))
    diffuse, shine = _ball_shade(x - 0.68, y + 0.24, 0.33, 0.33)
    s.paint(_circle(x - 0.68, y + 0.24, 0.33), s.lit(diffuse, 0.4 * shine))
    s.paint(_circle(x - 0.78, y + 0.30, 0.08), s.fixed(0.05, 0.05, 0.06), 0.0)
    wing(0.20 + 0.85 * flap, 0.88)


def _car(s: _Sprite) -> None:
    x, y = s.x, s.y
    height = 1.0 - 0.30 * (y - 0.2)
    s.paint(
        _convex(x, y, (-0.50, -0.52), (0.34, -0.52), (0.78, 0.10), (-0.84, 0.10)),
        s.lit(height, 0.12),
    )
    for a, b, slope_a, slope_b in ((-0.46, -0.10, -0.24, 0.0), (0.0, 0.30, 0.0, 0.28)):
        pane = _convex(x, y, (a, -0.40), (b, -0.40), (b + slope_b, 0.06), (a + slope_a, 0.06))
        s.paint(pane, s.fixed(0.70, 0.86, 0.95), 0.1)
    s.paint(_box(x, y - 0.34, 1.18, 0.34, 0.18), s.lit(height, 0.10 * (0.3 - y).clamp(0, 1)))
    s.paint(_box(x - 1.08, y - 0.26, 0.08, 0.08, 0.04), s.fixed(1.0, 0.95, 0.65), 0.0)
    for centre in (-0.64, 0.64):
        wx, wy = x - centre, y - 0.68
        s.paint(_circle(wx, wy, 0.32), s.fixed(0.10, 0.10, 0.11), 0.0)
        turn = 2 * math.pi * 2 * s.phase
        spoke = torch.cos(3 * (torch.atan2(wy, wx + 1e-6) - turn))
        s.paint(_circle(wx, wy, 0.18), s.fixed(0.80, 0.80, 0.82) * (0.75 + 0.25 * spoke), 0.0)


def _fish(s: _Sprite) -> None:
    wag = torch.sin(4 * math.pi * s.phase)
    x = s.x
    y = s.y - 0.10 * wag * (0.4 - x).clamp(min=0) ** 1.5
    tail = _convex(x, y, (-1.20, -0.62), (-0.56, 0.0), (-0.56, 0.02), (-1.20, 0.62))
    notch = _convex(x, y, (-1.40, -0.40), (-0.92, 0.0), (-1.40, 0.40))
    s.paint(torch.maximum(tail, -notch), s.lit(0.72))
    s.paint(
        _convex(x, y, (-0.42, -0.84), (0.24, -0.50), (0.30, -0.30), (-0.44, -0.30)), s.lit(0.70)
    )
    s.paint(_convex(x, y, (-0.30, 0.40), (0.16, 0.40), (-0.34, 0.80)), s.lit(0.70))
    diffuse, shine = _ball_shade(x - 0.10, y, 0.86, 0.56)
    scales = 0.06 * torch.sin(x * 13) * torch.sin(y * 13)
    belly = (y * 0.9).clamp(0, 0.35)
    s.paint(_ellipse(x - 0.10, y, 0.86, 0.56), s.lit(diffuse + scales, belly + 0.4 * shine))
    s.paint(_circle(x - 0.60, y + 0.12, 0.14), s.fixed(0.97, 0.97, 0.97), 0.0)
    s.paint(_circle(x - 0.63, y + 0.12, 0.075), s.fixed(0.05, 0.05, 0.07), 0.0)


def _lantern(s: _Sprite) -> None:
    x, y = _swing(s, 5.0, 1, -1.0)
    s.paint(_circle(x, y + 1.02, 0.13).abs() - 0.035, s.fixed(0.45, 0.33, 0.15), 0.0)
    s.paint(_box(x, y - 0.95, 0.03, 0.24), s.fixed(0.80, 0.30, 0.12), 0.0)
    ribs = 0.90 + 0.10 * torch.cos(
        (x / (1 - 0.5 * y * y).clamp(min=0.3) * 1.15).clamp(-1, 1).asin() * 9
    )
    flicker = 1 + 0.05 * torch.sin(6 * math.pi * s.phase) * torch.sin(2 * math.pi * s.phase)
    heart = torch.exp(-((x / 0.50) ** 2 + ((y - 0.05) / 0.45) ** 2)) * flicker
    body = _ellipse(x, y, 0.90, 0.76)
    # Light from within: a lantern keeps its colour at night.
    own = (
        s.colour
        * torch.maximum(s.tint, torch.full_like(s.tint, 0.85))
        * ribs
        * (0.74 + 0.30 * heart)
    )
    glow = torch.tensor((1.0, 0.95, 0.75), device=x.device)[None, :, None, None, None]
    s.paint(body, (own + (glow - own) * 0.38 * heart).clamp(0, 1), 0.3)
    for side in (-0.74, 0.74):
        s.paint(_box(x, y - side, 0.46, 0.10, 0.03), s.fixed(0.36, 0.25, 0.14), 0.0)


_KINDS = (_ball, _cube, _sailboat, _balloon, _bird, _car, _fish, _lantern)


def sprites(tint: Tensor, colour: Tensor, groups: dict[int, Tensor]) -> Tensor:
    """Draw every scene's subject.

    Args:
        tint: Light on the subject ``[B, 3, 1, 1]``.
        colour: Colour codes ``[B]``.
        groups: For each code of a subject that occurs, its rows.

    Returns:
        Premultiplied RGBA ``[B, PHASES, SPRITE, 4, SPRITE]`` (row, channel, column),
        facing right.
    """
    device = tint.device
    made = torch.empty(len(tint), PHASES, SPRITE, 4, SPRITE, device=device)
    axis = ((torch.arange(SPRITE, device=device) + 0.5) / SPRITE * 2 - 1) * REACH
    phase = (torch.arange(PHASES, device=device) / PHASES)[None, None, :, None, None]
    own = torch.tensor(_COLOURS, device=device)[colour][:, :, None, None, None]
    for kind, index in groups.items():
        x = axis[None, None, None, None, :].expand(1, 1, 1, SPRITE, SPRITE)
        y = axis[None, None, None, :, None].expand(1, 1, 1, SPRITE, SPRITE)
        # The phase axis grows from 1 to PHASES with the first part that moves.
        blank = torch.zeros(len(index), 4, 1, SPRITE, SPRITE, device=device)
        sprite = _Sprite(
            x, y, phase, own[index], tint[index][..., None], blank[:, :3], blank[:, 3:]
        )
        _KINDS[kind](sprite)
        made[index, :, :, :3] = sprite.rgb.permute(0, 2, 3, 1, 4)
        made[index, :, :, 3:] = sprite.alpha.permute(0, 2, 3, 1, 4)
    return made


def place(
    sprite: Tensor, phase: Tensor, offset_x: Tensor, offset_y: Tensor, texels: Tensor
) -> Tensor:
    """Put sprites into the picture with an anti-aliased, separable resampling.

    Args:
        sprite: ``[B, PHASES, SPRITE, 4, SPRITE]`` as ``sprites`` makes them.
        phase: ``[B, T]`` int64, which of the sprites each frame shows.
        offset_x: ``[B, T, W]`` distance of each column from the centre, radii, already
            mirrored for subjects that look left.
        offset_y: ``[B, T, H]`` distance of each row, radii.
        texels: ``[B]`` texels for each picture pixel: the width of the filter.

    Returns:
        Premultiplied RGBA ``[B, T, 4, H, W]``.
    """
    rows, frames, width = offset_x.shape
    height = offset_y.shape[2]
    across = _taps(offset_x, texels).flatten(0, 1)  # [B * T, W, S]
    down = _taps(offset_y, texels).flatten(0, 1)  # [B * T, H, S]
    row = torch.arange(rows, device=sprite.device)[:, None]
    shown = sprite[row, phase].flatten(0, 1).flatten(2)  # [B * T, S, 4 * S]
    placed = (down @ shown).view(-1, height * 4, SPRITE) @ across.transpose(1, 2)
    return placed.view(rows, frames, height, 4, width).transpose(2, 3)


def _taps(offset: Tensor, texels: Tensor) -> Tensor:
    """Weights ``[B, T, W, S]`` of a tent filter over the texels of one axis."""
    texel = (offset / REACH * 0.5 + 0.5) * SPRITE - 0.5
    width = texels.clamp(min=1.0)[:, None, None, None]
    number = torch.arange(SPRITE, device=offset.device)
    weight = (1 - (texel[..., None] - number).abs() / width).clamp(min=0)
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-4)
