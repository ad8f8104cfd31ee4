from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from engine.asked import PromptPart, StreamSpec
from engine.cost_table import CostTable, measure
from engine.scheduler import PATIENCE_S, Candidate, schedule, urgency
from engine.session import ChunkShape, Session

SERIAL = CostTable({1: 0.1, 2: 0.2, 4: 0.4}, decode_s=0.01)
PARALLEL = CostTable({1: 0.1, 2: 0.11, 4: 0.12}, decode_s=0.01)


def live(name, deadline=None, **changes):
    candidate = Candidate(name, "live", "realtime", deadline, 0.0, 0.0, 4, 4, "group", 0.75)
    return replace(candidate, **changes)


def asap(name, last_run=0.0):
    return live(name, pacing="asap", last_run=last_run)


def job(name, last_run=0.0):
    return live(name, kind="job", pacing="asap", last_run=last_run)


def pick(candidates, costs=SERIAL, now=0.0, max_batch=8):
    output = schedule(candidates, costs, now, max_batch)
    return None if output is None else output.session_ids


def test_nothing_to_run_is_nothing():
    assert pick([]) is None


def test_the_viewer_that_runs_out_first_is_served_first():
    assert pick([live("late", 5.0), live("soon", 2.0), live("later", 9.0)]) == ("soon",)


def test_a_viewer_without_a_picture_counts_from_when_it_became_ready():
    waiting = live("new", None, ready_since=3.0)
    assert pick([live("full", 4.0), waiting]) == ("new",)
    assert pick([live("dry", 2.0), waiting]) == ("dry",)


def test_a_first_picture_comes_behind_those_who_would_stall_for_it_and_before_all_others():
    waiting = live("new", None, media_s=2.0)
    assert pick([live("soon", 0.6), waiting]) == ("soon",)
    assert pick([live("soon", 1.1), waiting]) == ("new",)
    # It stalls anyway, so there is nothing to protect.
    assert pick([live("gone", 0.4), waiting]) == ("new",)
    # The second chunk of the newcomer counts too.
    assert pick([live("soon", 1.1), live("new", None, media_s=0.75)]) == ("soon",)
    # Two can be served in time, but not with somebody before them.
    assert pick([live("a", 1.1), live("b", 1.2), waiting]) == ("a",)
    assert pick([asap("a"), job("j"), waiting]) == ("new",)


def test_first_pictures_come_one_by_one_where_the_second_chunks_would_be_late_together():
    costs = CostTable({1: 0.1, 2: 0.19}, decode_s=0.0)
    assert pick([live("a"), live("b")], costs) == ("a",)
    longer = [live("a", media_s=2.0), live("b", media_s=2.0)]
    assert pick(longer, costs) == ("a", "b")


def watch(costs, arrivals, until_s, slower=1.0):
    """Serve viewers at 16 frames a second without a device; return their slacks and waits.

    Chunks take ``slower`` times as long as the table says.
    """
    shape = ChunkShape(3, 12, 3, 9)
    sessions, slacks, waits, now = {}, [], {}, 0.0
    while now < until_s:
        for name, at in arrivals.items():
            if at <= now and name not in sessions:
                stream = StreamSpec(name, (PromptPart("a ball"),), 1, 832, 480, 16.0, None, 4)
                sessions[name] = Session(stream, shape, 4, 4, True, costs.chunk_s(1, 4), at)
        starts = {name: session.runnable_at() for name, session in sessions.items()}
        rows = [
            live(
                name,
                sessions[name].playout.deadline(),
                ready_since=at,
                media_s=shape.frames(sessions[name].chunk_index) / 16,
            )
            for name, at in starts.items()
            if at <= now
        ]
        output = schedule(rows, costs, now, 2)
        if output is None:
            now = min(at for at in [*starts.values(), *arrivals.values()] if at > now)
            continue
        plans = {name: sessions[name].start_chunk(now) for name in output.session_ids}
        now += slower * costs.chunk_s(len(plans), 4)
        for name, plan in plans.items():
            slack = sessions[name].finish_chunk(plan, now, 0.3)
            if slack is None:
                waits[name] = now - arrivals[name]
            else:
                slacks.append(slack)
    return slacks, waits


def test_two_viewers_who_come_at_once_see_no_stall_where_one_takes_two_fifths_of_the_device():
    # Measured on an H200: 1.3B at 832x480.
    costs = CostTable({1: 0.058, 2: 0.1115}, decode_s=0.0121)
    slacks, waits = watch(costs, {"a": 0.0, "b": 0.0}, 120.0)
    assert len(slacks) > 300
    assert min(slacks) > -1e-9
    assert max(waits.values()) < 1.0


@given(st.floats(0.03, 0.06), st.floats(1.9, 2.0))
def test_two_viewers_who_come_at_once_never_stall_at_four_fifths_of_the_device(pass_s, double):
    costs = CostTable({1: pass_s, 2: double * pass_s}, decode_s=0.01)
    slacks, waits = watch(costs, {"a": 0.0, "b": 0.0}, 12.0)
    assert min(slacks) > -1e-9
    assert max(waits.values()) < 1.0


