import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.asked import (
    Credit,
    Pause,
    Play,
    PromptPart,
    PromptUpdate,
    Stop,
    StreamSpec,
    TimedPrompt,
    UpdatePrompt,
)
from engine.config import EngineConfig
from engine.cost_table import CostTable
from engine.engine import Engine
from engine.events import (
    Admitted,
    ChunkReady,
    PromptApplied,
    PromptQueued,
    PromptRejected,
    PromptSuperseded,
    Refused,
    SessionEnded,
    SessionPaused,
    Wait,
)
from engine.scheduler import schedule
from engine.snapshot import Snapshot
from engine.thread import EngineThread
from models.noise import noise
from models.policy import CachePolicy
from models.sampler import Sampler
from tests.fakes_engine import COSTS, FakeText, fake_model, memory_for, network_of

TOGETHER = CostTable({1: 0.01, 2: 0.011, 4: 0.012}, decode_s=0.001)


def spec(name="s", prompt="a red ball", **changes):
    fields = {
        "session_id": name,
        "prompts": (PromptPart(prompt),),
        "seed": 7,
        "width": 160,
        "height": 96,
        "fps": 16.0,
        "pacing": "asap",
    }
    return StreamSpec(**{**fields, **changes})


def make_engine(clock, *, streams=4, model=None, costs=COSTS, **config):
    model = model or fake_model()
    return Engine(model, EngineConfig(**config), clock, costs, memory_for(model, streams))


@pytest.fixture
def engine(clock):
    return make_engine(clock)


def drive(engine, clock, steps=200, *, take=True, until=None):
    """Step an engine that is always asked again, taking every chunk of asap streams at once."""
    events = []
    for _ in range(steps):
        due = engine.next_deadline(clock.now)
        if due is None:
            break
        clock.now = max(clock.now, due)
        for event in engine.step(clock.now):
            events.append(event)
            if take and isinstance(event, ChunkReady):
                last = event.first_frame + event.num_frames - 1
                engine.apply(Credit(event.session_id, last), clock.now)
        clock.advance(0.05)
        if until is not None and until(events):
            break
    return events


def chunks_of(events, name="s"):
    return [e for e in events if isinstance(e, ChunkReady) and e.session_id == name]


def frames_of(events, name="s"):
    return torch.cat([torch.as_tensor(chunk.frames) for chunk in chunks_of(events, name)])


def play_alone(clock, asked, model=None, **config):
    engine = make_engine(clock, model=model, **config)
    assert isinstance(engine.admit(asked, clock.now), Admitted)
    return drive(engine, clock)


def test_a_finite_stream_delivers_exactly_its_frames_and_gives_its_pages_back(engine, clock):
    assert engine.admit(spec(num_frames=40), clock.now) == Admitted("s", 12)
    assert engine.capacity().pages_in_use == 12
    events = drive(engine, clock)
    chunks = chunks_of(events)
    assert [chunk.num_frames for chunk in chunks] == [9, 12, 12, 7]
    assert [chunk.first_frame for chunk in chunks] == [0, 9, 21, 33]
    assert frames_of(events).shape == (40, 96, 160, 3)
    assert frames_of(events).dtype == torch.uint8
    assert events[-1] == SessionEnded("s", "complete", 4, 40)
    assert engine.capacity().pages_in_use == 0


