"""The five places: each draws a far strip, a middle strip and a floor from light and layout.

Strips are premultiplied RGBA, floors opaque RGB; ``waves`` is a fourth, moving part of
the sea. How they move is the renderer's business.
"""

import torch
from torch import Tensor

from models.train.world_light import mix
from models.train.world_pen import Pen, bar, far_colour, hills, painted
from models.train.world_sky import HORIZON


def sea(pen: Pen) -> tuple[Tensor, Tensor, Tensor]:
    """Draw open water with islands and lighthouses: far strip, middle strip, floor."""
    canvas = pen.canvas
    x, y = pen.strip()
    above = canvas.edge(y - HORIZON)
    ridge = hills(pen, HORIZON + 0.035, 0.10, (2, 5, 9), 14)
    far = painted([(far_colour(pen, 0.36, 0.48, 0.58, 0.5), canvas.edge(ridge - y) * above)])
    # Small islands, every other one with a lighthouse.
    local, own = pen.cells(x, 5, 20)
    local = local + 0.2 * (own(1) - 0.5)
    rock = HORIZON + 0.022 - 0.075 * torch.exp(-((local / (0.08 + 0.05 * own(0))) ** 2))
    below = canvas.edge(y - HORIZON - 0.015, 1.5)
    here = canvas.edge(rock - y) * below * (own(2) > 0.25)
    tower = canvas.edge(local.abs() - 0.014) * canvas.edge(0.40 - y) * here.new_ones(1)
    tower = tower * canvas.edge(y - HORIZON + 0.03) * (own(2) > 0.55)
    lamp = canvas.edge(torch.hypot(local, y - 0.40) - 0.020) * (own(2) > 0.55)
    stripes = (torch.sin((y - 0.40) * 95) > 0).float()
    tower_colour = mix(pen.colour(0.95, 0.94, 0.92), pen.colour(0.80, 0.22, 0.20), stripes)
    lamp_colour = mix(pen.colour(1.0, 0.9, 0.6), pen.colour(2.0, 1.9, 1.2), pen.light.night).clamp(
        0, 1
    )
    middle = painted(
        [(pen.colour(0.40, 0.44, 0.34), here), (tower_colour, tower), (lamp_colour, lamp)]
    )
    x, depth = pen.floor()
    deep = mix(pen.colour(0.10, 0.38, 0.58), pen.light.zenith, 0.25)
    near = pen.colour(0.06, 0.30, 0.50)
    floor = mix(mix(deep, pen.light.horizon, 0.45), near, depth.pow(0.6))
    floor = floor + 0.0 * x
    return far, middle, floor


def meadow(pen: Pen) -> tuple[Tensor, Tensor, Tensor]:
    """Draw hills, trees and flowers: far strip, middle strip, floor."""
    canvas = pen.canvas
    x, y = pen.strip()
    back = hills(pen, 0.56, 0.17, (2, 3, 7), 14)
    front = hills(pen, 0.60, 0.12, (3, 5, 4), 17)
    far = painted(
        [
            (far_colour(pen, 0.38, 0.58, 0.52, 0.45), canvas.edge(back - y)),
            (far_colour(pen, 0.38, 0.62, 0.34, 0.25), canvas.edge(front - y)),
        ]
    )
    local, own = pen.cells(x, 9, 20)
    local = local + 0.12 * (own(1) - 0.5)
    size = 0.055 + 0.035 * own(0)
    here = (own(2) > 0.2).float()
    foot = HORIZON + 0.015 + 0.02 * own(3)
    trunk = (
        canvas.edge(local.abs() - 0.010)
        * canvas.edge(y - foot)
        * canvas.edge(foot - 0.12 - y)
        * here
    )
    crown_y = foot - 0.06 - size
    crown = canvas.edge(torch.hypot(local, (y - crown_y) * 0.85) - size) * here
    leaf = mix(
        pen.colour(0.20, 0.45, 0.18),
        pen.colour(0.34, 0.60, 0.24),
        ((crown_y - y) / size * 0.5 + 0.5 - local * 4).clamp(0, 1),
    )
    middle = painted([(pen.colour(0.36, 0.25, 0.16), trunk), (leaf, crown)])
    x, depth = pen.floor()
    patch = pen.wave(x, 4, 28) * 0.5 + 0.5 * torch.sin(depth * 14 + 2 * pen.wave(x, 7, 29))
    floor = mix(pen.colour(0.40, 0.68, 0.26), pen.colour(0.24, 0.52, 0.18), depth.pow(0.8))
    floor = mix(floor, pen.colour(0.52, 0.76, 0.30), 0.30 * (0.5 + 0.5 * patch))
    for row in range(3):
        local, own = pen.cells(x, (16, 13, 10)[row], 30 + row * 7)
        local = local + 0.08 * (own(1) - 0.5)
        middle_y = (0.28, 0.56, 0.86)[row] + 0.10 * (own(2) - 0.5)
        away = torch.hypot(local, (depth - middle_y) * 0.42)
        flower = canvas.edge(away - 0.014 - 0.008 * row, 1.5) * (own(3) > 0.35)
        petal = mix(
            pen.colour(1.0, 0.95, 0.75), pen.colour(0.98, 0.80, 0.35), (own(4) > 0.5).float()
        )
        floor = mix(floor, petal, 0.8 * flower)
    return far, middle, floor


