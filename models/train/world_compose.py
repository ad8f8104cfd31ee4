"""Layers, subject, shadow and weather of scenes, put together for every frame.

What a scene looks like is drawn once (``prepare``); a frame is then a few look-ups and
one small matrix product (``compose``). Knows nothing of clips and of switches.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.train import world_weather
from models.train.world_ground import Landscape, landscape
from models.train.world_layer import Canvas, over, scroll, spread
from models.train.world_light import Light, light_of, mix
from models.train.world_motion import FLOOR, WRAP_X, WRAP_Y, track
from models.train.world_pen import STRIP_TOP
from models.train.world_scene import ATTRIBUTES, BEAT_FRAMES, BEAT_S, FPS, SceneBatch
from models.train.world_sky import HORIZON, clouds, sky
from models.train.world_subject import PHASES, REACH, SPRITE, place, sprites

_LAYOUT = 64
_PAN_SPEED = 1 / 3 / BEAT_S  # heights a second, of the nearest ground
_FAR, _MIDDLE = 0.25, 0.5  # share of that speed; clouds are too far away to move
_WAVE_S = 4 * BEAT_S
_FOG_S = 8 * BEAT_S
_FALL_COVER = {"rain": 0.42, "snowfall": 0.85}


@dataclass(frozen=True, slots=True)
class Backdrop:
    """Everything of a batch of scenes that is drawn only once.

    Attributes:
        canvas: Pixel grid.
        scenes: The scenes.
        light: Their light.
        sky: ``[B, 3, h, W]`` down to the horizon.
        clouds: Premultiplied ``[B, 4, h, W]``; too far away to pass by.
        ground: Strips of the landscape.
        sprites: The subjects, as ``world_subject.sprites`` makes them.
        drops: For rain and snowfall, the near and far tile of each row that has it.
    """

    canvas: Canvas
    scenes: SceneBatch
    light: Light
    sky: Tensor
    clouds: Tensor
    ground: Landscape
    sprites: Tensor
    drops: dict[str, tuple[Tensor, Tensor]]

    def rows(self, attribute: str, value: str) -> Tensor | None:
        """Return the rows with this value, or None; found on the host, so no one waits."""
        code = ATTRIBUTES[attribute].index(value)
        rows = np.flatnonzero(self.scenes.column(attribute) == code)
        return upload(rows, self.canvas.device) if len(rows) else None


def prepare(scenes: SceneBatch, canvas: Canvas) -> Backdrop:
    """Draw what does not change from frame to frame."""
    device = canvas.device
    codes = {name: upload(scenes.column(name), device) for name in ("time", "weather", "colour")}
    light = light_of(codes["time"], codes["weather"])
    layout = upload(scenes.layout(_LAYOUT), device)
    drops = {}
    for name, tiles in (("rain", world_weather.rain_tiles), ("snowfall", world_weather.snow_tiles)):
        rows = np.flatnonzero(scenes.column("weather") == ATTRIBUTES["weather"].index(name))
        if len(rows):
            drops[name] = tiles(canvas, layout[upload(rows, device)])
    return Backdrop(
        canvas=canvas,
        scenes=scenes,
        light=light,
        sky=sky(canvas, light, layout),
        clouds=clouds(canvas, light, layout),
        ground=landscape(canvas, light, layout, _groups(scenes.column("place"), device)),
        sprites=sprites(light.subject, codes["colour"], _groups(scenes.column("subject"), device)),
        drops=drops,
    )


def compose(backdrop: Backdrop, frame: NDArray[np.int64]) -> Tensor:
    """Make the pictures of world frames ``frame [B, T]``.

    Returns:
        ``[B, T, 3, H, W]`` float32 in [-1, 1].
    """
    seconds = frame / FPS
    picture = _scenery(backdrop, seconds)
    _fog(backdrop, picture, seconds, 1.0)
    _shadow_and_subject(backdrop, picture, frame)
    _fog(backdrop, picture, seconds, 0.16)
    _falling(backdrop, picture, frame)
    return picture.mul_(2).sub_(1).clamp_(-1, 1)


def upload(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Copy to the device; float64 becomes float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if tensor.dtype == torch.float64:
        tensor = tensor.float()
    return tensor.to(device, non_blocking=True)


def _groups(codes: NDArray[np.int64], device: torch.device) -> dict[int, Tensor]:
    return {int(c): upload(np.flatnonzero(codes == c), device) for c in np.unique(codes)}


def _camera(scenes: SceneBatch, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the camera has gone ``[B, T]``, in heights of the nearest ground."""
    pans = (scenes.column("camera") == ATTRIBUTES["camera"].index("pan"))[:, None]
    return (seconds - scenes.camera_s[:, None]) * _PAN_SPEED * pans


