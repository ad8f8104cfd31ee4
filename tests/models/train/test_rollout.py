import torch

from models.dense_kv import DenseKV
from models.train.denoiser import Denoiser
from models.train.recipes import smoke
from models.train.rollout import Plan, policy_of, self_rollout

RECIPE = smoke()
POLICY = policy_of(RECIPE)
SHAPE = (2, 16, RECIPE.height // 8, RECIPE.width // 8)


def network() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(RECIPE, torch.device("cpu"))


def roll(denoiser: Denoiser, plan: Plan, seed: int = 5, second: int = 1) -> list[torch.Tensor]:
    def make_cache() -> DenseKV:
        config = RECIPE.transformer
        return DenseKV(
            config.num_layers, config.head_dim, RECIPE.grid, POLICY, "cpu", attached=plan.context
        )

    contexts = torch.randn(
        3, 2, RECIPE.text.text_len, RECIPE.text.dim, generator=torch.Generator().manual_seed(9)
    )
    prompts = (
        denoiser.transformer.prompt_kv(contexts[0]),
        denoiser.transformer.prompt_kv(contexts[second]),
    )
    return self_rollout(
        denoiser.transformer,
        make_cache,
        POLICY,
        RECIPE.sampler,
        plan,
        prompts,
        SHAPE,
        torch.Generator().manual_seed(seed),
        torch.Generator().manual_seed(seed),
    )


def test_only_graded_chunks_carry_gradients() -> None:
    chunks = roll(network(), Plan(chunks=6, graded=4, switch=None, steps=2))
    assert [chunk.requires_grad for chunk in chunks] == [False] * 4 + [True] * 2


def test_gradients_reach_every_parameter_of_the_blocks() -> None:
    denoiser = network()
    chunks = roll(denoiser, Plan(chunks=2, graded=0, switch=None, steps=1))
    chunks[1].square().sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for p in denoiser.transformer.blocks.parameters()
    )


def test_what_is_kept_of_earlier_chunks_is_learned_if_the_plan_says_so() -> None:
    denoiser = network()

    def gradients(context: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        denoiser.zero_grad()
        plan = Plan(chunks=2, graded=0, switch=None, steps=1, context=context)
        second = roll(denoiser, plan)[1]
        second.square().sum().backward()
        made = [p.grad for p in denoiser.transformer.blocks.parameters()]
        return second.detach(), [gradient.clone() for gradient in made if gradient is not None]

    (one, alone), (other, learned) = gradients(False), gradients(True)
    assert torch.equal(one, other)
    assert any(not torch.allclose(a, b) for a, b in zip(alone, learned, strict=True))


def test_a_switch_changes_no_chunk_before_it() -> None:
    denoiser = network()
    plan = Plan(chunks=5, graded=5, switch=3, steps=1)
    one, other = roll(denoiser, plan, second=1), roll(denoiser, plan, second=2)
    for index in range(5):
        assert torch.equal(one[index], other[index]) == (index < 3)


def test_long_rollouts_stay_inside_the_window() -> None:
    chunks = roll(network(), Plan(chunks=8, graded=8, switch=6, steps=1))
    assert len(chunks) == 8
    assert all(torch.isfinite(chunk).all() for chunk in chunks)
