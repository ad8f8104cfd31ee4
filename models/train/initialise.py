"""Stage 3: causal initialisation of the few-step student from the teacher's ODE trajectories.

As in CausVid (Yin et al. 2024, arXiv:2412.07772): integrate the guided teacher's probability-flow ODE
from noise, chunk by chunk given clean context, keep the points the student will visit, and regress
from each of them to the trajectory's end. Clean context makes one forward serve all four chunks.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.tokenizer import END_ID
from models.train.denoiser import Denoiser, drop_prompts, per_frame
from models.train.optimise import Average, Optimiser
from models.train.recipe import Recipe
from models.train.run_folder import Stage
from models.train.windows import WindowBatch, WindowStore


def guided(
    velocity: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    contexts: tuple[Tensor, Tensor],
    guidance: float,
) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

    Args:
        velocity: Predicts from the inputs and a context, row by row.
        inputs: ``[B, ...]`` each.
        contexts: Embeddings of the prompts and of the empty prompt, ``[B, P, text_dim]`` each.
        guidance: Its scale; 1 asks nothing of the empty prompt.

    Returns:
        Like a velocity, in float32.
    """
    if guidance == 1.0:
        return velocity(*inputs, contexts[0]).float()
    twice = [torch.cat((part, part)) for part in inputs]
    conditional, unconditional = velocity(*twice, torch.cat(contexts)).float().chunk(2)
    return unconditional + guidance * (conditional - unconditional)


@torch.no_grad()
def trajectory(
    teacher: Denoiser,
    clean: Tensor,
    noise: Tensor,
    contexts: tuple[Tensor, Tensor],
    sigmas: list[float],
    guidance: float,
) -> list[Tensor]:
    """Integrate the guided ODE for every chunk given the clean chunks before it.

    Args:
        teacher: Predicts velocities.
        clean: ``[B, F, C, H, W]`` real latents, the context.
        noise: The same shape.
        contexts: Embeddings of the prompts and of the empty prompt, ``[B, P, text_dim]`` each.
        sigmas: Falling levels from 1; the last step goes to 0.
        guidance: Guidance scale.

    Returns:
        The state at each sigma, then the end: ``len(sigmas) + 1`` tensors like ``noise``.
    """
    states = [noise]
    for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        x = states[-1]
        level = torch.full(x.shape[:2], sigma, device=x.device)
        flow = guided(teacher.forced_velocity, (clean, x, level), contexts, guidance)
        states.append(x + (after - sigma) * flow)
    return states


def ode_sigmas(visited: tuple[float, ...], between: int) -> list[float]:
    """A falling grid that contains ``visited`` and has ``between`` equal steps from each to the next."""
    ends = [*visited[1:], 0.0]
    return [
        start + (end - start) * part / between
        for start, end in zip(visited, ends, strict=True)
        for part in range(between)
    ]


def train_initialise(
    stage: Stage,
    recipe: Recipe,
    teacher: Denoiser,
    student: Denoiser,
    store: WindowStore,
    device: torch.device,
) -> Denoiser:
    """Regress ``student`` (a copy of the teacher) onto ODE end points; returns its average."""
    part = recipe.initialise
    generator = torch.Generator(device).manual_seed(recipe.seed + 23)
    teacher.requires_grad_(False).eval()
    student.text.requires_grad_(False)
    optimiser = Optimiser([student.transformer], part.peak)
    average = Average(student, part.decay)
    payload = stage.restore(device, student=student, average=average, optimiser=optimiser)

    visited = recipe.sampler.schedule(None, 0).sigmas
    between = max(part.ode_steps // len(visited), 1)
    sigmas = ode_sigmas(visited, between)
    pending: list[tuple[float, Tensor, Tensor, Tensor, WindowBatch]] = []
    for tick in stage.ticks(payload):
        if not pending:
            batch = store.sample(part.batch, generator)
            noise = torch.randn(batch.latents.shape, generator=generator, device=device)
            everyone = torch.ones(part.batch, dtype=torch.bool, device=device)
            empty = drop_prompts(batch.ids, batch.mask, everyone, END_ID)
            with (
                torch.no_grad(),
                torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16),
            ):
                contexts = (teacher.context(batch.ids, batch.mask), teacher.context(*empty))
                states = trajectory(teacher, batch.latents, noise, contexts, sigmas, part.guidance)
            pending = [
                (sigma, states[i * between], states[-1], contexts[0], batch)
                for i, sigma in enumerate(visited)
            ]
        sigma, x, end, context, batch = pending.pop()
        level = torch.full(x.shape[:2], sigma, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            flow = student.forced_velocity(batch.latents, x, level, context)
        error = (x - sigma * flow.float() - end).square().mean(dim=(2, 3, 4))
        chunk = torch.arange(error.shape[1] // recipe.chunk_frames, device=device)
        asked = per_frame((chunk >= batch.first_causal[:, None]).float(), recipe.chunk_frames)
        loss = (error * asked).sum() / asked.sum()
        loss.backward()
        optimiser.step(tick.progress)
        average.update(student)
        if tick.step % 20 < len(visited):
            stage.report(**{f"sigma_{sigma:.2f}": loss.item()})
    stage.draw_curve(tuple(f"sigma_{sigma:.2f}" for sigma in visited))
    finished = average.module
    assert isinstance(finished, Denoiser)
    return finished
