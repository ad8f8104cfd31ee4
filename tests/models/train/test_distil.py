import copy
import itertools
from dataclasses import replace

import pytest
import torch

from models.train.denoiser import Denoiser
from models.train.distil import DistributionMatcher, Scored, make_plan, window_of
from models.train.recipes import smoke, tiny
from models.train.rollout import Plan

RECIPE = smoke()


def scored(first: int = 0) -> Scored:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rows, text = 4, (RECIPE.text.text_len, RECIPE.text.dim)
    latents = normal(rows, 12, 16, RECIPE.height // 8, RECIPE.width // 8)
    return Scored(latents, first, normal(rows, *text), normal(rows, *text))


def matcher(guidance_one: bool, causal: bool = False) -> DistributionMatcher:
    recipe = RECIPE
    if guidance_one:
        recipe = replace(recipe, distil=replace(recipe.distil, guidance=1.0))
    if causal:
        recipe = replace(recipe, teacher=replace(recipe.teacher, bidirectional_share=0.0))
    torch.manual_seed(0)
    teacher = Denoiser(recipe, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    return DistributionMatcher(teacher, recipe, generator, compiled=False)


def test_equal_scores_pull_nowhere() -> None:
    case = scored()
    window = case.latents.clone().requires_grad_()
    loss, _ = matcher(guidance_one=True).generator_loss(window, case)
    loss.backward()
    assert window.grad is not None
    assert window.grad.abs().max() < 1e-6


def test_the_gradient_moves_the_window_from_the_critic_s_estimate_to_the_teacher_s() -> None:
    pair = matcher(guidance_one=True)
    with torch.no_grad():
        pair.critic.transformer.head.head.bias -= 1.0  # its x0 estimate is lower
    case = scored()
    window = case.latents.clone().requires_grad_()
    loss, _ = pair.generator_loss(window, case)
    loss.backward()
    assert window.grad is not None
    assert (window.grad <= 1e-7).float().mean() > 0.99  # descent raises the window


@pytest.mark.parametrize("causal", [False, True])
def test_a_later_chunk_says_nothing_of_an_earlier_one_where_the_teacher_is_causal(
    causal: bool,
) -> None:
    targets = []
    for late in (0.0, 1.0):
        case = scored()
        case.latents[:, 9:] += late
        window = case.latents.clone().requires_grad_()
        pair = matcher(guidance_one=False, causal=causal)
        with torch.no_grad():
            pair.critic.transformer.head.head.weight.mul_(1.5)
            pair.critic.transformer.blocks[0].ffn[0].weight.mul_(1.5)
        pair.generator_loss(window, case)[0].backward()
        assert window.grad is not None
        # A window's own error scales its whole direction.
        early = window.grad[:, :9].flatten(1)
        targets.append(early / early.norm(dim=1, keepdim=True))
    assert torch.allclose(*targets, rtol=0, atol=1e-5) == causal


def test_given_chunks_are_neither_noised_nor_pulled() -> None:
    pair = matcher(guidance_one=False)
    case = scored(first=2)
    window = case.latents.clone().requires_grad_()
    pair.generator_loss(window, case)[0].backward()
    assert window.grad is not None
    assert window.grad[:, :6].abs().max() == 0
    assert window.grad[:, 6:].abs().max() > 0


def test_the_critic_learns_the_windows_it_is_shown() -> None:
    pair = matcher(guidance_one=False)
    before = copy.deepcopy(pair.critic.state_dict())
    optimiser = torch.optim.Adam(pair.critic.transformer.parameters(), lr=3e-3)
    case = scored()
    losses = []
    for _ in range(12):
        loss = pair.critic_loss(case)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-3:]) < sum(losses[:3])
    assert torch.equal(before["text.norm.weight"], pair.critic.state_dict()["text.norm.weight"])


def test_plans_are_what_windows_can_score() -> None:
    generator = torch.Generator().manual_seed(0)
    part = tiny().distil
    for switched, causal in itertools.product((False, True), repeat=2):
        for _ in range(200):
            plan = make_plan(part, causal=causal, switched=switched, draw=generator)
            chunks = [torch.full((1, 3, 1, 1, 1), float(i)) for i in range(plan.chunks)]
            window, first = window_of(chunks, plan)
            frames = window[0, ::3, 0, 0, 0].tolist()
            assert frames == [0, *range(plan.chunks - 3, plan.chunks)]
            assert 0 <= first < 4
            # A causal teacher knows no chunk with only the sink before it, but the stream's second.
            assert not causal or first != 1 or plan.chunks == 4
            # Every scored chunk carries gradients, and was made under the last prompt.
            for index in frames[first:]:
                assert index >= plan.graded
                assert plan.switch is None or index >= plan.switch


def test_a_window_joins_the_sink_and_the_newest_chunks() -> None:
    chunks = [torch.full((1, 3, 1, 1, 1), float(i)) for i in range(4)]
    window, first = window_of(chunks, Plan(chunks=4, graded=0, switch=None, steps=4))
    assert window[0, ::3, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert first == 0
