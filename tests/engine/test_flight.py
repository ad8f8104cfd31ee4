"""Chunks that a device makes by itself: asked for, reported later, the same in every way."""

import itertools
import time

import pytest
import torch

from engine.asked import Credit, Pause, PromptPart, PromptUpdate, Stop, StreamSpec, UpdatePrompt
from engine.config import EngineConfig
from engine.cost_table import CostTable
from engine.engine import Engine
from engine.events import (
    Admitted,
    ChunkReady,
    PromptApplied,
    PromptQueued,
    SessionEnded,
    SessionPaused,
)
from engine.frame_copy import Mark, PendingFrames
from engine.generator import Generator
from engine.snapshot import Snapshot
from engine.thread import EngineThread
from models.policy import CachePolicy
from models.random_model import random_model
from tests.fakes import tiny_test_entry
from tests.fakes_engine import memory_for
from tests.kernels.triton_modules import gpu

POLICY = CachePolicy(6, 1, "window", recache="bidirectional")
COSTS = CostTable({1: 0.01, 2: 0.012}, 0.001)


class Later(PendingFrames):
    """Frames of a device that works by itself: not there until somebody waits for them."""

    def __init__(self, inner: PendingFrames, log: list[str]) -> None:
        super().__init__(inner.result(), None)
        self._log = log

    def ready(self) -> bool:
        return "waited" in self.__dict__

    def result(self) -> torch.Tensor:
        if not self.ready():
            self.waited = True
            self._log.append("waited")
        return super().result()


class ByItself(Generator):
    """A generator that can be asked without waiting, as captured graphs can."""

    asynchronous = True


def ticking():
    """A clock that goes on by a hundredth of a second whenever it is read."""
    ticks = itertools.count().__next__
    return lambda: ticks() / 100


def engine_of(log=None, make=ByItself.of, clock=None, costs=COSTS, **config):
    """An engine; with ``log`` its frames come later, and what happens is written there."""
    model = random_model(tiny_test_entry(sizes=((64, 32),), cache=POLICY), 0)
    memory = memory_for(model, 2)
    engine = Engine(
        model, EngineConfig(max_batch=2, **config), clock or ticking(), costs, memory,
        make_generator=make,
    )  # fmt: skip
    if log is not None:
        decode = engine._pixels.decode

        def later(stream, latents):
            log.append("asked")
            return Later(decode(stream, latents), log)

        engine._pixels.decode = later
    return engine


def spec(name="s", seed=3, frames=9 + 12 * 4, pacing="asap"):
    parts = (PromptPart("a red ball"),)
    return StreamSpec(name, parts, seed, 64, 32, 16.0, frames, 2, "live", pacing)


def run(engine, names, until=40, hook=lambda step: ()):
    """Step until every stream has ended; chunks are taken when they come."""
    events = []
    for step in range(until):
        now = engine._clock()
        new = [*hook(step), *engine.step(now)]
        events += new
        for event in new:
            if isinstance(event, ChunkReady):
                last = event.first_frame + event.num_frames - 1
                engine.apply(Credit(event.session_id, last), now)
        if sum(isinstance(event, SessionEnded) for event in events) == len(names):
            break
    return events


def shown(events, name="s"):
    chunks = [e for e in events if isinstance(e, ChunkReady) and e.session_id == name]
    return [chunk.chunk_index for chunk in chunks], torch.cat([chunk.frames for chunk in chunks])


