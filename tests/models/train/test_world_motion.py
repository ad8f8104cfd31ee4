"""Motion: readable from two seconds, endless, and joined at a switch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.train.world_motion import (
    WRAP_X,
    WRAP_Y,
    anchored,
    opened,
    subject_cover,
    track,
)
from models.train.world_scene import (
    ASPECT,
    ATTRIBUTES,
    FPS,
    SceneBatch,
    draw_scenes,
    sample_scene,
)

TIMES = np.arange(0, 40, 1 / 16)[None]


def batch_with(motion: str, count: int = 16) -> SceneBatch:
    return SceneBatch.of([replace(sample_scene(seed), motion=motion) for seed in range(count)])


def steps(values: np.ndarray, wrap: float) -> np.ndarray:
    return np.mod(np.diff(values) + wrap / 2, wrap) - wrap / 2


@pytest.mark.parametrize("motion", ATTRIBUTES["motion"])
def test_at_least_half_of_the_subject_is_always_in_the_picture(motion):
    path = track(batch_with(motion), TIMES)
    radius = path.radius[:, None]

    def inside(centre, wrap, length):
        # Both copies of a subject that is coming round count.
        return sum(
            (np.minimum(c + radius, length) - np.maximum(c - radius, 0)).clip(min=0)
            for c in (centre - wrap, centre, centre + wrap)
        ) / (2 * radius)

    seen = inside(path.x, WRAP_X, ASPECT) * inside(path.y, WRAP_Y, 1.0)
    assert seen.min() > 0.5


def test_drifts_go_steadily_their_way_and_face_it():
    left, right = track(batch_with("left"), TIMES), track(batch_with("right"), TIMES)
    assert (steps(left.x, WRAP_X) < -0.01).all()
    assert (steps(right.x, WRAP_X) > 0.01).all()
    assert (left.facing == -1).all()
    assert (right.facing == 1).all()
    assert np.ptp(left.y, axis=1).max() == 0


def test_rising_only_goes_up_and_bouncing_goes_both_ways_within_two_seconds():
    rising, bouncing = track(batch_with("rises"), TIMES), track(batch_with("bounces"), TIMES)
    assert (steps(rising.y, WRAP_Y) < 0).all()
    window = steps(bouncing.y, WRAP_Y)[:, :32]
    assert (window.max(1) > 0.01).all()
    assert (window.min(1) < -0.01).all()


def test_circling_moves_on_both_axes_and_standing_on_none():
    circling, still = track(batch_with("circles"), TIMES), track(batch_with("still"), TIMES)
    assert (np.ptp(circling.x, axis=1) > 0.5).all()
    assert (np.ptp(circling.y, axis=1) > 0.3).all()
    assert np.ptp(still.x, axis=1).max() == 0
    assert np.ptp(still.y, axis=1).max() == 0


def test_hours_later_the_subject_still_moves_exactly():
    batch = batch_with("right")
    late = track(batch, TIMES + 36_000.0)
    assert np.allclose(steps(late.x, WRAP_X), steps(track(batch, TIMES).x, WRAP_X), atol=1e-9)


def test_a_switch_that_keeps_the_motion_does_not_move_the_subject():
    generator = np.random.default_rng(1)
    before = draw_scenes(generator, 32)
    after = replace(before, codes=before.codes.copy())
    after.codes[:, 0] = (after.codes[:, 0] + 1) % 4
    joined = anchored(before, after, np.full(32, 3.7))
    assert np.array_equal(track(before, TIMES).x, track(joined, TIMES).x)
    assert np.array_equal(track(before, TIMES).y, track(joined, TIMES).y)


def test_a_new_drift_starts_where_the_subject_is():
    before, meets = batch_with("circles"), np.linspace(1, 9, 16)
    after = SceneBatch.of([replace(scene, motion="left") for scene in before])
    joined = anchored(before, after, meets)
    here, there = track(before, meets[:, None]).x, track(joined, meets[:, None]).x
    assert np.allclose(here, there)


def test_a_pan_sets_out_when_it_is_asked_for_and_other_changes_do_not_disturb_it():
    scenes = [replace(sample_scene(seed), camera="still") for seed in range(4)]
    still = SceneBatch.of(scenes)
    pans = SceneBatch.of([replace(scene, camera="pan") for scene in scenes])
    meets = np.array([2.25, 3.0, 7.5, 300.0])
    begun = anchored(still, pans, meets)
    assert np.array_equal(begun.camera_s, meets)
    dark = SceneBatch.of([replace(scene, time="night") for scene in pans])
    assert np.array_equal(anchored(begun, dark, meets + 5).camera_s, meets)


def test_the_cover_of_the_subject_is_where_it_is() -> None:
    scenes = draw_scenes(np.random.default_rng(8), 40)
    frame = np.array([[0, 37]] * 40)
    cover = subject_cover(scenes, frame, (10, 16), torch.device("cpu"))
    assert cover.shape == (40, 2, 10, 16)
    assert cover.min() >= 0
    assert cover.max() <= 1
    path = track(scenes, frame / FPS)
    inside = (path.y > 0.1) & (path.y < 0.9) & (path.x > 0.1) & (path.x < 1.5)
    row, column = (path.y * 10).astype(int), (path.x * 10).astype(int)
    for b, t in np.argwhere(inside):
        assert cover[b, t, row[b, t], column[b, t]] == 1


def test_a_stream_opens_on_its_subject() -> None:
    generator = np.random.default_rng(9)
    begin = generator.integers(0, 9600, 200)
    scenes = opened(draw_scenes(generator, 200), begin, 0.8)
    path = track(scenes, (begin / FPS)[:, None])
    circles = np.array([scene.motion == "circles" for scene in scenes])
    np.testing.assert_allclose(path.x[~circles, 0], 0.8, atol=1e-6)
    assert (np.abs(path.x[circles, 0] - 0.8) < 0.4).all()
    # Whatever the layout, scenes with the same motion are at the same point of it.
    for motion in ("bounces", "rises", "circles"):
        rows = np.array([scene.motion == motion for scene in scenes])
        heights = path.y[rows, 0] + (path.radius[rows] if motion == "bounces" else 0.0)
        assert np.ptp(heights) < 1e-6