def test_the_same_seed_gives_the_same_frames_and_another_seed_others(clock):
    first = frames_of(play_alone(clock, spec(num_frames=60)))
    again = frames_of(play_alone(clock, spec(num_frames=60)))
    other = frames_of(play_alone(clock, spec(num_frames=60, seed=8)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_company_and_batches_do_not_change_a_stream(clock):
    alone = frames_of(play_alone(clock, spec(num_frames=60)))
    engine = make_engine(clock, costs=TOGETHER)
    for name, prompt, seed in [("s", "a red ball", 7), ("x", "rain", 1), ("y", "snow", 2)]:
        engine.admit(spec(name, prompt, seed=seed, num_frames=60), clock.now)
    events = drive(engine, clock)
    assert max(network_of(engine).batches) > 1
    difference = frames_of(events, "s").int() - alone.int()
    assert difference.abs().max() <= 1


def test_a_prompt_change_is_applied_to_the_first_chunk_that_differs(clock):
    before = chunks_of(play_alone(clock, spec(num_frames=100)))
    engine = make_engine(clock)
    engine.admit(spec(num_frames=100), clock.now)
    events = drive(engine, clock, until=lambda seen: len(chunks_of(seen)) == 4)
    update = PromptUpdate("e1", (PromptPart("a blue box"),))
    (queued,) = engine.apply(UpdatePrompt("s", update), clock.now)
    assert queued == PromptQueued("s", "e1", 4)
    events += drive(engine, clock)
    (applied,) = [event for event in events if isinstance(event, PromptApplied)]
    assert applied == PromptApplied("s", "e1", 4, 9 + 3 * 12)
    position = events.index(applied)
    assert events[position + 1].chunk_index == 4
    same = [
        torch.equal(torch.as_tensor(a.frames), torch.as_tensor(b.frames))
        for a, b in zip(before, chunks_of(events), strict=True)
    ]
    assert same == [True] * 4 + [False] * (len(same) - 4)
    assert [chunk.prompt_rev for chunk in chunks_of(events)][3:5] == [0, 1]


def test_a_change_before_the_chunk_supersedes_the_one_before_it(engine, clock):
    engine.admit(spec(num_frames=21), clock.now)
    engine.apply(UpdatePrompt("s", PromptUpdate("e1", (PromptPart("x"),))), clock.now)
    events = engine.apply(UpdatePrompt("s", PromptUpdate("e2", (PromptPart("y"),))), clock.now)
    assert events == (PromptQueued("s", "e2", 0), PromptSuperseded("s", "e1", "e2"))


def test_a_prompt_that_cannot_be_shown_is_rejected_and_the_stream_goes_on(engine, clock):
    engine.admit(spec(num_frames=21), clock.now)
    (event,) = engine.apply(UpdatePrompt("s", PromptUpdate("e1", ())), clock.now)
    assert isinstance(event, PromptRejected)
    assert drive(engine, clock)[-1] == SessionEnded("s", "complete", 2, 21)


def test_a_first_chunk_with_steps_of_its_own_is_planned_and_reported_with_them(clock, monkeypatch):
    planned = []

    def noting(candidates, *rest):
        planned.extend((row.steps, row.later_steps) for row in candidates)
        return schedule(candidates, *rest)

    monkeypatch.setattr("engine.engine.schedule", noting)
    sampler = Sampler(steps=(1000.0, 500.0), first_chunk_steps=(1000.0, 750.0, 500.0, 250.0))
    engine = make_engine(clock, model=fake_model(sampler=sampler))
    engine.admit(spec(num_frames=33), clock.now)
    events = drive(engine, clock)
    assert [chunk.steps for chunk in chunks_of(events)] == [4, 2, 2]
    assert network_of(engine).passes == (4 + 1) + (2 + 1) + 2  # nobody attends to the last one
    assert planned == [(4, 2), (2, 2), (2, 2)]


def test_a_recache_costs_one_pass_and_only_when_it_is_wanted(clock):
    passes = {}
    for wish in (True, False):
        engine = make_engine(clock)
        engine.admit(spec(), clock.now)
        drive(engine, clock, 3)
        engine.apply(
            UpdatePrompt("s", PromptUpdate("e", (PromptPart("x"),), recache=wish)), clock.now
        )
        before = network_of(engine).passes
        drive(engine, clock, 1)
        passes[wish] = network_of(engine).passes - before
    assert passes == {True: 6, False: 5}


def test_timed_prompts_come_by_themselves(engine, clock):
    timed = (TimedPrompt(16, (PromptPart("a blue box"),)),)
    engine.admit(spec(num_frames=45, timed_prompts=timed), clock.now)
    events = drive(engine, clock)
    (applied,) = [event for event in events if isinstance(event, PromptApplied)]
    assert (applied.event_id, applied.chunk_index, applied.first_frame) == ("timed:16", 2, 21)


def test_four_streams_as_fast_as_possible_progress_evenly(engine, clock):
    for name in "abcd":
        engine.admit(spec(name), clock.now)
    events = drive(engine, clock, 81)
    counts = [len(chunks_of(events, name)) for name in "abcd"]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == 81


def test_asap_waits_for_its_chunks_to_be_taken(engine, clock):
    engine.admit(spec(), clock.now)
    events = drive(engine, clock, take=False)
    assert len(chunks_of(events)) == 2
    assert engine.next_deadline(clock.now) is None
    engine.apply(Credit("s", 8), clock.now)
    assert engine.next_deadline(clock.now) == clock.now


def test_a_realtime_stream_runs_no_further_ahead_than_its_lead(engine, clock):
    engine.admit(spec(pacing="realtime"), clock.now)
    start = clock.now
    events = drive(engine, clock, 40, take=False)
    seconds = clock.now - start
    frames = sum(chunk.num_frames for chunk in chunks_of(events))
    assert frames <= seconds * 16 + 12 + 1 + 4
    assert frames >= seconds * 16
    slacks = [chunk.slack_s for chunk in chunks_of(events) if chunk.slack_s is not None]
    assert min(slacks) > 0


def test_noise_drawn_ahead_is_kept_for_as_many_streams_as_there_are(clock, monkeypatch):
    drawn = []
    lock = threading.Lock()

    def draw(seed, chunk, step, shape):
        with lock:
            drawn.append((seed, chunk, step))
        return noise(seed, chunk, step, shape)

    monkeypatch.setattr("engine.engine.noise", draw)
    engine = make_engine(clock, streams=40, max_sessions=40, noise_threads=2)
    for seed in range(40):
        engine.admit(spec(f"s{seed}", seed=seed), clock.now)
    drive(engine, clock, 120)
    for seed in range(1, 40):
        engine.apply(Stop(f"s{seed}"), clock.now)
    assert len(engine._ahead._drawn) == 4
    engine.close()
    assert len(drawn) == len(set(drawn)) >= 40 * 3 * 4


def test_jobs_take_what_live_viewers_leave(engine, clock):
    engine.admit(spec("job", kind="job", num_frames=400), clock.now)
    engine.admit(spec("live", num_frames=45), clock.now)
    events = drive(engine, clock, 12)
    names = [event.session_id for event in events if isinstance(event, ChunkReady)]
    assert names[:4] == ["live"] * 4
    assert set(names[4:]) == {"job"}


def test_a_job_is_never_paced_by_a_clock(engine, clock):
    engine.admit(spec(kind="job", pacing="realtime"), clock.now)
    before = clock.now
    assert len(chunks_of(drive(engine, clock, 50))) == 50
    assert clock.now - before < 50 * 0.75


def test_a_paused_stream_makes_nothing_until_play(engine, clock):
    engine.admit(spec(), clock.now)
    drive(engine, clock, 2)
    assert engine.apply(Pause("s"), clock.now) == (SessionPaused("s", 21),)
    assert engine.apply(Pause("s"), clock.now) == ()
    assert engine.next_deadline(clock.now) is None
    clock.advance(60)
    engine.apply(Play("s"), clock.now)
    assert chunks_of(drive(engine, clock, 1))[0].first_frame == 21


def test_stop_frees_the_pages_at_once(engine, clock):
    for name in "ab":
        engine.admit(spec(name), clock.now)
    drive(engine, clock, 5)
    (ended,) = engine.apply(Stop("a"), clock.now)
    assert ended == SessionEnded("a", "stopped", 3, 33)
    assert engine.capacity().pages_in_use == 12
    engine.apply(Stop("b"), clock.now)
    assert engine.capacity().pages_in_use == 0
    assert engine.apply(Stop("b"), clock.now) == ()


def test_fifty_streams_opened_and_dropped_leave_nothing(engine, clock):
    for index in range(50):
        assert isinstance(engine.admit(spec(f"s{index}"), clock.now), Admitted)
        drive(engine, clock, index % 3)
        engine.apply(Stop(f"s{index}"), clock.now)
    engine.generator.pages.check_integrity([])
    assert engine.capacity().sessions_live == 0


def test_a_tick_that_raises_ends_its_sessions_with_a_reason_and_no_others(engine, clock):
    for name in "ab":
        engine.admit(spec(name, num_frames=45), clock.now)
    drive(engine, clock, 2)
    network_of(engine).fail_next = RuntimeError("out of everything")
    events = drive(engine, clock)
    ended = {event.session_id: event for event in events if isinstance(event, SessionEnded)}
    assert ended["a"].reason == "error"
    assert "out of everything" in ended["a"].error
    assert ended["b"].reason == "complete"
    assert engine.capacity().pages_in_use == 0


def test_overload_is_refused_at_the_door(clock):
    slow = CostTable({1: 0.05}, decode_s=0.05)  # 0.3 s a chunk of 0.75 s
    engine = make_engine(clock, costs=slow, max_load=0.9)
    assert engine.capacity().streams_fit == 2
    assert isinstance(engine.admit(spec("a", pacing="realtime"), clock.now), Admitted)
    assert isinstance(engine.admit(spec("b", pacing="realtime"), clock.now), Admitted)
    assert engine.capacity().streams_free == 0
    answer = engine.admit(spec("c", pacing="realtime"), clock.now)
    assert isinstance(answer, Wait)
    assert "120%" in answer.reason
    assert isinstance(engine.admit(spec("d"), clock.now), Admitted)  # asap takes what is left
    engine.apply(Stop("a"), clock.now)
    assert isinstance(engine.admit(spec("c", pacing="realtime"), clock.now), Admitted)


def test_a_stream_alone_is_taken_by_a_device_that_is_too_slow_for_it(clock):
    engine = make_engine(clock, costs=CostTable({1: 1.0}, 0.0))
    assert isinstance(engine.admit(spec(pacing="realtime"), clock.now), Admitted)


def test_pages_and_jobs_are_counted(clock):
    engine = make_engine(clock, streams=3, max_jobs=2)
    for name in "ab":
        assert isinstance(engine.admit(spec(name, kind="job"), clock.now), Admitted)
    assert isinstance(engine.admit(spec("c", kind="job"), clock.now), Wait)
    assert isinstance(engine.admit(spec("d"), clock.now), Admitted)
    full = engine.admit(spec("e"), clock.now)
    assert isinstance(full, Wait)
    assert "pages" in full.reason
    assert engine.capacity().sessions_jobs == 2


def test_how_full_it_is_is_counted_only_when_a_stream_comes_or_goes(engine, clock):
    empty = engine.capacity()
    engine.admit(spec("a", num_frames=9), clock.now)
    engine.admit(spec("b"), clock.now)
    two = engine.capacity()
    assert (empty.streams_free, two.streams_free) == (4, 2)
    assert (two.sessions_live, two.pages_in_use) == (2, 24)
    engine.apply(Credit("b", 0), clock.now)
    engine.apply(Pause("b"), clock.now)
    assert engine.capacity() is two
    drive(engine, clock)
    one = engine.capacity()
    assert (one.streams_free, one.sessions_live, one.pages_in_use) == (3, 1, 12)
    engine.apply(Stop("b"), clock.now)
    assert engine.capacity() == empty


def test_a_job_leaves_a_live_viewer_room(clock):
    engine = make_engine(clock, streams=2, max_jobs=2)
    assert isinstance(engine.admit(spec("a", kind="job"), clock.now), Admitted)
    assert isinstance(engine.admit(spec("b", kind="job"), clock.now), Wait)
    assert isinstance(engine.admit(spec("c"), clock.now), Admitted)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"width": 128}, "size"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**53}, "seed"),
        ({"fps": 0.0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_steps": 0}, "num_inference_steps"),
        ({"prompts": ()}, "prompt"),
        ({"timed_prompts": (TimedPrompt(3, ()),)}, "prompt"),
        ({"start_image": np.zeros((8, 8, 3), np.uint8)}, "image"),
    ],
)
def test_impossible_streams_are_refused_by_name(engine, clock, changes, param):
    answer = engine.admit(spec(**changes), clock.now)
    assert isinstance(answer, Refused)
    assert answer.param == param
    assert engine.capacity().pages_in_use == 0


