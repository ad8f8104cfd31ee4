"""Ending asyncio tasks for certain."""

import asyncio
from typing import Any


async def end_tasks(*tasks: asyncio.Task[Any], again_s: float = 5.0) -> None:
    """Cancel tasks and wait until they have ended; whatever they raise is dropped.

    A cancellation can get lost: before Python 3.12 ``asyncio.wait_for``, which the Redis client
    uses for every command, drops one that arrives together with its result. So it is repeated
    for as long as a task goes on.
    """
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=again_s)
    for task in tasks:
        if not task.cancelled():
            # Reading it marks a failure as seen; asyncio would print it otherwise.
            task.exception()