def desert(pen: Pen) -> tuple[Tensor, Tensor, Tensor]:
    """Draw table mountains, cacti and rippled sand: far strip, middle strip, floor."""
    canvas = pen.canvas
    x, y = pen.strip()
    # Table mountains: hills with their tops cut off.
    mesa = (hills(pen, 0.60, 0.40, (3, 5, 8), 14)).clamp(min=0.375)
    band = 0.5 + 0.5 * torch.sin(y * 120)
    rock = mix(
        far_colour(pen, 0.78, 0.45, 0.32, 0.35), far_colour(pen, 0.88, 0.56, 0.38, 0.35), band
    )
    dune = hills(pen, 0.60, 0.09, (2, 5, 3), 17)
    far = painted(
        [
            (rock, canvas.edge(mesa - y, 1.5)),
            (far_colour(pen, 0.92, 0.72, 0.46, 0.2), canvas.edge(dune - y)),
        ]
    )
    local, own = pen.cells(x, 7, 20)
    local = local + 0.15 * (own(1) - 0.5)
    foot = HORIZON + 0.02 + 0.02 * own(3)
    tall = 0.14 + 0.06 * own(0)
    stem = bar(canvas, local, y, local.new_zeros(1), foot - tall, foot, 0.021)
    side = torch.where(own(4) > 0.5, 1.0, -1.0)
    arm = bar(canvas, local, y, 0.055 * side, foot - 0.8 * tall, foot - 0.42 * tall, 0.014)
    joint = canvas.edge((local - 0.028 * side).abs() - 0.035) * canvas.edge(
        (y - foot + 0.42 * tall).abs() - 0.013
    )
    here = (own(2) > 0.25).float()
    cactus = torch.maximum(torch.maximum(stem, arm), joint) * here
    green = mix(
        pen.colour(0.22, 0.46, 0.26), pen.colour(0.36, 0.60, 0.34), (0.5 - local * 30).clamp(0, 1)
    )
    middle = painted([(green, cactus)])
    x, depth = pen.floor()
    ripple = torch.sin(depth * 30 + 1.8 * pen.wave(x, 5, 28) + 1.1 * pen.wave(x, 11, 29))
    floor = mix(pen.colour(0.93, 0.76, 0.50), pen.colour(0.84, 0.62, 0.36), depth)
    floor = mix(floor, pen.colour(0.72, 0.50, 0.30), 0.35 * (0.5 + 0.5 * ripple))
    local, own = pen.cells(x, 9, 33)
    local = local + 0.1 * (own(1) - 0.5)
    stone_y = 0.25 + 0.65 * own(2)
    stone = canvas.edge(torch.hypot(local, (depth - stone_y) * 0.6) - 0.018 - 0.02 * own(0), 1.5)
    return far, middle, mix(floor, pen.colour(0.52, 0.36, 0.26), 0.85 * stone * (own(3) > 0.4))


def snow(pen: Pen) -> tuple[Tensor, Tensor, Tensor]:
    """Draw snow-capped mountains, pines and drifts: far strip, middle strip, floor."""
    canvas = pen.canvas
    x, y = pen.strip()
    turn = canvas.turn

    def peaks(count: int, index: int, base: float, height: float) -> Tensor:
        local, own = pen.cells(x, count, index)
        tall = height * (0.55 + 0.45 * own(0))
        return base - tall * (1 - (local.abs() * count / turn * 1.9)).clamp(min=0.0)

    ridge = torch.minimum(peaks(5, 14, 0.58, 0.34), peaks(7, 19, 0.58, 0.22))
    cap = canvas.edge(y - ridge - 0.10 - 0.02 * pen.wave(x, 23, 20), 2.0)
    rock = mix(far_colour(pen, 0.46, 0.53, 0.66, 0.3), far_colour(pen, 0.97, 0.98, 1.0, 0.1), cap)
    drift = hills(pen, 0.60, 0.07, (3, 4, 7), 17)
    far = painted(
        [
            (rock, canvas.edge(ridge - y)),
            (far_colour(pen, 0.88, 0.92, 0.98, 0.2), canvas.edge(drift - y)),
        ]
    )
    local, own = pen.cells(x, 10, 24)
    local = local + 0.12 * (own(1) - 0.5)
    foot = HORIZON + 0.015 + 0.025 * own(3)
    tall = 0.15 + 0.07 * own(0)
    up = ((foot - y) / tall).clamp(0, 1)
    half = 0.062 * (1 - up) * (0.78 + 0.22 * torch.remainder(up * 3, 1.0).neg().add(1))
    pine = canvas.edge(local.abs() - half) * canvas.edge(y - foot) * canvas.edge(foot - tall - y)
    pine = pine * (own(2) > 0.25)
    needle = mix(
        pen.colour(0.14, 0.32, 0.28),
        pen.colour(0.88, 0.93, 0.97),
        0.75 * canvas.edge(local + 0.35 * half, 3.0),
    )
    middle = painted([(needle, pine)])
    x, depth = pen.floor()
    mound = torch.sin(depth * 11 + 1.6 * pen.wave(x, 4, 28) + 0.9 * pen.wave(x, 9, 29))
    floor = mix(pen.colour(0.90, 0.93, 0.99), pen.colour(0.80, 0.86, 0.96), depth)
    return far, middle, mix(floor, pen.colour(0.60, 0.70, 0.88), 0.42 * (0.5 + 0.5 * mound))


