"""Any order of everything that may happen to an engine keeps its promises."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.asked import (
    Credit,
    Pause,
    Play,
    PromptPart,
    PromptUpdate,
    Stop,
    StreamSpec,
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
    PromptSuperseded,
    SessionEnded,
    SessionPaused,
    Wait,
)
from models.policy import CachePolicy
from tests.fakes_engine import fake_model, memory_for, network_of

POLICY = CachePolicy(6, 1, "window", recache="bidirectional")
COSTS = CostTable({1: 0.02, 2: 0.03, 4: 0.05}, decode_s=0.005)
FPS = 16.0


@dataclass
class Seen:
    """What one session was asked for and has answered."""

    spec: StreamSpec
    frames: int = 0
    chunks: int = 0
    taken: int = 0
    played: int | None = None
    paused: bool = False
    pending: str | None = None
    queued_for: dict[str, int] = field(default_factory=dict)
    rev: int = 0


class EngineMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = 0.0
        model = fake_model(size=(32, 32), cache=POLICY)
        config = EngineConfig(max_sessions=4, max_jobs=2, max_batch=4)
        self.engine = Engine(model, config, self._clock, COSTS, memory_for(model, 4))
        self.live: dict[str, Seen] = {}
        self.names = 0
        self.events = 0

    def _clock(self):
        self.now += 0.004
        return self.now

    @rule(
        kind=st.sampled_from(["live", "job"]),
        pacing=st.sampled_from(["realtime", "asap"]),
        frames=st.none() | st.integers(1, 70),
        steps=st.none() | st.integers(1, 4),
        seed=st.integers(0, 3),
    )
    def admit(self, kind, pacing, frames, steps, seed):
        self.names += 1
        name = f"s{self.names}"
        spec = StreamSpec(name, (PromptPart("a"),), seed, 32, 32, FPS, frames, steps, kind, pacing)
        answer = self.engine.admit(spec, self.now)
        assert isinstance(answer, Admitted | Wait)
        if isinstance(answer, Admitted):
            self.live[name] = Seen(spec)
        else:
            assert self.live, "an empty engine takes everything that is possible"

    def _some(self, data):
        return data.draw(st.sampled_from(sorted(self.live)))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), text=st.sampled_from("abc"), chunks=st.integers(0, 3))
    def update(self, data, text, chunks):
        name = self._some(data)
        seen = self.live[name]
        self.events += 1
        event = f"e{self.events}"
        update = PromptUpdate(event, (PromptPart(text),), chunks)
        answers = self.engine.apply(UpdatePrompt(name, update), self.now)
        assert answers[0] == PromptQueued(name, event, seen.chunks)
        expected = [] if seen.pending is None else [PromptSuperseded(name, seen.pending, event)]
        assert list(answers[1:]) == expected
        seen.pending = event
        seen.queued_for[event] = seen.chunks

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def take_all(self, data):
        """The consumer has everything; a viewer has presented everything."""
        name = self._some(data)
        seen = self.live[name]
        self.engine.apply(Credit(name, seen.frames - 1), self.now)
        seen.taken = seen.chunks
        seen.played = max(seen.played or 0, seen.frames)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), play=st.booleans())
    def pause_or_play(self, data, play):
        name = self._some(data)
        seen = self.live[name]
        answers = self.engine.apply(Play(name) if play else Pause(name), self.now)
        changes = not play and not seen.paused
        assert answers == ((SessionPaused(name, seen.frames),) if changes else ())
        seen.paused = not play

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def stop(self, data):
        name = self._some(data)
        seen = self.live.pop(name)
        assert self.engine.apply(Stop(name), self.now) == (
            SessionEnded(name, "stopped", seen.chunks, seen.frames),
        )

    @rule(seconds=st.floats(0.0, 2.0))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def break_one_tick(self):
        network_of(self.engine).fail_next = RuntimeError("broken")
        for event in self._step():
            assert isinstance(event, SessionEnded)
            assert event.reason == "error"
            del self.live[event.session_id]
        network_of(self.engine).fail_next = None

    @rule(ticks=st.integers(1, 6))
    def step(self, ticks):
        for _ in range(ticks):
            for event in self._step():
                self._check(event)

    def _step(self):
        due = self.engine.next_deadline(self.now)
        events = self.engine.step(self.now)
        if events:
            assert due is not None
        return events

    def _check(self, event):
        seen = self.live[event.session_id]
        match event:
            case PromptApplied():
                assert event.event_id == seen.pending
                assert event.chunk_index == seen.chunks == seen.queued_for[event.event_id]
                assert event.first_frame == seen.frames
                seen.pending = None
                seen.rev += 1
            case ChunkReady():
                assert not seen.paused
                assert (event.chunk_index, event.first_frame) == (seen.chunks, seen.frames)
                assert event.prompt_rev == seen.rev
                assert event.frames.shape == (event.num_frames, 32, 32, 3)
                seen.chunks += 1
                seen.frames += event.num_frames
                if seen.spec.pacing == "asap" or seen.spec.kind == "job":
                    assert seen.chunks - seen.taken <= 2
                elif seen.played is not None:
                    assert seen.frames - seen.played <= 36
                if seen.spec.num_steps is not None:
                    assert event.steps == seen.spec.num_steps
            case SessionEnded():
                assert event.reason == "complete"
                assert event.frames == seen.frames == seen.spec.num_frames
                del self.live[event.session_id]
            case _:
                raise AssertionError(event)

    @invariant()
    def pages_belong_to_sessions(self):
        capacity = self.engine.capacity()
        assert capacity.pages_in_use == 6 * len(self.live)
        assert capacity.sessions_live + capacity.sessions_jobs == len(self.live)
        self.engine.generator.pages.check_integrity()

    def teardown(self):
        for event in self.engine.fail_all("over"):
            assert event.session_id in self.live
        assert self.engine.capacity().pages_in_use == 0


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
