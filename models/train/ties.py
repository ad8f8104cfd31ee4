"""Noise and picture drawn together: what a caption leaves open is written into the noise.

Rectified flow may pair clips and noise in any way that leaves each of them distributed as before (Liu
et al. 2022, arXiv:2209.03003; Tong et al. 2023, arXiv:2302.00482, choose pairs by transport cost). A
rendered scene tells all that its caption does not: where the subject is, where the hills stand, how far
the camera has gone. Each such number, uniform given the caption, becomes a standard normal one, and
replaces the noise's coordinate along a direction of its own. The noise of all clips together stays
standard normal, so a stream begins from plain noise; but one noise now means one picture, the paths to
it are nearly straight, and few steps follow them. Where a caption says a thing, the noise does not.

The directions are checkered inside a token's patch and alike in all tokens: a picture has little there,
so they can be read at any noise level, and an average over tokens reads them. Only first chunks are
tied: later ones continue what is there. Knows nothing of networks.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.train.captions import omitted_odds
from models.train.world_compose import offsets
from models.train.world_motion import cycle
from models.train.world_scene import NAMES, SceneBatch
from models.train.world_subject import PHASES
from models.transformer import Block, CausalWan, places

_LAYOUT = 64
_TOLD_APART = (0, 2)
"""Layout numbers that have columns of their own: the subject's radius and where it floats."""

_HAAR = ((1.0, -1.0, 1.0, -1.0), (1.0, 1.0, -1.0, -1.0), (1.0, -1.0, -1.0, 1.0))
_FRAMES = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))


@dataclass(frozen=True, slots=True)
class Ties:
    """What the noise of first chunks says.

    Attributes:
        values: ``[B, K]`` float32, standard normal.
        tied: ``[B, K]`` false where the noise keeps its own coordinate.
    """

    values: Tensor
    tied: Tensor

    def to(self, device: torch.device) -> "Ties":
        """Return a copy on ``device``."""
        return Ties(self.values.to(device), self.tied.to(device))

    def untold(self, rows: Tensor) -> "Ties":
        """Return ties that also say every attribute in ``rows [B]``, whose prompts were dropped."""
        attribute = torch.arange(self.tied.shape[1], device=rows.device) < len(NAMES)
        return Ties(self.values, self.tied | (rows[:, None] & attribute))

    def __getitem__(self, rows: Tensor) -> "Ties":
        """Return the chosen rows ``[b]``."""
        return Ties(self.values[rows], self.tied[rows])


def ties_of(
    scenes: SceneBatch,
    begin: NDArray[np.int64],
    stated: list[tuple[str, ...]],
    size: tuple[int, int],
    draw: np.random.Generator,
) -> Ties:
    """Turn what a caption leaves open into normal numbers, most telling first.

    Args:
        scenes: What the clips show.
        begin: ``[B]`` world frame of each clip's first picture.
        stated: The attributes that each caption states.
        size: Width and height in pixels; falling rain is drawn in whole ones.
        draw: Fills what says nothing.
    """
    rows = len(scenes)
    parts: list[NDArray[np.float64]] = []
    for name in NAMES:
        odds = omitted_odds(name)
        code = scenes.column(name)
        parts.append((np.cumsum(odds) - odds)[code] + odds[code] * draw.random(rows))
    layout = scenes.layout(_LAYOUT).astype(np.float64)
    where, phase = cycle(scenes, begin)
    parts += [where, layout[:, 0], layout[:, 2]]
    straight = np.stack(parts, axis=1)
    rest = np.delete(layout, _TOLD_APART, axis=1)
    own, *scrolled = offsets(scenes, begin, size)
    turns = np.stack([phase, own + draw.random(rows) / PHASES, *scrolled], axis=1)
    turns = np.where(np.isnan(turns), draw.random(turns.shape), turns)
    length = np.sqrt(-2.0 * np.log1p(-draw.random(turns.shape)))
    angle = 2.0 * math.pi * turns
    values = [_normal(straight), length * np.cos(angle), length * np.sin(angle), _normal(rest)]
    tied = np.ones((rows, sum(part.shape[1] for part in values)), dtype=bool)
    for row, names in enumerate(stated):
        for name in names:
            tied[row, NAMES.index(name)] = False
    return Ties(torch.from_numpy(np.concatenate(values, axis=1)).float(), torch.from_numpy(tied))


def _normal(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = torch.from_numpy(uniform).clamp(1e-4, 1.0 - 1e-4)
    return torch.special.ndtri(inside).numpy()


def directions(count: int, frames: int, channels: int, height: int, width: int) -> Tensor:
    """Return ``count`` orthonormal directions ``[count, F, C, H, W]`` of a chunk of three frames.

    Those that all frames share come first.
    """
    assert frames == 3, "a chunk of the bundled model"
    assert count <= len(_FRAMES) * len(_HAAR) * channels, "more numbers than directions"
    made = torch.zeros(count, frames, channels, height, width)
    for index in range(count):
        over, inner = divmod(index, len(_HAAR) * channels)
        pattern, channel = divmod(inner, channels)
        patch = torch.tensor(_HAAR[pattern]).view(2, 2).repeat(height // 2, width // 2)
        made[index, :, channel] = torch.tensor(_FRAMES[over])[:, None, None] * patch
    return made / torch.linalg.vector_norm(made.flatten(1), dim=1)[:, None, None, None, None]


class TiedNoise:
    """Writes ties into noise.

    Args:
        latents: ``(F, C, H, W)`` of a chunk.
        device: Where the noise is.
    """

    def __init__(self, latents: tuple[int, int, int, int], device: torch.device) -> None:
        self._shape = latents
        self._device = device
        self._along: Tensor | None = None

    def write(self, noise: Tensor, ties: Ties) -> Tensor:
        """Return ``noise [B, F, C, H, W]`` with the tied coordinates replaced."""
        if self._along is None:
            made = directions(ties.values.shape[1], *self._shape)
            self._along = made.flatten(1).to(self._device)
        flat = noise.flatten(1)
        change = torch.where(ties.tied, ties.values - flat @ self._along.T, 0.0)
        return (flat + change @ self._along).view_as(noise)


@torch.no_grad()
def start_reading(network: CausalWan, grid: tuple[int, int]) -> None:
    """Let the first head of the first block begin as the average that reads the ties.

    Found by training alone, this average takes most of a short run. The head attends alike to all
    tokens, and its values are their coordinates along the directions that all frames share.

    Args:
        network: Fresh; its other heads and layers stay as they are.
        grid: Tokens in height and width of a latent frame.
    """
    config, first = network.config, network.blocks[0]
    assert isinstance(first, Block)
    attention = first.self_attn
    patch = network.patch_embedding.weight.flatten(1)  # [d, C * 4]
    count = min(config.head_dim, len(_HAAR) * config.in_channels)
    along = torch.zeros(count, config.in_channels, 4, device=patch.device)
    for index in range(count):
        pattern, channel = divmod(index, config.in_channels)
        along[index, channel] = torch.tensor(_HAAR[pattern]) / 2.0
    at = places(grid, config.dim, patch.device).mean(dim=0) if config.placed else 0.0
    spread = (patch.square().sum() / config.dim + (0.5 if config.placed else 0.0)).sqrt()
    tokens = len(_FRAMES) * grid[0] * grid[1]
    read = tokens**0.5 * along.flatten(1) @ torch.linalg.pinv(patch)  # [count, d]
    attention.norm_q.weight[: config.head_dim] = 0.05
    attention.v.weight[:count] = spread * read
    attention.v.bias[:count] = -read @ (network.patch_embedding.bias + at)
