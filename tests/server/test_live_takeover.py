"""A worker killed in the middle of a live stream, on a real engine in a real process."""

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.server.harness import Chunk, Viewer, gateway, until
from tests.server.real_live_worker import real_worker

pytestmark = [pytest.mark.anyio, pytest.mark.redis, pytest.mark.slow]
START = {"seed": 3, "format": "jpeg", "pacing": "asap", "num_inference_steps": 2}


async def _read_until(viewer: Viewer, index: int) -> None:
    while (await viewer.chunk(ack=False)).index < index:
        pass


def _chunks(viewer: Viewer) -> list[Chunk]:
    return [message for message in viewer.seen if isinstance(message, Chunk)]


async def test_a_killed_workers_stream_goes_on_as_if_nothing_had_happened(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    words = ("-m", "tests.server.real_live_worker", redis_server.url, "w1", str(tmp_path))
    process = await asyncio.create_subprocess_exec(sys.executable, *words)
    try:
        async with gateway(redis_server.url) as served:
            await until(served.context.cards, 60)
            async with served.viewer() as viewer:
                await viewer.start("day", **START)
                await _read_until(viewer, 5)
                await until(lambda: list(tmp_path.glob("*.state")))
                process.kill()
                await process.wait()
                async with real_worker(redis_server.url, "w2", tmp_path):
                    error = await viewer.error()
                    assert "from its kept state" in error["message"]
                    last = _chunks(viewer)[-1].index
                    await _read_until(viewer, last + 6)
                    seen = _chunks(viewer)
                    assert [chunk.index for chunk in seen] == list(range(len(seen)))
                    assert {chunk.metadata["epoch"] for chunk in seen} == {0, 1}
                    await viewer.change("night", "e1")
                    applied = await viewer.message("session.interaction.applied")
                    assert applied["event_id"] == "e1"
                    await viewer.say("session.stop")
                    async with served.viewer() as alone:
                        await alone.start("day", **START)
                        await _read_until(alone, seen[-1].index)
                        same = _chunks(alone)[: len(seen)]
                        assert [c.binary for c in same] == [c.binary for c in seen]
                        assert [c.metadata["pts"] for c in same] == [
                            c.metadata["pts"] for c in seen
                        ]
                        await alone.say("session.stop")
                        await until(lambda: not list(tmp_path.glob("*.state")))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
