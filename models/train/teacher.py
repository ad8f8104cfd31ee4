"""Stage 2: the many-step teacher, by diffusion forcing on windows.

Most batches are block-causal with an independent noise level per chunk and a share of chunks clean,
which is what streaming asks for: clean context, noisy chunk. The others are whole windows at one level
with no mask, so that the same network can also score a finished window for the distillation.
Rectified flow (Liu et al. 2022, arXiv:2209.03003): the target is ``noise - x0``.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.tokenizer import END_ID
from models.train.denoiser import (
    Denoiser,
    add_noise,
    drop_prompts,
    frame_errors,
    per_frame,
    shifted,
)
from models.train.optimise import Average, Optimiser
from models.train.recipe import Recipe, TeacherRecipe
from models.train.run_folder import Stage
from models.train.windows import CHUNKS, Opening, OpeningStore, WindowBatch, WindowStore


@dataclass(frozen=True, slots=True)
class Levels:
    """Draws noise levels: any, or those that serving passes through.

    Attributes:
        shift: Of the uniform ones.
        served: The sampler's own levels.
        share: How often one of those is drawn.
        generator: Of the draws; on their device.
    """

    shift: float
    served: tuple[float, ...]
    share: float
    generator: torch.Generator

    @classmethod
    def of(cls, recipe: Recipe, generator: torch.Generator) -> "Levels":
        """Read a recipe's."""
        part = recipe.teacher
        served = recipe.undistilled.schedule().sigmas
        return cls(part.shift, served, part.served_share, generator)

    def __call__(self, *shape: int) -> Tensor:
        """Draw ``shape`` levels above 0, up to 1."""
        device = self.generator.device
        place, luck, which = torch.rand(3, *shape, generator=self.generator, device=device)
        served = torch.tensor(self.served, device=device)
        index = (which * len(self.served)).long().clamp(max=len(self.served) - 1)
        free = shifted(place, self.shift)
        if self.share:
            # Sampling ends with the lowest served level, and a velocity's error grows below it.
            free = free.clamp_min(min(self.served))
        return torch.where(luck < self.share, served[index], free)


def chunk_levels(
    batch: WindowBatch,
    recipe: TeacherRecipe,
    draw: Levels,
    *,
    causal: bool,
    generator: torch.Generator,
) -> Tensor:
    """Draw noise levels ``[B, chunks]``: 0 for given chunks, at least one asked chunk noisy."""
    rows = batch.first.shape[0]
    device = batch.first.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    index = torch.arange(CHUNKS, device=device)
    first = batch.first_causal if causal else batch.first
    asked = index >= first[:, None]
    if not causal:
        return draw(rows, 1) * asked
    level = draw(rows, CHUNKS)
    noisy = uniform(rows, CHUNKS) >= recipe.clean_share
    # One asked chunk is always noisy, or the row would teach nothing.
    span = (CHUNKS - first).float()
    surely = first + (uniform(rows) * span).long().clamp(max=CHUNKS - 1)
    noisy |= index == surely.clamp(max=CHUNKS - 1)[:, None]
    return level * (noisy & asked)


def rehearsal_levels(batch: WindowBatch, draw: Levels) -> Tensor:
    """Draw levels ``[B, chunks]`` from which the network estimates the chunks it is then given.

    Chunks of an old prompt stay clean: the window's prompt does not describe them. Nor does anything
    but the picture itself say where in its motion a far window begins, so there it shows through.
    """
    rows = batch.first.shape[0]
    index = torch.arange(CHUNKS, device=batch.first.device)
    level = draw(rows, CHUNKS) * (index >= batch.first[:, None])
    begins = batch.is_far[:, None] & (index == 1)
    return torch.where(begins, level.clamp_max(min(draw.served)), level)


def _kind(step: int, recipe: TeacherRecipe) -> str:
    """Which kind of batch a step takes: shares are kept exactly over every twenty steps."""
    place = (step * 7) % 20  # spread, not in a row
    if place < round(20 * recipe.opening_share):
        return "opening"
    rest = place - round(20 * recipe.opening_share)
    windows = 20 - round(20 * recipe.opening_share)
    bidirectional = round(windows * recipe.bidirectional_share)
    if rest < bidirectional:
        return "bidirectional"
    own = round((windows - bidirectional) * recipe.own_share)
    return "own" if rest < bidirectional + own else "causal"


