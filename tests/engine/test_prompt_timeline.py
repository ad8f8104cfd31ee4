import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.asked import PromptPart, PromptUpdate, TimedPrompt
from engine.prompt_timeline import PromptTimeline, blend, problem_with


def parts(*texts):
    return tuple(PromptPart(text) for text in texts)


def change(event, *texts, **options):
    return PromptUpdate(event, parts(*texts), **options)


def test_a_change_takes_effect_with_the_next_chunk_that_starts():
    timeline = PromptTimeline(parts("a"))
    assert timeline.start_chunk(0).mix == (("a", 1.0),)
    timeline.queue(change("e1", "b"))
    chunk = timeline.start_chunk(9)
    assert chunk.mix == (("b", 1.0),)
    assert chunk.applied == ("e1",)
    assert chunk.rev == 1
    assert chunk.changed
    after = timeline.start_chunk(21)
    assert (after.applied, after.rev, after.changed) == ((), 1, False)


def test_a_second_change_before_the_chunk_supersedes_the_first():
    timeline = PromptTimeline(parts("a"))
    assert timeline.queue(change("e1", "b")) is None
    assert timeline.queue(change("e2", "c")) == "e1"
    chunk = timeline.start_chunk(0)
    assert chunk.applied == ("e2",)
    assert chunk.mix == (("c", 1.0),)


def test_a_transition_moves_the_weights_chunk_by_chunk_and_recaches_at_its_end():
    timeline = PromptTimeline(parts("a"))
    timeline.start_chunk(0)
    timeline.queue(change("e1", "b", transition_chunks=4))
    chunks = [timeline.start_chunk(9 + 12 * i) for i in range(5)]
    weights = [dict(chunk.mix).get("b") for chunk in chunks]
    assert weights == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert [chunk.recache for chunk in chunks] == [False, False, False, True, False]
    assert [chunk.changed for chunk in chunks] == [True, True, True, True, False]
    assert [chunk.applied for chunk in chunks] == [("e1",), (), (), (), ()]


def test_a_change_during_a_transition_starts_from_what_is_shown():
    timeline = PromptTimeline(parts("a"))
    timeline.start_chunk(0)
    timeline.queue(change("e1", "b", transition_chunks=2))
    timeline.start_chunk(9)
    timeline.queue(change("e2", "c", transition_chunks=2))
    mix = dict(timeline.start_chunk(21).mix)
    assert mix == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5})


def test_the_client_decides_about_the_recache_when_it_says_so():
    for wish in (True, False):
        timeline = PromptTimeline(parts("a"))
        timeline.start_chunk(0)
        timeline.queue(change("e1", "b", recache=wish))
        assert timeline.start_chunk(9).recache is wish


def test_timed_prompts_apply_at_the_first_chunk_at_or_after_their_frame():
    timeline = PromptTimeline(parts("a"), [TimedPrompt(9, parts("b")), TimedPrompt(22, parts("c"))])
    seen = [(frame, timeline.start_chunk(frame)) for frame in (0, 9, 21, 33, 45)]
    assert [chunk.mix[0].text for _, chunk in seen] == ["a", "b", "b", "c", "c"]
    assert [chunk.applied for _, chunk in seen] == [(), ("timed:9",), (), ("timed:22",), ()]


def test_a_timed_prompt_that_another_overtakes_is_reported_as_superseded():
    timeline = PromptTimeline(parts("a"), [TimedPrompt(1, parts("b")), TimedPrompt(5, parts("c"))])
    timeline.start_chunk(0)
    timeline.queue(change("e1", "d"))
    chunk = timeline.start_chunk(9)
    assert chunk.mix == (("d", 1.0),)
    assert chunk.applied == ("e1",)
    assert chunk.superseded == (("timed:1", "e1"), ("timed:5", "e1"))


def test_what_the_next_chunk_shows_can_be_asked_and_changes_nothing():
    timeline = PromptTimeline(parts("a"), (TimedPrompt(9, parts("b")),))
    timeline.start_chunk(0)
    assert [timeline.timed_is_due(frame) for frame in (8, 9)] == [False, True]
    assert timeline.next_mix(8) == (("a", 1.0),)
    assert timeline.next_mix(9) == (("b", 1.0),)
    timeline.queue(change("e1", "c"))
    before = timeline.state()
    assert timeline.next_mix(9) == (("c", 1.0),)
    assert timeline.state() == before
    assert timeline.start_chunk(9).superseded == (("timed:9", "e1"),)


def test_a_change_to_the_same_prompt_is_applied_and_changes_nothing():
    timeline = PromptTimeline(parts("a"))
    timeline.start_chunk(0)
    timeline.queue(change("e1", "a"))
    chunk = timeline.start_chunk(9)
    assert chunk.applied == ("e1",)
    assert not chunk.changed


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.01, 100)), min_size=1, max_size=5),
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.01, 100)), min_size=1, max_size=5),
    st.floats(0, 1),
)
def test_a_blend_sums_to_one_and_names_each_text_once(old, new, share):
    mix = blend(tuple(PromptPart(*p) for p in old), tuple(PromptPart(*p) for p in new), share)
    assert sum(part.weight for part in mix) == pytest.approx(1.0)
    assert len({part.text for part in mix}) == len(mix)


@pytest.mark.parametrize(
    ("prompts", "complaint"),
    [
        ((), "no prompt"),
        ((PromptPart("a", -1.0),), "-1.0"),
        ((PromptPart("a", float("nan")),), "nan"),
        ((PromptPart("a", 0.0),), "every prompt's weight is 0"),
        ((PromptPart("a", 0.5), PromptPart("b", 0.0)), None),
    ],
)
def test_impossible_prompts_are_told_apart(prompts, complaint):
    problem = problem_with(prompts)
    assert problem is None if complaint is None else complaint in problem
