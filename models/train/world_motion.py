"""Where the subject is at a time: six motions, all without a start or an end.

Positions are in picture heights, x to the right and y down. Computed on the host in
float64, so minute 500 is as exact as second 0. Knows nothing of pixels.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.train.world_scene import ASPECT, ATTRIBUTES, BEAT_S, FPS, SceneBatch

WRAP_X = ASPECT + 1 / 6
"""A drifting subject comes back after this many heights, as soon as it has left."""

WRAP_Y = 1 + 1 / 6
FLOOR = 0.80
"""Row on which standing subjects stand, in heights from the top."""

_FLOATING = ("balloon", "bird", "fish", "lantern")
# Heights a second: a third and a sixth of the picture in a beat, so that a way is a few beats long.
_DRIFT_SPEED = 1 / 3 / BEAT_S
_RISE_SPEED = 1 / 6 / BEAT_S
_BOUNCE_S = BEAT_S
_BOUNCE_HEIGHT = 0.30
_CIRCLE_S = 4 * BEAT_S
_CIRCLE_X, _CIRCLE_Y = 1 / 3, 3 / 16
_EDGE = 0.42


@dataclass(frozen=True, slots=True)
class Track:
    """Positions of one batch over time.

    Attributes:
        x: ``[B, T]`` centre, heights, within one wrap of the picture.
        y: ``[B, T]`` centre, heights.
        radius: ``[B]`` half the subject's height, heights.
        facing: ``[B]`` -1 when the subject looks left, else 1.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    radius: NDArray[np.float64]
    facing: NDArray[np.float64]


def track(batch: SceneBatch, times_s: NDArray[np.float64]) -> Track:
    """Follow the subject of every scene.

    Args:
        batch: Scenes.
        times_s: ``[B, T]`` or ``[1, T]`` world times in seconds.
    """
    layout = batch.layout(8).astype(np.float64)
    radius = 0.165 + 0.035 * layout[:, 0]
    since = times_s - batch.anchor_s[:, None]
    phase = since + _ahead_s(layout)[:, None]
    motion = [ATTRIBUTES["motion"][code] for code in batch.column("motion").tolist()]
    kind = [ATTRIBUTES["subject"][code] for code in batch.column("subject").tolist()]
    floats = np.array([k in _FLOATING for k in kind])
    standing_y = np.where(floats, 0.44 + 0.08 * layout[:, 2], FLOOR - radius)

    def where(name: str) -> NDArray[np.bool_]:
        return np.array([m == name for m in motion])[:, None]

    x = np.broadcast_to(batch.anchor_x[:, None], phase.shape).copy()
    y = np.broadcast_to(standing_y[:, None], phase.shape).copy()
    drift = where("right").astype(np.float64) - where("left")
    x += drift * _DRIFT_SPEED * since
    hop = np.abs(np.sin(np.pi * phase / _BOUNCE_S))
    y = np.where(where("bounces"), (FLOOR - radius)[:, None] - _BOUNCE_HEIGHT * hop, y)
    y = np.where(where("rises"), 0.5 - _RISE_SPEED * phase, y)
    angle = 2 * np.pi * phase / _CIRCLE_S
    centre = np.clip(batch.anchor_x, 0.60, ASPECT - 0.60)[:, None]
    x = np.where(where("circles"), centre + _CIRCLE_X * np.cos(angle), x)
    y = np.where(where("circles"), 0.45 + _CIRCLE_Y * np.sin(angle), y)
    facing = np.where(drift[:, 0] < 0, -1.0, 1.0)
    return Track(np.mod(x + 0.05, WRAP_X) - 0.05, np.mod(y + 0.05, WRAP_Y) - 0.05, radius, facing)


def _ahead_s(layout: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far a motion is at its anchor's time ``[B]``, seconds: some whole beats."""
    return np.floor(6.0 * layout[:, 1]) * BEAT_S


def subject_cover(
    batch: SceneBatch,
    frame: NDArray[np.int64],
    grid: tuple[int, int],
    device: torch.device,
    reach: float = 1.3,
) -> Tensor:
    """Say how much of each cell the subject's surroundings cover.

    Args:
        batch: Scenes.
        frame: ``[B, T]`` world frames.
        grid: Rows and columns of squares that the picture is divided into.
        device: Where it is computed; only positions come from the host.
        reach: Half the side of the square around the subject, radii.

    Returns:
        ``[B, T, rows, columns]`` float32 from 0 to 1.
    """
    path = track(batch, frame / FPS)

    def there(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(device)

    half = reach * there(path.radius)[:, None, None]

    def share(count: int, length: float, at: NDArray[np.float64], wrap: float) -> Tensor:
        cell = length / count
        middle = (torch.arange(count, device=device) + 0.5) * cell
        away = torch.remainder(middle - there(at)[..., None] + wrap / 2, wrap) - wrap / 2
        return ((half + cell / 2 - away.abs()) / cell).clamp(0.0, 1.0)

    rows = share(grid[0], 1.0, path.y, WRAP_Y)
    columns = share(grid[1], grid[1] / grid[0], path.x, WRAP_X)
    return rows[..., None] * columns[..., None, :]


def opened(batch: SceneBatch, frame: NDArray[np.int64], middle: float) -> SceneBatch:
    """Let every stream open on its subject: in the middle, at the start of its motion.

    Args:
        batch: Scenes.
        frame: ``[B]`` world frame of the first picture.
        middle: Half the picture's width in heights.
    """
    # The phase of a motion counts from the anchor's time and a number of the layout.
    ahead_s = _ahead_s(batch.layout(8).astype(np.float64))
    motion = batch.column("motion")
    drift = (motion == ATTRIBUTES["motion"].index("right")).astype(np.float64)
    drift -= motion == ATTRIBUTES["motion"].index("left")
    return replace(
        batch,
        anchor_x=middle + drift * _DRIFT_SPEED * ahead_s,
        anchor_s=frame / FPS + ahead_s,
    )


def anchored(before: SceneBatch, after: SceneBatch, time_s: NDArray[np.float64]) -> SceneBatch:
    """Let a changed motion start where the old one is at ``time_s [B]``, and a new pan from its beginning.

    Rows whose motion did not change keep their anchor, so their movement goes on without a break; the
    same holds for the camera. A pan sets out when it is asked for: where it would be otherwise,
    only the stream's age could tell.
    """
    arrived = track(before, time_s[:, None]).x[:, 0]
    drifts = np.isin(
        after.column("motion"),
        [ATTRIBUTES["motion"].index("left"), ATTRIBUTES["motion"].index("right")],
    )
    inside = np.clip(arrived, _EDGE, ASPECT - _EDGE)
    changed = before.column("motion") != after.column("motion")
    turned = before.column("camera") != after.column("camera")
    return replace(
        after,
        anchor_x=np.where(changed, np.where(drifts, arrived, inside), before.anchor_x),
        anchor_s=np.where(changed, time_s, before.anchor_s),
        camera_s=np.where(turned, time_s, before.camera_s),
    )
