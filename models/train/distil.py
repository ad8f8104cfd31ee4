"""Stage 4: self-rollout distillation with distribution matching, to few steps with one set of weights.

The student generates its own stream through the KV cache (``rollout.py``). Finished windows, the sink
and the last three chunks, are noised and scored twice: by the guided many-step teacher, and by a critic
that keeps learning the student's own distribution. Their difference is the gradient of the divergence
between the two distributions (distribution matching distillation, Yin et al. 2023, arXiv:2311.18828;
for causal students CausVid, arXiv:2412.07772, and Self Forcing, arXiv:2506.08009). Rollouts are longer
than the window, so that what comes after minutes of its own output is trained too. A teacher that was
trained causally only scores each chunk given the student's clean chunks before it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from models.tokenizer import END_ID
from models.train.chance import happens
from models.train.denoiser import Denoiser, add_noise, drop_prompts, per_frame, shifted
from models.train.initialise import guided
from models.train.optimise import Average, Optimiser
from models.train.recipe import DistilRecipe, Recipe, TeacherRecipe
from models.train.rollout import Plan, empty_cache, policy_of, self_rollout
from models.train.run_folder import Stage
from models.train.windows import CHUNKS, Prompts, WindowStore


@dataclass(frozen=True, slots=True)
class Scored:
    """A finished window of the student's own making.

    Attributes:
        latents: ``[B, F, C, H, W]`` sink and last three chunks, without gradients.
        first: First chunk that is scored; those before are given as they are.
        context: ``[B, P, text_dim]`` of the prompt that holds at its end.
        empty: The same for the empty prompt.
    """

    latents: Tensor
    first: int
    context: Tensor
    empty: Tensor


def make_plan(recipe: DistilRecipe, *, causal: bool, switched: bool, draw: torch.Generator) -> Plan:
    """Draw, on the host, the length of a rollout, its steps, and where the prompt changes if it does.

    Args:
        recipe: Lengths and steps.
        causal: Chunks are scored given those before: the first of the recent ones, with only the sink
            in sight, is then given.
        switched: Whether the prompt changes.
        draw: Random numbers, on the host.
    """

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    steps = recipe.steps_choices[integer(0, len(recipe.steps_choices))]
    # A third of the rollouts are the first window of a stream; it has the most viewers.
    short = recipe.min_chunks == CHUNKS and integer(0, 3) == 0
    chunks = CHUNKS if short else integer(recipe.min_chunks, recipe.max_chunks + 1)
    switch = integer(max(1, chunks - CHUNKS), chunks) if switched else None
    first = 0 if chunks == CHUNKS else chunks - CHUNKS + 1 + causal
    return Plan(chunks, max(first, switch or 0), switch, steps)


def window_of(chunks: list[Tensor], plan: Plan) -> tuple[Tensor, int]:
    """Gather the window at the end of a rollout and the first of its chunks to score."""
    window = torch.cat([chunks[0], *chunks[1 - CHUNKS :]], dim=1)
    return window, max(plan.graded - (plan.chunks - CHUNKS), 0 if plan.chunks == CHUNKS else 1)


Score = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Velocities of ``noisy [B, F, C, H, W]`` from (clean, noisy, sigma ``[B, F]``, context)."""


