"""Builds the engine's generator from fast kernels, captured graphs and a policy of less work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from engine.cuda_graph import CapturedDenoiser
from engine.generator import Generator, MakeView, guidance_of
from engine.merged import MergingGenerator
from engine.work_policy import WorkPolicy
from kernels.fp8_attention import fp8_attention
from kernels.interface import Kernels
from kernels.sparse import SparsePages
from models.accelerate import accelerate
from models.entry import ModelEntry
from models.interface import LoadedModel
from models.kv import KVView
from models.paged_kv import KVPool, PagedKV, RowPages
from models.planned_kv import PlannedKV, plan_rows
from models.policy import RopeMode

__all__ = [
    "EXACT",
    "MakeGenerator",
    "entry_under",
    "generator_factory",
    "planned_view",
    "prepare",
    "under",
]

MakeGenerator = Callable[[LoadedModel, KVPool], Generator]

EXACT = WorkPolicy()
BATCH_SIZES = (1, 2, 4, 8)
"""The largest is ``EngineConfig.max_batch``'s default; costs are measured up to it."""


def prepare(
    model: LoadedModel, policy: WorkPolicy, kernels: Kernels, *, max_steps: int | None = None
) -> tuple[LoadedModel, MakeGenerator]:
    """Bring a loaded model under a policy; return it and what builds its generator.

    Args:
        model: its network is changed in place where kernels or linears change.
        policy: what is saved.
        kernels: of the network and the caches.
        max_steps: see ``generator_factory``.

    Raises:
        ValueError: model and policy do not go together.
    """
    cuda = model.device.type == "cuda"
    if cuda or policy.linear != "plain":
        accelerate(model.transformer, kernels, policy.linear, join=cuda)
    make = generator_factory(kernels, policy=policy, max_steps=max_steps)
    return under(model, policy), make


def under(model: LoadedModel, policy: WorkPolicy) -> LoadedModel:
    """Return the model with the steps and the window that a policy asks for.

    Raises:
        ValueError: model and policy do not go together.
    """
    return replace(model, entry=entry_under(model.entry, policy))


def entry_under(entry: ModelEntry, policy: WorkPolicy) -> ModelEntry:
    """Return a model's entry with the steps and the window that a policy asks for.

    Raises:
        ValueError: model and policy do not go together.
    """
    return replace(entry, sampler=policy.sampler(entry.sampler), cache=policy.cache(entry.cache))


def generator_factory(
    kernels: Kernels,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    max_steps: int | None = 4,
    capture: bool = True,
    policy: WorkPolicy = EXACT,
) -> MakeGenerator:
    """Return what ``Engine`` calls to build its generator.

    Args:
        kernels: the network's, see ``models.accelerate``; the caches use them too.
        batch_sizes: sizes to which batches are padded; the engine's ``max_batch`` must fit.
        max_steps: most denoising steps of a chunk in static buffers on a CUDA device; None runs
            the plain loop, which takes any number.
        capture: replay CUDA graphs; without it, or on a CPU, chunks run eagerly.
        policy: whether the clean pass is merged, which pages are kept and how attention counts; its
            steps, window and linears are the model's business, see ``prepare``.
    """

    def build(model: LoadedModel, pool: KVPool) -> Generator:
        entry, denoiser = model.entry, None
        if entry.cache.past_weight != 1.0 and not kernels.takes_bias:
            raise ValueError(
                f"kernels {kernels.name} with {entry.name}, which weighs past frames; {kernels.name} "
                "adds no bias to scores; choose triton, flash, sdpa or torch"
            )
        guidance = guidance_of(model)
        # Two passes a step are the plain loop's; such a model waits to be distilled. So are pages
        # smaller than a latent frame, which several sizes have in common.
        static = (
            pool.k.device.type == "cuda"
            and guidance is None
            and max_steps is not None
            and not _odd_size(model, pool)
        )
        caches = kernels
        view: MakeView = partial(PagedKV, kernels=kernels)
        if policy.keep_pages is not None or policy.attention != "plain":
            caches = _saving(kernels, policy, model, pool, captured=static and capture)
            view = partial(planned_view, kernels=caches)
        if static:
            assert max_steps is not None
            denoiser = CapturedDenoiser(
                model.transformer,
                entry.transformer,
                entry.cache,
                pool,
                caches,
                sizes=batch_sizes,
                max_steps=max_steps,
                capture=capture,
            )
        kind = MergingGenerator if policy.merge_clean_pass else Generator
        return kind(
            model.transformer, entry.transformer, entry.cache, pool, view, denoiser, guidance
        )

    return build


def planned_view(
    pool: KVPool,
    rows: Sequence[RowPages],
    grid: tuple[int, int],
    rope: RopeMode,
    *,
    block_causal: int | None,
    past_weight: float,
    kernels: Kernels,
) -> KVView:
    """Give a batch the accelerator's view; a block-causal pass gets the other one (``MakeView``)."""
    if block_causal is not None:
        return PagedKV(pool, rows, grid, rope, kernels, block_causal, past_weight)
    plan = plan_rows(rows, grid, rope, pool.k.shape[-1], pool.k.device, past_weight)
    return PlannedKV(pool, plan, kernels)


def _saving(
    kernels: Kernels, policy: WorkPolicy, model: LoadedModel, pool: KVPool, *, captured: bool
) -> Kernels:
    """Return kernels whose paged attention saves what the policy says.

    Raises:
        ValueError: pages are smaller than a latent frame, a graph cannot hold the choice of pages,
            or the device cannot count so.
    """
    entry, keep = model.entry, policy.keep_pages
    odd = _odd_size(model, pool)
    if odd is not None:
        raise ValueError(
            f"policy {policy} with pages of {pool.page_tokens} tokens; a latent frame of "
            f"{odd[0]}x{odd[1]} has {math.prod(entry.transformer.grid_of(odd))} and must be one page; "
            "leave keep-pages and attention out or serve a model of one size"
        )
    if policy.attention == "fp8":
        size = entry.transformer.head_dim
        kernels = kernels.with_attention(lambda inner: fp8_attention(inner, model.device, size))
    if keep is None:
        return kernels
    if captured and not kernels.capturable:
        raise ValueError(
            f"policy keep-pages={keep} with {kernels.name} attention; in a captured graph only "
            "triton and flash can choose pages; leave keep-pages out or choose one of them"
        )
    return kernels.with_attention(lambda inner: SparsePages(inner, keep, entry.cache.sink_frames))


def _odd_size(model: LoadedModel, pool: KVPool) -> tuple[int, int] | None:
    """Return a size of the model whose latent frame is not one page of the pool."""
    for size in model.entry.sizes:
        if math.prod(model.entry.transformer.grid_of(size)) != pool.page_tokens:
            return size
    return None
