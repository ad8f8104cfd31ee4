"""Workers killed with SIGKILL in the middle of a job, on a real engine in a real process."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest

from server.fabric.connection import Connection
from server.jobs.request import PromptText, TimedPrompt
from server.jobs.store import JobStore
from tests.conftest import FakeClock, RedisServer
from tests.server.jobs.making import make, request, until

pytestmark = [pytest.mark.anyio, pytest.mark.redis, pytest.mark.slow]
FRAMES = 500


@contextlib.asynccontextmanager
async def worker_process(
    redis_url: str, name: str, data_dir: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.server.jobs.real_worker", redis_url, name, str(data_dir)
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_job_whose_worker_is_killed_gives_the_same_file_as_one_left_alone(
    redis_server: RedisServer, fabric: Connection, clock: FakeClock, tmp_path: Path
) -> None:
    store = JobStore(fabric, clock)
    timeline = tuple(
        TimedPrompt(at_s, (PromptText(text),))
        for at_s, text in ((0.0, "day"), (5.0, "night"), (20.0, "noon"))
    )
    wanted = request(
        num_frames=FRAMES, seconds="31.25", width=64, height=32, prompts=timeline, steps=2
    )
    job = await make(store, wanted)

    async def committed(frames: int) -> bool:
        now = await store.get(job.id)
        return now is not None and now.frames_committed >= frames

    async def completed(job_id: str) -> bool:
        now = await store.get(job_id)
        assert now is not None
        assert now.status != "failed", now.error
        return now.status == "completed"

    async with asyncio.timeout(150):
        async with worker_process(redis_server.url, "w1", tmp_path) as first:
            await _wait(lambda: committed(93))
            first.kill()
            await first.wait()
        killed = await store.get(job.id)
        assert killed is not None
        assert killed.status == "in_progress", "the job was over before the worker was killed"
        async with worker_process(redis_server.url, "w2", tmp_path):
            await _wait(lambda: completed(job.id))
            alone = await make(store, wanted)
            await _wait(lambda: completed(alone.id))
    segments = await store.segments(job.id)
    assert sum(segment.num_frames for segment in segments) == FRAMES
    assert {segment.name[-7:-4] for segment in segments} == {"-e0", "-e1"}
    film = tmp_path / "jobs" / job.id / "video.mp4"
    with av.open(str(film), "r") as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
    other = tmp_path / "jobs" / alone.id / "video.mp4"
    assert film.read_bytes() == other.read_bytes()


async def _wait(condition) -> None:  # type: ignore[no-untyped-def]
    while True:
        try:
            return await until(condition)
        except TimeoutError:
            # The test's own limit is longer than one wait.
            continue
