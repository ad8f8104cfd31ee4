"""The runner on a real Redis with real encoding; only the pictures are drawn, not generated."""

import asyncio
import dataclasses
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from engine.events import Refused, Wait
from server.fabric.claim import Claim
from server.fabric.connection import Connection
from server.images import pixels
from server.jobs import runner
from server.jobs.runner import JobRunner, RunnerParts
from server.jobs.segments import START_IMAGE, JobFolder
from server.jobs.store import JobStore
from tests.conftest import FakeClock
from tests.server.jobs.fake_engine import FakeEngine, picture
from tests.server.jobs.making import make, request, take, until

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture
def store(fabric: Connection, clock: FakeClock) -> JobStore:
    return JobStore(fabric, clock)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setattr(runner, "WATCH_S", 0.02)
    monkeypatch.setattr(runner, "WAIT_S", 0.02)
    return FakeEngine()


@pytest.fixture
def parts(
    store: JobStore, engine: FakeEngine, tmp_path: Path, executor: ThreadPoolExecutor
) -> RunnerParts:
    return RunnerParts(store, engine, tmp_path, executor, "tiny cpu float32")


def levels(path: Path) -> list[int]:
    """Return the grey level of each picture of a video: which frame it is."""
    with av.open(str(path)) as video:
        return [int(np.median(frame.to_ndarray(format="rgb24"))) for frame in video.decode(video=0)]


def shows_each_frame_once(path: Path, count: int) -> bool:
    want = [int(np.median(picture(n, 160, 96))) for n in range(count)]
    got = levels(path)
    return len(got) == count and all(abs(a - b) <= 2 for a, b in zip(got, want, strict=True))


async def committed(store: JobStore, job_id: str) -> int:
    job = await store.get(job_id)
    return -1 if job is None else job.frames_committed


async def test_a_job_becomes_a_video_with_every_frame_in_order(
    parts: RunnerParts, store: JobStore, fabric: Connection, tmp_path: Path
) -> None:
    job = await make(store, request(num_frames=150, seconds="9.375"))
    await JobRunner(parts)(await take(fabric))
    done = await store.get(job.id)
    assert done is not None
    assert (done.status, done.progress, done.frames_committed) == ("completed", 100, 150)
    folder = tmp_path / "jobs" / job.id
    assert shows_each_frame_once(folder / "video.mp4", 150)
    segments = await store.segments(job.id)
    assert [s.num_frames for s in segments] == [45, 48, 48, 9]
    assert {p.name for p in folder.iterdir()} == {
        "video.mp4", "thumbnail.jpg", segments[0].init, *(s.name for s in segments),
    }  # fmt: skip
    # Without the index in front, init and segments are one fragmented file.
    whole = tmp_path / "joined.mp4"
    whole.write_bytes(b"".join((folder / n).read_bytes()
                               for n in (segments[0].init, *(s.name for s in segments))))  # fmt: skip
    assert shows_each_frame_once(whole, 150)


async def test_each_segment_can_be_decoded_alone(
    parts: RunnerParts, store: JobStore, fabric: Connection, tmp_path: Path
) -> None:
    job = await make(store, request(num_frames=100))
    await JobRunner(parts)(await take(fabric))
    folder = tmp_path / "jobs" / job.id
    for segment in await store.segments(job.id):
        alone = tmp_path / "alone.mp4"
        alone.write_bytes(
            (folder / segment.init).read_bytes() + (folder / segment.name).read_bytes()
        )
        assert len(levels(alone)) == segment.num_frames


