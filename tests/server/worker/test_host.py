"""What a worker does with the tickets it takes."""

from pathlib import Path

import pytest

from server.fabric import keys
from server.fabric.claim import MAX_TAKEOVERS
from server.fabric.queue import WorkQueue
from server.fabric.record import create_record
from server.fabric.streams import all_entries
from server.worker.kept import KeptState, KeptStates
from server.worker.output import Offset
from tests.conftest import RedisServer
from tests.server.fakes import FakeEngine
from tests.server.harness import gateway, until, worker

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_a_stream_that_is_given_up_is_forgotten_with_its_kept_state(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    states = KeptStates(tmp_path, lambda: 0.0)
    states.write("ses_dead", KeptState(Offset(), "", b"state"))
    async with gateway(redis_server.url) as served:
        redis = served.context.redis
        fields = {"state": "running", "takeovers": MAX_TAKEOVERS}
        await create_record(redis, "live", "ses_dead", fields)
        await redis.do("ZADD", keys.SESSIONS, 1, "ses_dead")
        queue = WorkQueue(redis, "fake", "live")
        await queue.put("ses_dead")
        assert await queue.take("w1", block_ms=0) is not None
        async with worker(redis_server.url, FakeEngine(), takeover_ms=0, states=states):
            entries = await until(lambda: all_entries(redis, keys.media("ses_dead")))
            await until(lambda: not list(tmp_path.iterdir()))
        assert entries[0].message["code"] == "stream_failed"
        assert await redis.do("ZCARD", keys.SESSIONS) == 0
        for key in (keys.record("live", "ses_dead"), keys.media("ses_dead")):
            assert await redis.do("PTTL", key) > 0
