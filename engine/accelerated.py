"""Builds the engine's generator from fast kernels and, on a CUDA device, captured graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from engine.cuda_graph import CapturedDenoiser
from engine.generator import Generator, guidance_of
from engine.merged import MergingGenerator
from kernels.backend import Kernels
from models.interface import LoadedModel
from models.paged_kv import KVPool, PagedKV

__all__ = ["generator_factory"]


def generator_factory(
    kernels: Kernels,
    *,
    batch_sizes: Sequence[int] = (1, 2, 4),
    max_steps: int = 4,
    capture: bool = True,
    merge_clean_pass: bool = False,
) -> Callable[[LoadedModel, KVPool], Generator]:
    """Return what ``Engine`` calls to build its generator.

    Args:
        kernels: the network's, see ``models.accelerate``; the caches use them too.
        batch_sizes: sizes to which batches are padded.
        max_steps: most denoising steps of a chunk.
        capture: replay CUDA graphs; without it, or on a CPU, chunks run eagerly.
        merge_clean_pass: make it in the next chunk's first pass, see ``engine/merged.py``.
    """

    def build(model: LoadedModel, pool: KVPool) -> Generator:
        entry, denoiser = model.entry, None
        view = partial(PagedKV, kernels=kernels)
        guidance = guidance_of(model)
        # Two passes a step are the plain loop's; such a model waits to be distilled.
        if pool.k.device.type == "cuda" and guidance is None:
            denoiser = CapturedDenoiser(
                model.transformer,
                entry.transformer,
                entry.cache,
                pool,
                kernels,
                sizes=batch_sizes,
                max_steps=max_steps,
                capture=capture,
            )
        kind = MergingGenerator if merge_clean_pass else Generator
        return kind(
            model.transformer, entry.transformer, entry.cache, pool, view, denoiser, guidance
        )

    return build
