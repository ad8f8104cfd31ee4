"""A device's part of a page pool: all the pages, with its share of the heads.

Streams leave and enter whole. ``export`` and ``load`` move the heads of all devices, so a snapshot
does not tell on how many devices it was taken and may be restored on another number of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.team import Team
from models.paged_kv import KVPool

__all__ = ["Export", "Load", "SpreadPool"]


@dataclass(frozen=True, slots=True)
class Export:
    """Announces that device 0 copies pages out.

    Attributes:
        pages: which, in this order.
    """

    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Announces that device 0 fills pages.

    Attributes:
        pages: which, in this order.
    """

    pages: tuple[int, ...]


class SpreadPool(KVPool):
    """Its own heads of every page, ``k, v [L, P, page_tokens, N/R, D]``.

    Args:
        team: all R devices.
        layers: see ``KVPool``, as all that follow.
        pages: the same on every device.
        page_tokens: tokens of a page.
        heads: N of the whole network.
        head_dim: D.
        dtype: of the stored values.
        device: where this part is.
    """

    def __init__(
        self,
        team: Team,
        layers: int,
        pages: int,
        page_tokens: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        assert heads % team.devices == 0, (heads, team.devices)
        super().__init__(layers, pages, page_tokens, heads // team.devices, head_dim, dtype, device)
        self._team = team

    def exported_shape(self, pages: int) -> tuple[int, ...]:
        """See ``KVPool.exported_shape``: with the heads of all devices."""
        layers, count, tokens, heads, head_dim = super().exported_shape(pages)
        return layers, count, tokens, heads * self._team.devices, head_dim

    def export(self, pages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See ``KVPool.export``; on device 0 alone, the others take part."""
        with self._team.in_step():
            self._team.announce(Export(tuple(pages)))
            k, v = zip(*self._layers(pages), strict=True)
            return torch.stack(k), torch.stack(v)

    def load(self, pages: Sequence[int], k: Tensor, v: Tensor) -> None:
        """See ``KVPool.load``; on device 0 alone, the others take part."""
        assert tuple(k.shape) == self.exported_shape(len(pages)), k.shape
        with self._team.in_step():
            self._team.announce(Load(tuple(pages)))
            self._fill(self.k, pages, k)
            self._fill(self.v, pages, v)

    def take_part(self, message: Export | Load) -> None:
        """Do another device's share of what device 0 announced."""
        if isinstance(message, Load):
            self._fill(self.k, message.pages)
            self._fill(self.v, message.pages)
            return
        for _ in self._layers(message.pages):
            pass  # only device 0 keeps them

    def _layers(self, pages: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Gather keys and values of one layer after the other, ``[n, page_tokens, N, D]``."""
        for own in zip(*super().export(pages), strict=True):
            k, v = (torch.cat(self._team.gather(part), dim=2) for part in own)
            yield k, v

    def _fill(self, store: Tensor, pages: Sequence[int], whole: Tensor | None = None) -> None:
        """Take this device's heads of what device 0 has, one layer after the other."""
        layers, *shape = self.exported_shape(len(pages))
        index = torch.tensor(pages, device=store.device, dtype=torch.int64)
        for layer in range(layers):
            value = store.new_empty(shape) if whole is None else whole[layer].to(store)
            own = self._team.share(value).chunk(self._team.devices, dim=2)[self._team.rank]
            store[layer].index_copy_(0, index, own)
