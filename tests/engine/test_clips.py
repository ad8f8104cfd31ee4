import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import engine.requests
from engine.clips import make_clips
from engine.config import EngineConfig
from engine.engine import Engine
from engine.requests import ClipRequest
from tests.fakes_engine import COSTS, FakeText, fake_model, memory_for, network_of


def make_engine(clock, jobs=1, model=None, **config):
    model = model or fake_model()
    config = EngineConfig(max_sessions=1, max_jobs=jobs, **config)
    return Engine(model, config, clock, COSTS, memory_for(model, jobs + 1))


def request(name, seconds=0.5, **changes):
    return ClipRequest(name, "a red ball", seconds, **changes)


def made(engine, requests, clock):
    return make_clips(engine, requests, clock, clock.advance)


def test_a_clip_is_handed_out_when_it_ends_and_the_others_go_on(clock):
    engine = make_engine(clock, jobs=2)
    clips = made(engine, [request("long", 4), request("short"), request("last")], clock)
    first = next(clips)
    assert (first.request.name, first.frames.shape) == ("short", (8, 96, 160, 3))
    assert engine.capacity().sessions_jobs == 1
    rest = {clip.request.name: len(clip.frames) for clip in clips}
    assert rest == {"last": 8, "long": 64}
    assert engine.capacity().sessions_jobs == 0


def test_a_clip_s_later_prompts_are_told(clock):
    switched = request("a", 2, switches=((1.0, "a blue box"),))
    (clip,) = made(make_engine(clock), [switched], clock)
    assert [(event.event_id, event.first_frame) for event in clip.applied] == [("timed:16", 21)]


def test_pictures_of_waiting_requests_are_read_once_and_not_before_their_turn(
    clock, tmp_path, monkeypatch
):
    read = []

    def noting(path, size):
        read.append(path.name)
        return np.array(Image.open(path))

    monkeypatch.setattr(engine.requests, "read_picture", noting)
    asked = []
    for name in ("a", "b", "c"):
        Image.new("RGB", (160, 96)).save(tmp_path / f"{name}.png")
        asked.append(request(name, 2, image=tmp_path / f"{name}.png"))
    clips = made(make_engine(clock), asked, clock)
    next(clips)
    assert read == ["a.png", "b.png"]
    assert len(list(clips)) == 2
    assert read == ["a.png", "b.png", "c.png"]


def test_when_one_fails_those_that_run_are_finished_and_no_other_begins(clock):
    engine = make_engine(clock, jobs=2)
    clips = made(engine, [request("a"), request("b", 4), request("c"), request("d")], clock)
    assert next(clips).request.name == "a"
    network_of(engine).fail_next = RuntimeError("out of everything")
    finished = []
    with pytest.raises(ValueError, match="ended: RuntimeError: out of everything") as failed:
        finished.extend(clip.request.name for clip in clips)
    assert [*finished, str(failed.value).split()[0]] in (["b", "c"], ["c", "b"])


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        ({"size": (7, 7)}, ValueError, "b: size 7x7; longtake-tiny has 160x96"),
        ({"image": Path("nowhere.png")}, OSError, "nowhere.png"),
    ],
)
def test_a_request_that_cannot_be_made_costs_no_other_clip(clock, bad, error, said):
    clips = made(make_engine(clock, jobs=2), [request("a"), request("b", **bad)], clock)
    assert next(clips).request.name == "a"
    with pytest.raises(error, match=said):
        next(clips)


def test_it_sleeps_while_there_is_nothing_to_do(clock):
    gate = threading.Event()

    class Slow(FakeText):
        def encode(self, texts):
            assert gate.wait(10)
            return super().encode(texts)

    model = replace(fake_model(), text=Slow())
    engine = make_engine(clock, model=model, encode_ahead=True)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        clock.advance(seconds)
        if len(slept) == 3:
            gate.set()
            engine._prompts._asked["a red ball"].result(10)

    (clip,) = make_clips(engine, [request("a")], clock, sleep)
    assert len(clip.frames) == 8
    assert slept[:3] == [pytest.approx(0.02)] * 3
    assert sum(slept[3:]) == 0
    engine.close()
