"""An engine under a policy of less work, from its first chunk to its end."""

import itertools
from dataclasses import replace

import pytest
import torch

from engine.accelerated import BATCH_SIZES, generator_factory, prepare
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
from engine.cuda_graph import choose_size
from engine.engine import Engine
from engine.events import Admitted, ChunkReady, EngineEvent, SessionEnded
from engine.merged import MergingGenerator
from engine.snapshot import Snapshot
from engine.work_policy import WorkPolicy
from kernels.cudnn import CudnnAttention
from kernels.torch_backend import OracleAttention, TorchKernels
from models.policy import CachePolicy
from models.random_model import random_model
from models.sampler import Sampler
from tests.fakes import tiny_test_entry
from tests.fakes_engine import memory_for

COSTS = CostTable({1: 0.01}, 0.001)
CACHE = CachePolicy(9, 2, "window", recache="block_causal", keep_sink_on_recache=False)
GUIDED = Sampler(fresh_noise=False, guidance=2.0)
SPEC = StreamSpec(
    "s", (PromptPart("a red ball"),), 3, 64, 32, 16.0, 9 + 12 * 7, 2, "live", "asap"
)  # fmt: skip


def engine_under(text, cache=CACHE, sampler=GUIDED):
    entry = tiny_test_entry(sizes=((64, 32),), cache=cache, sampler=sampler)
    model, make = prepare(random_model(entry, 0), WorkPolicy.parse(text), TorchKernels())
    ticks = itertools.count().__next__
    memory = memory_for(model, 2)
    return Engine(
        model, EngineConfig(), lambda: ticks() / 100, COSTS, memory, make_generator=make
    )  # fmt: skip


def step(engine, name="s") -> tuple[EngineEvent, ...]:
    """Make the next chunk and take it."""
    now = max(0.0, engine.next_deadline(0.0) or 0.0)
    events = engine.step(now)
    for event in events:
        if isinstance(event, ChunkReady):
            last = event.first_frame + event.num_frames - 1
            engine.apply(Credit(name, last), now)
    return events


def frames_of(events):
    return [event.frames.int() for event in events if isinstance(event, ChunkReady)]


def switch(engine, chunk, recache, name="s"):
    if chunk == 3:
        update = PromptUpdate("e", (PromptPart("a blue box"),), recache=recache)
        engine.apply(UpdatePrompt(name, update), 0.0)


@pytest.mark.parametrize("recache", [True, False])
@pytest.mark.parametrize("at", [None, 2, 4])
@pytest.mark.parametrize("rope", ["absolute", "window"])
def test_merged_frames_are_the_exact_path_s_across_a_switch_and_a_restored_state(rope, at, recache):
    cache = replace(CACHE, rope=rope)
    shown = []
    for text in ("exact", "merge-clean-pass"):
        engine, name, frames = engine_under(text, cache), "s", []
        assert isinstance(engine.admit(SPEC, 0.0), Admitted)
        for chunk in range(8):
            if chunk == at:
                data = engine.snapshot("s").to_bytes()
                engine, name = engine_under(text, cache), "t"
                spec = replace(SPEC, session_id="t")
                assert isinstance(engine.admit(spec, 0.0, Snapshot.from_bytes(data)), Admitted)
            switch(engine, chunk, recache, name)
            frames += frames_of(step(engine, name))
        assert engine.capacity().pages_in_use == 0
        shown.append(torch.cat(frames))
    # Products of another size may round a pixel to its neighbour.
    assert (shown[0] - shown[1]).abs().max() <= 1


def test_taking_a_state_makes_the_owed_pass_and_the_stream_goes_on() -> None:
    shown = []
    for keeps in (False, True):
        engine, frames = engine_under("merge-clean-pass"), []
        engine.admit(SPEC, 0.0)
        (held,) = engine._held.values()
        for _ in range(5):
            frames += frames_of(step(engine))
            assert held.stream.owed is not None
            if keeps:
                assert engine.snapshot("s") is not None
                assert held.stream.owed is None
        shown.append(torch.cat(frames))
    assert (shown[0] - shown[1]).abs().max() <= 1


