"""Kept states: the newest that is covered by committed frames, at a bounded cost."""

from pathlib import Path

import pytest

from server.jobs import resume
from server.jobs.resume import ResumePoints
from server.jobs.segments import JobFolder
from tests.conftest import FakeClock


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path, "video_0123")


def test_the_newest_covered_state_is_used_and_older_ones_go(
    folder: JobFolder, clock: FakeClock
) -> None:
    points = ResumePoints(folder, "cpu", clock)
    assert points.newest(1000) is None
    for frame in (45, 93, 141):
        points.keep(frame, str(frame).encode(), 0.0)
    assert points.newest(44) is None
    found = points.newest(100)
    assert found is not None
    assert (found.frame, found.read()) == (93, b"93")
    assert len(list(folder.path.glob("*.state"))) == 2
    points.drop(found)
    assert points.newest(100) is None


def test_states_of_another_kind_of_worker_are_ignored(folder: JobFolder, clock: FakeClock) -> None:
    ResumePoints(folder, "cpu float32", clock).keep(45, b"x", 0.0)
    assert ResumePoints(folder, "cuda bfloat16", clock).newest(100) is None
    assert ResumePoints(folder, "cpu float32", clock).newest(100) is not None


def test_dear_states_are_taken_less_often(folder: JobFolder, clock: FakeClock) -> None:
    points = ResumePoints(folder, "cpu", clock, every_s=10.0)
    assert not points.due()
    clock.advance(10)
    assert points.due()
    points.keep(45, b"x", 3.0)
    clock.advance(149)
    assert not points.due()
    clock.advance(1)
    assert points.due()


def test_a_state_that_is_too_large_is_the_last_one_tried(
    folder: JobFolder, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "MAX_BYTES", 3)
    points = ResumePoints(folder, "cpu", clock, every_s=0.0)
    points.keep(45, b"four", 0.0)
    assert not points.due()
    assert points.newest(100) is None
