"""Self-rollout against the one clip that a prompt describes.

The network makes its own stream through the KV cache (``rollout.py``, after Self Forcing, Huang et al.
2025, arXiv:2506.08009): its own context, its own states between steps, its own changes of prompt. Where a
prompt says all that there is to see, the stream has one right answer, so the estimate of the graded
step is compared with the render itself; no teacher and no critic are asked (``distil.py`` asks both). Where a
prompt leaves things open this would learn their mean.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from models.train.denoiser import Denoiser, frame_errors
from models.train.lean import LeanKernels
from models.train.optimise import Average, Optimiser
from models.train.recipe import Recipe
from models.train.rollout import Plan, empty_cache, policy_of, self_rollout
from models.train.run_folder import Stage
from models.train.streams import StreamBatch, StreamStore


def mismatch(made: Tensor, batch: StreamBatch, subject_weight: float) -> Tensor:
    """Mean squared error ``[F]`` of each latent frame, the subject's surroundings weighted.

    Args:
        made: ``[B, F, C, H, W]``, the first frames of the streams.
        batch: What should be seen.
        subject_weight: The error around the subject counts ``1 + subject_weight`` times.
    """
    frames = made.shape[1]
    target, cover = batch.latents[:, :frames], batch.cover[:, :frames]
    return frame_errors(made, target, cover, subject_weight).mean(dim=0)


def train_unroll(
    stage: Stage,
    recipe: Recipe,
    student: Denoiser,
    store: StreamStore,
    device: torch.device,
    *,
    on_tick: Callable[[int], None] = lambda step: None,
) -> Denoiser:
    """Train ``student`` in place on its own streams; returns its average.

    Args:
        stage: Counts and keeps.
        recipe: Of the run.
        student: What is trained, text encoder included.
        store: Where streams come from.
        device: Where it computes.
        on_tick: Called with the number of every step.
    """
    part = recipe.unroll
    generator = torch.Generator(device).manual_seed(recipe.seed + 41)
    policy, sampler = policy_of(recipe), recipe.unrolled
    optimiser = Optimiser([student], part.peak, muon=True)
    average = Average(student, part.decay)
    payload = stage.restore(device, student=student, average=average, optimiser=optimiser)

    make_cache = partial(empty_cache, recipe, device, LeanKernels(), attached=True)
    sums, reports = torch.zeros(part.chunks, device=device), 0
    for tick in stage.ticks(payload):
        on_tick(tick.step)
        batch = store.sample(part.batch, generator)
        choice = torch.randint(len(part.steps_choices), (), generator=generator, device=device)
        steps = part.steps_choices[int(choice)]
        plan = Plan(part.chunks, 0, batch.switch, steps, context=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            ids, mask = batch.prompts.ids, batch.prompts.mask
            first = student.transformer.prompt_kv(student.context(ids[:, 0], mask[:, 0]))
            second = first
            if batch.switch is not None:
                second = student.transformer.prompt_kv(student.context(ids[:, 1], mask[:, 1]))
            chunks = self_rollout(
                student.transformer,
                make_cache,
                policy,
                sampler,
                plan,
                (first, second),
                (part.batch, *recipe.latent_frame),
                generator,
            )
        errors = mismatch(torch.cat(chunks, dim=1), batch, part.subject_weight)
        errors.mean().backward()
        norm = optimiser.step(tick.progress)
        average.update(student)
        sums += errors.detach().unflatten(0, (part.chunks, -1)).mean(dim=1)
        reports += 1
        if tick.step % 20 == 19:
            means = (sums / reports).tolist()
            stage.report(
                first=means[0],
                second=means[1],
                last=means[-1],
                mean=sum(means) / len(means),
                norm=norm.item(),
            )
            sums, reports = torch.zeros_like(sums), 0
    stage.draw_curve(("first", "second", "last", "mean"))
    finished = average.module
    assert isinstance(finished, Denoiser)
    return finished