def test_a_merged_state_goes_on_where_nothing_is_merged() -> None:
    whole = engine_under("exact")
    whole.admit(SPEC, 0.0)
    expected = torch.cat([frame for _ in range(5) for frame in frames_of(step(whole))])
    first, second = engine_under("merge-clean-pass"), engine_under("exact")
    first.admit(SPEC, 0.0)
    frames = [frame for _ in range(3) for frame in frames_of(step(first))]
    second.admit(SPEC, 0.0, first.snapshot("s"))
    frames += [frame for _ in range(2) for frame in frames_of(step(second))]
    assert (torch.cat(frames) - expected).abs().max() <= 1


def test_a_stream_that_owes_a_pass_pauses_and_stops_like_any_other() -> None:
    engine = engine_under("merge-clean-pass")
    engine.admit(SPEC, 0.0)
    step(engine)
    engine.apply(Pause("s"), 0.0)
    assert frames_of(engine.step(9.0)) == []
    engine.apply(Play("s"), 9.0)
    assert len(frames_of(step(engine))) == 1
    (ended,) = engine.apply(Stop("s"), 0.0)
    assert isinstance(ended, SessionEnded)
    assert engine.capacity().pages_in_use == 0


def test_a_shorter_window_takes_fewer_pages_and_changes_late_frames_only() -> None:
    shown, pages = [], []
    for text in ("exact", "window=6"):
        engine = engine_under(text)
        engine.admit(SPEC, 0.0)
        pages.append(engine.capacity().pages_in_use)
        shown.append([frames_of(step(engine))[0] for _ in range(5)])
    assert pages == [9, 6]
    assert all(torch.equal(shown[0][chunk], shown[1][chunk]) for chunk in range(2))
    assert not torch.equal(shown[0][4], shown[1][4])


@pytest.mark.parametrize("text", ["keep-pages=1", "linear=fp8", "keep-pages=2,merge-clean-pass"])
def test_an_approximation_makes_other_frames_of_the_same_shape(text: str) -> None:
    shown = []
    for one in ("exact", text):
        engine = engine_under(one)
        engine.admit(SPEC, 0.0)
        frames = []
        for chunk in range(8):
            switch(engine, chunk, None)
            frames += frames_of(step(engine))
        shown.append(torch.cat(frames))
    assert shown[0].shape == shown[1].shape
    assert not torch.equal(shown[0], shown[1])


def test_all_pages_kept_is_the_exact_path_in_other_words() -> None:
    """The view that chooses pages, with nothing to leave out yet."""
    shown = []
    for text in ("exact", "keep-pages=3"):
        engine = engine_under(text)
        engine.admit(SPEC, 0.0)
        shown.append(torch.cat([frames_of(step(engine))[0] for _ in range(2)]))
    assert (shown[0] - shown[1]).abs().max() <= 1


def test_a_state_of_another_window_is_refused() -> None:
    wide, narrow = engine_under("exact"), engine_under("window=6")
    wide.admit(SPEC, 0.0)
    for _ in range(3):
        step(wide)
    answer = narrow.admit(SPEC, 0.0, wide.snapshot("s"))
    assert "restore it with the same size, model and window" in answer.message
    for _ in range(2):
        step(wide)
    narrow.admit(SPEC, 0.0)
    for _ in range(4):
        step(narrow)
    answer = engine_under("exact").admit(SPEC, 0.0, narrow.snapshot("s"))
    assert "restore it with the same size, model and window" in answer.message


def test_a_merged_engine_has_a_merging_generator() -> None:
    assert isinstance(engine_under("merge-clean-pass").generator, MergingGenerator)


def test_pages_smaller_than_a_frame_cannot_be_chosen_from() -> None:
    entry = tiny_test_entry(sizes=((64, 32), (32, 32)), cache=CACHE)
    policy = WorkPolicy.parse("keep-pages=2")
    model, make = prepare(random_model(entry, 0), policy, TorchKernels())
    with pytest.raises(ValueError, match="must be one page; leave keep-pages and attention out"):
        Engine(model, EngineConfig(), lambda: 0.0, COSTS, make_generator=make)


