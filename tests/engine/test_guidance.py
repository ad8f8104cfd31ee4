"""Guidance: two passes a step, and none of it in the cache."""

import pytest
import torch

from engine.batch import ChunkBatch, Guidance
from engine.denoise import denoise
from engine.generator import guidance_of
from models.random_model import random_model
from models.sampler import Sampler, Schedule
from models.transformer import PromptKV
from tests.fakes import tiny_test_entry

SHAPE = (2, 3, 16, 4, 4)
SCHEDULE = Schedule((1000.0, 500.0), (1.0, 0.5))


def prompt_of(value: float, rows: int) -> PromptKV:
    part = (torch.full((rows, 1, 1, 1), value),)
    return PromptKV(part, part)


class Recorder:
    """A network whose velocity is its prompt's value; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def __call__(self, latents, timesteps, prompt, kv):
        value = prompt.k[0][:, :1]
        self.calls.append((float(timesteps[0, 0]), float(value[0])))
        return value.expand(-1, 3, 1, 1).unsqueeze(-1).expand(SHAPE).clone()


def run(guidance: Guidance | None) -> tuple[torch.Tensor, list[tuple[float, float]]]:
    network = Recorder()
    batch = ChunkBatch(
        kv=None,  # type: ignore[arg-type]
        prompt=prompt_of(3.0, 2),
        schedule=SCHEDULE,
        draw=lambda step: torch.zeros(SHAPE),
        context_timestep=0.0,
        guidance=guidance,
    )
    return denoise(network, batch), network.calls


def test_every_step_has_two_passes_and_the_clean_pass_one():
    _, calls = run(Guidance(2.0, prompt_of(1.0, 1)))
    assert calls == [(1000, 3), (1000, 1), (500, 3), (500, 1), (0, 3)]


def test_the_velocity_goes_beyond_the_prompt_s_by_the_scale():
    guided, _ = run(Guidance(2.0, prompt_of(1.0, 1)))
    # The last step starts from half of the first estimate, -5, and takes off half of 5 again.
    torch.testing.assert_close(guided, torch.full(SHAPE, -5.0))
    plain, calls = run(None)
    torch.testing.assert_close(plain, torch.full(SHAPE, -3.0))
    assert len(calls) == 3


def test_a_model_is_guided_when_its_sampler_asks():
    assert guidance_of(random_model(tiny_test_entry(), 0)) is None
    entry = tiny_test_entry(sampler=Sampler(guidance=2.5))
    guidance = guidance_of(random_model(entry, 0))
    assert guidance is not None
    assert guidance.scale == 2.5
    assert guidance.empty.k[0].shape[0] == 1


def test_guidance_below_one_is_refused():
    with pytest.raises(ValueError, match="1 is none"):
        Sampler(guidance=0.5)
