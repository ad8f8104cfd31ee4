"""A policy of less work is read, written and refused in words."""

import argparse

import pytest

from engine.work_policy import WorkPolicy, add_flags, from_flags
from models.policy import CachePolicy
from models.sampler import Sampler

OWN = CachePolicy(window_frames=12, sink_frames=3, rope="window")


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    "text",
    [
        "exact",
        "window=9",
        "sink=0,merge-clean-pass",
        "steps=2,window=9,sink=3,merge-clean-pass,keep-pages=2,linear=fp8",
    ],
)
def test_text_and_value_are_one_another(text: str) -> None:
    assert str(WorkPolicy.parse(text)) == text
    assert from_flags(flags("--policy", text)) == WorkPolicy.parse(text)


def test_nothing_said_is_the_exact_path() -> None:
    assert WorkPolicy.parse("") == from_flags(flags()) == WorkPolicy()
    assert WorkPolicy().cache(OWN) == OWN
    assert WorkPolicy().sampler(Sampler()) == Sampler()


def test_single_flags_say_the_same_as_the_text() -> None:
    words = "--window 9 --sink 2 --merge-clean-pass --keep-pages 3 --linear fp8"
    expected = "window=9,sink=2,merge-clean-pass,keep-pages=3,linear=fp8"
    assert str(from_flags(flags(*words.split()))) == expected


def test_a_window_and_a_sink_take_the_place_of_the_model_s() -> None:
    cache = WorkPolicy.parse("window=9,sink=1").cache(OWN)
    assert (cache.window_frames, cache.sink_frames, cache.rope) == (9, 1, "window")


def test_steps_are_some_of_those_the_model_was_made_for() -> None:
    fewer = WorkPolicy.parse("steps=2").sampler(Sampler())
    assert fewer.num_steps == 2
    assert fewer.schedule() == Sampler().schedule(2)
    assert WorkPolicy.parse("steps=4").sampler(Sampler()).schedule() == Sampler().schedule()
    with pytest.raises(ValueError, match=r"steps=5: 5 steps; this model takes 4.*use 1 to 4"):
        WorkPolicy.parse("steps=5").sampler(Sampler())


def test_only_merging_leaves_the_picture_as_it_is() -> None:
    assert not WorkPolicy.parse("merge-clean-pass").changes_picture
    for text in ("steps=2", "window=9", "sink=0", "keep-pages=2", "linear=fp8,merge-clean-pass"):
        assert WorkPolicy.parse(text).changes_picture


@pytest.mark.parametrize(
    ("text", "seen", "do"),
    [
        ("window=nine", "'window=nine'", "allowed are steps=N, window=N"),
        ("faster", "'faster'", "allowed are steps=N, window=N"),
        ("steps=0", "steps=0", "at least 1"),
        ("merge-clean-pass=1", "'merge-clean-pass=1'", "allowed are"),
        ("window=9,window=6", "window twice", "name it once"),
        ("linear=int4", "linear=int4", "plain, fp8"),
        ("keep-pages=0", "keep-pages=0", "at least 1"),
    ],
)
def test_a_text_that_cannot_be_is_one_sentence(text: str, seen: str, do: str) -> None:
    with pytest.raises(ValueError, match=do) as refused:
        WorkPolicy.parse(text)
    assert seen in str(refused.value)


@pytest.mark.parametrize(
    ("text", "recache", "said"),
    [
        ("window=5", "none", "at least 6; enlarge the window"),
        ("window=6,keep-pages=1", "none", "has 0 besides .* leave keep-pages out"),
        ("keep-pages=6", "none", "keep 1 to 5"),
        ("window=3,sink=0", "every_chunk", "at least a frame of it, so at least 4; enlarge"),
        ("merge-clean-pass", "every_chunk", "no clean pass to merge; leave merge-clean-pass out"),
    ],
)
def test_a_model_that_does_not_go_with_it_is_one_sentence(
    text: str, recache: str, said: str
) -> None:
    own = CachePolicy(window_frames=12, sink_frames=3, recache=recache)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        WorkPolicy.parse(text).cache(own)


def test_steps_said_twice_are_refused() -> None:
    policy = WorkPolicy.parse("steps=2")
    policy.check_steps(None)
    WorkPolicy().check_steps(4)
    with pytest.raises(ValueError, match=r"policy steps=2 and 4 steps .* said once; leave one out"):
        policy.check_steps(4)


def test_devices_that_share_a_stream_keep_steps_window_and_sink() -> None:
    WorkPolicy.parse("steps=2,window=9,sink=1").check_devices(2)
    WorkPolicy.parse("keep-pages=2").check_devices(1)
    with pytest.raises(ValueError, match=r"keep-pages=2 with 2 tensor devices; .* use one device"):
        WorkPolicy.parse("keep-pages=2").check_devices(2)


def test_a_policy_said_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="a policy is said once"):
        from_flags(flags("--policy", "window=9", "--merge-clean-pass"))
