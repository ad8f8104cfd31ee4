"""A Redis client whose commands survive a short loss of the server.

Wraps redis-py's asyncio client: one place for timeouts, retries and the shape of replies (RESP2,
bytes). It knows no keys. Every caller passes the command as words, so that the 6.2 command set is
visible where it is used.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

FabricError = RedisError
"""Raised by every method when Redis stays away or refuses a command."""

Word = str | bytes | int | float


class Script:
    """A Lua script; it runs by hash and is loaded when the server does not know it."""

    def __init__(self, text: str) -> None:
        self.text = text


class Connection:
    """Commands to one Redis server."""

    def __init__(self, url: str, *, retries: int = 12) -> None:
        """Prepare a client for ``redis://``, ``rediss://`` or ``unix://`` ``url``; no I/O yet.

        Args:
            url: Where Redis is, password included.
            retries: How often a command is tried again after a lost connection, with waits that
                grow to half a second: 12 are about five seconds.
        """
        pool: Any = ConnectionPool.from_url(  # type: ignore[no-untyped-call, unused-ignore]
            url,
            protocol=2,
            socket_timeout=15,
            socket_connect_timeout=5,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), retries),
            retry_on_error=[RedisConnectionError, RedisTimeoutError],
            max_connections=5000,
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._scripts: dict[Script, Any] = {}

    async def do(self, *words: Word) -> Any:
        """Run one command and return its reply, bytes undecoded."""
        return await _cancellable(self._redis.execute_command(*words))  # type: ignore[no-untyped-call, unused-ignore]

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """Run a Lua script atomically."""
        ready = self._scripts.get(script)
        if ready is None:
            ready = self._scripts[script] = self._redis.register_script(script.text)
        return await _cancellable(ready(keys=list(keys), args=list(args)))

    async def hash(self, key: str) -> dict[str, str]:
        """Return a hash as text; empty when there is none."""
        found: Mapping[bytes, bytes] = await self.do("HGETALL", key)
        return {name.decode(): value.decode() for name, value in found.items()}

    async def ping(self) -> bool:
        """Return whether Redis answers at the moment."""
        try:
            return bool(await self.do("PING"))
        except (RedisError, OSError):
            return False

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()


async def _cancellable(command: Awaitable[Any]) -> Any:
    """Await a command; a cancellation that it dropped is raised after all.

    Before Python 3.12 ``asyncio.wait_for``, which redis-py uses to write, drops a cancellation that
    arrives together with its result. The task still counts it.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    reply = await command
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return reply


def flat(fields: Mapping[str, Word]) -> list[Word]:
    """Return ``name, value, name, value`` for HSET and XADD."""
    return [word for pair in fields.items() for word in pair]
