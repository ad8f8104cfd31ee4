"""What a device is told before it can follow: its place, then the network, then the pool."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch

from engine.team import Team
from kernels.backend_name import Wanted
from models.config import TransformerConfig
from models.transformer import CausalWan

__all__ = ["Place", "PoolShape", "Weights", "share_weights"]


@dataclass(frozen=True, slots=True)
class Place:
    """What a follower is told on its command line.

    Attributes:
        rank: its number, from 1.
        devices: how many there are, device 0 included.
        device: where it computes.
        folder: where the processes meet.
        threads: of its CPU work.
        exchange_s: longest time for an exchange of tensors.
    """

    rank: int
    devices: int
    device: str
    folder: str
    threads: int
    exchange_s: float

    def to_text(self) -> str:
        """Return it as one word of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Place:
        """Read what ``to_text`` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Weights:
    """Announces the network, whose weights follow.

    Attributes:
        config: its sizes.
        dtype: of all weights.
        backend: what was asked for on device 0, see ``kernels.select``.
    """

    config: TransformerConfig
    dtype: torch.dtype
    backend: Wanted


@dataclass(frozen=True, slots=True)
class PoolShape:
    """Announces the pool, see ``KVPool``; heads are those of all devices."""

    layers: int
    pages: int
    page_tokens: int
    heads: int
    head_dim: int
    dtype: torch.dtype


def share_weights(team: Team, network: CausalWan) -> None:
    """Give device 0's weights to all; to be called by all, on networks of one config and dtype."""
    team.wait_for_all()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            # As bytes: not every backend knows every dtype.
            tensor.view(torch.uint8).copy_(team.share(tensor.contiguous().view(torch.uint8)))
