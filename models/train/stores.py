"""What stages learn from, started for a run: stores of renders, encoded, and films of its network.

Each draws from seeds of its own, so that stages see different scenes.
"""

from collections.abc import Callable
from functools import partial

import torch

from models.train.chance import below, happens
from models.train.decoder import Filmed
from models.train.denoiser import Denoiser
from models.train.footage import Footage
from models.train.lean import LeanKernels
from models.train.rollout import Plan, empty_cache, policy_of, self_rollout
from models.train.run import Encoding, Run, encoding
from models.train.streams import StreamBatch, StreamStore
from models.train.unroll import prompts_of
from models.train.windows import OpeningStore, WindowStore


def opening_store(run: Run) -> OpeningStore | None:
    """A store of first chunks, for a recipe whose teacher learns from them."""
    recipe = run.recipe
    if not recipe.teacher.opening_share:
        return None
    made = encoding(run)
    footage = Footage(recipe, run.device, recipe.seed + 303)
    store = OpeningStore(
        recipe.data.held,
        lambda: footage.openings(recipe.data.at_once, made.encode, made.tokenizer),
    )
    for _ in range(8):
        store.refresh()
    return store


def window_store(run: Run) -> WindowStore:
    """Fill a store of window items: renders, encoded by the finished autoencoder."""
    recipe = run.recipe
    made = encoding(run)
    footage = Footage(recipe, run.device, recipe.seed + 202)
    store = WindowStore(
        recipe.data.held,
        lambda: footage.items(recipe.data.at_once, made.encode, made.tokenizer),
    )
    store.fill(recipe.data.first, quiet=run.quiet)
    return store


def stream_store(run: Run, step: int) -> StreamStore:
    """Start a store of whole streams, other ones at every ``step``: renders, encoded."""
    recipe, part = run.recipe, run.recipe.unroll
    made = encoding(run)
    footage = Footage(recipe, run.device, (recipe.seed, 505, step))
    draw = torch.Generator().manual_seed(recipe.seed + 405 + step)

    def group() -> StreamBatch:
        chunks = part.chunks * (2 if happens(part.late_share, draw) else 1)
        place = 1 + below(chunks - 1, draw)
        switch = place if happens(part.switch_share, draw) else None
        return footage.streams(part.at_once, chunks, switch, made.encode, made.tokenizer)[1]

    groups = part.held // part.at_once
    store = StreamStore(groups, group)
    for _ in range(min(10, groups)):
        store.refresh()
    return store


def start_filming(run: Run, network: Denoiser, made: Encoding, step: int) -> Callable[[], Filmed]:
    """Start filming streams of ``network``, other ones at every ``step``.

    Args:
        run: Its ``decoder`` recipe says how many streams of how many chunks.
        network: Makes latents for the prompts of the renders, at the steps that ``unroll`` trains for.
        made: Encodes the renders.
        step: At which training goes on.

    Returns:
        What makes the next group.
    """
    recipe, part, choices = run.recipe, run.recipe.decoder, run.recipe.unroll.steps_choices
    footage = Footage(recipe, run.device, (recipe.seed, 607, step))
    generator = torch.Generator(run.device).manual_seed(recipe.seed + 47 + step)
    draw = torch.Generator().manual_seed(recipe.seed + 53 + step)

    @torch.no_grad()
    def film() -> Filmed:
        changes = happens(part.switch_share, draw)
        switch = 1 + below(part.chunks - 1, draw) if changes else None
        pixels, batch = footage.streams(
            part.at_once, part.chunks, switch, made.encode, made.tokenizer
        )
        chunks = self_rollout(
            network.transformer,
            partial(empty_cache, recipe, run.device, LeanKernels()),
            policy_of(recipe),
            recipe.unrolled,
            Plan(
                part.chunks,
                graded=part.chunks,
                switch=switch,
                steps=choices[below(len(choices), draw)],
            ),
            prompts_of(network, batch),
            (part.at_once, *recipe.latent_frame),
            generator,
            draw,
        )
        whole = (pixels * 127.0).round().to(torch.int8)
        return Filmed(whole, batch.latents, torch.cat(chunks, dim=1))

    return film
