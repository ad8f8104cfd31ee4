"""What every connection and route of one gateway shares.

Created once by ``server.gateway.app``; holds no stream's state.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.catalogue import ModelCard
from server.fabric.connection import Connection
from server.fabric.workers import model_cards, snapshots
from server.gateway.auth import Gate
from server.gateway.metrics import GatewayMetrics
from server.wire.limits import MAX_SEED, Limits


def draw_seed() -> int:
    """Return a seed for a client that names none."""
    return secrets.randbelow(MAX_SEED + 1)


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway process.

    Attributes:
        redis: The fabric.
        gate: Keys and origins.
        limits: What clients may send.
        metrics: This process's own counts.
        draining: Set when the process is about to stop.
        clock: Monotonic seconds.
        draw_seed: Seeds for clients that name none.
    """

    redis: Connection
    gate: Gate = field(default_factory=Gate)
    limits: Limits = field(default_factory=Limits)
    metrics: GatewayMetrics = field(default_factory=GatewayMetrics)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    clock: Callable[[], float] = time.monotonic
    draw_seed: Callable[[], int] = draw_seed

    async def cards(self) -> dict[str, ModelCard]:
        """Return the models on offer; those whose worker is alive come first."""
        cards = await model_cards(self.redis)
        alive = {snapshot["model"] for snapshot in (await snapshots(self.redis)).values()}
        order = sorted(cards, key=lambda name: (name not in alive, name))
        return {name: ModelCard.from_json(cards[name]) for name in order}
