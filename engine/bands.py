"""How latent frames are cut for several devices, and which numbers of devices a model allows.

A frame is cut into bands of whole rows or columns of tokens, one for each device. Knows neither
processes nor networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import TransformerConfig
from models.entry import ModelEntry

__all__ = ["Bands", "check_devices", "plan_bands"]


@dataclass(frozen=True, slots=True)
class Bands:
    """How a latent frame is cut.

    Attributes:
        devices: how many parts.
        axis: 0 cuts rows of tokens, 1 columns.
        grid: tokens in height and width of a whole frame.
    """

    devices: int
    axis: int
    grid: tuple[int, int]

    def cut(self, latents: Tensor, rank: int) -> Tensor:
        """Select a device's band of ``[B, F, C, H, W]``."""
        return latents.chunk(self.devices, dim=3 + self.axis)[rank].contiguous()

    def join(self, bands: Sequence[Tensor]) -> Tensor:
        """Put bands of velocities together again."""
        return torch.cat(list(bands), dim=3 + self.axis)

    def whole(self, parts: Tensor, frames: int) -> Tensor:
        """Bring tokens of all bands ``[R, B, F*hw/R, n, D]`` into token order ``[B, F*hw, n, D]``."""
        rows, columns = self._band
        parts = parts.unflatten(2, (frames, rows, columns))  # [R, B, F, h, w, n, D]
        order = (1, 2, 0, 3, 4, 5, 6) if self.axis == 0 else (1, 2, 3, 0, 4, 5, 6)
        return parts.permute(order).flatten(1, 4)

    def bands(self, tokens: Tensor, frames: int) -> Tensor:
        """Cut tokens ``[B, F*hw, n, D]`` into all bands ``[R, B, F*hw/R, n, D]``."""
        rows, columns = self._band
        if self.axis == 0:
            parts = tokens.unflatten(1, (frames, self.devices, rows, columns))
            parts = parts.permute(2, 0, 1, 3, 4, 5, 6)
        else:
            parts = tokens.unflatten(1, (frames, rows, self.devices, columns))
            parts = parts.permute(3, 0, 1, 2, 4, 5, 6)
        return parts.flatten(2, 4)

    @property
    def _band(self) -> tuple[int, int]:
        rows, columns = self.grid
        if self.axis == 0:
            return rows // self.devices, columns
        return rows, columns // self.devices


def plan_bands(config: TransformerConfig, grid: tuple[int, int], devices: int) -> Bands:
    """Choose how to cut a frame of ``grid`` tokens for ``devices``.

    Raises:
        ValueError: heads or tokens do not divide.
    """
    if config.num_heads % devices:
        raise ValueError(
            f"{devices} devices for {config.num_heads} heads; every device takes as many heads as "
            "any other; choose a number that divides them"
        )
    for axis in (0, 1):
        if grid[axis] % devices == 0:
            return Bands(devices, axis, grid)
    raise ValueError(
        f"{devices} devices for frames of {grid[0]}x{grid[1]} tokens; height or width must divide; "
        "choose another number of devices or another size"
    )


def check_devices(entry: ModelEntry, devices: int) -> None:
    """Make sure that ``devices`` can share every stream of a model.

    Raises:
        ValueError: they cannot; the sentence says which numbers of devices can.
    """
    if devices == 1:
        return
    config = entry.transformer
    sizes = ", ".join(f"{width}x{height}" for width, height in entry.sizes)
    about = f"{entry.name} has {config.num_heads} heads and makes {sizes}"
    if config.image_dim is not None:
        raise ValueError(
            f"{devices} tensor devices; {entry.name} attends to image tokens, which are not spread "
            "over devices; choose 1"
        )
    allowed = [count for count in range(1, config.num_heads + 1) if _possible(entry, count)]
    if devices not in allowed:
        *rest, last = (str(count) for count in allowed)
        choice = f"{', '.join(rest)} or {last}" if rest else last
        raise ValueError(
            f"{devices} tensor devices; {about}, and both the heads and the rows or columns of "
            f"tokens must divide; choose {choice}"
        )


def _possible(entry: ModelEntry, devices: int) -> bool:
    try:
        for width, height in entry.sizes:
            config = entry.transformer
            plan_bands(config, config.grid(height // 8, width // 8), devices)
    except ValueError:
        return False
    return True