def city(pen: Pen) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a skyline, houses with windows and a street: far strip, middle strip, floor."""
    canvas = pen.canvas
    x, y = pen.strip()
    glow = pen.light.night * 0.85 + 0.15

    def houses(count: int, index: int, top: float, spread: float) -> tuple[Tensor, Tensor, Tensor]:
        local, own = pen.cells(x, count, index)
        roof = top + spread * own(0)
        half = canvas.turn / count * (0.40 + 0.10 * own(1))
        cover = canvas.edge(local.abs() - half) * canvas.edge(roof - y)
        pitch_x, pitch_y = 0.062, 0.066
        pane_x = (torch.remainder(local + 10 * pitch_x, pitch_x) / pitch_x - 0.5).abs() < 0.27
        pane_y = (torch.remainder(y - roof - 0.02, pitch_y) / pitch_y - 0.5).abs() < 0.25
        inside = (local.abs() < half - 0.018) & (y > roof + 0.02)
        column, floor = torch.floor((local + 1) / pitch_x), torch.floor((y - roof) / pitch_y)
        lit = (
            torch.remainder(torch.sin(column * 12.99 + floor * 78.23 + 40 * own(2)) * 43.7, 1.0)
            > 0.42
        )
        return cover, (pane_x & pane_y & inside).float(), (lit.float() * glow)

    cover, _, _ = houses(13, 14, 0.30, 0.20)
    far = painted([(far_colour(pen, 0.50, 0.54, 0.64, 0.45), cover)])
    cover, pane, lit = houses(8, 22, 0.26, 0.22)
    _, own = pen.cells(x, 8, 22)
    wall = mix(pen.colour(0.56, 0.42, 0.40), pen.colour(0.46, 0.50, 0.58), own(3))
    wall = mix(wall, pen.colour(0.72, 0.66, 0.56), (own(4) > 0.6).float())
    warm = torch.tensor((1.0, 0.82, 0.45), device=canvas.device)[None, :, None, None]
    glass = mix(pen.colour(0.34, 0.42, 0.52), warm, lit)
    middle = painted([(mix(wall, glass, 0.85 * pane), cover)])
    x, depth = pen.floor()
    walk = canvas.edge((depth - 0.17) * 0.42, 1.0)
    floor = mix(pen.colour(0.36, 0.37, 0.41), pen.colour(0.29, 0.30, 0.34), depth)
    floor = mix(floor, pen.colour(0.66, 0.64, 0.62), walk)
    slab = (torch.remainder(x, canvas.turn / 24) < canvas.turn / 24 * 0.12).float()
    floor = mix(floor, pen.colour(0.46, 0.45, 0.44), walk * slab * 0.8)
    dash = (torch.remainder(x, canvas.turn / 8) < canvas.turn / 8 * 0.55).float()
    line = canvas.edge((depth - 0.66).abs() * 0.42 - 0.016)
    return far, middle, mix(floor, pen.colour(0.95, 0.92, 0.80), 0.9 * line * dash)


def waves(pen: Pen) -> Tensor:
    """Return crests ``[B, 2, g, S]`` in about [-1, 1] at two moments a quarter of a turn apart."""
    x, depth = pen.floor()
    near = 4 + 22 * depth
    long = near * 2.1 + 1.5 * pen.wave(x, 6, 40) + 0.8 * pen.wave(x, 13, 41)
    short = near * 3.7 - 1.7 * pen.wave(x, 9, 42) - pen.wave(x, 4, 43)
    now = torch.sin(long) + 0.6 * torch.sin(short)
    soon = torch.cos(long) + 0.6 * torch.cos(short)
    return torch.cat([now, soon], dim=1) * (0.35 + 0.65 * depth) * 0.6
