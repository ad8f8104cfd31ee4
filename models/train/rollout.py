"""The student makes its own context: a differentiable self-rollout through the KV cache.

As in Self Forcing (Huang et al. 2025, arXiv:2506.08009): chunk after chunk from noise, each ending
at a randomly drawn step of its schedule, with gradients through that step only. Latents that are gone
on from carry none, and the clean pass and all that the cache holds do only if the plan says so. A
prompt may change on the way: then the window's keys are rebuilt from its clean latents under the new
prompt, as the engine does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.interface import Kernels
from models.dense_kv import DenseKV
from models.policy import CachePolicy
from models.sampler import Sampler
from models.train.chance import below
from models.train.recipe import Recipe
from models.transformer import CausalWan, PromptKV


@dataclass(frozen=True, slots=True)
class Plan:
    """What one rollout does.

    Attributes:
        chunks: How many chunks it makes.
        graded: Gradients flow through the chunks from this index on.
        switch: Chunk from which the second prompt holds; None for no change.
        steps: Denoising steps of the schedule.
        context: The clean passes of chunks that later graded ones see carry gradients as well; wants
            a cache that keeps them.
    """

    chunks: int
    graded: int
    switch: int | None
    steps: int
    context: bool = False


def _step(
    network: CausalWan,
    latents: Tensor,
    timestep: float,
    prompt: PromptKV,
    cache: DenseKV,
    keep: bool,
) -> Tensor:
    times = torch.full(latents.shape[:2], timestep, device=latents.device)
    view = cache.view(latents.shape[1], keep=keep)
    flow: Tensor = network(latents, times, prompt, view)
    return flow.float()


def rebuild(
    network: CausalWan,
    chunks: Sequence[Tensor],
    prompt: PromptKV,
    policy: CachePolicy,
    fresh: DenseKV,
) -> DenseKV:
    """Fill the empty cache ``fresh`` with what the next chunk will see, under ``prompt``.

    Positions are window-relative, so the result is the cache of a stream that consists of
    the attended frames alone.
    """
    made = sum(chunk.shape[1] for chunk in chunks)
    seen = policy.attended(made + policy.chunk_frames)[: -policy.chunk_frames]
    frames = torch.cat(list(chunks), dim=1)[:, list(seen)]
    for part in frames.split(policy.chunk_frames, dim=1):
        _step(network, part, policy.context_timestep, prompt, fresh, keep=True)
    return fresh


def self_rollout(
    network: CausalWan,
    make_cache: Callable[[], DenseKV],
    policy: CachePolicy,
    sampler: Sampler,
    plan: Plan,
    prompts: tuple[PromptKV, PromptKV],
    shape: tuple[int, int, int, int],
    generator: torch.Generator,
    exits: torch.Generator,
) -> list[Tensor]:
    """Generate ``plan.chunks`` chunks.

    Args:
        network: The student.
        make_cache: Makes an empty cache.
        policy: Window and sink.
        sampler: The schedule.
        plan: Length, gradients, switch and steps.
        prompts: Keys and values of the first and the second prompt.
        shape: ``(B, C, H, W)`` of a latent frame.
        generator: Of the noise, on the latents' device.
        exits: Of the steps at which chunks end, on the host: a device is never waited for.

    Returns:
        Chunks ``[B, F, C, H, W]`` in float32; those from ``plan.graded`` on carry gradients.
    """
    batch, *frame = shape
    device = generator.device

    def draw() -> Tensor:
        return torch.randn(batch, policy.chunk_frames, *frame, generator=generator, device=device)

    seen = policy.attended((plan.graded + 1) * policy.chunk_frames)
    chunks: list[Tensor] = []
    prompt, cache = prompts[0], make_cache()
    for index in range(plan.chunks):
        if index == plan.switch:
            prompt = prompts[1]
            with torch.set_grad_enabled(plan.context):
                past = [chunk.detach() for chunk in chunks]
                cache = rebuild(network, past, prompt, policy, make_cache())
        schedule = sampler.schedule(plan.steps, index)
        count = len(schedule.sigmas)
        graded = index >= plan.graded
        leave = count - 1
        if graded:
            leave = below(count, exits)
        x = clean = draw()
        for step in range(leave + 1):
            with torch.set_grad_enabled(graded and step == leave):
                flow = _step(network, x, schedule.timesteps[step], prompt, cache, keep=False)
                clean = x - schedule.sigmas[step] * flow
            if step < leave:
                sigma = schedule.sigmas[step + 1]
                x = (1.0 - sigma) * clean + sigma * draw()
        chunks.append(clean)
        if index + 1 < plan.chunks:
            learned = graded or index * policy.chunk_frames in seen
            with torch.set_grad_enabled(plan.context and learned):
                _step(network, clean.detach(), policy.context_timestep, prompt, cache, keep=True)
    return chunks


def empty_cache(
    recipe: Recipe,
    device: torch.device,
    kernels: Kernels | None = None,
    *,
    attached: bool = False,
) -> DenseKV:
    """Make the cache of a rollout; see ``DenseKV``."""
    layers, head_dim = recipe.transformer.num_layers, recipe.transformer.head_dim
    policy = policy_of(recipe)
    return DenseKV(layers, head_dim, recipe.grid, policy, device, kernels, attached=attached)


def policy_of(recipe: Recipe) -> CachePolicy:
    """The cache policy the model is trained for and served with."""
    return CachePolicy(
        window_frames=recipe.window_frames,
        sink_frames=recipe.sink_frames,
        rope="window",
        chunk_frames=recipe.chunk_frames,
        context_timestep=0.0,
        recache="block_causal",
        keep_sink_on_recache=False,
    )
