"""What workers say about themselves: a snapshot with a time to live, and their models' cards.

Any gateway reads all of them for ``/metrics``, ``/readyz``, ``/v1/models`` and for checking a
``session.start``. The snapshot's contents belong to ``server.worker.host``.
"""

import json
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.fabric import keys
from server.fabric.connection import Connection

SNAPSHOT_S = 1.0
"""How often a worker reports."""
SNAPSHOT_LIVES_MS = 5_000
"""Silence after which a worker counts as gone."""
MODEL_LIVES_MS = 120_000
"""How long a start is still accepted (and queued) for a model whose last worker went away."""

KNOWN_S = 20.0
"""How often a worker looks again which models' files are there."""
KNOWN_LIVES_MS = 90_000


def new_worker_id(pid: int) -> str:
    """Return a fresh id for the worker that process ``pid`` of this machine is."""
    return f"{_process(pid)}{secrets.token_hex(4)}"


def is_process(worker_id: str, pid: int) -> bool:
    """Return whether a worker's id was made by process ``pid`` of this machine."""
    return worker_id.startswith(_process(pid))


def _process(pid: int) -> str:
    return f"{socket.gethostname()}-{pid}-"


def room(streams: int) -> str:
    """Say for how many streams there is room."""
    return f"room for {streams} stream{'s' * (streams != 1)}"


async def report(redis: Connection, worker_id: str, snapshot: Mapping[str, Any]) -> None:
    """Publish a worker's snapshot."""
    await redis.do("SADD", keys.WORKERS, worker_id)
    text = json.dumps(snapshot, separators=(",", ":"))
    await redis.do("SET", keys.worker(worker_id), text, "PX", SNAPSHOT_LIVES_MS)


async def withdraw(redis: Connection, worker_id: str) -> None:
    """Say that a worker stopped on purpose."""
    await redis.do("DEL", keys.worker(worker_id), keys.known(worker_id))
    await redis.do("SREM", keys.WORKERS, worker_id)


async def snapshots(redis: Connection) -> dict[str, dict[str, Any]]:
    """Return the snapshot of every worker alive, by worker id."""
    return await _alive(redis, keys.WORKERS, keys.worker)


async def is_alive(redis: Connection, worker_id: str) -> bool:
    """Return whether a worker reported recently."""
    return bool(await redis.do("EXISTS", keys.worker(worker_id)))


async def announce_model(redis: Connection, name: str, card: Mapping[str, Any]) -> None:
    """Publish what a model can do; it outlives its worker by ``MODEL_LIVES_MS``."""
    await redis.do("SADD", keys.MODELS, name)
    await redis.do("SET", keys.model(name), json.dumps(card), "PX", MODEL_LIVES_MS)


async def model_cards(redis: Connection) -> dict[str, dict[str, Any]]:
    """Return the card of every model announced lately, by name."""
    return await _alive(redis, keys.MODELS, keys.model)


async def announce_known(
    redis: Connection, worker_id: str, models: Sequence[Mapping[str, Any]]
) -> None:
    """Publish descriptions of all models that could be served, each with its ``name``."""
    text = json.dumps(models, separators=(",", ":"))
    await redis.do("SET", keys.known(worker_id), text, "PX", KNOWN_LIVES_MS)


async def known_models(redis: Connection) -> dict[str, dict[str, Any]]:
    """Return the description of every known model, by name.

    A worker that serves a model describes it best; of the others the first by id is heard.
    """
    names = sorted(name.decode() for name in await redis.do("SMEMBERS", keys.WORKERS))
    if not names:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for text in await redis.do("MGET", *(keys.known(name) for name in names)):
        for model in json.loads(text) if text is not None else ():
            held = found.get(model["name"])
            if held is None or (model["loaded"] and not held["loaded"]):
                found[model["name"]] = model
    return found


async def _alive(
    redis: Connection, index: str, key: Callable[[str], str]
) -> dict[str, dict[str, Any]]:
    """Return the values of an index's names that have not expired; forget the other names."""
    names = sorted(name.decode() for name in await redis.do("SMEMBERS", index))
    if not names:
        return {}
    found = await redis.do("MGET", *(key(name) for name in names))
    alive = {n: json.loads(text) for n, text in zip(names, found, strict=True) if text is not None}
    gone = [name for name in names if name not in alive]
    if gone:
        await redis.do("SREM", index, *gone)
    return alive
