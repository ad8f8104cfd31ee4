"""The procedural world: captioned clips rendered on the fly, deterministic in a seed.

This page only names what the rest of training uses; each part has a file of its own:
``world_scene`` (what a scene is), ``world_motion`` (where the subject is),
``world_light``, ``world_layer``, ``world_sky``, ``world_pen``, ``world_places``,
``world_ground``, ``world_subject``,
``world_weather`` (how things look), ``world_compose`` and ``world_render`` (pictures).
"""

from models.train.world_motion import anchored
from models.train.world_render import render, render_switch, to_uint8
from models.train.world_scene import (
    ATTRIBUTES,
    FPS,
    NAMES,
    Scene,
    SceneBatch,
    change_some,
    draw_scenes,
    is_held_out,
    sample_scene,
)

__all__ = [
    "ATTRIBUTES",
    "FPS",
    "NAMES",
    "Scene",
    "SceneBatch",
    "anchored",
    "change_some",
    "draw_scenes",
    "is_held_out",
    "render",
    "render_switch",
    "sample_scene",
    "to_uint8",
]
