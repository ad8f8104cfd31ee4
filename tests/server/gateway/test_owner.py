"""One owner's connection while Redis is away, comes back, or has lost the stream."""

import asyncio
from typing import Any

import pytest

from server.fabric.connection import Connection, FabricError
from server.fabric.keys import record
from server.fabric.record import create_record
from server.fabric.streams import send_control, send_notice
from server.gateway import outage, owner
from server.gateway.context import Gateway
from server.gateway.opening import Opened
from server.gateway.outage import CannotGoOn
from server.gateway.owner import Owner
from server.live import LiveSpec
from server.wire.messages_out import ServerMessage
from tests.conftest import RedisServer
from tests.server.harness import serving, until

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SPEC = LiveSpec("fake", (("a", 1.0),), 1, 64, 48, 16, None, None, "realtime", "h264")
DONE = {"t": "done", "reason": "complete", "chunks": 0, "frames": 0}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "READ_MS", 10)
    monkeypatch.setattr(outage, "TRY_AGAIN_S", 0.01)


def resumed(redis: Connection, after_chunk: int | None = 3) -> tuple[Owner, list[ServerMessage]]:
    """A connection that resumed a stream, or began it, and what it is sent."""
    told: list[ServerMessage] = []

    async def send(message: ServerMessage, binary: bytes | None) -> None:
        told.append(message)

    opened = Opened("ses_1", "token", "conn", SPEC, "avcc", "h264", "0-1", after_chunk)
    return Owner(Gateway(redis), opened, send, 0.0), told


async def test_a_resume_while_redis_is_away_waits_for_it(own_redis_server: RedisServer) -> None:
    redis = Connection(own_redis_server.url, retries=0)
    own_redis_server.kill()
    viewer, told = resumed(redis)
    running = asyncio.create_task(viewer.run())
    try:
        await until(lambda: told or running.done())
        own_redis_server.start()
        await create_record(redis, "live", "ses_1", {"state": "running"})

        async def over() -> bool:
            # Again and again: what was said before the viewer looked is history to it.
            await send_notice(redis, "ses_1", DONE)
            return running.done()

        await until(over)
        await running
    finally:
        await redis.close()
    away, done = (message.model_dump() for message in told)
    assert (away["code"], away["fatal"]) == ("fabric_unavailable", False)
    assert (done["type"], done["reason"]) == ("session.done", "complete")


async def test_a_connection_ends_with_the_reason_when_redis_stays_away(
    own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "GIVE_UP_S", 0.05)
    redis = Connection(own_redis_server.url, retries=0)
    own_redis_server.kill()
    viewer, told = resumed(redis)
    with pytest.raises(CannotGoOn):
        await viewer.run()
    await redis.close()
    first, last = (message.model_dump() for message in told)
    assert (first["code"], first["fatal"]) == ("fabric_unavailable", False)
    assert (last["code"], last["fatal"]) == ("fabric_unavailable", True)


async def test_a_connection_ends_with_the_reason_when_redis_has_lost_its_stream(
    fabric: Connection,
) -> None:
    viewer, told = resumed(fabric)
    with pytest.raises(CannotGoOn):
        await viewer.run()
    (lost,) = (message.model_dump() for message in told)
    assert (lost["code"], lost["fatal"]) == ("stream_failed", True)


@pytest.mark.parametrize("resumed_after", [3, None], ids=["started", "never started"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"state": "dead", "error": "3 workers"}, [("error", "3 workers"), ("done", "error")]),
        ({"state": "done", "reason": "stopped"}, [("done", "stopped")]),
    ],
    ids=["dead", "done"],
)
async def test_a_stream_whose_end_nobody_could_tell_ends_all_the_same(
    fabric: Connection,
    resumed_after: int | None,
    fields: dict[str, str],
    said: list[tuple[str, str]],
) -> None:
    viewer, told = resumed(fabric, resumed_after)
    counts = {"next_chunk": 4, "next_frame": 45}
    await create_record(fabric, "live", "ses_1", {"state": "running", "worker": "w1", **counts})
    running = asyncio.create_task(viewer.run())
    await until(lambda: told)  # no worker, or a place in the queue
    del told[:]
    await fabric.do("HSET", record("live", "ses_1"), *(w for f in fields.items() for w in f))
    async with asyncio.timeout(20):
        await running
    messages = [message.model_dump() for message in told]
    seen = [
        ("error", m["message"]) if m["type"] == "error" else ("done", m["reason"]) for m in messages
    ]
    assert seen == said
    assert (messages[-1]["chunks"], messages[-1]["frames"]) == (4, 45)


async def test_a_lost_stream_closes_its_connection_without_blaming_another(
    redis_server: RedisServer,
) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.start()
        await viewer.chunk()
        redis_server.flush()
        error = await viewer.error()
        assert error["code"] == "stream_failed"
        await viewer.socket.wait_closed()
        assert viewer.socket.close_code == 4409
        assert not [m for m in viewer.seen if isinstance(m, dict) and m.get("code") == "taken_over"]


@pytest.mark.parametrize("kind", ["sent", "skipped"])
async def test_credit_that_redis_would_not_take_is_given_again_and_no_chunk_twice(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    refused = 0

    async def unsteady(redis: Connection, session_id: str, message: dict[str, Any]) -> str:
        nonlocal refused
        if message["type"] == kind and refused % 3 < 2:
            refused += 1
            raise FabricError("Connection closed by server.")
        refused += message["type"] == kind
        return await send_control(redis, session_id, message)

    async with serving(redis_server.url) as served:
        async with served.viewer() as viewer:
            start = await viewer.start(pacing="asap")
            for _ in range(3):
                await viewer.chunk()
        monkeypatch.setattr(owner, "send_control", unsteady)
        async with served.viewer() as viewer:
            token = {"session_id": start["session_id"], "resume_token": start["resume_token"]}
            await viewer.say("session.resume", **token, after_chunk=2)
            indices = []
            while len(indices) < 8:
                message = await viewer.next()
                if not isinstance(message, dict):
                    indices.append(message.index)
                elif message["type"] == "error":
                    assert (message["code"], message["fatal"]) == ("fabric_unavailable", False)
    assert indices == list(range(indices[0], indices[0] + 8))
    assert refused > 2