@pytest.mark.parametrize("names", [("s",), ("s", "t")])
def test_frames_and_receipts_are_those_of_a_device_that_is_waited_for(names):
    results = []
    for log in (None, []):
        engine = engine_of(log)
        for seed, name in enumerate(names):
            assert isinstance(engine.admit(spec(name, seed), 0.0), Admitted)

        def change(step, engine=engine):
            update = PromptUpdate("e", (PromptPart("a blue box"),))
            return engine.apply(UpdatePrompt("s", update), 0.0) if step == 2 else ()

        results.append((engine, run(engine, names, hook=change)))
    for name in names:
        (order, frames), (later_order, later) = (shown(events, name) for _, events in results)
        assert order == later_order == [0, 1, 2, 3, 4]
        # The change may fall on another chunk: the second engine is a chunk further on.
        assert torch.equal(frames[:9], later[:9])
    for engine, events in results:
        (queued,) = [event for event in events if isinstance(event, PromptQueued)]
        (at,) = [index for index, e in enumerate(events) if isinstance(e, PromptApplied)]
        shows = next(e for e in events[at:] if isinstance(e, ChunkReady) and e.session_id == "s")
        assert shows.chunk_index == events[at].chunk_index >= queued.chunk_index
        assert shows.prompt_rev == 1
        ended = [event for event in events if isinstance(event, SessionEnded)]
        assert [(e.reason, e.chunks, e.frames) for e in ended] == [("complete", 5, 57)] * len(names)
        assert engine.capacity().pages_in_use == 0


def test_without_a_change_every_frame_is_the_same() -> None:
    frames = []
    for log in (None, []):
        engine = engine_of(log)
        engine.admit(spec(), 0.0)
        frames.append(shown(run(engine, ["s"]))[1])
    assert torch.equal(*frames)


def test_a_chunk_is_waited_for_after_the_next_one_was_asked_for_but_the_first_at_once() -> None:
    log: list[str] = []
    engine = engine_of(log)
    engine.admit(spec(), 0.0)
    run(engine, ["s"])
    assert log == [
        *("asked", "waited"),  # a first picture
        *("asked", "asked", "waited", "asked", "waited", "asked", "waited", "waited"),
    ]


def test_the_first_chunk_of_a_restored_stream_waits_for_nobody() -> None:
    first, log = engine_of(), []
    first.admit(spec(), 0.0)
    first.step(0.0)
    second = engine_of(log)
    assert isinstance(second.admit(spec(), 0.0, first.snapshot("s")), Admitted)
    run(second, ["s"])
    assert log[:6] == ["asked", "waited", "asked", "asked", "waited", "asked"]


class SlowDevice(list[str]):
    """A log of waits that are each as long as a chunk takes."""

    now = 0.0

    def append(self, word: str) -> None:
        super().append(word)
        self.now += 0.3 if word == "waited" else 0.0


def test_who_becomes_ready_while_a_first_picture_is_waited_for_goes_before_the_next_first_picture():
    device = SlowDevice()
    costs = CostTable({1: 0.097, 2: 0.2}, 0.01)
    engine = engine_of(device, clock=lambda: device.now, costs=costs, max_load=2.0)
    for name in ("s", "t"):
        assert isinstance(engine.admit(spec(name, frames=None, pacing="realtime"), 0.0), Admitted)
    chunks = []
    while len(chunks) < 6:
        events = engine.step(device.now)
        chunks += [event for event in events if isinstance(event, ChunkReady)]
        device.now += 0.0 if events else 0.01
    names = [(chunk.session_id, chunk.chunk_index) for chunk in chunks]
    assert names[:4] == [("s", 0), ("s", 1), ("t", 0), ("t", 1)]
    assert all(chunk.slack_s is None or chunk.slack_s >= 0 for chunk in chunks)


def test_a_device_faster_than_it_was_measured_is_not_taken_for_busier_with_every_chunk():
    device = SlowDevice()
    costs = CostTable({1: 0.3}, 0.0)  # 0.9 s a chunk, and 0.3 it is
    engine = engine_of(device, clock=lambda: device.now, costs=costs)
    engine.admit(spec(frames=9 + 12 * 12), 0.0)
    busy = []
    run(engine, ["s"], hook=lambda step: busy.append(engine._free_at - device.now) or ())
    assert len(busy) > 12
    assert max(busy) < costs.chunk_s(1, 2) + 1e-9


def test_where_asking_waits_for_the_device_no_chunk_is_kept_back_for_the_next_one() -> None:
    log: list[str] = []
    engine = engine_of(log, Generator.of)
    engine.admit(spec(), 0.0)
    run(engine, ["s"])
    assert log == ["asked", "waited"] * 5


