"""The job store on a real Redis: each state change whole, in order, and fenced."""

import pytest

from server.fabric.claim import Dead, Dropped, claim
from server.fabric.connection import Connection
from server.fabric.queue import WorkQueue
from server.jobs.record import JobError
from server.jobs.store import Created, JobStore, NotCreated, new_job_id, number_of
from tests.conftest import FakeClock
from tests.server.jobs.making import REQUEST, make, request, segment, take

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture
def store(each_fabric: Connection, clock: FakeClock) -> JobStore:
    return JobStore(each_fabric, clock)


async def test_a_created_job_is_read_back_with_a_ticket_waiting(
    store: JobStore, each_fabric: Connection
) -> None:
    job = await make(store)
    again = await store.get(job.id)
    assert again == job
    assert (job.status, job.progress, job.created_at) == ("queued", 0, 1000.0)
    assert job.request == REQUEST
    assert await WorkQueue(each_fabric, "tiny", "job").depth() == 1


async def test_a_job_walks_from_queued_to_completed(
    store: JobStore, each_fabric: Connection, clock: FakeClock
) -> None:
    job = await make(store)
    held = await take(each_fabric)
    clock.advance(5)
    begun = await store.begin(held, "cpu")
    assert begun is not None
    assert (begun.status, begun.started_at) == ("in_progress", 1005.0)
    assert await store.segments(job.id) == ()
    assert await store.advance(held, 20)
    assert await store.commit(held, segment(0))
    assert await store.commit(held, segment(24))
    assert await store.commit(held, segment(48, 16))
    before = await store.get(job.id)
    assert before is not None
    assert (before.progress, before.frames_done, before.frames_committed) == (99, 64, 64)
    clock.advance(5)
    assert await store.complete(held, "video.mp4")
    done = await store.get(job.id)
    assert done is not None
    assert (done.status, done.progress, done.completed_at) == ("completed", 100, 1010.0)
    assert done.result == "video.mp4"
    assert [s.first_frame for s in await store.segments(job.id)] == [0, 24, 48]
    # The ticket went with the last change: nobody can take the job again.
    assert await each_fabric.do("XLEN", held.ticket.queue) == 0


async def test_progress_never_goes_back(store: JobStore, each_fabric: Connection) -> None:
    job = await make(store)
    first = await take(each_fabric)
    await store.begin(first, "cpu")
    await store.advance(first, 40)
    second = await take(each_fabric, "w2", silent_ms=0)
    await store.begin(second, "cpu")
    assert await store.advance(second, 12)
    after = await store.get(job.id)
    assert after is not None
    assert after.frames_done == 40


async def test_a_slow_worker_changes_nothing_after_a_takeover(
    store: JobStore, each_fabric: Connection
) -> None:
    job = await make(store)
    slow = await take(each_fabric, "w1")
    await store.begin(slow, "cpu")
    assert await store.commit(slow, segment(0))
    new = await take(each_fabric, "w2", silent_ms=0)
    begun = await store.begin(new, "cpu")
    assert begun is not None
    assert begun.frames_committed == 24
    assert [s.first_frame for s in await store.segments(job.id)] == [0]
    assert not await store.advance(slow, 50)
    assert not await store.commit(slow, segment(24))
    assert not await store.complete(slow, "video.mp4")
    assert not await store.fail(slow, JobError("x", "y"))
    assert not await store.is_wanted(slow)
    assert await store.begin(slow, "cpu") is None
    assert await store.is_wanted(new)
    unchanged = await store.get(job.id)
    assert unchanged is not None
    assert (unchanged.status, unchanged.frames_committed) == ("in_progress", 24)


async def test_a_segment_with_a_gap_or_twice_is_refused(
    store: JobStore, each_fabric: Connection
) -> None:
    job = await make(store)
    held = await take(each_fabric)
    await store.begin(held, "cpu")
    assert not await store.commit(held, segment(24))
    assert await store.commit(held, segment(0))
    assert not await store.commit(held, segment(0))
    assert len(await store.segments(job.id)) == 1


async def test_another_kind_of_worker_starts_the_video_over(
    store: JobStore, each_fabric: Connection
) -> None:
    job = await make(store)
    await store.begin(first := await take(each_fabric), "cpu float32")
    await store.commit(first, segment(0))
    begun = await store.begin(await take(each_fabric, "w2", silent_ms=0), "cuda bfloat16")
    assert begun is not None
    assert begun.frames_committed == 0
    assert await store.segments(job.id) == ()


@pytest.mark.parametrize("ending", ["cancel", "delete"])
async def test_cancelling_and_deleting_fence_the_owner_off(
    store: JobStore, each_fabric: Connection, ending: str
) -> None:
    job = await make(store)
    held = await take(each_fabric)
    await store.begin(held, "cpu")
    await getattr(store, ending)(job.id)
    assert not await held.renew()
    assert not await store.is_wanted(held)
    assert not await store.advance(held, 10)
    assert not await store.commit(held, segment(0))
    assert not await store.complete(held, "video.mp4")
    after = await store.get(job.id)
    assert after is None if ending == "delete" else after is not None
    if after is not None:
        assert after.status == "cancelled"
    # A worker that takes the ticket over finds that there is nothing to do, and removes it.
    [ticket] = await WorkQueue(each_fabric, "tiny", "job").take_over("w2", 0)
    assert isinstance(await claim(each_fabric, ticket, "w2"), Dropped)
    assert await each_fabric.do("XLEN", held.ticket.queue) == 0


async def test_an_ended_job_cannot_be_cancelled_or_failed(
    store: JobStore, each_fabric: Connection
) -> None:
    job = await make(store)
    held = await take(each_fabric)
    await store.begin(held, "cpu")
    assert await store.complete(held, "video.mp4")
    assert not await store.fail(held, JobError("late", "too late"))
    after = await store.cancel(job.id)
    assert after is not None
    assert after.status == "completed"


