"""What a worker does with the tickets it takes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.thread import EngineThread
from server.fabric import keys
from server.fabric.claim import MAX_TAKEOVERS, Claim, claim
from server.fabric.connection import Connection
from server.fabric.keys import record as record_key
from server.fabric.queue import WorkQueue
from server.fabric.record import create_record
from server.fabric.streams import all_entries
from server.jobs.runner import JobRunner, RunnerParts
from server.jobs.segments import JobFolder
from server.jobs.store import JobStore
from server.worker.bridge import EngineBridge
from server.worker.host import HostSettings, WorkerHost
from server.worker.kept import KeptState, KeptStates
from server.worker.output import Offset
from server.worker.parts import LiveParts
from server.worker.stats import WorkerStats
from tests.conftest import RedisServer
from tests.server.fakes import FakeEngine
from tests.server.harness import CARD, gateway, until, worker
from tests.server.jobs.making import make, request

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_a_stream_that_is_given_up_is_forgotten_with_its_kept_state(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    states = KeptStates(tmp_path, lambda: 0.0)
    states.write("ses_dead", KeptState(Offset(), "", b"state"))
    async with gateway(redis_server.url) as served:
        redis = served.context.redis
        fields = {"state": "running", "takeovers": MAX_TAKEOVERS, "next_chunk": 4, "next_frame": 45}
        await create_record(redis, "live", "ses_dead", fields)
        await redis.do("ZADD", keys.SESSIONS, 1, "ses_dead")
        queue = WorkQueue(redis, "fake", "live")
        await queue.put("ses_dead")
        assert await queue.take("w1", block_ms=0) is not None
        async with worker(redis_server.url, FakeEngine(), takeover_ms=0, states=states) as host:
            await until(lambda: _told(redis, "ses_dead", 2))
            await until(lambda: not list(tmp_path.iterdir()))
            assert host.snapshot()["streams_ended"] == {"error": 1}
        error, done = (e.message for e in await all_entries(redis, keys.media("ses_dead")))
        assert error["code"] == "stream_failed"
        # What viewers have of it.
        assert done == {"t": "done", "reason": "error", "chunks": 4, "frames": 45}
        assert await redis.do("ZCARD", keys.SESSIONS) == 0
        for key in (keys.record("live", "ses_dead"), keys.media("ses_dead")):
            assert await redis.do("PTTL", key) > 0


async def _told(redis: Connection, session_id: str, notices: int) -> bool:
    return len(await all_entries(redis, keys.media(session_id))) >= notices


@pytest.mark.parametrize("ending", ["cancel", "delete", "give up"])
async def test_the_files_of_a_job_that_ended_without_a_worker_are_cleared_up(
    redis_server: RedisServer, fabric: Connection, tmp_path: Path, ending: str
) -> None:
    store = JobStore(fabric, lambda: 0.0)
    job = await make(store, request(model="fake"))
    queue = WorkQueue(fabric, "fake", "job")
    ticket = await queue.take("dead", block_ms=0)
    assert ticket is not None
    assert isinstance(await claim(fabric, ticket, "dead"), Claim)
    folder = JobFolder(tmp_path, job.id)
    for name in ("input.png", "resume-00000045-ab.state", "seg-00000045-e0.m4s", "x.part"):
        folder.put(name, b"x")
    if ending == "give up":
        await fabric.do("HSET", record_key("job", job.id), "takeovers", MAX_TAKEOVERS)
    else:
        await getattr(store, ending)(job.id)
    with ThreadPoolExecutor(1) as executor:

        def runner(bridge: EngineBridge) -> JobRunner:
            return JobRunner(RunnerParts(store, bridge, tmp_path, executor, "print"))

        async with worker(redis_server.url, FakeEngine(), takeover_ms=0, run_job=runner) as host:
            kept = [] if ending == "delete" else ["input.png"]
            await until(lambda: [path.name for path in folder.path.glob("*")] == kept)
            ended = host.snapshot()["jobs_ended"]
            assert ended["failed"] == (ending == "give up")
            assert ended["cancelled"] == (ending == "cancel")
    assert folder.path.exists() == (ending != "delete")


async def test_a_worker_ends_in_peace_while_redis_is_away() -> None:
    redis = Connection("redis://127.0.0.1:1", retries=0)
    bridge = EngineBridge(lambda sink: EngineThread(FakeEngine(), sink))
    with ThreadPoolExecutor(1) as executor:
        parts = LiveParts(redis, bridge, executor, WorkerStats(), 1.0)
        host = WorkerHost(HostSettings("w1", "cpu"), CARD, parts)
        running = asyncio.create_task(host.run())
        await asyncio.sleep(0)
        host.drain()
        await running
        await bridge.close()
    await redis.close()
