import queue
import threading
import time

import pytest

from engine.asked import Credit, PromptPart, PromptUpdate, Stop, StreamSpec, UpdatePrompt
from engine.config import EngineConfig
from engine.engine import Engine
from engine.events import Admitted, ChunkReady, PromptQueued, SessionEnded
from engine.thread import EngineThread
from tests.fakes_engine import COSTS, fake_model, memory_for, network_of
from tests.server.fakes import FakeEngine


def spec(name="s", **changes):
    fields = {"prompts": (PromptPart("a"),), "seed": 1, "width": 160, "height": 96, "fps": 16.0}
    return StreamSpec(name, **{**fields, "pacing": "asap", **changes})


class Events:
    """Collects events and answers for the consumer of every chunk."""

    def __init__(self):
        self.seen = queue.Queue()
        self.thread = None
        self.fail = False

    def __call__(self, event):
        self.seen.put(event)
        if self.fail:
            raise ValueError("the callback is broken")
        if isinstance(event, ChunkReady):
            self.thread.submit(Credit(event.session_id, event.first_frame + event.num_frames - 1))

    def wait_for(self, kind, timeout_s=30.0):
        deadline = time.monotonic() + timeout_s
        while True:
            event = self.seen.get(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(event, kind):
                return event


@pytest.fixture
def running():
    model = fake_model()
    engine = Engine(model, EngineConfig(), time.monotonic, COSTS, memory_for(model, 4))
    events = Events()
    thread = EngineThread(engine, events)
    events.thread = thread
    thread.start()
    yield thread, events, engine
    thread.stop(10.0)
    assert not thread.alive


def test_a_stream_runs_from_admission_to_its_end(running):
    thread, events, _ = running
    assert isinstance(thread.admit(spec(num_frames=45)).result(10), Admitted)
    frames = 0
    while frames < 45:
        frames += events.wait_for(ChunkReady).num_frames
    assert events.wait_for(SessionEnded).reason == "complete"
    assert thread.call(lambda: None).result(10) is None
    assert thread.capacity().pages_in_use == 0


def test_commands_come_from_any_thread_and_reach_the_engine_on_its_own(running):
    thread, events, _ = running
    thread.admit(spec()).result(10)
    events.wait_for(ChunkReady)
    update = UpdatePrompt("s", PromptUpdate("e", (PromptPart("b"),)))
    other = threading.Thread(target=thread.submit, args=(update,))
    other.start()
    other.join()
    assert events.wait_for(PromptQueued).event_id == "e"
    assert thread.call(lambda: threading.current_thread().name).result(10) == "engine"
    thread.submit(Stop("s"))
    assert events.wait_for(SessionEnded).reason == "stopped"


def test_a_failing_command_or_tick_does_not_end_the_thread(running):
    thread, events, engine = running
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0).result(10)
    network_of(engine).fail_next = RuntimeError("broken")
    thread.admit(spec("a")).result(10)
    assert "broken" in events.wait_for(SessionEnded).error
    assert isinstance(thread.admit(spec("b", num_frames=9)).result(10), Admitted)
    assert events.wait_for(SessionEnded).reason == "complete"


def test_a_failing_callback_does_not_end_the_thread(running):
    thread, events, _ = running
    events.fail = True
    thread.admit(spec("a", num_frames=9)).result(10)
    assert events.wait_for(SessionEnded).reason == "complete"
    assert thread.alive


def test_a_defect_between_ticks_ends_every_session_with_a_reason(running):
    thread, events, engine = running
    thread.admit(spec("a")).result(10)
    events.wait_for(ChunkReady)

    def broken(now):
        del engine.step
        raise KeyError("lost")

    thread.call(lambda: setattr(engine, "step", broken)).result(10)
    assert "KeyError" in events.wait_for(SessionEnded).error
    assert isinstance(thread.admit(spec("b", num_frames=9)).result(10), Admitted)
    assert events.wait_for(SessionEnded).reason == "complete"


def test_the_engine_prepares_the_thread_that_uses_it() -> None:
    entered, engine = [], FakeEngine()
    engine.enter = lambda: entered.append(threading.current_thread().name)
    thread = EngineThread(engine, lambda event: None)
    thread.start()
    thread.call(lambda: None).result(10)
    thread.stop(10.0)
    assert entered == ["engine"]


def test_nothing_is_taken_after_stop(running):
    thread, _, _ = running
    thread.stop(10.0)
    with pytest.raises(RuntimeError, match="stopping"):
        thread.submit(Stop("s"))


def test_a_stream_moves_to_another_engine_by_its_snapshot(running):
    thread, events, _ = running
    thread.admit(spec("s", num_frames=93)).result(10)
    events.wait_for(ChunkReady)
    data = thread.snapshot("s").result(10)
    assert events.wait_for(SessionEnded).frames == 93
    assert thread.snapshot("s").result(10) is None
    assert isinstance(thread.admit(spec("s", num_frames=93), data).result(10), Admitted)
    ready = events.wait_for(ChunkReady)
    assert ready.first_frame > 0
    assert events.wait_for(SessionEnded).frames == 93
    refused = thread.admit(spec("t"), b"nonsense").result(10)
    assert refused.code == "bad_snapshot"