def _scenery(backdrop: Backdrop, seconds: NDArray[np.float64]) -> Tensor:
    """Compose sky, clouds, far and middle strips and floor ``[B, T, 3, H, W]`` in [0, 1]."""
    canvas, ground, light = backdrop.canvas, backdrop.ground, backdrop.light
    camera = _camera(backdrop.scenes, seconds)

    def shift(share: float) -> Tensor:
        return upload(np.mod(camera * share * canvas.height, canvas.strip_width), canvas.device)

    rows, frames = seconds.shape
    horizon, top = canvas.row(HORIZON), canvas.row(STRIP_TOP)
    picture = torch.empty(rows, frames, 3, canvas.height, canvas.width, device=canvas.device)
    picture[..., :horizon, :] = backdrop.sky[:, None]
    depth = canvas.y(horizon)[0, 0, :, 0]
    depth = 1 / (0.45 + 0.55 * ((depth - HORIZON) / (1 - HORIZON)).clamp(0, 1))
    picture[..., horizon:, :] = spread(ground.floor, shift(1.0), depth, canvas.width)
    at = backdrop.rows("place", "sea")
    if at is not None:
        crests = spread(ground.glint[at], shift(1.0)[at], depth, canvas.width)
        turn = upload(2 * math.pi * np.mod(seconds / _WAVE_S, 1.0), canvas.device)[at]
        turn = turn[:, :, None, None, None]
        crest = torch.cos(turn) * crests[:, :, :1] + torch.sin(turn) * crests[:, :, 1:]
        shine = mix(light.horizon, light.glow, 0.35)[at][:, None]
        share = crest.mul_(0.34).clamp_(-0.25, 0.45)
        water = picture[at, :, :, horizon:]
        water = water * (1 + share.clamp(max=0)) + (shine - water) * share.clamp(min=0)
        picture[at, :, :, horizon:] = water
    over(picture, 0, backdrop.clouds[:, None])
    over(picture, top, scroll(ground.far, shift(_FAR), canvas.width))
    over(picture, top, scroll(ground.middle, shift(_MIDDLE), canvas.width))
    return picture


def _shadow_and_subject(backdrop: Backdrop, picture: Tensor, frame: NDArray[np.int64]) -> None:
    """Lay shadow, a lantern's glow and the subject over the picture."""
    canvas, device = backdrop.canvas, backdrop.canvas.device
    path = track(backdrop.scenes, frame / FPS)
    radius = upload(path.radius, device)[:, None, None]
    x, y = upload(path.x, device)[:, :, None], upload(path.y, device)[:, :, None]
    rows_y = canvas.y()[0, :, :, 0]
    dx = torch.remainder(canvas.x()[0] - x + WRAP_X / 2, WRAP_X) - WRAP_X / 2  # [B, T, W]
    dy = torch.remainder(rows_y - y + WRAP_Y / 2, WRAP_Y) - WRAP_Y / 2  # [B, T, H]

    # The higher the subject, the wider and fainter its shadow.
    height = (FLOOR - radius - y).clamp(min=0)
    dark = (0.46 - 0.45 * height).clamp(min=0.16)
    dark = dark * torch.where(y > FLOOR, ((WRAP_Y - 0.02 - y) / 0.2).clamp(0, 1), 1.0)
    wide = radius * (0.95 + 0.5 * height)
    ground = canvas.row(HORIZON)
    flat = torch.exp(-(((rows_y[:, ground:] - FLOOR - 0.005) / 0.038) ** 2))
    cover = (dark * torch.exp(-((dx / wide) ** 2)))[:, :, None] * flat[..., None]
    picture[..., ground:, :].mul_(1 - cover[:, :, None])

    at = backdrop.rows("subject", "lantern")
    if at is not None:
        wide = 1.9 * radius[at]
        halo_x, halo_y = torch.exp(-((dx[at] / wide) ** 2)), torch.exp(-((dy[at] / wide) ** 2))
        warm = torch.tensor((1.0, 0.80, 0.45), device=device)[:, None, None]
        strength = (0.10 + 0.28 * backdrop.light.night[at])[:, None] * warm
        halo = (halo_y[..., None] * halo_x[:, :, None])[:, :, None]
        picture[at] += halo * strength * (1 - picture[at])

    facing = upload(path.facing, device)[:, None, None]
    phase = upload(np.mod(frame * PHASES // BEAT_FRAMES, PHASES), device)
    texels = SPRITE / (2 * REACH * radius[:, 0, 0] * canvas.height)
    over(picture, 0, place(backdrop.sprites, phase, dx * facing / radius, dy / radius, texels))


def _fog(
    backdrop: Backdrop, picture: Tensor, seconds: NDArray[np.float64], strength: float
) -> None:
    at = backdrop.rows("weather", "fog")
    if at is None:
        return
    canvas, light = backdrop.canvas, backdrop.light
    way = 2 * math.pi * (seconds / _FOG_S + _camera(backdrop.scenes, seconds) / canvas.turn)
    cover = world_weather.fog_density(canvas, upload(np.mod(way, 2 * math.pi), canvas.device)[at])
    haze = mix(light.horizon, light.horizon.mean(1, keepdim=True), 0.45)[at][:, None]
    picture[at] = torch.lerp(picture[at], haze * 0.97, cover.mul_(strength))


def _falling(backdrop: Backdrop, picture: Tensor, frame: NDArray[np.int64]) -> None:
    canvas, light = backdrop.canvas, backdrop.light
    for name, (near, far) in backdrop.drops.items():
        at = backdrop.rows("weather", name)
        assert at is not None
        moment = upload(np.mod(frame, BEAT_FRAMES), canvas.device)[at]
        cover = world_weather.fall(near, moment, canvas.height)
        cover += world_weather.fall(far, moment, canvas.height)
        cover = cover.mul_(_FALL_COVER[name]).clamp_(max=0.9)
        bright = mix(torch.ones_like(light.horizon), light.horizon, 0.5 * light.night)[at][:, None]
        picture[at] = torch.lerp(picture[at], bright, cover)
