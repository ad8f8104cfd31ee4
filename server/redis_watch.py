"""A process says when it cannot reach its Redis, and when it can again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from server.config import without_password
from server.fabric.connection import Connection
from server.tasks import end_tasks

LOOK_S = 5.0


@contextlib.asynccontextmanager
async def watched(url: str, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Watch the Redis at ``url`` for as long as the block runs."""
    redis = Connection(url, retries=0)
    watch = asyncio.create_task(tell(redis.ping, without_password(url), say))
    try:
        yield
    finally:
        await end_tasks(watch)
        await redis.close()


async def tell(
    ping: Callable[[], Awaitable[bool]],
    shown: str,
    say: Callable[[str], None],
    look_s: float = LOOK_S,
) -> None:
    """Say each change once, for ever; a Redis that answers from the start is not worth a word."""
    answered = True
    while True:
        answers = await ping()
        if answered and not answers:
            say(
                f"the Redis at {shown} does not answer; start it, or name another with --redis-url; "
                "trying again until it does"
            )
        elif answers and not answered:
            say(f"the Redis at {shown} answers now")
        answered = answers
        await asyncio.sleep(look_s)
