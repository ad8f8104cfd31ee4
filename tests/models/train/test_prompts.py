"""The evaluator's prompts: frozen, balanced, unseen."""

import hashlib
import json

import pytest

from models.train.prompts import EVAL_FILE, QUICK_CLIPS, draw_prompts, load_prompts, write_prompts
from models.train.world_scene import ATTRIBUTES, HELD_OUT, NAMES

FROZEN = "8c8814633554625591f5663ba1d09dfa85f975a775b263b36e59424e6536b7b4"


def kind(name):
    return [prompt for prompt in load_prompts() if prompt.kind == name]


def test_the_file_is_the_one_frozen_before_training():
    assert hashlib.sha256(EVAL_FILE.read_bytes()).hexdigest() == FROZEN


def test_there_are_enough_prompts_of_every_kind_with_names_and_seeds_of_their_own():
    prompts = load_prompts()
    assert len(kind("clip")) >= 256
    assert len(kind("switch")) >= 64
    assert len(kind("stream")) == 8
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert len({prompt.seed for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("count", [QUICK_CLIPS, 256])
def test_every_attribute_is_asked_for_in_at_least_half_of_the_prompts(count):
    clips = kind("clip")[:count]
    for name in NAMES:
        assert sum(clip.expect[name] is not None for clip in clips) >= count / 2
        asked = {clip.expect[name] for clip in clips} - {None}
        assert asked == set(ATTRIBUTES[name])


def test_the_quick_suite_asks_only_for_combinations_that_training_never_shows():
    for clip in kind("clip")[:QUICK_CLIPS]:
        assert clip.held_out_combination
        assert any(
            (clip.expect[first], clip.expect[second]) in pairs
            for (first, second), pairs in HELD_OUT.items()
        )
    assert sum(clip.held_out_phrasing for clip in kind("clip")) == 128


def test_a_switch_changes_what_it_says_and_keeps_the_rest():
    for prompt in kind("switch"):
        change = prompt.change
        differing = {name for name in NAMES if prompt.expect[name] != change.expect[name]}
        assert differing == set(change.changed)
        assert 1 <= len(differing) <= 2
        assert change.t + 3 < prompt.seconds


def test_prompts_survive_writing_and_a_bad_line_is_named(tmp_path):
    prompts = draw_prompts(3)[:5]
    write_prompts(prompts, tmp_path / "some.jsonl")
    assert load_prompts(tmp_path / "some.jsonl") == prompts
    (tmp_path / "bad.jsonl").write_text(json.dumps({"id": "x"}) + "\n")
    with pytest.raises(ValueError, match="line 1 is not a prompt"):
        load_prompts(tmp_path / "bad.jsonl")
    with pytest.raises(FileNotFoundError, match="no prompt file"):
        load_prompts(tmp_path / "none.jsonl")