def test_a_model_without_a_window_needs_an_end_and_takes_pages_for_it(clock):
    model = fake_model(cache=CachePolicy(window_frames=None))
    engine = make_engine(clock, model=model, streams=2)
    answer = engine.admit(spec(), clock.now)
    assert isinstance(answer, Refused)
    assert answer.param == "num_frames"
    assert isinstance(engine.admit(spec(num_frames=9 + 12 * 50), clock.now), Refused)
    assert isinstance(engine.admit(spec(num_frames=22), clock.now), Admitted)
    assert engine.capacity().pages_in_use == 9
    assert drive(engine, clock)[-1] == SessionEnded("s", "complete", 3, 22)


def test_a_stream_starts_from_an_image_that_it_shows_once(engine, clock):
    image = np.full((96, 160, 3), 140, np.uint8)
    engine.admit(spec(num_frames=25, start_image=image), clock.now)
    events = drive(engine, clock)
    chunks = chunks_of(events)
    assert [(chunk.num_frames, chunk.steps) for chunk in chunks] == [(1, 0), (12, 4), (12, 4)]
    shown = torch.as_tensor(chunks[0].frames)[0, :, :8].int()
    assert (shown - 140).abs().max() <= 1


def test_a_stream_continues_a_clip_and_shows_it(engine, clock):
    clip = np.random.default_rng(0).integers(0, 255, (14, 96, 160, 3), np.uint8)
    engine.admit(spec(num_frames=25, start_image=clip), clock.now)
    chunks = chunks_of(drive(engine, clock))
    assert [chunk.num_frames for chunk in chunks] == [13, 12]
    assert engine.capacity().pages_in_use == 0