async def test_a_takeover_goes_on_behind_the_last_committed_segment(
    parts: RunnerParts, store: JobStore, fabric: Connection, engine: FakeEngine, tmp_path: Path
) -> None:
    job = await make(store, request(num_frames=150))
    engine.hold_at = 100
    killed = asyncio.create_task(JobRunner(parts)(await take(fabric)))

    async def two_segments() -> bool:
        return await committed(store, job.id) == 93

    await until(two_segments)
    before = await store.segments(job.id)
    # The first worker is dead without a word: its claim is still written down, not released.
    newer = await take(fabric, "w2", silent_ms=0)
    engine.go()
    await JobRunner(parts)(newer)
    await killed
    after = await store.segments(job.id)
    assert after[:2] == before
    assert [s.first_frame for s in after] == [0, 45, 93, 141]
    done = await store.get(job.id)
    assert done is not None
    assert done.status == "completed"
    taken_over = tmp_path / "jobs" / job.id / "video.mp4"
    assert shows_each_frame_once(taken_over, 150)
    assert not engine.sessions
    # Nobody can tell from the file that a worker died on the way.
    other = await make(store, request(num_frames=150))
    await JobRunner(parts)(await take(fabric, "w2"))
    undisturbed = tmp_path / "jobs" / other.id / "video.mp4"
    assert taken_over.read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_takeover_goes_on_from_a_kept_state_unless_it_is_damaged(
    parts: RunnerParts, store: JobStore, fabric: Connection, engine: FakeEngine, tmp_path: Path,
    damaged: bool,
) -> None:  # fmt: skip
    parts = dataclasses.replace(parts, state_every_s=0.0)
    job = await make(store, request(num_frames=300))
    engine.hold_at = 200
    killed = asyncio.create_task(JobRunner(parts)(await take(fabric)))
    folder = tmp_path / "jobs" / job.id

    async def four_segments() -> bool:
        return await committed(store, job.id) == 189

    await until(four_segments)
    newer = await take(fabric, "w2", silent_ms=0)
    await killed
    states = [path.read_bytes() for path in folder.glob("*.state")]
    assert states
    if damaged:
        engine.refused_states = tuple(states)
    engine.go()
    await JobRunner(parts)(newer)
    # Behind frame 0, but with nothing that was not committed yet.
    began = engine.begun_at[-1]
    assert began == 0 if damaged else 0 < began <= 189
    assert shows_each_frame_once(folder / "video.mp4", 300)
    assert not list(folder.glob("*.state"))