def _scorer(network: Denoiser, recipe: TeacherRecipe) -> Score:
    """How ``network`` scores a window: as a whole, or, if its teacher never saw one, chunk by chunk."""

    def whole(clean: Tensor, noisy: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        return network.velocity(noisy, sigma, context, causal=False)

    return network.forced_velocity if recipe.causal_only else whole


class DistributionMatcher:
    """The teacher's score and the critic's, over windows.

    Args:
        teacher: Frozen here; the critic starts as its copy.
        recipe: Of the run.
        generator: Of noise levels and noise.
        compiled: Compile both networks.
    """

    def __init__(
        self, teacher: Denoiser, recipe: Recipe, generator: torch.Generator, *, compiled: bool
    ) -> None:
        teacher.requires_grad_(False).eval()
        self.critic = copy.deepcopy(teacher).requires_grad_(True)
        self.critic.text.requires_grad_(False)
        self._real, self._fake = (
            torch.compile(score, dynamic=False) if compiled else score
            for score in (_scorer(network, recipe.teacher) for network in (teacher, self.critic))
        )
        self._recipe = recipe
        self._generator = generator

    def _noised(self, window: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noise the scored frames; returns noisy latents, sigma ``[B, F]``, noise, asked ``[B, F]``."""
        rows = window.shape[0]
        u = torch.rand(rows, 1, generator=self._generator, device=window.device)
        level = shifted(0.02 + 0.96 * u, self._recipe.teacher.shift)
        asked = (torch.arange(CHUNKS, device=window.device) >= first).float().expand(rows, CHUNKS)
        mask = per_frame(asked, self._recipe.chunk_frames)
        sigma = level * mask
        noise = torch.randn(window.shape, generator=self._generator, device=window.device)
        return add_noise(window, noise, sigma), sigma, noise, mask

    def generator_loss(self, window: Tensor, scored: Scored) -> tuple[Tensor, Tensor]:
        """Loss whose gradient by ``window`` is the matching direction, and its mean size."""
        guidance = self._recipe.distil.guidance
        with torch.no_grad():
            clean = window.detach()
            noisy, sigma, _, mask = self._noised(clean, scored.first)
            level = sigma[:, :, None, None, None]
            contexts = (scored.context, scored.empty)
            real = noisy - level * guided(self._real, (clean, noisy, sigma), contexts, guidance)
            mine = self._fake(clean, noisy, sigma, scored.context)
            fake = noisy - level * mine.float()
            weight = mask[:, :, None, None, None]
            size = weight.sum(dim=(1, 2, 3, 4), keepdim=True) * clean[0, 0].numel()
            scale = ((clean - real).abs() * weight).sum(dim=(1, 2, 3, 4), keepdim=True) / size
            direction = weight * (fake - real) / scale.clamp_min(1e-3)
        target = (clean - direction).detach()
        asked = mask.sum() * clean[0, 0].numel()
        loss = 0.5 * ((window.float() - target).square() * weight).sum() / asked
        return loss, direction.abs().mean()

    def critic_loss(self, scored: Scored) -> Tensor:
        """Flow-matching loss of the critic on the student's windows."""
        noisy, sigma, noise, mask = self._noised(scored.latents, scored.first)
        flow = self._fake(scored.latents, noisy, sigma, scored.context)
        error = (flow.float() - (noise - scored.latents)).square().mean(dim=(2, 3, 4))
        return (error * mask).sum() / mask.sum()


def train_distil(
    stage: Stage,
    recipe: Recipe,
    teacher: Denoiser,
    student: Denoiser,
    store: WindowStore,
    device: torch.device,
    *,
    compiled: bool = False,
) -> Denoiser:
    """Distil ``student`` in place; returns its average."""
    part = recipe.distil
    generator = torch.Generator(device).manual_seed(recipe.seed + 37)
    draw = torch.Generator().manual_seed(recipe.seed + 38)
    policy = policy_of(recipe)
    matcher = DistributionMatcher(teacher, recipe, generator, compiled=compiled)
    student.text.requires_grad_(False)
    # No momentum: the two networks chase each other, and an old gradient points at an old rival.
    optimiser, critic_optimiser = (
        Optimiser([network], peak, betas=(0.0, 0.95), weight_decay=0.0)
        for network, peak in (
            (student.transformer, part.peak),
            (matcher.critic.transformer, part.critic_peak),
        )
    )
    average = Average(student, part.decay)
    payload = stage.restore(
        device,
        student=student,
        critic=matcher.critic,
        average=average,
        optimiser=optimiser,
        critic_optimiser=critic_optimiser,
    )

    recent: list[Scored] = []
    for tick in stage.ticks(payload):
        switched = happens(part.switch_share, draw)
        plan = make_plan(part, causal=recipe.teacher.causal_only, switched=switched, draw=draw)
        prompts = store.prompts(part.batch, generator, changed=switched)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            contexts = _contexts(teacher, prompts)
            keys = (
                student.transformer.prompt_kv(contexts[0]),
                student.transformer.prompt_kv(contexts[1]),
            )
            chunks = self_rollout(
                student.transformer,
                partial(empty_cache, recipe, device),
                policy,
                recipe.sampler,
                plan,
                keys,
                (part.batch, *recipe.latent_frame),
                generator,
                draw,
            )
            window, first = window_of(chunks, plan)
            scored = Scored(window.detach(), first, contexts[1], contexts[2])
            loss, direction = matcher.generator_loss(window, scored)
        loss.backward()
        optimiser.step(tick.progress)
        average.update(student)
        recent = [*recent[-3:], scored]
        for update in range(part.critic_updates):
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
                fitted = matcher.critic_loss(recent[-1 - update % len(recent)])
            fitted.backward()
            critic_optimiser.step(tick.progress)
        if tick.step % 10 == 0:
            stage.report(
                direction=direction.item(), critic=fitted.item(), spread=window.std().item()
            )
    stage.draw_curve(("direction", "critic", "spread"))
    finished = average.module
    assert isinstance(finished, Denoiser)
    return finished


@torch.no_grad()
def _contexts(teacher: Denoiser, prompts: Prompts) -> tuple[Tensor, Tensor, Tensor]:
    """Embed the first prompt, the one that holds at the end, and the empty one."""
    everyone = torch.ones(prompts.ids.shape[0], dtype=torch.bool, device=prompts.ids.device)
    first = teacher.context(prompts.ids[:, 0], prompts.mask[:, 0])
    last = teacher.context(prompts.ids[:, 1], prompts.mask[:, 1])
    empty = drop_prompts(prompts.ids[:, 0], prompts.mask[:, 0], everyone, END_ID)
    return first, last, teacher.context(*empty)