def test_a_model_that_cannot_start_from_an_image_says_so(clock):
    model = fake_model()
    model = replace(model, entry=replace(model.entry, start_image_frames=None))
    engine = make_engine(clock, model=model)
    answer = engine.admit(spec(start_image=np.zeros((96, 160, 3), np.uint8)), clock.now)
    assert isinstance(answer, Refused)
    assert answer.code == "not_supported"


def test_an_independent_first_frame_and_framewise_chunks_are_cut_right(clock):
    for policy, cuts in [
        (CachePolicy(12, 3, "window", independent_first_frame=True), [1, 12, 12]),
        (CachePolicy(7, 1, "absolute", chunk_frames=1), [1, 4, 4, 4, 4, 4, 4]),
    ]:
        events = play_alone(clock, spec(num_frames=25), fake_model(cache=policy))
        assert [chunk.num_frames for chunk in chunks_of(events)] == cuts


def test_a_policy_that_recomputes_every_chunk_runs_one_pass_more_and_no_clean_one(clock):
    policy = CachePolicy(6, 0, "absolute", recache="every_chunk", keep_sink_on_recache=False)
    engine = make_engine(clock, model=fake_model(cache=policy))
    engine.admit(spec(num_frames=9 + 12 * 5), clock.now)
    events = drive(engine, clock)
    assert network_of(engine).passes == 4 + 5 * 5
    assert frames_of(events).shape[0] == 69


