from collections import Counter
from dataclasses import replace

import pytest
import torch

from models.train.recipes import smoke
from models.train.teacher import Levels, _kind, chunk_levels, rehearsal_levels
from tests.models.train.makers import store

RECIPE = smoke()


def levels(share: float, seed: int = 0) -> Levels:
    recipe = replace(RECIPE, teacher=replace(RECIPE.teacher, served_share=share))
    return Levels.of(recipe, torch.Generator().manual_seed(seed))


def test_served_levels_are_those_that_the_sampler_passes_through() -> None:
    drawn = levels(1.0)(4000)
    served = torch.tensor(RECIPE.undistilled.schedule().sigmas)
    found, counts = drawn.unique(return_counts=True)
    assert torch.equal(found, served.sort().values)
    assert counts.min() > 800


def test_the_share_of_served_levels_is_kept_and_none_lies_below_them() -> None:
    drawn = levels(0.7)(4000)
    served = torch.tensor(RECIPE.undistilled.schedule().sigmas)
    lowest, shift = served.min().item(), RECIPE.teacher.shift
    # Free levels below the lowest served one are drawn as that.
    below = lowest / (shift - (shift - 1) * lowest)
    free = (~torch.isin(drawn, served)).float().mean().item()
    assert free == pytest.approx(0.3 * (1 - below), abs=0.03)
    assert drawn.min() == served.min()
    assert drawn.max() <= 1


def test_without_served_levels_any_level_is_drawn() -> None:
    drawn = levels(0.0)(4000)
    assert 0 < drawn.min() < min(RECIPE.undistilled.schedule().sigmas)
    assert drawn.max() <= 1


@pytest.mark.parametrize("causal", [True, False])
def test_given_chunks_are_clean_and_an_asked_one_is_noisy(causal: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    filled = store(RECIPE, [(0, 0), (2, 1), (3, 3)])
    for _ in range(20):
        batch = filled.sample(8, generator)
        made = chunk_levels(batch, RECIPE.teacher, levels(0.5), causal=causal, generator=generator)
        for row, first in zip(made, batch.first.tolist(), strict=True):
            assert (row[:first] == 0).all()
            assert (row[first:] > 0).any()


def test_no_far_chunk_is_asked_for_with_only_its_sink_in_sight() -> None:
    generator = torch.Generator().manual_seed(2)
    filled = store(RECIPE, [(0, 0), (2, 1), (3, 3)])
    for _ in range(20):
        batch = filled.sample(8, generator)
        made = chunk_levels(batch, RECIPE.teacher, levels(0.5), causal=True, generator=generator)
        assert (made[batch.is_far, :2] == 0).all()
        assert (made[batch.is_far, 2:] > 0).any(dim=1).all()


def test_a_rehearsal_leaves_the_old_scene_alone_and_lets_a_far_motion_show() -> None:
    generator = torch.Generator().manual_seed(3)
    filled = store(RECIPE, [(0, 0), (2, 1), (3, 3)])
    lowest = min(RECIPE.undistilled.schedule().sigmas)
    for _ in range(20):
        batch = filled.sample(8, generator)
        made = rehearsal_levels(batch, levels(1.0))
        given = torch.arange(4) < batch.first[:, None]
        assert (made[given] == 0).all()
        assert (made[~given] > 0).all()
        assert (made[batch.is_far, 1] <= lowest).all()


def test_every_twenty_steps_keep_the_shares_of_a_recipe() -> None:
    part = replace(
        RECIPE.teacher, opening_share=0.4, bidirectional_share=0.25, own_share=1 / 3, batch=2
    )
    for start in (0, 20, 1340):
        kinds = Counter(_kind(step, part) for step in range(start, start + 20))
        assert kinds == {"opening": 8, "bidirectional": 3, "own": 3, "causal": 6}