def test_a_first_picture_waits_no_longer_than_patience_on_a_device_slower_than_it_was_measured():
    costs = CostTable({1: 0.056}, decode_s=0.01)
    for slower in (1.0, 1.5, 3.0):
        _, waits = watch(costs, {"a": 0.0, "b": 5.0}, 30.0, slower)
        assert waits["b"] < PATIENCE_S + 2 * slower * costs.chunk_s(1, 4)


def test_jobs_and_asap_streams_take_what_live_viewers_leave():
    everyone = [job("j"), asap("a"), live("v", 99.0)]
    assert pick(everyone) == ("v",)
    assert pick(everyone[:2]) == ("a",)
    assert pick(everyone[:1]) == ("j",)


def test_equal_streams_take_turns():
    last = dict.fromkeys("abcd", 0.0)
    served = []
    for turn in range(1, 41):
        (name,) = pick([asap(name, at) for name, at in last.items()])
        served.append(name)
        last[name] = float(turn)
    assert {served.count(name) for name in "abcd"} == {10}


def test_a_batch_is_only_formed_where_the_measurement_says_it_pays():
    four = [asap(name) for name in "abcd"]
    assert pick(four, SERIAL) == ("a",)
    assert pick(four, PARALLEL) == ("a", "b", "c", "d")
    assert pick(four, PARALLEL, max_batch=2) == ("a", "b")
    assert pick(four[:3], PARALLEL) == ("a", "b")


def test_only_sessions_of_one_group_and_step_count_share_a_batch():
    rows = [asap("a"), replace(asap("b"), steps=3), replace(asap("c"), group="other"), asap("d")]
    assert pick(rows, PARALLEL) == ("a", "d")


def test_a_viewer_is_not_made_to_stall_for_a_fuller_batch():
    costs = CostTable({1: 0.1, 2: 0.18, 4: 0.3}, decode_s=0.0)
    crowd = [live("v", 0.6), *(asap(name) for name in "abc")]
    assert pick(crowd, costs) == ("v",)
    assert pick([replace(crowd[0], deadline=1.0), *crowd[1:]], costs) == ("v", "a")
    assert pick([replace(crowd[0], deadline=9.0), *crowd[1:]], costs) == ("v", "a", "b", "c")
    # It stalls anyway, so there is nothing to protect.
    assert len(pick([replace(crowd[0], deadline=0.1), *crowd[1:]], costs)) == 4


@st.composite
def candidates(draw):
    names = draw(st.lists(st.integers(0, 99), unique=True, max_size=9))
    return [
        Candidate(
            str(name),
            draw(st.sampled_from(["live", "job"])),
            draw(st.sampled_from(["realtime", "asap"])),
            draw(st.none() | st.floats(-5, 5)),
            draw(st.floats(-5, 0)),
            draw(st.floats(-5, 0)),
            draw(st.integers(2, 4)),
            draw(st.integers(1, 4)),
            draw(st.sampled_from(["x", "y"])),
            draw(st.floats(0.1, 2)),
        )
        for name in names
    ]


@given(candidates(), st.sampled_from([SERIAL, PARALLEL]), st.integers(1, 4))
def test_the_most_urgent_runs_or_else_one_who_watches_and_the_order_of_asking_is_nothing(
    rows, costs, most
):
    output = schedule(rows, costs, 0.0, most)
    assert output == schedule(rows[::-1], costs, 0.0, most)
    if not rows:
        assert output is None
        return
    chosen = {row.session_id: row for row in rows if row.session_id in output.session_ids}
    head = min(rows, key=urgency)
    if output.session_ids[0] != head.session_id:
        assert head.shows_nothing
        watching = [row for row in rows if row.deadline is not None]
        assert output.session_ids[0] == min(watching, key=urgency).session_id
    assert 1 <= len(chosen) <= most
    assert len({(row.group, row.steps) for row in chosen.values()}) == 1


def test_costs_between_measured_sizes_are_those_of_the_next_larger():
    assert PARALLEL.chunk_s(3, 4) == 5 * 0.12 + 3 * 0.01
    assert SERIAL.chunk_s(8, 4) == 5 * 0.8 + 8 * 0.01


def measured(*spent, batches=(1, 2, 4)):
    """Measure with operations that take the given times: decode, recache, then the batch sizes."""
    now = 0.0
    times = iter(spent)

    def work(*_):
        nonlocal now
        now += next(times)

    return measure(work, work, batches, lambda: now)


def test_the_cost_table_is_measured_with_a_clock_and_forgets_what_was_slow_by_chance():
    table = measured(*(0.01, 0.02, 0.02, 5.0), *(9.0, 0.1, 5.0, 0.3), *(0.12,) * 4, *(0.2,) * 4)
    assert {size: round(s, 9) for size, s in table.pass_s.items()} == {1: 0.1, 2: 0.12, 4: 0.2}
    assert round(table.decode_s, 9) == 0.02


def test_no_larger_batch_is_measured_after_one_that_does_not_pay():
    table = measured(*(0.02,) * 4, *(0.1,) * 4, *(0.2,) * 4)
    assert sorted(table.pass_s) == [1, 2]
