"""Faults, each caused for real: workers that vanish, Redis that dies, clients that do."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from server.fabric import keys
from server.fabric.claim import Claim, claim
from server.fabric.queue import WorkQueue
from tests.conftest import RedisServer
from tests.server.fakes import FakeEngine
from tests.server.harness import Chunk, Viewer, gateway, serving, until, worker

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_fifty_dropped_viewers_leave_no_page_behind(redis_server: RedisServer) -> None:
    engine = FakeEngine(fit=50)
    async with serving(redis_server.url, engine, grace_s=3.0) as served:
        viewers = []
        for number in range(50):
            opened = served.viewer()
            viewer = await opened.__aenter__()
            viewers.append((opened, viewer))
            await viewer.start(f"prompt {number}", width=64, height=48)
        assert engine.capacity().pages_in_use == 500
        for _, viewer in viewers:
            viewer.socket.transport.abort()
        await until(lambda: engine.capacity().pages_in_use == 0)
        await until(lambda: _unlisted(served.context.redis))
        for opened, _ in viewers:
            await opened.__aexit__(None, None, None)


async def _unlisted(redis: object) -> bool:
    return await redis.do("ZCARD", "lt1:sessions") == 0  # type: ignore[attr-defined]


async def test_a_stop_frees_the_pages(redis_server: RedisServer) -> None:
    engine = FakeEngine()
    async with serving(redis_server.url, engine) as served, served.viewer() as viewer:
        await viewer.start()
        assert engine.capacity().pages_in_use > 0
        await viewer.say("session.stop")
        await viewer.message("session.done", ack=True)
        assert engine.capacity().pages_in_use == 0


@contextlib.asynccontextmanager
async def _worker_process(redis_url: str, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker with a fake engine in a process of its own, to be killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.server.fake_worker", redis_url, name
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_stream_goes_on_after_its_worker_was_killed(redis_server: RedisServer) -> None:
    engine = FakeEngine()
    async with (
        gateway(redis_server.url) as served,
        _worker_process(redis_server.url, "w1") as process,
    ):
        await until(served.context.cards)
        async with served.viewer() as viewer:
            await viewer.start("a red ball", format="jpeg")
            await viewer.chunk()
            await viewer.change("a blue cube", "e1")
            await viewer.message("session.interaction.applied", ack=True)
            await viewer.chunk()
            process.send_signal(signal.SIGKILL)
            await process.wait()
            await viewer.change("a yellow star", "e2")
            async with worker(redis_server.url, engine, name="w2", takeover_ms=300):
                error = await viewer.error()
                assert (error["code"], error["fatal"]) == ("worker_lost", False)
                before = [c for c in viewer.seen if isinstance(c, Chunk)]
                chunk = await viewer.chunk()
                assert chunk.metadata["epoch"] == 1
                assert chunk.index == before[-1].index + 1
                assert chunk.metadata["first_frame"] == before[-1].last_frame + 1
                assert chunk.metadata["units"][0]["keyframe"]
                if not _applied(viewer, "e2"):
                    await viewer.message("session.interaction.applied", ack=True)
                assert [session.text for session in engine.sessions.values()] == ["a yellow star"]
                await viewer.say("session.stop")
                done = await viewer.message("session.done", ack=True)
                assert done["frames"] > chunk.last_frame


def _applied(viewer: Viewer, event_id: str) -> bool:
    kind = "session.interaction.applied"
    return any(
        isinstance(m, dict) and m["type"] == kind and m["event_id"] == event_id for m in viewer.seen
    )


async def test_three_dead_workers_end_a_stream_with_the_reason(redis_server: RedisServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(gateway(redis_server.url))
        async with _worker_process(redis_server.url, "w0") as process:
            await until(served.context.cards)
            viewer = await stack.enter_async_context(served.viewer())
            await viewer.start(num_frames=100_000)
            await viewer.chunk()
            process.kill()
            await process.wait()
        redis, queue = served.context.redis, WorkQueue(served.context.redis, "fake", "live")
        for number in range(3):
            (ticket,) = await queue.take_over(f"dead{number}", silent_ms=0)
            assert isinstance(await claim(redis, ticket, f"dead{number}"), Claim)
        async with worker(redis_server.url, FakeEngine(), name="w2", takeover_ms=100):
            error = await viewer.error()
            while error["code"] == "worker_lost":
                error = await viewer.error()
            assert error["code"] == "stream_failed"
            assert "none made progress" in error["message"]
            assert (await viewer.message("session.done"))["reason"] == "error"
        assert await redis.do("ZCARD", keys.SESSIONS) == 0


async def test_a_dead_engine_thread_ends_the_worker_not_the_gateway(
    redis_server: RedisServer,
) -> None:
    engine = FakeEngine()
    async with serving(redis_server.url, engine) as served, served.viewer() as viewer:
        await viewer.start()
        chunk = await viewer.chunk(ack=False)
        engine.die.set()
        await viewer.ack(chunk.last_frame)
        error = await viewer.error()
        assert error["code"] == "stream_failed"
        await viewer.message("session.done")
        async with served.viewer() as other:
            await other.say("session.ping")
            assert await other.next() == {"type": "session.pong"}


async def test_streams_survive_a_restart_of_redis_that_kept_its_data(
    own_redis_server: RedisServer,
) -> None:
    own_redis_server.keep_data()
    async with serving(own_redis_server.url) as served, served.viewer() as viewer:
        await viewer.start()
        await viewer.chunk()
        own_redis_server.kill()
        own_redis_server.start()
        for _ in range(4):
            while isinstance(found := await viewer.next(), dict):
                assert found["type"] != "session.done"
            await viewer.ack(found.last_frame)


async def test_a_client_without_redis_is_told_so(own_redis_server: RedisServer) -> None:
    async with serving(own_redis_server.url) as served, served.viewer() as viewer:
        await viewer.start()
        await viewer.chunk()
        own_redis_server.kill()
        error = await viewer.error()
        assert (error["code"], error["retryable"]) == ("fabric_unavailable", True)
        own_redis_server.start()


async def test_a_client_that_stops_reading_holds_nobody_up(redis_server: RedisServer) -> None:
    engine = FakeEngine()
    async with (
        serving(redis_server.url, engine) as served,
        served.viewer() as slow,
        served.viewer() as other,
    ):
        await slow.start(pacing="asap", format="jpeg")
        slow.socket.transport.pause_reading()
        await other.start(pacing="asap")
        for _ in range(30):
            await other.chunk()
        slow.socket.transport.resume_reading()
        indices = [(await slow.chunk()).index for _ in range(30)]
        assert indices == list(range(30))


async def test_a_draining_worker_tells_its_viewers(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as served, served.viewer() as viewer:
        async with worker(redis_server.url, FakeEngine()):
            await until(served.context.cards)
            await viewer.start()
            await viewer.chunk()
        done = await viewer.message("session.done", ack=True)
        assert done["reason"] == "shutdown"
        queue = WorkQueue(served.context.redis, "fake", "live")
        assert await queue.depth() == 0


async def test_a_draining_gateway_asks_its_viewers_to_come_back(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        start = await viewer.start()
        await viewer.chunk()
        served.context.draining.set()
        error = await viewer.error()
        assert (error["code"], error["retryable"]) == ("shutting_down", True)
        await viewer.socket.wait_closed()
        assert viewer.socket.close_code == 1012
        served.context.draining.clear()
        async with served.viewer() as again:
            await _take_up(again, start)


async def _take_up(viewer: Viewer, start: dict[str, object]) -> None:
    await viewer.say(
        "session.resume",
        session_id=start["session_id"],
        resume_token=start["resume_token"],
        after_chunk=0,
    )
    await viewer.message("video.start")
    await viewer.chunk()