async def test_a_worker_killed_between_the_last_segment_and_the_end_only_closes_the_file(
    parts: RunnerParts, store: JobStore, fabric: Connection, engine: FakeEngine, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = await make(store, request(num_frames=60))

    async def killed(*args: object) -> bool:
        return True

    with monkeypatch.context() as patch:
        patch.setattr(store.__class__, "complete", killed)
        await JobRunner(parts)(await take(fabric))
    assert engine.generated == 60
    await JobRunner(parts)(await take(fabric, "w2", silent_ms=0))
    assert engine.generated == 60
    done = await store.get(job.id)
    assert done is not None
    assert done.status == "completed"
    assert shows_each_frame_once(tmp_path / "jobs" / job.id / "video.mp4", 60)


@pytest.mark.parametrize("ending", ["delete", "cancel"])
async def test_deleting_and_cancelling_stop_generation(
    parts: RunnerParts, store: JobStore, fabric: Connection, engine: FakeEngine, tmp_path: Path,
    ending: str,
) -> None:  # fmt: skip
    job = await make(store, request(num_frames=1600, seconds="100"))
    engine.hold_at = 100
    running = asyncio.create_task(JobRunner(parts)(await take(fabric)))

    async def begun() -> bool:
        return await committed(store, job.id) > 0

    await until(begun)
    await getattr(store, ending)(job.id)
    # The engine is held and gives no chunk at which the runner could notice.
    async with asyncio.timeout(20):
        await running

    async def stopped() -> bool:
        return not engine.sessions

    await until(stopped)
    assert engine.generated <= 105
    assert (tmp_path / "jobs" / job.id).exists() == (ending == "cancel")


@pytest.mark.parametrize("ending", ["cancel", "fail"])
async def test_a_job_that_ended_early_keeps_its_segments_and_no_state_of_the_engine(
    parts: RunnerParts, store: JobStore, fabric: Connection, engine: FakeEngine, tmp_path: Path,
    ending: str,
) -> None:  # fmt: skip
    parts = dataclasses.replace(parts, state_every_s=0.0)
    job = await make(store, request(num_frames=300))
    engine.hold_at = 200
    running = asyncio.create_task(JobRunner(parts)(await take(fabric)))
    folder = tmp_path / "jobs" / job.id

    async def four_segments() -> bool:
        return await committed(store, job.id) == 189 and bool(list(folder.glob("*.state")))

    await until(four_segments)
    if ending == "cancel":
        await store.cancel(job.id)
    else:
        engine.error_at = 200
        engine.go()
    await running
    over = await store.get(job.id)
    assert over is not None
    assert over.status == ("cancelled" if ending == "cancel" else "failed")
    segments = await store.segments(job.id)
    assert {path.name for path in folder.iterdir()} == {
        "thumbnail.jpg", segments[0].init, *(segment.name for segment in segments),
    }  # fmt: skip


async def test_cancelling_the_run_gives_the_job_back_for_a_later_start(
    parts: RunnerParts, store: JobStore, fabric: Connection, engine: FakeEngine, tmp_path: Path
) -> None:
    job = await make(store, request(num_frames=150))
    engine.hold_at = 100
    running = asyncio.create_task(JobRunner(parts)(await take(fabric)))

    async def begun() -> bool:
        return await committed(store, job.id) == 93

    await until(begun)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    waiting = await store.get(job.id)
    assert waiting is not None
    assert (waiting.status, waiting.frames_committed) == ("queued", 93)
    engine.go()
    await JobRunner(parts)(await take(fabric, "w2"))
    assert shows_each_frame_once(tmp_path / "jobs" / job.id / "video.mp4", 150)


async def test_a_full_engine_is_asked_again(
    parts: RunnerParts, store: JobStore, fabric: Connection, engine: FakeEngine
) -> None:
    job = await make(store, request(num_frames=9))
    engine._answers = [Wait("no pages"), Wait("no pages")]
    await JobRunner(parts)(await take(fabric))
    done = await store.get(job.id)
    assert done is not None
    assert (done.status, len(engine.specs)) == ("completed", 3)


async def test_a_refusal_and_a_failing_engine_end_the_job_with_the_reason(
    parts: RunnerParts, store: JobStore, fabric: Connection, engine: FakeEngine
) -> None:
    job = await make(store)
    engine._answers = [Refused("unsupported_size", "160x96; only 64x64", "width")]
    await JobRunner(parts)(await take(fabric))
    refused = await store.get(job.id)
    assert refused is not None
    assert refused.error is not None
    assert (refused.status, refused.error.code) == ("failed", "unsupported_size")
    job = await make(store)
    engine.error_at = 21
    await JobRunner(parts)(await take(fabric))
    failed = await store.get(job.id)
    assert failed is not None
    assert failed.error is not None
    assert (failed.status, failed.error.code) == ("failed", "generation_failed")
    assert "after 21 of 64 frames: the device is on fire" in failed.error.message


async def test_a_full_disk_fails_the_job_in_words(
    parts: RunnerParts, store: JobStore, fabric: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JobFolder, "put_segment", full)
    job = await make(store)
    await JobRunner(parts)(await take(fabric))
    failed = await store.get(job.id)
    assert failed is not None
    assert failed.error is not None
    assert failed.error.code == "storage_failed"
    assert "No space left on device" in failed.error.message


async def test_a_data_folder_that_cannot_be_used_fails_the_job_at_once_and_leaves_no_ticket(
    parts: RunnerParts, store: JobStore, fabric: Connection, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    broken = dataclasses.replace(parts, data_dir=tmp_path / "file")
    job = await make(store)
    await JobRunner(broken)(await take(fabric))
    failed = await store.get(job.id)
    assert failed is not None
    assert failed.error is not None
    assert (failed.status, failed.error.code) == ("failed", "storage_failed")
    assert "Not a directory" in failed.error.message
    assert await fabric.do("XLEN", "lt1:work:job:tiny") == 0


async def test_a_start_image_that_another_machine_keeps_is_said_to_be_missing_here(
    parts: RunnerParts, store: JobStore, fabric: Connection, tmp_path: Path
) -> None:
    job = await make(store, request(has_image=True))
    await JobRunner(parts)(await take(fabric))
    failed = await store.get(job.id)
    assert failed is not None
    assert failed.error is not None
    assert failed.error.code == "storage_failed"
    assert f"not in the worker's data folder, {tmp_path}; gateways and" in failed.error.message


async def test_a_lost_claim_does_nothing(
    parts: RunnerParts, store: JobStore, fabric: Connection, engine: FakeEngine
) -> None:
    await make(store)
    stale: Claim = await take(fabric)
    await take(fabric, "w2", silent_ms=0)
    await JobRunner(parts)(stale)
    assert engine.specs == []


async def test_the_start_image_reaches_the_engine(
    parts: RunnerParts, store: JobStore, fabric: Connection, engine: FakeEngine, tmp_path: Path
) -> None:
    out = io.BytesIO()
    Image.new("RGB", (160, 96), (200, 10, 20)).save(out, "PNG")
    job = await make(store, request(num_frames=9, has_image=True))
    JobFolder(tmp_path, job.id).put(START_IMAGE, out.getvalue())
    await JobRunner(parts)(await take(fabric))
    image = engine.specs[0].start_image
    assert image is not None
    assert image.shape == (96, 160, 3)
    assert image[0, 0].tolist() == [200, 10, 20]
    assert np.array_equal(image, pixels(out.getvalue()))
