"""A process says when it cannot reach its Redis, and when it can again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from server.config import without_password
from server.fabric.connection import Connection
from server.redis_process import is_private
from server.tasks import end_tasks

LOOK_S = 5.0


@contextlib.asynccontextmanager
async def watched(url: str, process: str, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Watch the Redis at ``url`` for as long as the block runs, and say whose it is."""
    redis = Connection(url, retries=0)
    private = is_private(url)
    shown = "private Redis" if private else f"Redis at {without_password(url)}"
    # Only its supervisor starts a private one.
    advice = "" if private else "start it, or name another with --redis-url; "
    watch = asyncio.create_task(tell(redis.ping, f"the {process}'s {shown}", advice, say))
    try:
        yield
    finally:
        await end_tasks(watch)
        await redis.close()


async def tell(
    ping: Callable[[], Awaitable[bool]],
    redis: str,
    advice: str,
    say: Callable[[str], None],
    look_s: float = LOOK_S,
) -> None:
    """Say each change once, for ever; a Redis that answers from the start is not worth a word."""
    answered = True
    while True:
        answers = await ping()
        if answered and not answers:
            say(f"{redis} does not answer; {advice}trying again until it does")
        elif answers and not answered:
            say(f"{redis} answers now")
        answered = answers
        await asyncio.sleep(look_s)
