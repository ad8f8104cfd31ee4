import asyncio

import pytest

from server.redis_watch import tell, watched
from server.tasks import end_tasks
from tests.server.harness import until

pytestmark = pytest.mark.anyio


async def test_a_redis_that_goes_and_comes_is_told_of_once_each_time() -> None:
    answers = iter([True, True, False, False, True, False])
    said: list[str] = []

    async def ping() -> bool:
        return next(answers, False)

    watch = asyncio.create_task(tell(ping, "redis://h", said.append, 0.001))
    await until(lambda: len(said) == 3)
    await end_tasks(watch)
    assert ["--redis-url" in line for line in said] == [True, False, True]
    assert said[1] == "the Redis at redis://h answers now"


async def test_a_redis_that_is_not_there_is_told_of_without_its_password() -> None:
    said: list[str] = []
    async with watched("redis://:secret@127.0.0.1:1/0", said.append):
        await until(lambda: said)
    assert said == [
        "the Redis at redis://***@127.0.0.1:1/0 does not answer; start it, or name another with "
        "--redis-url; trying again until it does"
    ]
