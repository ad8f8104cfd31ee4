"""Schedules equal to the reference's, and the two conversions between latents and noise."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.sampler import Sampler, implied_noise, renoise, x0_from_velocity

ROLLOUTS = Path(__file__).parents[1] / "golden" / "rollouts" / "cases.json"
CASES = json.loads(ROLLOUTS.read_text())


@pytest.mark.parametrize("name", list(CASES))
def test_schedules_equal_the_reference(name):
    case = CASES[name]
    schedule = Sampler(
        case["timestep_shift"],
        tuple(float(step) for step in case["denoising_step_list"]),
        case["warp_denoising_step"],
    ).schedule()
    assert schedule.timesteps == pytest.approx(case["timesteps"], rel=1e-6)
    assert schedule.sigmas == pytest.approx(case["sigmas"], rel=1e-6)
    assert len(schedule) == len(case["timesteps"])


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(5.0, [1000, 937.5, 833.3333, 625]), (8.0, [1000, 960, 888.889, 727.273])],
)
def test_published_warped_timesteps_hold(shift, expected):
    assert Sampler(shift).schedule().timesteps == pytest.approx(expected, abs=1e-3)


def test_the_step_to_nothing_has_the_smallest_sigma_of_the_table():
    schedule = Sampler(5.0, (1000.0, 0.0)).schedule()
    assert schedule.timesteps[-1] == 0
    assert schedule.sigmas[-1] == pytest.approx(0.00498, abs=1e-5)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (1, [1000]),
        (2, [1000, 500]),
        (3, [1000, 750, 250]),
        (4, [1000, 750, 500, 250]),
        (5, [1000, 800, 600, 400, 200]),
    ],
)
def test_fewer_steps_are_some_of_the_trained_ones(wanted, expected):
    assert Sampler(1.0, warp=False).schedule(wanted).timesteps == pytest.approx(expected)


def test_krea_spaces_its_steps_from_1000_to_0():
    sampler = Sampler(5.0, (1000.0, 750.0, 500.0, 250.0, 0.0), spacing="linspace")
    assert sampler.schedule().timesteps == pytest.approx([1000, 937.5, 833.3333, 625, 0], abs=1e-3)
    assert sampler.schedule(5) == sampler.schedule()
    four = sampler.schedule(4)
    assert four.timesteps == pytest.approx([1000, 908.8, 714.0, 0], abs=0.05)


def test_the_first_chunk_may_have_steps_of_its_own():
    sampler = Sampler(steps=(1000.0,), first_chunk_steps=(1000.0, 750.0, 500.0, 250.0))
    assert len(sampler.schedule(chunk_index=0)) == 4
    assert len(sampler.schedule(chunk_index=1)) == 1
    assert len(sampler.schedule(2, chunk_index=0)) == 2


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(),
        Sampler(steps=(1000.0, 500.0), first_chunk_steps=(1000.0, 750.0, 500.0, 250.0)),
        Sampler(steps=(1000.0,), first_chunk_steps=(1000.0, 750.0, 500.0, 250.0)),
        Sampler(steps=(1000.0, 500.0), spacing="linspace"),
    ],
)
def test_the_passes_of_a_chunk_can_be_counted_before_and_asked_for_again(sampler):
    for wanted in range(1, 7):
        for chunk in (0, 1):
            schedule = sampler.schedule(wanted, chunk)
            passes = sampler.passes(wanted, chunk)
            assert passes == len(schedule)
            assert sampler.schedule(passes, chunk) == schedule
        assert passes == wanted


def test_the_usual_number_of_steps_is_taken_when_none_is_asked_for():
    sampler = Sampler(first_chunk_steps=(1000.0, 800.0, 600.0, 400.0), usual_steps=2)
    assert (sampler.num_steps, Sampler().num_steps) == (2, 4)
    assert sampler.schedule(chunk_index=1) == Sampler().schedule(2)
    assert len(sampler.schedule(chunk_index=0)) == 2
    assert sampler.schedule(4, chunk_index=1) == Sampler().schedule()


def test_the_model_s_own_number_keeps_its_first_chunk_whatever_is_usual():
    two = Sampler(steps=(1000.0, 500.0), first_chunk_steps=(1000.0, 750.0, 500.0, 250.0))
    for sampler in (two, replace(two, usual_steps=2), replace(two, usual_steps=1)):
        assert len(sampler.schedule(2, chunk_index=0)) == 4
    assert len(replace(two, usual_steps=2).schedule(chunk_index=0)) == 4
    assert len(replace(two, usual_steps=1).schedule(chunk_index=0)) == 1


@pytest.mark.parametrize("usual", [0, 5])
def test_a_usual_number_that_the_model_was_not_made_for_is_refused(usual):
    with pytest.raises(ValueError, match=f"{usual} steps as the usual number; .* use 1 to 4"):
        Sampler(usual_steps=usual)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("wanted", [1, 2, 7, 50])
def test_noise_levels_descend_from_pure_noise(shift, wanted):
    schedule = Sampler(shift).schedule(wanted)
    assert schedule.sigmas[0] == 1.0
    assert list(schedule.sigmas) == sorted(schedule.sigmas, reverse=True)
    assert len(set(schedule.sigmas)) == wanted


@pytest.mark.parametrize("steps", [(), (500.0, 1000.0), (1000.0, 1000.0), (1001.0,), (-1.0,)])
def test_steps_that_do_not_descend_are_refused(steps):
    with pytest.raises(ValueError, match="must descend"):
        Sampler(steps=steps)


@pytest.mark.parametrize("wanted", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(wanted):
    with pytest.raises(ValueError, match="are possible"):
        Sampler().schedule(wanted)


def test_a_shift_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="shift 0"):
        Sampler(shift=0.0)


@pytest.mark.parametrize("sigma", [0.7, torch.tensor([0.2, 0.9]), torch.rand(2, 3)])
def test_the_estimate_undoes_the_noise(sigma):
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 3, 4, 2, 2, generator=generator)
    noisy = renoise(x0, noise, sigma)
    torch.testing.assert_close(x0_from_velocity(noisy, noise - x0, sigma), x0, atol=1e-6, rtol=0)


def test_rows_and_frames_have_their_own_sigma():
    x0, noise = torch.zeros(2, 2, 1, 1, 1), torch.ones(2, 2, 1, 1, 1)
    by_row = renoise(x0, noise, torch.tensor([0.25, 0.5]))
    assert by_row.flatten().tolist() == [0.25, 0.25, 0.5, 0.5]
    by_frame = renoise(x0, noise, torch.tensor([[0.25, 0.5], [0.75, 1.0]]))
    assert by_frame.flatten().tolist() == [0.25, 0.5, 0.75, 1.0]


def test_a_step_without_fresh_noise_is_eulers():
    generator = torch.Generator().manual_seed(0)
    x, velocity = (torch.randn(2, 3, 4, 2, 2, generator=generator) for _ in range(2))
    clean = x0_from_velocity(x, velocity, 0.8)
    noise = implied_noise(x, velocity, 0.8)
    torch.testing.assert_close(renoise(clean, noise, 0.3), x - 0.5 * velocity)


def test_a_schedule_says_whether_its_noise_is_fresh():
    for fresh in (True, False):
        assert Sampler(fresh_noise=fresh).schedule(2).fresh_noise is fresh
