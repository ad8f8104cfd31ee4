import pytest

from server.bench.viewer import SimulatedViewer


def test_frames_play_by_the_clock_after_the_start_delay() -> None:
    viewer = SimulatedViewer(16, start_delay_s=0.1)
    assert viewer.frame == -1
    assert viewer.arrived(16, 0.0)
    viewer.advance(0.1)
    assert viewer.frame == -1
    viewer.advance(0.6)
    assert viewer.frame == 7
    assert viewer.buffered_s == pytest.approx(0.5)


def test_a_late_chunk_is_a_stall_of_its_lateness() -> None:
    viewer = SimulatedViewer(16, start_delay_s=0.0)
    viewer.arrived(8, 0.0)
    assert not viewer.arrived(8, 0.75)
    viewer.advance(1.0)
    assert viewer.stalled_s == pytest.approx(0.25)
    assert viewer.played_s == pytest.approx(0.75)


def test_a_chunk_before_its_time_is_in_time() -> None:
    viewer = SimulatedViewer(16, start_delay_s=0.0)
    viewer.arrived(8, 0.0)
    assert viewer.arrived(8, 0.4)
    viewer.advance(1.0)
    assert viewer.stalled_s == 0.0


def test_the_warm_up_is_forgotten_but_frames_count_on() -> None:
    viewer = SimulatedViewer(10, start_delay_s=0.0)
    viewer.arrived(5, 0.0)
    viewer.arrived(20, 1.0)
    viewer.forget()
    assert (viewer.played_s, viewer.stalled_s) == (0.0, 0.0)
    viewer.advance(2.0)
    assert viewer.frame == 14
    assert viewer.played_s == pytest.approx(1.0)


def test_time_never_runs_backwards() -> None:
    viewer = SimulatedViewer(16, start_delay_s=0.0)
    viewer.arrived(16, 5.0)
    viewer.advance(5.5)
    viewer.advance(5.2)
    assert viewer.played_s == pytest.approx(0.5)
