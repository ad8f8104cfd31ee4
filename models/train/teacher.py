"""Stage 2: the many-step teacher, by diffusion forcing on windows.

Most batches are block-causal with an independent noise level per chunk and a share of chunks clean,
which is what streaming asks for: clean context, noisy chunk. The others are whole windows at one level
with no mask, so that the same network can also score a finished window for the distillation.
Rectified flow (Liu et al. 2022, arXiv:2209.03003): the target is ``noise - x0``.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.tokenizer import END_ID
from models.train.denoiser import Denoiser, add_noise, drop_prompts, per_frame, shifted
from models.train.optimise import Average, Optimiser
from models.train.recipe import Recipe, TeacherRecipe
from models.train.run_folder import Stage
from models.train.windows import CHUNKS, OpeningStore, WindowBatch, WindowStore


def chunk_levels(
    batch: WindowBatch, recipe: TeacherRecipe, *, causal: bool, generator: torch.Generator
) -> Tensor:
    """Draw noise levels ``[B, chunks]``: 0 for given chunks, at least one asked chunk noisy."""
    rows = batch.first.shape[0]
    device = batch.first.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    index = torch.arange(CHUNKS, device=device)
    asked = index >= batch.first[:, None]
    if not causal:
        return shifted(uniform(rows, 1), recipe.shift) * asked
    level = shifted(uniform(rows, CHUNKS), recipe.shift)
    noisy = uniform(rows, CHUNKS) >= recipe.clean_share
    # One asked chunk is always noisy, or the row would teach nothing.
    span = (CHUNKS - batch.first).float()
    surely = batch.first + (uniform(rows) * span).long().clamp(max=CHUNKS - 1)
    noisy |= index == surely.clamp(max=CHUNKS - 1)[:, None]
    return level * (noisy & asked)


def _kind(step: int, recipe: TeacherRecipe) -> str:
    """Which kind of batch a step takes: shares are kept exactly over every twenty steps."""
    place = (step * 7) % 20  # spread, not in a row
    if place < round(20 * recipe.opening_share):
        return "opening"
    rest = place - round(20 * recipe.opening_share)
    windows = 20 - round(20 * recipe.opening_share)
    return "bidirectional" if rest < round(windows * recipe.bidirectional_share) else "causal"


def train_teacher(
    stage: Stage,
    recipe: Recipe,
    denoiser: Denoiser,
    store: WindowStore,
    device: torch.device,
    *,
    openings: OpeningStore | None = None,
    channel_weight: Tensor | None = None,
    compiled: bool = False,
    on_tick: Callable[[int], None] = lambda step: None,
) -> Denoiser:
    """Train ``denoiser`` in place; returns its average.

    Args:
        stage: Counts and keeps.
        recipe: Of the run.
        denoiser: What is trained.
        store: Where windows come from.
        device: Where it computes.
        openings: Where first chunks come from, for a recipe that asks for them.
        channel_weight: ``[C]`` weight of each latent channel's error; None counts them alike.
        compiled: Compile the step.
        on_tick: Called with the number of every step.
    """
    part = recipe.teacher
    generator = torch.Generator(device).manual_seed(recipe.seed + 11)
    average = Average(denoiser, part.decay)
    if part.half_weights:
        denoiser.to(torch.bfloat16)
    optimiser = Optimiser([denoiser], part.peak, muon=True)
    if (saved := stage.resume(device)) is not None:
        denoiser.load_state_dict(saved["denoiser"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])

    def payload() -> dict[str, Any]:
        return {
            "denoiser": denoiser.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
        }

    def loss_of(
        noisy: Tensor, sigma: Tensor, target: Tensor, ids: Tensor, mask: Tensor, causal: bool
    ) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=not part.half_weights):
            context = denoiser.context(ids, mask)
            if noisy.shape[1] == recipe.chunk_frames:
                flow = denoiser.opening_velocity(noisy, sigma, context)
            else:
                flow = denoiser.velocity(noisy, sigma, context, causal=causal)
        squares = (flow.float() - target).square()
        if channel_weight is not None:
            squares = squares * channel_weight[:, None, None]
        error = squares.mean(dim=(2, 3, 4))
        asked = (sigma > 0).float()
        return (error * asked).sum() / asked.sum()

    run = torch.compile(loss_of) if compiled else loss_of
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    for tick in stage.ticks(payload):
        on_tick(tick.step)
        kind = _kind(tick.step, part)
        if kind == "opening":
            assert openings is not None, "the recipe asks for openings and there is no store"
            opening = openings.sample(part.opening_batch, generator)
            clean, ids, mask = opening.latents, opening.ids, opening.mask
            level = torch.rand(len(ids), 1, generator=generator, device=device)
            sigma = shifted(level, part.shift).expand(-1, recipe.chunk_frames)
        else:
            batch = store.sample(part.batch, generator)
            clean, ids, mask = batch.latents, batch.ids, batch.mask
            levels = chunk_levels(batch, part, causal=kind == "causal", generator=generator)
            sigma = per_frame(levels, recipe.chunk_frames)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        # A stream's context is the network's own, not an encoder's; a little jitter says so early.
        jitter = torch.randn(clean.shape, generator=generator, device=device)
        context = clean + part.context_jitter * jitter * (sigma == 0)[:, :, None, None, None]
        drop = torch.rand(len(ids), generator=generator, device=device) < part.prompt_dropout
        ids, mask = drop_prompts(ids, mask, drop, END_ID)
        noisy = add_noise(context, noise, sigma)
        loss = run(noisy, sigma, noise - clean, ids, mask, kind == "causal")
        loss.backward()
        norm = optimiser.step(tick.progress)
        average.update(denoiser)
        sums[kind] = sums.get(kind, torch.zeros((), device=device)) + loss.detach()
        counts[kind] += 1
        if tick.step % 20 == 19:
            means = {kind: (total / counts[kind]).item() for kind, total in sums.items()}
            stage.report(**means, norm=norm.item())
            sums, counts = {}, Counter()
    stage.draw_curve(("opening", "causal", "bidirectional"))
    finished = average.module
    assert isinstance(finished, Denoiser)
    return finished
