"""Ended jobs go when they have been kept long enough, and nothing else does."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.fabric.claim import Dead, claim
from server.fabric.connection import Connection, FabricError
from server.fabric.keys import record as record_key
from server.fabric.queue import WorkQueue
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


async def test_records_that_cannot_be_read_hide_none_behind_them(
    store: JobStore, each_fabric: Connection, clock: FakeClock, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("server.jobs.expiry.PAGE", 2)
    broken = [(await make(store)).id for _ in range(3)]
    due = [(await make(store)).id for _ in range(2)]
    for job_id in due:
        await store.cancel(job_id)
    for job_id in broken:
        await each_fabric.do(
            "HSET", record_key("job", job_id), "request", '{"prompts": [{"parts": [[null, 1.0]]}]}'
        )
    clock.advance(3 * DAY_S)
    page = await store.page(after=None, limit=2, newest_first=False)
    assert (page.jobs, page.last, page.has_more) == ((), broken[1], True)
    assert await sweep(store, tmp_path) == 2
    assert await store.get(due[0]) is None


async def test_a_job_that_was_given_up_is_kept_from_then_on(
    each_fabric: Connection, clock: FakeClock
) -> None:
    store = JobStore(each_fabric, lambda: datetime.now(UTC).timestamp(), keep_s=DAY_S)
    job = await make(store)
    await take(each_fabric)
    for _ in range(3):
        await take(each_fabric, "w2", silent_ms=0)
    ticket = next(iter(await WorkQueue(each_fabric, "tiny", "job").take_over("w3", 0)))
    assert isinstance(await claim(each_fabric, ticket, "w3"), Dead)
    dead = await store.get(job.id)
    assert dead is not None
    assert dead.status == "failed"
    assert dead.completed_at is not None
    assert dead.completed_at >= int(job.created_at)
    assert dead.expires_at == dead.completed_at + DAY_S


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
