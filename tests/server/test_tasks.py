"""Tasks end, also when a cancellation gets lost on the way or a thread is still at work."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.tasks import end_tasks, in_executor

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


@pytest.mark.parametrize("fails", [False, True], ids=["well", "badly"])
async def test_work_in_a_thread_is_cancelled_when_the_thread_has_ended_well_or_badly(
    fails: bool,
) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(20)
        ended.set()
        if fails:
            raise OSError

    with ThreadPoolExecutor(1) as executor:
        task = asyncio.create_task(in_executor(executor, work))
        await asyncio.to_thread(begun.wait)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()


async def test_work_in_a_thread_gives_its_result_or_its_error() -> None:
    with ThreadPoolExecutor(1) as executor:
        assert await in_executor(executor, divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await in_executor(executor, divmod, 7, 0)
