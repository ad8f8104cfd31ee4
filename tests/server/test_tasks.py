"""Tasks end, also when a cancellation gets lost on the way."""

import asyncio

import pytest

from server.tasks import end_tasks

pytestmark = pytest.mark.anyio


async def test_a_task_that_drops_a_cancellation_is_cancelled_again() -> None:
    dropped = 0

    async def stubborn() -> None:
        nonlocal dropped
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if dropped == 2:
                    raise
                dropped += 1

    async def failing() -> None:
        raise OSError

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    await end_tasks(*tasks, again_s=0.01)
    assert [task.done() for task in tasks] == [True, True]
    assert dropped == 2
