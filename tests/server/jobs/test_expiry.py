"""Ended jobs go when they have been kept long enough, and nothing else does."""

import asyncio
from pathlib import Path

import pytest

from server.fabric.connection import Connection, FabricError
from server.jobs.expiry import keep_sweeping, sweep
from server.jobs.segments import JobFolder
from server.jobs.store import JobStore
from tests.conftest import FakeClock
from tests.server.jobs.making import make, take

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

DAY_S = 86_400.0


@pytest.fixture
def store(each_fabric: Connection, clock: FakeClock) -> JobStore:
    return JobStore(each_fabric, clock, keep_s=2 * DAY_S)


async def ended(store: JobStore, fabric: Connection, data_dir: Path) -> str:
    job = await make(store)
    folder = JobFolder(data_dir, job.id)
    folder.path.mkdir(parents=True)
    (folder.path / "video.mp4").write_bytes(b"a film")
    held = await take(fabric)
    assert await store.begin(held, "cpu") is not None
    assert await store.complete(held, "video.mp4")
    return job.id


async def test_a_video_goes_with_its_record_when_its_days_are_over(
    store: JobStore, each_fabric: Connection, clock: FakeClock, tmp_path: Path
) -> None:
    old = await ended(store, each_fabric, tmp_path)
    clock.advance(DAY_S)
    young = await ended(store, each_fabric, tmp_path)
    cancelled = (await make(store)).id
    await store.cancel(cancelled)
    waiting = (await make(store)).id
    assert await sweep(store, tmp_path) == 0
    clock.advance(DAY_S)
    assert await sweep(store, tmp_path) == 1
    assert await store.get(old) is None
    assert not JobFolder(tmp_path, old).path.exists()
    assert JobFolder(tmp_path, young).path.exists()
    clock.advance(10 * DAY_S)
    assert await sweep(store, tmp_path) == 2
    left = await store.page(after=None, limit=10, newest_first=False)
    assert [job.id for job in left.jobs] == [waiting]


async def test_clients_are_told_when(
    store: JobStore, each_fabric: Connection, clock: FakeClock, tmp_path: Path
) -> None:
    done = await store.get(await ended(store, each_fabric, tmp_path))
    assert (await make(store)).to_video()["expires_at"] is None
    assert done is not None
    assert done.to_video()["expires_at"] == int(clock() + 2 * DAY_S)


async def test_without_a_limit_nothing_is_due(
    each_fabric: Connection, clock: FakeClock, tmp_path: Path
) -> None:
    store = JobStore(each_fabric, clock)
    kept = await store.get(await ended(store, each_fabric, tmp_path))
    assert kept is not None
    assert kept.to_video()["expires_at"] is None
    clock.advance(1000 * DAY_S)
    assert await sweep(store, tmp_path) == 0


async def test_more_jobs_than_a_page_are_all_looked_at(
    store: JobStore, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.jobs.expiry.PAGE", 2)
    ids = [(await make(store)).id for _ in range(7)]
    for job_id in ids[1:]:
        await store.cancel(job_id)
    clock.advance(3 * DAY_S)
    assert await sweep(store, tmp_path) == 6
    assert await store.get(ids[0]) is not None


async def test_a_redis_that_fails_is_asked_again(tmp_path: Path) -> None:
    asked = asyncio.Event()

    class Failing:
        calls = 0

        async def page(self, **_: object) -> None:
            self.calls += 1
            if self.calls == 2:
                asked.set()
            raise FabricError("Redis is away")

    task = asyncio.create_task(keep_sweeping(Failing(), tmp_path, every_s=0.0))  # type: ignore[arg-type]
    await asyncio.wait_for(asked.wait(), 5)
    task.cancel()
