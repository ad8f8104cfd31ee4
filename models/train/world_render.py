"""Clips of scenes, and of scenes that turn into others.

A pure function of scenes and times; the same code runs on a CPU and on an accelerator,
and never waits for it. How a picture is made: see ``world_compose.py``.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.train.world_compose import compose, prepare, upload
from models.train.world_layer import Canvas
from models.train.world_scene import SceneBatch

_CPU_FRAMES = 32
"""Pictures made at a time on a CPU: larger intermediate values cost more in fresh memory pages
than in arithmetic."""

_DEVICE_FRAMES = 4096


@torch.no_grad()
def render(
    scenes: SceneBatch,
    start_frame: int | NDArray[np.int64],
    frames: int,
    *,
    step: int = 1,
    size: tuple[int, int] = (160, 96),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Render a clip of every scene.

    Args:
        scenes: What to show.
        start_frame: World time of the first frame in frames of 1/16 s; one for all, or
            ``[B]``. The world has no start and no end, so any integer will do.
        frames: How many frames.
        step: Take every ``step``-th frame.
        size: Width and height in pixels.
        device: Where to render.

    Returns:
        ``[B, frames, 3, height, width]`` float32 in [-1, 1] on ``device``.
    """
    canvas = Canvas(size[0], size[1], torch.device(device))
    backdrop = prepare(scenes, canvas)
    frame = _frames(scenes, start_frame, frames, step)
    at_once = _CPU_FRAMES if canvas.device.type == "cpu" else _DEVICE_FRAMES
    span = max(at_once // max(len(scenes), 1), 1)
    if frames <= span:
        return compose(backdrop, frame)
    clip = torch.empty(len(scenes), frames, 3, size[1], size[0], device=canvas.device)
    for begin in range(0, frames, span):
        clip[:, begin : begin + span] = compose(backdrop, frame[:, begin : begin + span])
    return clip


@torch.no_grad()
def render_switch(
    before: SceneBatch,
    after: SceneBatch,
    switch_frame: NDArray[np.int64],
    start_frame: int | NDArray[np.int64],
    frames: int,
    *,
    dissolve_frames: int = 12,
    step: int = 1,
    size: tuple[int, int] = (160, 96),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Render scenes that turn into others with a cross-dissolve.

    Args:
        before: Scenes until the switch.
        after: Scenes from then on; ``world_motion.anchored`` joins their motion.
        switch_frame: ``[B]`` world frame at which the dissolve starts.
        start_frame: As for ``render``.
        frames: As for ``render``.
        dissolve_frames: Length of the dissolve; its first frame already shows a share
            of the new scene, the last shows only that.
        step: As for ``render``.
        size: As for ``render``.
        device: As for ``render``.

    Returns:
        ``[B, frames, 3, height, width]`` float32 in [-1, 1].
    """
    old = render(before, start_frame, frames, step=step, size=size, device=device)
    new = render(after, start_frame, frames, step=step, size=size, device=device)
    since = _frames(before, start_frame, frames, step) - switch_frame[:, None]
    share = np.clip((since + 1) / dissolve_frames, 0, 1).astype(np.float32)
    share = share * share * (3 - 2 * share)
    return old.lerp_(new, upload(share, old.device)[:, :, None, None, None])


def to_uint8(pixels: Tensor) -> Tensor:
    """Turn ``[..., 3, H, W]`` in [-1, 1] into uint8 ``[..., H, W, 3]``."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def _frames(
    scenes: SceneBatch, start: int | NDArray[np.int64], frames: int, step: int
) -> NDArray[np.int64]:
    first = np.broadcast_to(np.asarray(start, dtype=np.int64), (len(scenes),))
    return first[:, None] + np.arange(frames) * step
