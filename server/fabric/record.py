"""Creating, reading and forgetting the record of a session or job.

A record is a hash that begins with ``state``, ``id`` and ``epoch`` -1, so that the first claim has
epoch 0. Whoever holds a claim writes it through that; gateways write only the fields that belong
to the connection (token, connection, wish to stop).
"""

from collections.abc import Mapping

from server.fabric import keys
from server.fabric.connection import Connection, Script, Word, flat

_CREATE = Script(
    """
    if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
    redis.call('HSET', KEYS[1], 'epoch', -1, 'takeovers', 0, unpack(ARGV))
    return 1
    """
)

_WRITE = Script(
    """
    if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
    redis.call('HSET', KEYS[1], unpack(ARGV))
    return 1
    """
)

_SWAP = Script(
    """
    if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
    redis.call('HSET', KEYS[1], unpack(ARGV, 3))
    return 1
    """
)

ENDED_MS = 60_000
"""How long the record and the media stream of an ended live session can still be read."""

FORGET = """
    local function forget(record, sessions, control, image, media, id, after_ms)
      redis.call('ZREM', sessions, id)
      redis.call('DEL', control, image)
      redis.call('PEXPIRE', record, after_ms)
      redis.call('PEXPIRE', media, after_ms)
    end
    """
"""Begins a script that may end a live session: a call takes ``session_places``, id and time."""

_FORGET = Script(FORGET + "forget(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[1], ARGV[2])")


async def create_record(
    redis: Connection, kind: keys.Kind, subject: str, fields: Mapping[str, Word]
) -> bool:
    """Create a record; False when one of that id is there already."""
    key = keys.record(kind, subject)
    return bool(await redis.run(_CREATE, (key,), ("id", subject, *flat(fields))))


async def read_record(redis: Connection, kind: keys.Kind, subject: str) -> dict[str, str]:
    """Return a record's fields; empty when there is none."""
    return await redis.hash(keys.record(kind, subject))


async def write_record(
    redis: Connection, kind: keys.Kind, subject: str, fields: Mapping[str, Word]
) -> bool:
    """Write fields without a claim; False when there is no such record (none is made)."""
    return bool(await redis.run(_WRITE, (keys.record(kind, subject),), flat(fields)))


async def swap_field(
    redis: Connection,
    kind: keys.Kind,
    subject: str,
    name: str,
    expected: str,
    fields: Mapping[str, Word],
) -> bool:
    """Write fields only while ``name`` still holds ``expected``; False otherwise."""
    key = keys.record(kind, subject)
    return bool(await redis.run(_SWAP, (key,), (name, expected, *flat(fields))))


def session_places(session_id: str) -> tuple[str, str, str, str, str]:
    """Return every key that holds something about a live session, its record first."""
    return (
        keys.record("live", session_id),
        keys.SESSIONS,
        keys.control(session_id),
        keys.image(session_id),
        keys.media(session_id),
    )


async def forget_session(redis: Connection, session_id: str, after_ms: int) -> None:
    """Take a live session off the list; its record and media can be read for ``after_ms`` more."""
    await redis.run(_FORGET, session_places(session_id), (session_id, after_ms))
