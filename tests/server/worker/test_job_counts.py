"""Jobs on a worker leave their marks in its snapshot."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.fabric.connection import Connection
from server.gateway.metrics import GatewayMetrics, render
from server.jobs.runner import JobRunner, RunnerParts
from server.jobs.store import JobStore
from server.worker.job_counts import CountedEngine
from server.worker.stats import WorkerStats
from tests.conftest import FakeClock
from tests.server.jobs.fake_engine import FakeEngine
from tests.server.jobs.making import make, request, take

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_the_frames_chunks_and_ends_of_jobs_are_counted_apart_from_live_ones(
    fabric: Connection, clock: FakeClock, tmp_path: Path
) -> None:
    stats = WorkerStats()
    store = JobStore(fabric, clock, stats.job_ended)
    engine = FakeEngine()
    with ThreadPoolExecutor(2) as pool:
        run = JobRunner(
            RunnerParts(store, CountedEngine(engine, stats), tmp_path, pool, "tiny cpu float32")
        )
        await make(store, request(num_frames=21))
        await run(await take(fabric))
        engine.error_at = 9
        await make(store, request(num_frames=33))
        await run(await take(fabric))
    shown = stats.snapshot()
    assert shown["jobs_ended"] == {"completed": 1, "failed": 1, "cancelled": 0}
    assert shown["frames"] == {"live": 0, "job": 21 + 9}
    assert sum(shown["chunk_s"]["job"]["counts"]) == 3
    assert sum(shown["chunk_s"]["live"]["counts"]) == 0
    fields = ("pages_in_use", "pages_total", "streams_fit", "streams_free", "load")
    snapshot = {**dict.fromkeys(fields, 0), "sessions": {}, **shown}
    text = render(GatewayMetrics(), {"w1": snapshot}, {}).decode()
    for line in (
        'longtake_frames_total{kind="job",worker="w1"} 30.0',
        'longtake_chunk_seconds_count{kind="job",worker="w1"} 3.0',
        'longtake_jobs_ended_total{status="completed",worker="w1"} 1.0',
        'longtake_jobs_ended_total{status="failed",worker="w1"} 1.0',
    ):
        assert line in text, (line, text)
