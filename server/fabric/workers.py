"""What workers say about themselves: a snapshot with a time to live, and their models' cards.

Any gateway reads all of them for ``/metrics``, ``/readyz``, ``/v1/models`` and for checking a
``session.start``. The snapshot's contents belong to ``server.worker.snapshot``.
"""

import json
from collections.abc import Mapping
from typing import Any

from server.fabric import keys
from server.fabric.connection import Connection

SNAPSHOT_S = 1.0
"""How often a worker reports."""
SNAPSHOT_LIVES_MS = 5_000
"""Silence after which a worker counts as gone."""


async def report(redis: Connection, worker_id: str, snapshot: Mapping[str, Any]) -> None:
    """Publish a worker's snapshot."""
    await redis.do("SADD", keys.WORKERS, worker_id)
    text = json.dumps(snapshot, separators=(",", ":"))
    await redis.do("SET", keys.worker(worker_id), text, "PX", SNAPSHOT_LIVES_MS)


async def withdraw(redis: Connection, worker_id: str) -> None:
    """Say that a worker stopped on purpose."""
    await redis.do("DEL", keys.worker(worker_id))
    await redis.do("SREM", keys.WORKERS, worker_id)


async def snapshots(redis: Connection) -> dict[str, dict[str, Any]]:
    """Return the snapshot of every worker alive, by worker id; forgets the others' names."""
    names = sorted(name.decode() for name in await redis.do("SMEMBERS", keys.WORKERS))
    if not names:
        return {}
    found = await redis.do("MGET", *(keys.worker(name) for name in names))
    alive = {n: json.loads(text) for n, text in zip(names, found, strict=True) if text is not None}
    gone = [name for name in names if name not in alive]
    if gone:
        await redis.do("SREM", keys.WORKERS, *gone)
    return alive


async def is_alive(redis: Connection, worker_id: str) -> bool:
    """Return whether a worker reported recently."""
    return bool(await redis.do("EXISTS", keys.worker(worker_id)))


async def announce_model(redis: Connection, name: str, card: Mapping[str, Any]) -> None:
    """Publish what a model can do; it stays after the worker has gone."""
    await redis.do("HSET", keys.MODELS, name, json.dumps(card))


async def model_cards(redis: Connection) -> dict[str, dict[str, Any]]:
    """Return the card of every model ever announced, by name."""
    return {name: json.loads(text) for name, text in (await redis.hash(keys.MODELS)).items()}
