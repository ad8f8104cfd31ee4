"""Pictures of scenes: layers, subject, shadow and weather, composed for every frame.

Rendering is a pure function of scenes and times. Scenery is drawn once a scene and
looked up for each frame, so the cost of a frame is a few look-ups and one small matrix
product; the same code runs on a CPU and on an accelerator, and never waits for it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.train import world_weather
from models.train.world_ground import STRIP_TOP, landscape
from models.train.world_layer import Canvas, over, scroll, spread
from models.train.world_light import Light, light_of, mix
from models.train.world_motion import FLOOR, WRAP_X, WRAP_Y, track
from models.train.world_scene import ATTRIBUTES, FPS, SceneBatch
from models.train.world_sky import HORIZON, clouds, sky
from models.train.world_subject import PHASES, REACH, SPRITE, place, sprites

_LAYOUT = 64
_PAN_SPEED = 0.42  # heights a second, of the nearest ground
_CLOUDS, _FAR, _MIDDLE = 0.10, 0.24, 0.46  # share of that speed
_CLOUD_DRIFT = 0.012  # heights a second
_WAVE_DRIFT = 0.07


@dataclass(frozen=True, slots=True)
class _Moments:
    """Times of one batch: seconds and frame numbers ``[B, T]``, and the camera's way in heights."""

    seconds: NDArray[np.float64]
    frame: NDArray[np.int64]
    camera: NDArray[np.float64]