def test_steps_fall_when_viewers_stall_and_stay_when_the_client_pinned_them(clock):
    class Slow:
        """A clock that makes every chunk take longer than it plays."""

        def __call__(self):
            clock.now += 0.4
            return clock.now

    steps = {}
    for pinned in (None, 4):
        model = fake_model()
        engine = Engine(model, EngineConfig(), Slow(), COSTS, memory_for(model, 2))
        engine.admit(spec(pacing="realtime", num_steps=pinned), clock.now)
        events = drive(engine, clock, 12)
        steps[pinned] = [chunk.steps for chunk in chunks_of(events)]
    assert steps[None][0] == 4
    assert steps[None][-1] == 2
    assert set(steps[4]) == {4}


def test_prompts_are_encoded_once_however_many_sessions_use_them(engine, clock):
    for name in "abc":
        engine.admit(spec(name, "the same words", num_frames=21), clock.now)
    drive(engine, clock)
    assert engine.model.text.encoded.count("the same words") == 1


class SlowText(FakeText):
    """Embeds a text when the test lets it."""

    def __init__(self):
        super().__init__()
        self.gates = {}
        self.broken = set()

    def gate(self, text):
        return self.gates.setdefault(text, threading.Event())

    def encode(self, texts):
        for text in texts:
            assert self.gate(text).wait(10)
            if text in self.broken:
                raise RuntimeError(f"cannot read {text}")
        return super().encode(texts)


