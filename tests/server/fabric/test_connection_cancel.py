"""A command under way never keeps a task from being cancelled."""

import asyncio

import pytest

from server.fabric.connection import Connection

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_a_task_that_does_nothing_but_commands_ends_at_its_first_cancellation(
    fabric: Connection,
) -> None:
    async def busy() -> None:
        while True:
            await fabric.do("HGET", "a", "b")

    for turn in range(60):
        task = asyncio.create_task(busy())
        await asyncio.sleep(0.0005 * (turn % 7))
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=10)
        assert done, f"cancellation {turn} was dropped"
        assert task.cancelled()
