import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.playout import Playout, StepGovernor

FPS = 16.0


def may_run(playout, now):
    """Whether a regular chunk may be started now."""
    due = playout.runnable_at(12)
    return due is not None and due <= now


def realtime(expected_s=0.15):
    return Playout("realtime", FPS, 12, expected_s)


def make(playout, frames, now, response_s):
    """Make a chunk with no other one behind it."""
    playout.start(frames)
    return playout.made(frames, now, response_s)


def test_the_lead_is_chunk_plus_p95_plus_four_frames():
    # A player that acknowledges every 4 frames did not stall with 22 frames of lead at 0.375 s,
    # 26 at 0.675 s and 18 at 0.15 s (16 fps; less stalled at every chunk).
    # (0.15 s is 2.4 frames, rounded up to 3: 19; the page rounds its own 18 down.)
    assert realtime(0.375).lead_frames == 12 + 6 + 4
    assert realtime(0.675).lead_frames == 12 + 11 + 4
    assert realtime(0.15).lead_frames == 12 + 3 + 4


def test_the_lead_follows_what_chunks_take():
    playout = realtime(0.1)
    for _ in range(40):
        make(playout, 12, 0.0, 0.5)
    assert playout.lead_frames == 12 + 8 + 4


def test_a_hopelessly_slow_device_does_not_make_the_lead_endless():
    assert realtime(60.0).lead_frames == 36


def test_the_first_chunk_needs_no_credit():
    assert realtime().runnable_at(9) == -math.inf


def test_the_clock_plays_for_a_viewer_that_never_acknowledges():
    playout = realtime()
    make(playout, 9, 10.0, 0.2)
    while may_run(playout, 10.0):
        make(playout, 12, 10.0, 0.2)
    ahead = playout.generated
    assert ahead + 12 > playout.lead_frames
    due = playout.runnable_at(12)
    assert due == pytest.approx(10.0 + (ahead + 12 - playout.lead_frames) / FPS)
    assert not may_run(playout, due - 1e-6)
    assert may_run(playout, due)


def test_an_acknowledging_viewer_that_falls_silent_stops_generation():
    playout = realtime()
    make(playout, 9, 0.0, 0.2)
    playout.credit(0, 0.1)
    make(playout, 12, 0.2, 0.2)
    assert playout.runnable_at(12) is None
    assert not may_run(playout, 1e9)
    playout.credit(20, 2.0)
    assert playout.runnable_at(12) == 2.0


def test_credit_for_frames_not_made_counts_as_all_that_were():
    playout = realtime()
    make(playout, 9, 0.0, 0.2)
    playout.credit(10**9, 1.0)
    assert playout.deadline() == 1.0


def test_credit_never_goes_back():
    playout = realtime()
    make(playout, 9, 0.0, 0.2)
    playout.credit(7, 1.0)
    before = playout.deadline()
    playout.credit(3, 2.0)
    assert playout.deadline() == before


def test_slack_is_media_left_and_negative_when_the_viewer_ran_dry():
    playout = realtime()
    assert make(playout, 16, 0.0, 0.2) is None
    assert make(playout, 16, 0.25, 0.2) == pytest.approx(0.75)
    assert make(playout, 16, 2.5, 0.2) == pytest.approx(-0.5)
    # It stood still for half a second, so it is dry at 3.5 s and not at 3.0 s.
    assert playout.deadline() == pytest.approx(3.5)


def test_a_pause_stops_the_clock():
    playout = realtime()
    make(playout, 16, 0.0, 0.2)
    playout.pause(0.5)
    assert playout.runnable_at(12) is None
    playout.play(10.5)
    assert playout.deadline() == pytest.approx(11.0)


def test_a_pause_counts_from_the_acknowledgement_that_came_during_it():
    playout = realtime()
    make(playout, 9, 0.0, 0.2)
    playout.credit(3, 0.4)
    make(playout, 12, 0.5, 0.2)
    playout.pause(0.7)
    # Frames that were on their way are still shown; then the viewer stands still.
    playout.credit(20, 2.7)
    playout.play(10.0)
    assert playout.runnable_at(12) == 10.0
    assert playout.deadline() == 10.0