@pytest.fixture
def slow(clock):
    """An engine whose texts are embedded on a thread of their own."""
    model = replace(fake_model(), text=SlowText())
    engine = make_engine(clock, model=model, encode_ahead=True)
    yield engine, model.text
    for event in model.text.gates.values():
        event.set()
    engine.close()


def wait_until_embedded(engine, *texts):
    deadline = time.monotonic() + 10
    while not engine._prompts.ready(texts):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_slow_text_encoder_holds_up_only_the_stream_that_needs_it(slow, clock):
    engine, text = slow
    text.gate("ready").set()
    engine.admit(spec("a", "ready", num_frames=45), clock.now)
    wait_until_embedded(engine, "ready")
    engine.admit(spec("b", "slow", num_frames=9), clock.now)
    events = drive(engine, clock, 10)
    assert {event.session_id for event in events} == {"a"}
    assert engine.next_deadline(clock.now) is not None
    text.gate("slow").set()
    wait_until_embedded(engine, "slow")
    assert [event.session_id for event in drive(engine, clock)] == ["b", "b"]


def test_a_change_takes_effect_when_its_text_is_ready(slow, clock):
    engine, text = slow
    text.gate("a red ball").set()
    engine.admit(spec(num_frames=93), clock.now)
    wait_until_embedded(engine, "a red ball")
    drive(engine, clock, 2)
    for name in ("e1", "e2"):
        update = PromptUpdate(name, (PromptPart(name),))
        answers = engine.apply(UpdatePrompt("s", update), clock.now)
        assert answers[0] == PromptQueued("s", name, 2)
    assert answers[1:] == (PromptSuperseded("s", "e1", "e2"),)
    assert not [e for e in drive(engine, clock, 2) if isinstance(e, PromptApplied)]
    text.gate("e1").set()
    text.gate("e2").set()
    wait_until_embedded(engine, "e2")
    (applied,) = [e for e in drive(engine, clock) if isinstance(e, PromptApplied)]
    assert applied == PromptApplied("s", "e2", 4, 45)


def test_a_restored_stream_waits_for_its_own_texts_and_holds_up_nobody(slow, clock):
    engine, text = slow
    for name in ("ready", "slow"):
        text.gate(name).set()
    engine.admit(spec("b", "slow", num_frames=45), clock.now)
    wait_until_embedded(engine, "slow")
    drive(engine, clock, 1)
    snapshot = engine.snapshot("b")

    later = SlowText()
    other = make_engine(clock, model=replace(fake_model(), text=later), encode_ahead=True)
    later.gate("ready").set()
    other.admit(spec("a", "ready", num_frames=45), clock.now)
    wait_until_embedded(other, "ready")
    assert isinstance(other.admit(spec("b", "slow", num_frames=45), clock.now, snapshot), Admitted)
    events = drive(other, clock, 10)
    assert {event.session_id for event in events} == {"a"}
    later.gate("slow").set()
    wait_until_embedded(other, "slow")
    assert chunks_of(drive(other, clock), "b")[0].first_frame == 9
    other.close()


