"""The student's start: the teacher's own trajectories."""

import pytest
import torch

from models.train.initialise import guided, ode_sigmas, trajectory


class Straight:
    """A teacher whose velocity is known: noise minus one target for every row of a context."""

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise = noise
        self.seen: list[tuple[int, float]] = []

    def forced_velocity(
        self, clean: torch.Tensor, noisy: torch.Tensor, sigma: torch.Tensor, context: torch.Tensor
    ) -> torch.Tensor:
        assert clean.shape == noisy.shape
        copies = noisy.shape[0] // self.noise.shape[0]
        self.seen.append((copies, round(sigma[0, 0].item(), 6)))
        target = context[:, :1, :1, None, None].expand_as(noisy)
        return self.noise.repeat(copies, 1, 1, 1, 1) - target


def contexts(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    prompts = torch.arange(1.0, rows + 1)[:, None, None].expand(rows, 5, 8)
    return prompts, torch.zeros(rows, 5, 8)


@pytest.mark.parametrize(("guidance", "copies"), [(1.0, 1), (2.5, 2)])
def test_a_trajectory_ends_where_the_guided_teacher_points(guidance: float, copies: int) -> None:
    noise = torch.randn(2, 12, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    teacher = Straight(noise)
    sigmas = ode_sigmas((1.0, 0.5), 2)
    states = trajectory(
        teacher,
        torch.zeros_like(noise),
        noise,
        contexts(2),
        sigmas,
        guidance,  # type: ignore[arg-type]
    )
    end = guidance * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1).expand_as(noise)
    torch.testing.assert_close(states[-1], end, atol=1e-5, rtol=0)
    for sigma, state in zip(sigmas, states, strict=False):
        torch.testing.assert_close(state, sigma * noise + (1 - sigma) * end, atol=1e-5, rtol=0)
    assert teacher.seen == [(copies, sigma) for sigma in sigmas]


def test_a_guidance_of_one_asks_nothing_of_the_empty_prompt() -> None:
    asked = []

    def velocity(x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        asked.append((context, len(x) // 3))
        return context.mean(dim=(1, 2))

    (prompts, empty), inputs = contexts(3), (torch.zeros(3, 2),)
    plain = guided(velocity, inputs, (prompts, empty), 1.0)
    assert torch.equal(plain, torch.tensor([1.0, 2.0, 3.0]))
    ((context, copies),) = asked
    assert copies == 1
    assert torch.equal(context, prompts)
    strong = guided(velocity, inputs, (prompts, empty), 3.0)
    assert torch.equal(strong, torch.tensor([3.0, 6.0, 9.0]))


def test_the_grid_of_levels_holds_those_that_the_student_visits() -> None:
    assert ode_sigmas((1.0, 0.6), 2) == pytest.approx([1.0, 0.8, 0.6, 0.3])