def test_kernels_without_a_score_bias_are_refused_by_a_model_that_weighs_the_past() -> None:
    cache = replace(CACHE, past_weight=0.5)
    model = random_model(tiny_test_entry(sizes=((64, 32),), cache=cache), 0)
    model, make = prepare(model, WorkPolicy(), TorchKernels(CudnnAttention()))
    with pytest.raises(ValueError, match="cudnn adds no bias to scores; choose"):
        Engine(model, EngineConfig(), lambda: 0.0, COSTS, make_generator=make)


def test_attention_in_fp8_makes_nearly_the_same_frames() -> None:
    shown = []
    for text in ("exact", "attention=fp8", "attention=fp8,keep-pages=3"):
        engine = engine_under(text)
        engine.admit(SPEC, 0.0)
        shown.append(torch.cat([frames_of(step(engine))[0] for _ in range(3)]).float())
    for other in shown[1:]:
        assert 0 < (shown[0] - other).abs().mean() < 3


def test_linears_in_fp8_are_refused_where_they_cannot_be_multiplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(what: str, device: torch.device) -> None:
        raise ValueError(f"{what} on {device.type}")

    monkeypatch.setattr("models.accelerate.check_fp8", refuse)
    model = random_model(tiny_test_entry(sizes=((64, 32),), cache=CACHE), 0)
    with pytest.raises(ValueError, match="linear=fp8 on cpu"):
        prepare(model, WorkPolicy(linear="fp8"), TorchKernels())


def test_choosing_pages_wraps_any_attention() -> None:
    policy = WorkPolicy.parse("keep-pages=2")
    model = random_model(tiny_test_entry(sizes=((64, 32),), cache=CACHE, sampler=GUIDED), 0)
    shown = []
    for attention in (None, OracleAttention()):
        kernels = TorchKernels() if attention is None else TorchKernels(attention)
        make = generator_factory(kernels, policy=policy)
        ticks = itertools.count().__next__
        engine = Engine(
            model, EngineConfig(), lambda ticks=ticks: ticks() / 100, COSTS, memory_for(model, 2),
            make_generator=make,
        )  # fmt: skip
        engine.admit(SPEC, 0.0)
        shown.append(torch.cat([frames_of(step(engine))[0] for _ in range(5)]))
    assert (shown[0] - shown[1]).abs().max() <= 1


def test_the_largest_batch_of_an_engine_has_a_captured_size() -> None:
    assert choose_size(EngineConfig().max_batch, BATCH_SIZES) == EngineConfig().max_batch


def test_streams_that_ask_for_no_number_take_the_policy_s_steps():
    def made(text, num_steps):
        engine = engine_under(text, sampler=Sampler())
        assert isinstance(engine.admit(replace(SPEC, num_steps=num_steps), 0.0), Admitted)
        return [e for _ in range(3) for e in step(engine) if isinstance(e, ChunkReady)]

    usual, asked = made("steps=1", None), made("exact", 1)
    assert [chunk.steps for chunk in usual] == [1, 1, 1]
    for one, other in zip(usual, asked, strict=True):
        assert torch.equal(one.frames.int(), other.frames.int())
    assert [chunk.steps for chunk in made("steps=1", 3)] == [3, 3, 3]
    assert [chunk.steps for chunk in made("exact", None)] == [4, 4, 4]


@pytest.mark.parametrize("pacing", ["realtime", "asap"])
def test_a_stream_taken_over_takes_the_steps_of_its_new_worker(pacing):
    spec = replace(SPEC, num_steps=None, pacing=pacing)
    first, second = (
        engine_under("steps=1", sampler=Sampler()),
        engine_under("exact", sampler=Sampler()),
    )
    assert isinstance(first.admit(spec, 0.0), Admitted)
    step(first)
    data = first.snapshot("s").to_bytes()
    moved = replace(spec, session_id="t")
    assert isinstance(second.admit(moved, 0.0, Snapshot.from_bytes(data)), Admitted)
    (held,) = second._held.values()
    # One that plays in real time raises them by and by, as after an overload.
    assert held.session.governor.steps == (2 if pacing == "realtime" else 4)
