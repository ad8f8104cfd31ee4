"""Self-rollout against the one clip that a prompt describes.

The network makes its own stream through the KV cache (``rollout.py``, after Self Forcing, Huang et al.
2025, arXiv:2506.08009): its own context, its own states between steps, its own changes of prompt. Where a
prompt says all that there is to see, the stream has one right answer, so the estimate of the graded
step is compared with the render itself; no teacher and no critic are asked (``distil.py`` asks both). Where a
prompt leaves things open this would learn their mean.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from models.train.chance import below
from models.train.denoiser import Denoiser, frame_errors
from models.train.lean import LeanKernels
from models.train.optimise import Average, Optimiser
from models.train.recipe import Recipe
from models.train.rollout import Plan, empty_cache, policy_of, self_rollout
from models.train.run_folder import Stage
from models.train.streams import StreamBatch, StreamStore
from models.transformer import PromptKV


def mismatch(made: Tensor, batch: StreamBatch, subject_weight: float) -> tuple[Tensor, Tensor]:
    """Mean squared errors of latent frames ``[F]`` and of the change from each to the next ``[F - 1]``.

    Args:
        made: ``[B, F, C, H, W]``, the last frames of the streams.
        batch: What should be seen.
        subject_weight: The error around the subject counts ``1 + subject_weight`` times.
    """
    frames = made.shape[1]
    target, cover = batch.latents[:, -frames:], batch.cover[:, -frames:]
    errors = frame_errors(made, target, cover, subject_weight)
    changes = frame_errors(made.diff(dim=1), target.diff(dim=1), cover[:, 1:], subject_weight)
    return errors.mean(dim=0), changes.mean(dim=0)


def prompts_of(student: Denoiser, batch: StreamBatch) -> tuple[PromptKV, PromptKV]:
    """Keys and values of a batch's prompts before and after the change, the same without one."""
    ids, mask = batch.prompts.ids, batch.prompts.mask
    first = student.transformer.prompt_kv(student.context(ids[:, 0], mask[:, 0]))
    if batch.switch is None:
        return first, first
    return first, student.transformer.prompt_kv(student.context(ids[:, 1], mask[:, 1]))


def train_unroll(
    stage: Stage,
    recipe: Recipe,
    student: Denoiser,
    make_store: Callable[[int], StreamStore],
    device: torch.device,
) -> Denoiser:
    """Train ``student`` in place on its own streams; returns its average.

    In bfloat16 the live weights are that, with float32 masters.

    Args:
        stage: Counts and keeps.
        recipe: Of the run.
        student: What is trained, text encoder included.
        make_store: Makes what streams come from, given the step at which training goes on.
        device: Where it computes.
    """
    part = recipe.unroll
    average = Average(student, part.decay)
    if recipe.bfloat16:
        student.to(torch.bfloat16)
    optimiser = Optimiser([student], part.peak, muon=True)
    payload = stage.restore(device, student=student, average=average, optimiser=optimiser)
    store = make_store(stage.step)
    # What is drawn on the host decides the shape of a step, and a device is never waited for.
    generator = torch.Generator(device).manual_seed(recipe.seed + 41 + stage.step)
    draw = torch.Generator().manual_seed(recipe.seed + 43 + stage.step)
    policy, sampler = policy_of(recipe), recipe.unrolled

    make_cache = partial(empty_cache, recipe, device, LeanKernels(), attached=True)
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    for tick in stage.ticks(payload):
        if tick.step % part.refresh_every == 0:
            store.refresh()
        batch = store.sample(part.batch, draw)
        steps = part.steps_choices[below(len(part.steps_choices), draw)]
        length = batch.latents.shape[1] // recipe.chunk_frames
        plan = Plan(length, length - part.chunks, batch.switch, steps, context=True)
        chunks = self_rollout(
            student.transformer,
            make_cache,
            policy,
            sampler,
            plan,
            prompts_of(student, batch),
            (part.batch, *recipe.latent_frame),
            generator,
            draw,
        )
        made = torch.cat(chunks[plan.graded :], dim=1)
        errors, changes = mismatch(made, batch, part.subject_weight)
        (errors.mean() + part.change_weight * changes.mean()).backward()
        norm = optimiser.step(tick.progress)
        average.update(student)
        by_chunk = errors.detach().unflatten(0, (part.chunks, -1)).mean(dim=1)
        kind = "late" if plan.graded else "early"
        sums[kind] = sums.get(kind, torch.zeros_like(by_chunk)) + by_chunk
        sums["change"] = sums.get("change", 0.0) + changes.detach().mean()
        counts.update((kind, "change"))
        if tick.step % 20 == 19:
            means = {kind: total / counts[kind] for kind, total in sums.items()}
            values = {kind: total.mean().item() for kind, total in means.items()}
            if "early" in means:
                by_place = means["early"].tolist()
                values |= {"first": by_place[0], "second": by_place[1], "last": by_place[-1]}
            stage.report(**values, norm=norm.item())
            sums, counts = {}, Counter()
    stage.draw_curve(("early", "late", "first", "second", "last", "change"))
    finished = average.module
    assert isinstance(finished, Denoiser)
    return finished