def test_a_pause_and_a_stop_come_behind_the_chunk_that_is_being_made() -> None:
    for command, kind in ((Pause("s"), SessionPaused), (Stop("s"), SessionEnded)):
        engine = engine_of([])
        engine.admit(spec(), 0.0)
        for now in (0.0, 1.0):
            engine.step(now)
        assert engine.next_deadline(3.0) == 3.0
        chunk, last = engine.apply(command, 3.0)
        assert isinstance(chunk, ChunkReady)
        assert isinstance(last, kind)
        made = chunk.first_frame + chunk.num_frames
        assert made == (last.frame if isinstance(last, SessionPaused) else last.frames)


def test_a_pause_behind_the_last_chunk_says_only_that_the_stream_ended() -> None:
    engine = engine_of([])
    engine.admit(spec(frames=9), 0.0)
    engine.step(0.0)
    chunk, ended = engine.apply(Pause("s"), 1.0)
    assert isinstance(chunk, ChunkReady)
    assert isinstance(ended, SessionEnded)


def test_a_state_is_taken_behind_the_chunk_that_is_being_made() -> None:
    seen = []
    engine = engine_of([])
    engine.admit(spec(pacing="realtime"), 0.0)
    thread = EngineThread(engine, seen.append)
    for now in (0.0, 1.0):
        seen += engine.step(now)
    told: list[int] = []
    future = thread.snapshot("s")
    future.add_done_callback(lambda _: told.append(len(seen)))  # on the engine's thread
    thread.start()
    data = future.result(timeout=30)
    thread.stop()
    state = Snapshot.from_bytes(data).session
    chunks = [event for event in seen[: told[0]] if isinstance(event, ChunkReady)]
    assert state["frames"] == sum(chunk.num_frames for chunk in chunks) > 0
    assert [chunk.chunk_index for chunk in chunks] == list(range(len(chunks)))


def test_a_chunk_that_cannot_be_decoded_ends_its_stream_alone() -> None:
    engine = engine_of([])
    decode, calls = engine._pixels.decode, itertools.count()

    def broken(stream, latents):
        if next(calls) == 2:
            raise RuntimeError("no decoder today")
        return decode(stream, latents)

    engine._pixels.decode = broken
    for name in ("s", "t"):
        engine.admit(spec(name), 0.0)
    events = run(engine, ("s", "t"))
    ended = {event.session_id: event for event in events if isinstance(event, SessionEnded)}
    assert sorted(event.reason for event in ended.values()) == ["complete", "error"]
    (error,) = [event.error for event in ended.values() if event.error]
    assert error == "RuntimeError: no decoder today"
    assert engine.capacity().pages_in_use == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_noise_drawn_ahead_changes_no_frame(threads: int) -> None:
    frames = []
    for count in (0, threads):
        engine = engine_of(noise_threads=count)
        engine.admit(spec(), 0.0)
        frames.append(shown(run(engine, ["s"]))[1])
        engine.close()
    assert torch.equal(*frames)


def test_on_a_cpu_noise_is_drawn_on_the_spot_unless_asked_otherwise() -> None:
    assert engine_of()._ahead is None
    engine = engine_of(noise_threads=2)
    assert engine._ahead is not None
    engine.close()


@gpu
def test_on_a_gpu_frames_are_those_of_an_engine_that_waits_for_each() -> None:
    entry = tiny_test_entry(sizes=((64, 32),), cache=POLICY)
    model = random_model(entry, 0, device=torch.device("cuda"))
    frames = []
    for waits in (False, True):
        # One stream a pass: whose chunks fall together is a matter of time, and rounds differently.
        engine = Engine(
            model, EngineConfig(max_batch=1), time.monotonic, COSTS, make_generator=ByItself.of
        )
        for name in ("s", "t"):
            engine.admit(spec(name), time.monotonic())
        hook = (lambda step, engine=engine: engine.land()) if waits else (lambda step: ())
        events = run(engine, ("s", "t"), until=1_000_000, hook=hook)
        frames.append(torch.cat([shown(events, name)[1] for name in ("s", "t")]))
        engine.close()
    assert torch.equal(*frames)


def test_a_mark_on_a_cpu_is_the_clock() -> None:
    times = iter((1.0, 3.5))
    marks = [Mark(torch.device("cpu"), times.__next__) for _ in range(2)]
    assert marks[0].until(marks[1]) == 2.5