async def test_a_failed_job_says_why(store: JobStore, each_fabric: Connection) -> None:
    job = await make(store)
    held = await take(each_fabric)
    await store.begin(held, "cpu")
    assert await store.fail(held, JobError("out_of_memory", "No room; use a smaller size."))
    after = await store.get(job.id)
    assert after is not None
    assert after.to_video()["error"] == {
        "code": "out_of_memory",
        "message": "No room; use a smaller size.",
    }


async def test_a_job_whose_workers_keep_dying_fails_with_the_reason(
    store: JobStore, each_fabric: Connection
) -> None:
    job = await make(store)
    await store.begin(await take(each_fabric), "cpu")
    for worker in ("w2", "w3", "w4"):
        await store.begin(await take(each_fabric, worker, silent_ms=0), "cpu")
    [ticket] = await WorkQueue(each_fabric, "tiny", "job").take_over("w5", 0)
    assert isinstance(await claim(each_fabric, ticket, "w5"), Dead)
    after = await store.get(job.id)
    assert after is not None
    assert (after.status, after.ended) == ("failed", True)
    assert after.error is not None
    assert after.error.code == "worker_lost"
    assert "3 workers" in after.error.message


async def test_a_committed_segment_forgives_earlier_takeovers(
    store: JobStore, each_fabric: Connection
) -> None:
    await make(store)
    held = await take(each_fabric)
    for index in range(6):
        await store.begin(held, "cpu")
        assert await store.commit(held, segment(8 * index, 8))
        held = await take(each_fabric, f"w{index}", silent_ms=0)


async def test_a_released_job_waits_again_with_its_segments(
    store: JobStore, each_fabric: Connection
) -> None:
    job = await make(store)
    held = await take(each_fabric)
    await store.begin(held, "cpu")
    await store.commit(held, segment(0))
    assert await store.release(held)
    waiting = await store.get(job.id)
    assert waiting is not None
    assert waiting.status == "queued"
    assert not await store.advance(held, 40)
    begun = await store.begin(await take(each_fabric, "w2"), "cpu")
    assert begun is not None
    assert begun.frames_committed == 24
    assert [s.first_frame for s in await store.segments(job.id)] == [0]


async def test_pages_go_through_the_list_both_ways(store: JobStore) -> None:
    ids = [(await make(store)).id for _ in range(5)]
    first = await store.page(after=None, limit=2, newest_first=True)
    assert ([j.id for j in first.jobs], first.has_more) == ([ids[4], ids[3]], True)
    second = await store.page(after=ids[3], limit=2, newest_first=True)
    assert ([j.id for j in second.jobs], second.has_more) == ([ids[2], ids[1]], True)
    last = await store.page(after=ids[1], limit=2, newest_first=True)
    assert ([j.id for j in last.jobs], last.has_more) == ([ids[0]], False)
    upward = await store.page(after=ids[0], limit=9, newest_first=False)
    assert ([j.id for j in upward.jobs], upward.has_more) == (ids[1:], False)


async def test_a_deleted_job_still_marks_its_place_in_the_list(store: JobStore) -> None:
    ids = [(await make(store)).id for _ in range(3)]
    assert await store.delete(ids[1])
    assert not await store.delete(ids[1])
    page = await store.page(after=ids[1], limit=9, newest_first=True)
    assert [j.id for j in page.jobs] == [ids[0]]


async def test_a_full_queue_refuses_and_leaves_no_record(store: JobStore) -> None:
    await make(store)
    made = await store.create(await store.reserve(), REQUEST, max_queued=1)
    assert made == NotCreated("full")
    assert len((await store.page(after=None, limit=9, newest_first=True)).jobs) == 1


async def test_the_same_idempotency_key_makes_one_job(store: JobStore) -> None:
    async def post(print_: str) -> Created | NotCreated:
        job_id = await store.reserve()
        return await store.create(job_id, REQUEST, max_queued=9, once_key="k", once_print=print_)

    first, again = await post("a"), await post("a")
    assert isinstance(first, Created)
    assert isinstance(again, Created)
    assert (first.repeated, again.repeated) == (False, True)
    assert first.job == again.job
    assert await post("b") == NotCreated("key_reused")
    assert len((await store.page(after=None, limit=9, newest_first=True)).jobs) == 1


async def test_events_are_numbered_without_gaps_and_read_from_any_number(
    store: JobStore, each_fabric: Connection
) -> None:
    job = await make(store)
    held = await take(each_fabric)
    await store.begin(held, "cpu")
    await store.advance(held, 9)
    await store.advance(held, 9)
    await store.advance(held, 21)
    await store.complete(held, "video.mp4")
    events = await store.events(job.id, 0, 0)
    assert [e.sequence for e in events] == [1, 2, 3, 4, 5]
    assert [e.kind for e in events] == [
        "video.queued", "video.progress", "video.progress", "video.progress", "video.completed",
    ]  # fmt: skip
    assert [e.frames_done for e in events] == [0, 0, 9, 21, 21]
    assert [e.sequence for e in await store.events(job.id, 3, 0)] == [4, 5]


def test_ids_sort_by_creation_and_tell_their_number() -> None:
    ids = [new_job_id(number) for number in (1, 2, 255, 70_000)]
    assert ids == sorted(ids)
    assert [number_of(job_id) for job_id in ids] == [1, 2, 255, 70_000]
    for wrong in ("", "video_", "video_zz", "job_0000000001", "video_000000000g"):
        assert number_of(wrong) is None


def test_a_request_survives_json() -> None:
    full = request(steps=3, has_image=True)
    assert type(full).from_json(full.to_json()) == full
