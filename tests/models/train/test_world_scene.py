"""Scenes: drawing, the held-out rule, batches."""

import numpy as np

from models.train.world_scene import (
    ATTRIBUTES,
    HELD_OUT,
    NAMES,
    UNSAID,
    UNSAID_COLOURS,
    Scene,
    SceneBatch,
    as_said,
    change_some,
    draw_scenes,
    held_out_pair,
    held_out_rows,
    is_held_out,
    sample_scene,
)


def test_a_seed_is_one_scene_and_other_seeds_are_others():
    assert sample_scene(41) == sample_scene(41)
    assert len({sample_scene(seed) for seed in range(50)}) == 50


def test_a_seed_gives_the_same_scene_in_every_version():
    assert sample_scene(0) == Scene(
        time="sunset",
        place="meadow",
        weather="clear",
        subject="ball",
        colour="pink",
        motion="still",
        camera="pan",
        layout_seed=6728418181561535778,
        anchor_x=0.8693966596114163,
        anchor_s=0.0,
    )


def test_training_draws_every_value_but_no_held_out_combination():
    batch = draw_scenes(np.random.default_rng(1), 3000)
    assert not held_out_rows(batch.codes).any()
    for name, values in ATTRIBUTES.items():
        assert set(batch.column(name)) == set(range(len(values)))


def test_held_out_draws_are_all_held_out_and_both_rules_agree():
    unseen = draw_scenes(np.random.default_rng(2), 200, "only")
    mixed = draw_scenes(np.random.default_rng(3), 200, "any")
    assert all(is_held_out(scene) for scene in unseen)
    assert [is_held_out(scene) for scene in mixed] == held_out_rows(mixed.codes).tolist()
    first, second = held_out_pair(unseen.scene(0))
    assert (first, second) in HELD_OUT


def test_every_subject_has_a_held_out_colour_and_names_are_known():
    pairs = HELD_OUT["colour", "subject"]
    assert {subject for _, subject in pairs} == set(ATTRIBUTES["subject"])
    for (first, second), values in HELD_OUT.items():
        assert all(a in ATTRIBUTES[first] and b in ATTRIBUTES[second] for a, b in values)


def test_a_change_touches_one_to_three_attributes_and_nothing_else():
    generator = np.random.default_rng(4)
    before = draw_scenes(generator, 500)
    after = change_some(generator, before)
    differing = (before.codes != after.codes).sum(1)
    assert set(differing) == {1, 2, 3}
    assert not held_out_rows(after.codes).any()
    assert (before.layout_seed == after.layout_seed).all()


def test_a_batch_and_its_scenes_hold_the_same():
    batch = draw_scenes(np.random.default_rng(5), 6)
    again = SceneBatch.of(list(batch))
    assert list(again) == list(batch)
    assert list(SceneBatch.joined([batch.rows(slice(0, 2)), batch.rows(slice(2, 6))])) == list(
        batch
    )


def test_layout_belongs_to_the_scene_and_is_uniform():
    batch = draw_scenes(np.random.default_rng(6), 400)
    layout = batch.layout(64)
    assert np.array_equal(batch.rows(slice(7, 8)).layout(64)[0], layout[7])
    assert layout.min() >= 0
    assert layout.max() < 1
    assert abs(layout.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(layout[:, 0], layout[:, 1])[0, 1]) < 0.2


def test_what_is_unsaid_is_as_always_and_never_a_held_out_combination():
    generator = np.random.default_rng(11)
    batch = draw_scenes(generator, 500)
    stated = []
    for luck in generator.random((500, len(NAMES))):
        names = [name for name, one in zip(NAMES, luck, strict=True) if one < 0.5]
        # A caption that names no subject gives it neither colour nor motion.
        stated.append([n for n in names if "subject" in names or n not in ("colour", "motion")])
    said = as_said(batch, stated)
    assert not held_out_rows(said.codes).any()
    for before, after, names in zip(batch, said, stated, strict=True):
        for name in NAMES:
            if name in names:
                assert getattr(after, name) == getattr(before, name)
            elif name == "colour":
                assert after.colour == UNSAID_COLOURS[after.subject]
            else:
                assert getattr(after, name) == UNSAID[name]
