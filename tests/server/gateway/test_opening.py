"""A stream is opened whole or not at all."""

import pytest

from server.fabric.connection import FabricError
from server.fabric.queue import WorkQueue
from tests.conftest import RedisServer
from tests.server.harness import serving

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_a_start_that_redis_breaks_off_leaves_nothing_behind(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken_off(queue: WorkQueue, subject: str) -> str:
        raise FabricError("Connection closed by server.")

    async with serving(redis_server.url) as served, served.viewer() as viewer:
        with monkeypatch.context() as patch:
            patch.setattr(WorkQueue, "put", broken_off)
            await viewer.say("session.start", prompt="a ball")
            assert (await viewer.error())["code"] == "fabric_unavailable"
        redis = served.context.redis
        for pattern in ("lt1:session*", "lt1:control:*", "lt1:media:*"):
            assert await redis.do("KEYS", pattern) == []
        await viewer.start()
        await viewer.chunk()
