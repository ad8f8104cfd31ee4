"""A live stream's faults are its own: other streams and the worker go on."""

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.snapshot import Snapshot
from server.fabric import keys
from server.fabric.claim import Claim, claim
from server.fabric.connection import Connection
from server.fabric.queue import Ticket, WorkQueue
from server.fabric.record import create_record
from server.fabric.streams import all_entries, send_control
from server.live import LiveSpec
from server.media.encoder import ChunkEncoder
from server.media.types import EncodedChunk
from server.worker import encoders, host
from server.worker.kept import KeptState, KeptStates
from tests.conftest import RedisServer
from tests.server.fakes import FakeEngine
from tests.server.harness import Served, Viewer, serving, until

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SPEC = LiveSpec(
    model="fake",
    prompts=(("a", 1.0),),
    seed=1,
    width=64,
    height=48,
    fps=16,
    num_frames=None,
    num_steps=None,
    pacing="realtime",
    codec="h264",
)
NO_PICTURE = "bm8gcGljdHVyZQ=="  # base64 of what is no picture


async def queue_stream(redis: Connection, session_id: str, spec: str) -> None:
    """Queue a stream as a gateway does, with any text as its spec."""
    await create_record(
        redis, "live", session_id, {"state": "queued", "model": "fake", "spec": spec}
    )
    await redis.do("SET", keys.image(session_id), NO_PICTURE)
    await send_control(redis, session_id, {"type": "attach", "conn": "c"})
    await WorkQueue(redis, "fake", "live").put(session_id)


@pytest.mark.parametrize("spec", [SPEC.to_text(), "{}"], ids=["no picture", "no spec"])
async def test_a_stream_that_cannot_begin_ends_alone_with_a_word_to_its_viewers(
    redis_server: RedisServer, spec: str
) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        redis = served.context.redis
        await viewer.start(pacing="asap")
        await queue_stream(redis, "ses_bad", spec)
        entries = await until(lambda: all_entries(redis, keys.media("ses_bad")))
        assert entries[0].message["code"] == "stream_failed"
        done = await until(lambda: _done(redis, "ses_bad"))
        assert done == {"t": "done", "reason": "error", "chunks": 0, "frames": 0}
        await _others_go_on(served, viewer)


async def test_a_record_that_vanishes_after_the_claim_harms_nobody(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = asyncio.Event()

    async def claim_and_lose(redis: Connection, ticket: Ticket, worker: str) -> object:
        held = await claim(redis, ticket, worker)
        if ticket.subject == "ses_bad":
            assert isinstance(held, Claim)
            await redis.do("DEL", held.record)
            lost.set()
        return held

    monkeypatch.setattr(host, "claim", claim_and_lose)
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.start(pacing="asap")
        await queue_stream(served.context.redis, "ses_bad", SPEC.to_text())
        await lost.wait()
        await _others_go_on(served, viewer)


async def test_a_stream_that_was_taken_over_while_it_encodes_closes_no_encoder_in_use(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, closed_in_use = threading.Event(), []

    class Slow(ChunkEncoder):
        in_use = False

        def encode(self, frames: NDArray[np.uint8], key: bool) -> EncodedChunk:
            self.in_use = True
            begun.set()
            time.sleep(0.3)
            try:
                return super().encode(frames, key)
            finally:
                self.in_use = False

        def close(self) -> None:
            closed_in_use.append(self.in_use)
            super().close()

    monkeypatch.setattr(encoders, "ChunkEncoder", Slow)
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        session_id = (await viewer.start())["session_id"]
        await asyncio.to_thread(begun.wait, 20)
        redis = served.context.redis
        await redis.do("HINCRBY", keys.record("live", session_id), "epoch", 1)
        await send_control(redis, session_id, {"type": "pause"})  # the write finds out
        await until(lambda: closed_in_use)
    assert closed_in_use == [False]


class _State:
    """What an engine's state is to the server: bytes."""

    def to_bytes(self) -> bytes:
        return b"state"


class _WithState(FakeEngine):
    def snapshot(self, session_id: str) -> Snapshot | None:
        return _State()  # type: ignore[return-value]


async def test_a_state_that_is_being_written_when_the_stream_ends_does_not_stay(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    begun, written = threading.Event(), threading.Event()

    class Slow(KeptStates):
        def write(self, session_id: str, state: KeptState) -> None:
            begun.set()
            time.sleep(0.3)
            super().write(session_id, state)
            written.set()

    states = Slow(tmp_path, lambda: 0.0, keep_s=0.01)
    async with (
        serving(redis_server.url, _WithState(), states=states) as served,
        served.viewer() as viewer,
    ):
        session_id = (await viewer.start())["session_id"]
        await viewer.chunk()
        await asyncio.to_thread(begun.wait, 20)
        await viewer.say("session.stop")
        await viewer.message("session.done", ack=True)
        await asyncio.to_thread(written.wait, 20)
        await until(lambda: _unlisted(served.context.redis))
    assert states.read(session_id) is None


async def _unlisted(redis: Connection) -> bool:
    return await redis.do("ZCARD", keys.SESSIONS) == 0


async def test_a_stream_whose_state_cannot_be_kept_goes_on(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    tried = threading.Semaphore(0)

    class Full(KeptStates):
        def write(self, session_id: str, state: KeptState) -> None:
            tried.release()
            raise OSError(28, "No space left on device")

    states = Full(tmp_path, lambda: 0.0, keep_s=0.01)
    async with (
        serving(redis_server.url, _WithState(), states=states) as served,
        served.viewer() as viewer,
    ):
        await viewer.start()
        for _ in range(2):
            await viewer.chunk()
            assert await asyncio.to_thread(tried.acquire, timeout=20)
        await _others_go_on(served, viewer)


async def test_a_stream_whose_state_does_not_fit_into_memory_goes_on(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    tried = threading.Event()

    class Large(FakeEngine):
        def snapshot(self, session_id: str) -> Snapshot | None:
            tried.set()
            raise MemoryError

    states = KeptStates(tmp_path, lambda: 0.0, keep_s=0.01)
    async with (
        serving(redis_server.url, Large(), states=states) as served,
        served.viewer() as viewer,
    ):
        session_id = (await viewer.start())["session_id"]
        await viewer.chunk()
        assert await asyncio.to_thread(tried.wait, timeout=20)
        await _others_go_on(served, viewer)
    assert states.read(session_id) is None


async def _others_go_on(served: Served, viewer: Viewer) -> None:
    """See a stream that runs get on, on the worker it had, and another one start."""
    for _ in range(4):
        assert (await viewer.chunk()).metadata["epoch"] == 0
    async with served.viewer() as other:
        await other.start()
        await other.chunk()


async def _done(redis: Connection, session_id: str) -> object:
    entries = await all_entries(redis, keys.media(session_id))
    return next((e.message for e in entries if e.message["t"] == "done"), None)
