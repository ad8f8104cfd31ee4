"""Figures: known values, intervals that shrink, shuffles that tell luck from skill."""

import numpy as np
import pytest

from models.train.evaluate_scores import (
    Figure,
    adherence,
    flicker,
    frechet,
    frechet_figure,
    mean_figure,
    share_of,
    wilson,
)
from models.train.world_scene import ATTRIBUTES, NAMES


def wanted(count, omit=()):
    return [
        {
            name: None if name in omit else values[i % len(values)]
            for name, values in ATTRIBUTES.items()
        }
        for i in range(count)
    ]


def test_wilson_gives_the_textbook_interval():
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 5)[1] == 1.0


def test_perfect_verdicts_score_one_and_shuffled_prompts_score_chance():
    expected = wanted(40)
    figures = adherence(expected, {name: [e[name] for e in expected] for name in NAMES})
    assert all(figure.value == 1.0 for figure in figures.values())
    assert 0.1 < figures["mean"].shuffled < 0.3
    assert figures["camera"].shuffled == pytest.approx(0.5, abs=0.15)


def test_attributes_not_asked_for_do_not_count():
    expected = wanted(10, omit=("motion",))
    seen = {name: [e[name] for e in expected] for name in NAMES if name != "motion"}
    figures = adherence(expected, seen | {"motion": ["left"] * 10})
    assert "motion" not in figures
    assert figures["mean"].value == 1.0


def test_the_mean_is_over_attributes_and_its_interval_holds_it():
    expected = wanted(64)
    seen = {name: [e[name] for e in expected] for name in NAMES}
    seen["time"] = ["never"] * 64
    figure = adherence(expected, seen)["mean"]
    assert figure.value == pytest.approx(6 / 7)
    assert figure.low <= figure.value <= figure.high


def test_the_distance_of_gaussians_is_the_known_one():
    generator = np.random.default_rng(0)
    first = generator.normal(0, 1, (20_000, 3))
    second = generator.normal(2, 3, (20_000, 3))
    assert frechet(first, first) == pytest.approx(0, abs=1e-6)
    assert frechet(first, second) == pytest.approx(3 * (4 + 4), rel=0.05)


def test_the_distance_grows_with_a_shift_and_its_interval_holds_it():
    generator = np.random.default_rng(1)
    reference = generator.normal(0, 1, (200, 48)).astype(np.float32)
    near = frechet_figure(generator.normal(0, 1, (200, 48)).astype(np.float32), reference)
    far = frechet_figure(generator.normal(1, 1, (200, 48)).astype(np.float32), reference)
    assert far.value > 2 * near.value
    assert far.low <= far.value <= far.high


def test_a_jump_at_every_seam_is_seen_as_flicker():
    frames = np.arange(45)[:, None, None, None] * np.ones((1, 4, 4, 3))
    steady = frames.astype(np.uint8)
    jumps = np.where(np.arange(45) >= 9, 1 + (np.arange(45) - 9) // 12, 0)
    jumpy = (frames + 3 * jumps[:, None, None, None]).astype(np.uint8)
    assert flicker([steady] * 3, 9, 12)[2].value == pytest.approx(1.0)
    at_seams, inside, ratio = flicker([jumpy] * 3, 9, 12)
    assert (at_seams, inside) == (4.0, 1.0)
    assert ratio.value == pytest.approx(4.0)


def test_figures_become_plain_json():
    assert share_of([], []).to_json() == {
        "value": None, "low": 0.0, "high": 1.0, "n": 0, "shuffled": None
    }  # fmt: skip
    assert mean_figure([1.0, 3.0]).to_json()["value"] == 2.0
    assert Figure(0.123456, 0.1, 0.2, 3, 0.5).to_json()["value"] == 0.1235