def train_teacher(
    stage: Stage,
    recipe: Recipe,
    denoiser: Denoiser,
    store: WindowStore,
    device: torch.device,
    *,
    openings: OpeningStore | None = None,
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
        compiled: Compile the step.
        on_tick: Called with the number of every step.
    """
    part = recipe.teacher
    generator = torch.Generator(device).manual_seed(recipe.seed + 11)
    average = Average(denoiser, part.decay)
    half = part.half_weights and recipe.bfloat16
    if half:
        denoiser.to(torch.bfloat16)
    optimiser = Optimiser([denoiser], part.peak, muon=True)
    payload = stage.restore(device, denoiser=denoiser, average=average, optimiser=optimiser)
    draw = Levels.of(recipe, generator)

    def flow_of(noisy: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor, causal: bool) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16 and not half):
            context = denoiser.context(ids, mask)
            if noisy.shape[1] == recipe.chunk_frames:
                return denoiser.opening_velocity(noisy, sigma, context).float()
            return denoiser.velocity(noisy, sigma, context, causal=causal).float()

    def loss_of(
        noisy: Tensor,
        sigma: Tensor,
        target: Tensor,
        cover: Tensor,
        ids: Tensor,
        mask: Tensor,
        causal: bool,
    ) -> Tensor:
        flow = flow_of(noisy, sigma, ids, mask, causal)
        error = frame_errors(flow, target, cover, part.subject_weight)
        asked = (sigma > 0).float()
        return (error * asked).sum() / asked.sum()

    @torch.no_grad()
    def rehearsed(batch: WindowBatch, ids: Tensor, mask: Tensor) -> Tensor:
        """The window as the network itself would have it (Guo et al. 2025, arXiv:2512.15702)."""
        sigma = per_frame(rehearsal_levels(batch, draw), recipe.chunk_frames)
        noise = torch.randn(batch.latents.shape, generator=generator, device=device)
        noisy = add_noise(batch.latents, noise, sigma)
        return noisy - sigma[:, :, None, None, None] * flow_of(noisy, sigma, ids, mask, True)

    run = torch.compile(loss_of, dynamic=False) if compiled else loss_of
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    for tick in stage.ticks(payload):
        on_tick(tick.step)
        kind = _kind(tick.step, part)
        causal = kind in ("causal", "own")
        if kind == "opening":
            assert openings is not None, "the recipe asks for openings and there is no store"
            batch: Opening | WindowBatch = openings.sample(part.opening_batch, generator)
            sigma = draw(part.opening_batch, 1).expand(-1, recipe.chunk_frames)
        else:
            batch = store.sample(part.batch, generator)
            levels = chunk_levels(batch, part, draw, causal=causal, generator=generator)
            sigma = per_frame(levels, recipe.chunk_frames)
        clean = batch.latents
        drop = torch.rand(len(clean), generator=generator, device=device) < part.prompt_dropout
        ids, mask = drop_prompts(batch.ids, batch.mask, drop, END_ID)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        # A stream's context is the network's own, not an encoder's; a little jitter says so early.
        if kind == "own":
            assert isinstance(batch, WindowBatch), "first chunks have no context"
            given = rehearsed(batch, ids, mask)
        else:
            jitter = torch.randn(clean.shape, generator=generator, device=device)
            given = clean + part.context_jitter * jitter
        context = torch.where((sigma == 0)[:, :, None, None, None], given, clean)
        noisy = add_noise(context, noise, sigma)
        loss = run(noisy, sigma, noise - clean, batch.cover, ids, mask, causal)
        loss.backward()
        norm = optimiser.step(tick.progress)
        average.update(denoiser)
        sums[kind] = sums.get(kind, torch.zeros((), device=device)) + loss.detach()
        counts[kind] += 1
        if tick.step % 20 == 19:
            means = {kind: (total / counts[kind]).item() for kind, total in sums.items()}
            stage.report(**means, norm=norm.item())
            sums, counts = {}, Counter()
    stage.draw_curve(("opening", "causal", "own", "bidirectional"))
    finished = average.module
    assert isinstance(finished, Denoiser)
    return finished