@torch.no_grad()
def render(
    scenes: SceneBatch,
    start_frame: int | NDArray[np.int64],
    frames: int,
    *,
    size: tuple[int, int] = (160, 96),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Render a clip of every scene.

    Args:
        scenes: What to show.
        start_frame: World time of the first frame in frames of 1/16 s; one for all, or
            ``[B]``. The world has no start and no end, so any integer will do.
        frames: How many frames.
        size: Width and height in pixels.
        device: Where to render.

    Returns:
        ``[B, frames, 3, height, width]`` float32 in [-1, 1] on ``device``.
    """
    canvas = Canvas(size[0], size[1], torch.device(device))
    moments = _moments(scenes, start_frame, frames)
    codes = torch.from_numpy(scenes.codes).to(canvas.device)
    names = list(ATTRIBUTES)
    light = light_of(codes[:, names.index("time")], codes[:, names.index("weather")])
    layout = torch.from_numpy(scenes.layout(_LAYOUT)).to(canvas.device)
    picture = _scenery(canvas, scenes, light, layout, moments)
    _fog(canvas, scenes, light, picture, moments, 1.0)
    _subject(canvas, scenes, light, codes[:, names.index("colour")], picture, moments)
    _fog(canvas, scenes, light, picture, moments, 0.16)
    _falling(canvas, scenes, light, layout, picture, moments)
    return picture.mul_(2).sub_(1).clamp_(-1, 1)


@torch.no_grad()
def render_switch(
    before: SceneBatch,
    after: SceneBatch,
    switch_frame: NDArray[np.int64],
    start_frame: int | NDArray[np.int64],
    frames: int,
    *,
    dissolve_frames: int = 12,
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
        size: As for ``render``.
        device: As for ``render``.

    Returns:
        ``[B, frames, 3, height, width]`` float32 in [-1, 1].
    """
    old = render(before, start_frame, frames, size=size, device=device)
    new = render(after, start_frame, frames, size=size, device=device)
    since = _moments(before, start_frame, frames).frame - switch_frame[:, None]
    share = np.clip((since + 1) / dissolve_frames, 0, 1).astype(np.float32)
    share = share * share * (3 - 2 * share)
    return old.lerp_(new, _tensor(share, old.device)[:, :, None, None, None])


def to_uint8(pixels: Tensor) -> Tensor:
    """Turn ``[..., 3, H, W]`` in [-1, 1] into uint8 ``[..., H, W, 3]``."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def _moments(scenes: SceneBatch, start: int | NDArray[np.int64], frames: int) -> _Moments:
    first = np.broadcast_to(np.asarray(start, dtype=np.int64), (len(scenes),))
    frame = first[:, None] + np.arange(frames)
    seconds = frame / FPS
    pans = (scenes.column("camera") == ATTRIBUTES["camera"].index("pan"))[:, None]
    return _Moments(seconds, frame, seconds * _PAN_SPEED * pans)


def _tensor(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Copy to the device; floats become float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if tensor.dtype == torch.float64:
        tensor = tensor.float()
    return tensor.to(device, non_blocking=True)


def _groups(codes: NDArray[np.int64], device: torch.device) -> dict[int, Tensor]:
    """Rows of each code that occurs; found on the host, so no one waits for the device."""
    return {int(c): _tensor(np.flatnonzero(codes == c), device) for c in np.unique(codes)}


def _scenery(
    canvas: Canvas, scenes: SceneBatch, light: Light, layout: Tensor, moments: _Moments
) -> Tensor:
    """Compose sky, clouds, far and middle strips and floor ``[B, T, 3, H, W]`` in [0, 1]."""
    device, size = canvas.device, canvas.strip_width
    rows, frames = moments.frame.shape
    horizon = canvas.row(HORIZON)
    ground = landscape(canvas, light, layout, _groups(scenes.column("place"), device))

    def shift(share: float, drift: float = 0.0) -> Tensor:
        way = (moments.camera * share + moments.seconds * drift) * canvas.height
        return _tensor(np.mod(way, size), device)

    picture = torch.empty(rows, frames, 3, canvas.height, canvas.width, device=device)
    picture[..., :horizon, :] = sky(canvas, light, layout)[:, None]
    depth = canvas.y(horizon)[0, 0, :, 0]
    depth = 1 / (0.45 + 0.55 * ((depth - HORIZON) / (1 - HORIZON)).clamp(0, 1))
    picture[..., horizon:, :] = spread(ground.floor, shift(1.0), depth, canvas.width)
    sea = np.flatnonzero(scenes.column("place") == ATTRIBUTES["place"].index("sea"))
    if len(sea):
        at = _tensor(sea, device)
        glint, near = ground.glint[at], shift(1.0, _WAVE_DRIFT)[at]
        crest = spread(glint, near, depth, canvas.width)
        crest += spread(glint.flip(-1), shift(1.0, -_WAVE_DRIFT)[at], depth, canvas.width)
        shine = mix(light.horizon, light.glow, 0.35)[at][:, None]
        water = picture[at][..., horizon:, :]
        share = (0.20 * crest).clamp(-0.25, 0.45)
        water = torch.where(share > 0, mix(water, shine, share), water * (1 + share))
        picture[at, :, :, horizon:, :] = water
    over(
        picture,
        0,
        scroll(clouds(canvas, light, layout), shift(_CLOUDS, _CLOUD_DRIFT), canvas.width),
    )
    top = canvas.row(STRIP_TOP)
    over(picture, top, scroll(ground.far, shift(_FAR), canvas.width))
    over(picture, top, scroll(ground.middle, shift(_MIDDLE), canvas.width))
    return picture


def _subject(
    canvas: Canvas,
    scenes: SceneBatch,
    light: Light,
    colour: Tensor,
    picture: Tensor,
    moments: _Moments,
) -> None:
    """Lay shadow, glow and subject over the picture."""
    device = canvas.device
    path = track(scenes, moments.seconds)
    radius = _tensor(path.radius, device)[:, None, None]
    x, y = _tensor(path.x, device)[:, :, None], _tensor(path.y, device)[:, :, None]
    dx = torch.remainder(canvas.x()[0] - x + WRAP_X / 2, WRAP_X) - WRAP_X / 2  # [B, T, W]
    dy = torch.remainder(canvas.y()[0, :, :, 0] - y + WRAP_Y / 2, WRAP_Y) - WRAP_Y / 2

    # The higher the subject, the wider and fainter its shadow.
    height = (FLOOR - radius - y).clamp(min=0)
    wide = radius * (0.95 + 0.5 * height)
    dark = (0.46 - 0.45 * height).clamp(min=0.16)
    dark = dark * torch.where(y > FLOOR, ((WRAP_Y - 0.02 - y) / 0.2).clamp(0, 1), 1.0)
    row = canvas.y()[0, :, :, 0] - FLOOR - 0.005
    cover = torch.exp(-((dx / wide) ** 2))[:, :, None] * torch.exp(-((row / 0.038) ** 2))[..., None]
    picture.mul_(1 - (dark[..., None] * cover)[:, :, None])

    lamp = scenes.column("subject") == ATTRIBUTES["subject"].index("lantern")
    if lamp.any():
        at = _tensor(np.flatnonzero(lamp), device)
        wide = 1.9 * radius[at]
        halo = (
            torch.exp(-((dy[at] / wide) ** 2))[..., None]
            * torch.exp(-((dx[at] / wide) ** 2))[:, :, None]
        )
        warm = torch.tensor((1.0, 0.80, 0.45), device=device)[:, None, None]
        strength = (0.10 + 0.28 * light.night[at])[:, None]
        picture[at] += (halo[:, :, None] * strength) * warm * (1 - picture[at])

    facing = _tensor(path.facing, device)[:, None, None]
    drawn = sprites(light.subject, colour, _groups(scenes.column("subject"), device))
    phase = _tensor(np.mod(moments.frame * PHASES // FPS, PHASES), device)
    texels = SPRITE / (2 * REACH * radius[:, 0, 0] * canvas.height)
    over(picture, 0, place(drawn, phase, dx * facing / radius, dy / radius, texels))


def _fog(
    canvas: Canvas,
    scenes: SceneBatch,
    light: Light,
    picture: Tensor,
    moments: _Moments,
    strength: float,
) -> None:
    rows = np.flatnonzero(scenes.column("weather") == ATTRIBUTES["weather"].index("fog"))
    if not len(rows):
        return
    at = _tensor(rows, canvas.device)
    turn = 2 * math.pi / canvas.turn
    drift = _tensor(
        np.mod(moments.seconds * 0.5 + moments.camera * turn, 2 * math.pi)[rows], canvas.device
    )
    cover = world_weather.fog_density(canvas, drift) * strength
    haze = mix(light.horizon, light.horizon.mean(1, keepdim=True), 0.45)[at][:, None]
    picture[at] = mix(picture[at], haze * 0.97, cover)


def _falling(
    canvas: Canvas,
    scenes: SceneBatch,
    light: Light,
    layout: Tensor,
    picture: Tensor,
    moments: _Moments,
) -> None:
    """Lay rain and snowfall over the picture; whole pixels a frame keep them cheap to encode."""
    frame = _tensor(moments.frame, canvas.device)
    scale = canvas.height / 96
    for name, tile, strength, speeds in (
        ("rain", world_weather.rain_tile, 0.42, ((8, -2), (6, -1))),
        ("snowfall", world_weather.snow_tile, 0.85, ((2, 1), (1, 0))),
    ):
        rows = np.flatnonzero(scenes.column("weather") == ATTRIBUTES["weather"].index(name))
        if not len(rows):
            continue
        at = _tensor(rows, canvas.device)
        near = tile(canvas, layout[at])
        far = 0.6 * near.roll((canvas.height // 3, canvas.width // 3), (-2, -1))
        cover = torch.stack(
            [
                world_weather.fall(drops, frame[at], round(down * scale), round(across * scale))
                for drops, (down, across) in zip((near, far), speeds, strict=True)
            ]
        ).sum(0)
        bright = mix(torch.ones_like(light.horizon), light.horizon, 0.5 * light.night)[at][:, None]
        picture[at] = mix(picture[at], bright, (cover * strength).clamp(max=0.9))
