"""Ending asyncio tasks for certain, and the work of threads that they wait for."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def in_executor(executor: Executor, function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run a function in an executor; a cancellation is raised when its thread has done with it.

    A thread cannot be stopped, and what comes after a cancellation must not meet it still working.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, function, *args)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({future})
        if not future.cancelled():
            # Read, so that asyncio does not report it; the cancellation is what counts.
            future.exception()
        raise


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