def test_a_timed_prompt_that_is_not_embedded_holds_up_its_own_stream_alone(slow, clock):
    engine, text = slow
    for name in ("ready", "first"):
        text.gate(name).set()
    timed = (TimedPrompt(9, (PromptPart("slow"),)),)
    engine.admit(spec("a", "ready", num_frames=45), clock.now)
    engine.admit(spec("b", "first", num_frames=45, timed_prompts=timed), clock.now)
    wait_until_embedded(engine, "ready", "first")
    events = drive(engine, clock, 10)
    assert (len(chunks_of(events, "a")), len(chunks_of(events, "b"))) == (4, 1)
    text.gate("slow").set()
    wait_until_embedded(engine, "slow")
    (applied, *_) = drive(engine, clock)
    assert applied == PromptApplied("b", "timed:9", 1, 9)


def test_a_state_taken_while_a_text_is_embedded_does_not_make_the_stream_wait_for_it(slow, clock):
    engine, text = slow
    text.gate("a red ball").set()
    engine.admit(spec(num_frames=93), clock.now)
    wait_until_embedded(engine, "a red ball")
    drive(engine, clock, 1)
    engine.apply(UpdatePrompt("s", PromptUpdate("e", (PromptPart("slow"),))), clock.now)
    engine.snapshot("s")
    assert [chunk.chunk_index for chunk in chunks_of(drive(engine, clock, 2))] == [1, 2]
    text.gate("slow").set()
    wait_until_embedded(engine, "slow")
    (applied, *_) = drive(engine, clock)
    assert applied == PromptApplied("s", "e", 3, 33)


@pytest.mark.parametrize("second_is_ready", [False, True])
def test_changes_that_wait_go_along_to_another_engine(slow, clock, second_is_ready):
    engine, text = slow
    for ready in ("a red ball", "e1"):
        text.gate(ready).set()
    engine.admit(spec(num_frames=93), clock.now)
    wait_until_embedded(engine, "a red ball")
    engine.step(clock.now)
    engine.apply(Pause("s"), clock.now)
    for name in ("e1", "e2"):
        engine.apply(UpdatePrompt("s", PromptUpdate(name, (PromptPart(name),))), clock.now)
        if name == "e1":
            wait_until_embedded(engine, name)
            engine.step(clock.now)
    seen = []
    thread = EngineThread(engine, seen.append, clock)
    thread.start()
    data = thread.snapshot("s").result(10)
    thread.stop(10)
    assert seen == []

    later = SlowText()
    other = make_engine(clock, model=replace(fake_model(), text=later), encode_ahead=True)
    other.admit(spec(num_frames=93), clock.now, Snapshot.from_bytes(data))
    awaited = ("a red ball", "e1", *(("e2",) if second_is_ready else ()))
    for name in awaited:
        later.gate(name).set()
    wait_until_embedded(other, *awaited)
    events = drive(other, clock, 1)
    if not second_is_ready:
        assert events[0] == PromptApplied("s", "e1", 1, 9)
        later.gate("e2").set()
        wait_until_embedded(other, "e2")
        events = drive(other, clock, 1)
    else:
        assert events.pop(0) == PromptSuperseded("s", "e1", "e2")
    assert isinstance(events[0], PromptApplied)
    assert events[0].event_id == "e2"
    other.close()


def test_a_text_that_cannot_be_embedded_ends_its_stream_with_the_reason(slow, clock):
    engine, text = slow
    text.broken.add("bad")
    text.gate("bad").set()
    engine.admit(spec("a", "bad"), clock.now)
    wait_until_embedded(engine, "bad")
    (ended,) = drive(engine, clock)
    assert "cannot read bad" in ended.error


def test_texts_that_nobody_came_back_for_do_not_pile_up(slow, clock):
    engine, text = slow
    for index in range(20):
        name = f"text {index}"
        text.gate(name).set()
        engine.admit(spec("a", name), clock.now)
        engine.apply(Stop("a"), clock.now)
        wait_until_embedded(engine, name)
    assert len(engine._prompts._asked) <= 1
