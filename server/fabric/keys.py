"""Names of every Redis key, in one place.

Knows no client: these are pure functions of ids. ``lt1`` is the version of the layout.
"""

from typing import Literal

Kind = Literal["live", "job"]

PREFIX = "lt1"
GROUP = "workers"
"""The consumer group of every work queue."""

WORKERS = f"{PREFIX}:workers"
"""Set of worker ids that ever reported; a member without a snapshot is gone."""
MODELS = f"{PREFIX}:models"
"""Set of model names that were ever announced."""
SESSIONS = f"{PREFIX}:sessions"
"""Sorted set of live session ids by creation time."""
DEAD = f"{PREFIX}:dead"
"""Stream of tickets given up, with kind, id, model and reason."""


def work(model: str, kind: Kind) -> str:
    """Return the work queue (a stream) of one model and kind."""
    return f"{PREFIX}:work:{kind}:{model}"


def record(kind: Kind, subject: str) -> str:
    """Return the hash that holds everything about one session or job."""
    return f"{PREFIX}:{'session' if kind == 'live' else 'job'}:{subject}"


def image(session_id: str) -> str:
    """Return the start image (base64 of a PNG) of a session that has one."""
    return f"{PREFIX}:image:{session_id}"


def control(session_id: str) -> str:
    """Return the stream from gateways to the session's worker."""
    return f"{PREFIX}:control:{session_id}"


def media(session_id: str) -> str:
    """Return the capped stream from the session's worker to gateways."""
    return f"{PREFIX}:media:{session_id}"


def worker(worker_id: str) -> str:
    """Return the snapshot of one worker (JSON, with a time to live)."""
    return f"{PREFIX}:worker:{worker_id}"


def known(worker_id: str) -> str:
    """Return what one worker's machine has and needs of every known model (JSON, with a life)."""
    return f"{PREFIX}:known:{worker_id}"


def model(name: str) -> str:
    """Return the card of one model (JSON, with a time to live)."""
    return f"{PREFIX}:model:{name}"