def test_a_pause_moves_an_earlier_acknowledgement_by_its_whole_length():
    playout = realtime()
    make(playout, 9, 0.0, 0.2)
    playout.credit(0, 0.5)
    playout.pause(0.7)
    playout.play(10.0)
    assert playout.deadline() == pytest.approx(0.5 + 8 / FPS + 9.3)


def test_asap_runs_two_chunks_ahead_of_what_was_taken():
    playout = Playout("asap", FPS, 12, 0.1)
    make(playout, 9, 0.0, 0.1)
    assert may_run(playout, 0.0)
    make(playout, 12, 0.1, 0.1)
    assert playout.runnable_at(12) is None
    playout.credit(7, 0.2)  # the first chunk not yet whole
    assert playout.runnable_at(12) is None
    playout.credit(8, 0.3)
    assert may_run(playout, 0.3)
    assert playout.deadline() is None


@given(
    g=st.floats(0.02, 0.7),
    ack_every=st.integers(1, 4),
    delay=st.floats(0.0, 0.05),
)
def test_a_device_that_is_fast_enough_never_stalls_its_viewer(g, ack_every, delay):
    """Simulates a viewer that presents at its rate and acknowledges a little late."""
    playout = Playout("realtime", FPS, 12, g)
    now, presented, first_shown = 0.0, -1, None
    pending: list[tuple[float, int]] = []
    busy_until: float | None = None
    started = 0.0
    stalls = 0
    for tick in range(3000):
        now = tick / 256
        if first_shown is not None:
            due = math.floor((now - first_shown) * FPS)
            if due > presented:
                if due < playout.generated:
                    presented = due
                    if presented % ack_every == 0:
                        pending.append((now + delay, presented))
                else:
                    stalls += 1
        while pending and pending[0][0] <= now:
            playout.credit(pending.pop(0)[1], now)
        if busy_until is not None and now >= busy_until:
            frames = 9 if playout.generated == 0 else 12
            make(playout, frames, now, now - started)
            if first_shown is None:
                first_shown = now + 0.06
            busy_until = None
        if busy_until is None and may_run(playout, now):
            started, busy_until = now, now + g
        ahead = playout.generated - (presented + 1)
        assert ahead <= max(21, playout.lead_frames + ack_every + 4)
    # The first, shorter chunk may be played before the second can be there.
    if g < 9 / FPS - 0.06:
        assert stalls == 0


def test_one_late_chunk_costs_no_step_and_two_in_a_row_cost_one():
    governor = StepGovernor(4, pinned=False)
    governor.observe(-0.1, 0.2)
    governor.observe(0.3, 0.2)
    governor.observe(-0.1, 0.2)
    assert governor.steps == 4
    governor.observe(-0.1, 0.2)
    assert governor.steps == 3


def test_steps_come_back_when_there_is_time_and_never_fall_below_two():
    governor = StepGovernor(4, pinned=False)
    for _ in range(20):
        governor.observe(-1.0, 0.2)
    assert governor.steps == 2
    for _ in range(16):
        governor.observe(0.5, 0.2)
    assert governor.steps == 4


def test_pinned_steps_are_never_changed():
    governor = StepGovernor(4, pinned=True)
    for _ in range(20):
        governor.observe(-1.0, 0.2)
    assert governor.steps == 4


@pytest.mark.parametrize(
    ("full", "pinned", "expected"), [(4, False, 3), (2, False, 2), (4, True, 4)]
)
def test_steps_of_another_worker_are_taken_over_within_bounds(full, pinned, expected):
    governor = StepGovernor(full, pinned)
    governor.restore(3)
    assert governor.steps == expected


def test_a_chunk_that_is_being_made_takes_credit_and_gives_the_viewer_nothing_yet():
    playout = Playout("realtime", 16.0, 12, 0.2)
    make(playout, 9, 0.0, 0.2)
    playout.credit(3, 0.1)
    playout.start(12)
    assert (playout.generated, playout.ready_frames) == (21, 9)
    playout.credit(20, 0.1)  # nobody has seen what is not there
    assert playout.made(12, 0.3, 0.2) == pytest.approx(-0.2)
    assert (playout.generated, playout.ready_frames) == (21, 21)
