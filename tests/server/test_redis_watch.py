import asyncio
from pathlib import Path

import pytest

from server.redis_process import Binary, PrivateRedis
from server.redis_watch import tell, watched
from server.tasks import end_tasks
from tests.server.harness import until

pytestmark = pytest.mark.anyio


async def test_a_redis_that_goes_and_comes_is_told_of_once_each_time() -> None:
    answers = iter([True, True, False, False, True, False])
    said: list[str] = []

    async def ping() -> bool:
        return next(answers, False)

    watch = asyncio.create_task(tell(ping, "the worker's Redis", "start it; ", said.append, 0.001))
    await until(lambda: len(said) == 3)
    await end_tasks(watch)
    assert ["start it" in line for line in said] == [True, False, True]
    assert said[1] == "the worker's Redis answers now"


async def test_a_redis_that_is_not_there_is_told_of_without_its_password() -> None:
    said: list[str] = []
    async with watched("redis://:secret@127.0.0.1:1/0", "worker", said.append):
        await until(lambda: said)
    assert said == [
        "the worker's Redis at redis://***@127.0.0.1:1/0 does not answer; start it, or name another "
        "with --redis-url; trying again until it does"
    ]


async def test_nobody_is_told_to_start_a_private_redis_or_to_name_another(tmp_path: Path) -> None:
    redis = PrivateRedis(tmp_path, Binary("redis-server", (6, 2, 0)))
    said: list[str] = []
    async with watched(redis.url, "gateway", said.append):
        await until(lambda: said)
    await redis.stop()
    assert said == ["the gateway's private Redis does not answer; trying again until it does"]
