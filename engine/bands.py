"""How latent frames are cut for several devices, and which numbers of devices a model allows.

A frame is cut into bands of whole rows or columns of tokens, one for each device, all of one size: where
they do not divide, the last band is filled up with tokens that nobody attends to. Knows neither processes
nor networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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

    @property
    def thickness(self) -> int:
        """Rows or columns of a band."""
        return -(-self.grid[self.axis] // self.devices)

    @property
    def padding(self) -> int:
        """Rows or columns that the last band is filled up with."""
        return self.thickness * self.devices - self.grid[self.axis]

    def cut(self, latents: Tensor, rank: int) -> Tensor:
        """Select a device's band of ``[B, F, C, H, W]``."""
        dim = 3 + self.axis
        patch = latents.shape[dim] // self.grid[self.axis]
        latents = _padded(latents, dim, self.padding * patch)
        return latents.chunk(self.devices, dim=dim)[rank].contiguous()

    def join(self, bands: Sequence[Tensor]) -> Tensor:
        """Put bands of velocities together again."""
        dim = 3 + self.axis
        patch = bands[0].shape[dim] // self.thickness
        return torch.cat(list(bands), dim=dim).narrow(dim, 0, self.grid[self.axis] * patch)

    def whole(self, parts: Tensor, frames: int) -> Tensor:
        """Bring tokens of all bands ``[R, B, F*b, n, D]`` into token order ``[B, F*hw, n, D]``."""
        rows, columns = self._band
        parts = parts.unflatten(2, (frames, rows, columns))  # [R, B, F, h, w, n, D]
        dim = 2 + self.axis
        joined = torch.cat(parts.unbind(0), dim=dim)  # [B, F, h, w, n, D]
        return joined.narrow(dim, 0, self.grid[self.axis]).flatten(1, 3)

    def bands(self, tokens: Tensor, frames: int) -> Tensor:
        """Cut tokens ``[B, F*hw, n, D]`` into all bands ``[R, B, F*b, n, D]`` of b tokens a frame."""
        dim = 2 + self.axis
        parts = tokens.unflatten(1, (frames, *self.grid))  # [B, F, h, w, n, D]
        parts = _padded(parts, dim, self.padding)
        return torch.stack(parts.chunk(self.devices, dim=dim)).flatten(2, 4)

    @property
    def _band(self) -> tuple[int, int]:
        rows, columns = self.grid
        return (self.thickness, columns) if self.axis == 0 else (rows, self.thickness)


def _padded(x: Tensor, dim: int, count: int) -> Tensor:
    """Append ``count`` zeros along ``dim``."""
    return F.pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, count)) if count else x


def plan_bands(config: TransformerConfig, grid: tuple[int, int], devices: int) -> Bands:
    """Choose how to cut a frame of ``grid`` tokens for ``devices``: by rows unless columns waste less.

    Raises:
        ValueError: the heads do not divide, or a device would have nothing but padding.
    """
    if config.num_heads % devices:
        raise ValueError(
            f"{devices} devices for {config.num_heads} heads; every device takes as many heads as "
            "any other; choose a number that divides them"
        )
    cuts = [Bands(devices, axis, grid) for axis in (0, 1)]
    cuts = [cut for cut in cuts if cut.padding < cut.thickness]
    if not cuts:
        raise ValueError(
            f"{devices} devices for frames of {grid[0]}x{grid[1]} tokens; every device needs a row or "
            "a column of them; choose fewer devices or another size"
        )
    return min(cuts, key=lambda cut: cut.padding / grid[cut.axis])


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
            f"{devices} tensor devices; {about}, the heads must divide and every device needs a row "
            f"or a column of tokens; choose {choice}"
        )


def _possible(entry: ModelEntry, devices: int) -> bool:
    try:
        for size in entry.sizes:
            config = entry.transformer
            plan_bands(config, config.grid_of(size), devices)
    except ValueError:
        return False
    return True
