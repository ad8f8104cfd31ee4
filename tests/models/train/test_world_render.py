"""Rendering: a pure function of scene and time, and every attribute shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.train.world_motion import anchored
from models.train.world_render import render, render_switch, to_uint8
from models.train.world_scene import (
    ATTRIBUTES,
    BEAT_FRAMES,
    FPS,
    SceneBatch,
    draw_scenes,
    sample_scene,
)

PLAIN = replace(
    sample_scene(5), time="day", place="meadow", weather="clear", motion="still", camera="still"
)


def show(*scenes, start=0, frames=2, **options):
    return render(SceneBatch.of(scenes), start, frames, **options)


def test_pictures_have_the_size_and_range_of_the_model_border():
    pixels = render(draw_scenes(np.random.default_rng(0), 5, "any"), 77, 3)
    assert pixels.shape == (5, 3, 3, 96, 160)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    assert not pixels.isnan().any()


def test_other_sizes_show_the_same_scene():
    large = show(PLAIN, frames=1, size=(320, 192))[0]
    small = torch.nn.functional.interpolate(large, (96, 160), mode="area")
    assert (small - show(PLAIN, frames=1)[0]).abs().mean() < 0.04


def test_a_scene_looks_the_same_alone_and_among_others():
    batch = draw_scenes(np.random.default_rng(1), 6, "any")
    together = render(batch, 31, 2)
    for row in (0, 3, 5):
        alone = render(batch.rows(slice(row, row + 1)), 31, 2)
        assert (alone[0] - together[row]).abs().max() < 1e-4


def test_a_clip_is_its_parts_and_steps_skip_frames():
    batch = draw_scenes(np.random.default_rng(2), 3, "any")
    whole = render(batch, 100, 24)
    later = render(batch, np.array([108, 112, 116]), 4)
    assert (whole[0, 8:12] - later[0]).abs().max() < 1e-4
    assert (whole[2, 16:20] - later[2]).abs().max() < 1e-4
    assert (render(batch, 100, 12, step=2) - whole[:, ::2]).abs().max() < 1e-4


def test_minute_five_hundred_is_as_sharp_and_as_bright_as_the_first():
    scene = replace(PLAIN, camera="pan")
    early, late = show(scene, frames=16), show(scene, start=500 * 60 * FPS, frames=16)
    assert abs(early.mean() - late.mean()) < 0.05
    assert late.diff(dim=-1).abs().mean() > 0.8 * early.diff(dim=-1).abs().mean()


def test_a_pan_that_sets_out_later_looks_like_one_that_does_so_at_the_start():
    scene = replace(PLAIN, camera="pan", weather="clear", place="meadow")
    late = replace(scene, camera_s=6.0, anchor_s=6.0)
    assert torch.allclose(show(scene, start=0), show(late, start=96), atol=1e-3)


def test_only_a_pan_moves_the_background_of_a_standing_subject():
    still, pan = show(PLAIN, frames=9), show(replace(PLAIN, camera="pan"), frames=9)

    def ground(clip):
        return (clip[0, 8, :, 70:] - clip[0, 0, :, 70:]).abs().mean()

    assert ground(pan) > 10 * ground(still)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_value_of_an_attribute_shows_in_the_picture(name):
    # A moving camera and subject show motion as pictures of the same moment.
    scenes = [replace(PLAIN, **{name: value}) for value in ATTRIBUTES[name]]
    clips = render(SceneBatch.of(scenes), 40, 2)
    for a in range(len(scenes)):
        for b in range(a):
            assert (clips[a] - clips[b]).abs().amax(dim=(0, 1)).gt(0.15).float().mean() > 0.004


def test_rain_is_one_falling_pattern():
    rain = show(replace(PLAIN, weather="rain"), frames=13)
    assert (rain[0, 12] - rain[0, 11]).abs().mean() > 0.002
    assert (rain[0, 1:] - rain[0, :-1]).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("change", "beats"),
    [
        ({"weather": "rain"}, 1),
        ({"weather": "snowfall"}, 1),
        ({"motion": "bounces"}, 1),
        ({"place": "sea"}, 4),
        ({"motion": "circles"}, 4),
        ({"motion": "rises"}, 7),
        ({"weather": "fog"}, 8),
        ({"motion": "left"}, 11),
    ],
)
def test_what_repeats_does_so_in_whole_beats(change, beats):
    scene = replace(PLAIN, **change)
    clip = show(scene, frames=beats * BEAT_FRAMES + 5)
    again = clip[:, beats * BEAT_FRAMES :]
    assert (again - clip[:, :5]).abs().max() < 2e-3
    assert (clip[:, 7] - clip[:, 0]).abs().max() > 0.05


def test_a_switch_shows_old_then_both_then_new():
    before = SceneBatch.of([PLAIN, replace(PLAIN, subject="fish")])
    after = SceneBatch.of([replace(s, time="night") for s in before])
    at = np.array([4, 6])
    clip = render_switch(before, anchored(before, after, at / FPS), at, 0, 20)
    old, new = render(before, 0, 20), render(after, 0, 20)
    assert (clip[0, :4] - old[0, :4]).abs().max() < 1e-5
    assert (clip[0, 4] - old[0, 4]).abs().mean() > 1e-3
    assert (clip[0, 15:] - new[0, 15:]).abs().max() < 1e-5
    assert (clip[1, :6] - old[1, :6]).abs().max() < 1e-5
    half = clip[1, 11]
    assert (half - old[1, 11]).abs().mean() > 0.1
    assert (half - new[1, 11]).abs().mean() > 0.1


def test_eight_bit_frames_have_channels_last_and_full_range():
    pixels = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 5)
    frames = to_uint8(pixels)
    assert frames.shape == (1, 2, 5, 3)
    assert frames[0, 0, 0].tolist() == [0, 128, 255]
