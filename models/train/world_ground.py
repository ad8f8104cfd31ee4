"""Landscapes of a batch: scenes of one place are drawn together.

What a place looks like: see ``world_places.py``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.train.world_layer import Canvas
from models.train.world_light import Light
from models.train.world_pen import STRIP_BOTTOM, STRIP_TOP, Pen
from models.train.world_places import city, desert, meadow, sea, snow, waves
from models.train.world_sky import HORIZON


@dataclass(frozen=True, slots=True)
class Landscape:
    """Scenery of a batch.

    Attributes:
        far: ``[B, 4, h, S]`` hills or skyline, premultiplied.
        middle: ``[B, 4, h, S]`` trees or houses, premultiplied.
        floor: ``[B, 3, g, S]`` ground from the horizon down.
        glint: ``[B, 2, g, S]`` brightness of waves, a quarter of a turn apart; zero but at sea.
    """

    far: Tensor
    middle: Tensor
    floor: Tensor
    glint: Tensor


_PLACES = (sea, meadow, desert, snow, city)  # in the order of the attribute's codes


def landscape(canvas: Canvas, light: Light, layout: Tensor, groups: dict[int, Tensor]) -> Landscape:
    """Draw the scenery of a batch.

    Args:
        canvas: Pixel grid.
        light: Light of each scene.
        layout: ``[B, 64]`` uniform numbers.
        groups: For each code of a place that occurs, the rows of that place.
    """
    top, bottom, floor_top = canvas.row(STRIP_TOP), canvas.row(STRIP_BOTTOM), canvas.row(HORIZON)
    rows, width, device = len(layout), canvas.strip_width, canvas.device
    far = torch.empty(rows, 4, bottom - top, width, device=device)
    middle = torch.empty_like(far)
    floor = torch.empty(rows, 3, canvas.height - floor_top, width, device=device)
    glint = torch.zeros(rows, 2, canvas.height - floor_top, width, device=device)
    for place, index in groups.items():
        pen = Pen(canvas, light.rows(index), layout[index])
        far[index], middle[index], floor[index] = _PLACES[place](pen)
        if place == 0:
            glint[index] = waves(pen)
    return Landscape(far, middle, floor, glint)
