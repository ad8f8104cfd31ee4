"""The two streams of a live session: control (to the worker) and media (to viewers).

Entries hold one JSON field ``m`` and, in media, one binary field per codec named ``d:<codec>``.
Reading is from an id, which is all that reconnecting, joining late and several viewers need.
Knows nothing of what the entries mean.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.fabric import keys
from server.fabric.connection import Connection

CONTROL_MAXLEN = 512
"""Control entries kept; a worker reads them within milliseconds."""
MEDIA_MAXLEN = 64
"""Media entries kept: the ring that resumes and late joiners read from."""
LIVES_MS = 600_000
"""How long a stream outlives its last entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a control or media stream."""

    entry_id: str
    message: dict[str, Any]
    data: Mapping[str, bytes]


async def send_control(redis: Connection, session_id: str, message: Mapping[str, Any]) -> str:
    """Tell the session's worker something; the order of calls is the order of arrival."""
    return await _add(redis, keys.control(session_id), message, CONTROL_MAXLEN)


async def send_notice(redis: Connection, session_id: str, message: Mapping[str, Any]) -> str:
    """Tell the session's gateways something that needs no ownership."""
    return await _add(redis, keys.media(session_id), message, MEDIA_MAXLEN)


async def read_entries(
    redis: Connection, key: str, after: str, *, block_ms: int = 0, count: int = 16
) -> list[Entry]:
    """Return entries after an id, waiting for one at most ``block_ms`` (0: do not wait)."""
    words = ["XREAD", "COUNT", str(count)]
    if block_ms > 0:
        words += ["BLOCK", str(block_ms)]
    reply = await redis.do(*words, "STREAMS", key, after)
    return [_entry(i, fields) for _, found in reply or () for i, fields in found]


async def all_entries(redis: Connection, key: str) -> list[Entry]:
    """Return everything a stream holds, oldest first."""
    return [_entry(i, fields) for i, fields in await redis.do("XRANGE", key, "-", "+")]


async def _add(redis: Connection, key: str, message: Mapping[str, Any], maxlen: int) -> str:
    text = json.dumps(message, separators=(",", ":"))
    entry: bytes = await redis.do("XADD", key, "MAXLEN", maxlen, "*", "m", text)
    await redis.do("PEXPIRE", key, LIVES_MS)
    return entry.decode()


def _entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    message = json.loads(fields.get(b"m", b"{}"))
    data = {name[2:].decode(): value for name, value in fields.items() if name.startswith(b"d:")}
    return Entry(entry_id.decode(), message, data)
