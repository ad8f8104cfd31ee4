import itertools
from dataclasses import replace

import pytest
import torch

from engine.asked import (
    Credit,
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
from engine.events import Admitted, ChunkReady, PromptApplied, Refused, SessionEnded
from engine.snapshot import Snapshot, SnapshotError
from models.policy import CachePolicy
from models.random_model import random_model
from tests.fakes import tiny_test_entry
from tests.fakes_engine import memory_for

COSTS = CostTable({1: 0.01}, 0.001)


def model_with(policy):
    return random_model(tiny_test_entry(sizes=((64, 32),), cache=policy), 0)


POLICIES = [
    CachePolicy(6, 1, "window", recache="bidirectional"),
    CachePolicy(9, 3, "absolute", recache="block_causal"),
    CachePolicy(6, 0, "absolute", recache="every_chunk", keep_sink_on_recache=False),
]


def spec(**changes):
    fields = {
        "session_id": "s",
        "prompts": (PromptPart("a red ball"),),
        "seed": 3,
        "width": 64,
        "height": 32,
        "fps": 16.0,
        "pacing": "asap",
        "num_frames": 9 + 12 * 7 + 5,
        "num_steps": 2,
        "timed_prompts": (TimedPrompt(70, (PromptPart("rain"),)),),
    }
    return StreamSpec(**{**fields, **changes})


def make_engine(model):
    clock = itertools.count().__next__
    return Engine(model, EngineConfig(), lambda: clock() / 100, COSTS, memory_for(model, 2))


def run(engine, chunks=None, hook=None):
    """Step to the end, or until so many chunks are there; take every chunk at once."""
    events = []
    for _ in range(100):
        if hook is not None:
            hook(engine, sum(isinstance(event, ChunkReady) for event in events))
        now = max(0.0, engine.next_deadline(0.0) or 0.0)
        for event in engine.step(now):
            events.append(event)
            if isinstance(event, ChunkReady):
                last = event.first_frame + event.num_frames - 1
                engine.apply(Credit(event.session_id, last), now)
        made = sum(isinstance(event, ChunkReady) for event in events)
        if made == chunks or any(isinstance(event, SessionEnded) for event in events):
            break
    return events


def frames_of(events):
    return [torch.as_tensor(event.frames) for event in events if isinstance(event, ChunkReady)]


def change_at(chunk):
    """Queue a transition of two chunks before chunk number ``chunk``."""
    update = PromptUpdate("e", (PromptPart("a blue box"),), transition_chunks=2)

    def hook(engine, made):
        if made == chunk:
            engine.apply(UpdatePrompt("s", update), 0.0)

    return hook


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.rope}-{policy.recache}")
@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_restored_stream_goes_on_bit_for_bit(policy, at):
    model = model_with(policy)
    whole = make_engine(model)
    whole.admit(spec(), 0.0)
    expected = run(whole, hook=change_at(2))

    first = make_engine(model)
    first.admit(spec(), 0.0)
    before = run(first, at, hook=change_at(2))
    data = first.snapshot("s").to_bytes()

    second = make_engine(model)
    # Other pages than the first time, so that nothing depends on their numbers.
    second.admit(spec(session_id="other"), 0.0)
    answer = second.admit(spec(epoch=1), 0.0, Snapshot.from_bytes(data))
    assert isinstance(answer, Admitted)
    assert second.generator.pages.in_use == 2 * policy.window_frames
    second.apply(Stop("other"), 0.0)
    after = run(second, hook=change_at(2 - at))
    both = frames_of(before) + frames_of(after)
    assert len(both) == len(frames_of(expected))
    assert all(torch.equal(a, b) for a, b in zip(both, frames_of(expected), strict=True))
    ids = [e.event_id for e in (*before, *after) if isinstance(e, PromptApplied)]
    assert ids == [e.event_id for e in expected if isinstance(e, PromptApplied)]
    assert sum(e.num_frames for e in (*before, *after) if isinstance(e, ChunkReady)) == 98
    assert {e.epoch for e in after if isinstance(e, ChunkReady)} == {1}
    second.generator.pages.check_integrity([])


def test_a_change_still_waiting_is_part_of_the_snapshot():
    model = model_with(POLICIES[0])
    engine = make_engine(model)
    engine.admit(spec(), 0.0)
    run(engine, 2)
    engine.apply(UpdatePrompt("s", PromptUpdate("e", (PromptPart("x"),))), 0.0)
    data = engine.snapshot("s").to_bytes()
    rest = run(engine)
    other = make_engine(model)
    other.admit(spec(), 0.0, Snapshot.from_bytes(data))
    restored = run(other)
    assert next(e for e in restored if isinstance(e, PromptApplied)).event_id == "e"
    assert all(torch.equal(a, b) for a, b in zip(frames_of(rest), frames_of(restored), strict=True))


def test_a_realtime_viewer_of_a_restored_stream_has_had_all_frames_before_it():
    model = model_with(POLICIES[0])
    engine = make_engine(model)
    engine.admit(spec(num_frames=None), 0.0)
    run(engine, 3)
    snapshot = engine.snapshot("s")
    other = make_engine(model)
    other.admit(spec(num_frames=None, pacing="realtime"), 0.0, snapshot)
    ahead = sum(
        event.num_frames
        for _ in range(10)
        for event in other.step(1.0)
        if isinstance(event, ChunkReady)
    )
    assert 12 <= ahead <= 36


def test_a_policy_that_rebuilds_its_cache_keeps_it_out_of_the_snapshot():
    engine = make_engine(model_with(POLICIES[2]))
    engine.admit(spec(), 0.0)
    run(engine, 2)
    assert not {"k", "v"} & engine.snapshot("s").tensors.keys()


def test_a_snapshot_of_another_model_or_dtype_is_refused_and_takes_no_pages():
    model = model_with(POLICIES[0])
    engine = make_engine(model)
    engine.admit(spec(), 0.0)
    run(engine, 2)
    snapshot = engine.snapshot("s")
    other = make_engine(replace(model, entry=replace(model.entry, name="another")))
    answer = other.admit(spec(), 0.0, snapshot)
    assert isinstance(answer, Refused)
    assert answer.code == "bad_snapshot"
    longer = make_engine(model_with(CachePolicy(3, 0, "window", recache="none")))
    assert isinstance(longer.admit(spec(), 0.0, snapshot), Refused)
    assert longer.capacity().pages_in_use == 0
    assert engine.snapshot("nobody") is None


def test_a_snapshot_of_another_codec_is_refused_and_names_both():
    model = model_with(POLICIES[0])
    engine = make_engine(model)
    engine.admit(spec(), 0.0)
    run(engine, 2)
    snapshot = engine.snapshot("s")
    codec = replace(model.entry.codec, name="another-codec")
    other = make_engine(replace(model, entry=replace(model.entry, codecs=(codec,))))
    answer = other.admit(spec(), 0.0, snapshot)
    assert isinstance(answer, Refused)
    assert answer.code == "bad_snapshot"
    assert model.entry.codec.name in answer.message
    assert "another-codec" in answer.message


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: {"held": ((0, 0), (1, 1), (2, 1))},
        lambda good: {"held": ((0, 0), (1, 1), (2, 6))},
        lambda good: {"held": ((0, 0), (1, 1), (2, -1))},
        lambda good: {"session": {}},
        lambda good: {
            "session": {**good.session, "prompts": {**good.session["prompts"], "to": [["a", 0]]}}
        },
        lambda good: {"tensors": {"k": good.tensors["k"]}},
    ],
    ids=["a slot twice", "no such slot", "below 0", "no session", "no weight", "no values"],
)
def test_a_damaged_snapshot_is_refused_and_keeps_no_pages(damage):
    model = model_with(POLICIES[0])
    engine = make_engine(model)
    engine.admit(spec(), 0.0)
    run(engine, 1)
    good = engine.snapshot("s")
    other = make_engine(model)
    answer = other.admit(spec(), 0.0, replace(good, **damage(good)))
    assert isinstance(answer, Refused)
    assert answer.code == "bad_snapshot"
    assert "start the stream anew" in answer.message
    assert other.generator.pages.in_use == 0
    assert isinstance(other.admit(spec(), 0.0, good), Admitted)


def test_bytes_that_are_no_snapshot_are_told_apart():
    engine = make_engine(model_with(POLICIES[0]))
    engine.admit(spec(), 0.0)
    run(engine, 1)
    data = engine.snapshot("s").to_bytes()
    for broken in (b"", b"nonsense", data[: len(data) // 2], data[:200]):
        with pytest.raises(SnapshotError, match="start the stream anew"):
            Snapshot.from_bytes(broken)
    assert Snapshot.from_bytes(data).latent_frames == 3


def test_a_state_that_an_older_program_kept_is_named_as_such(monkeypatch):
    engine = make_engine(model_with(POLICIES[0]))
    engine.admit(spec(), 0.0)
    run(engine, 1)
    monkeypatch.setattr("engine.snapshot.FORMAT", 1)
    old = engine.snapshot("s").to_bytes()
    monkeypatch.undo()
    with pytest.raises(
        SnapshotError, match="format 1; this program reads 2; start the stream anew"
    ):
        Snapshot.from_bytes(old)
