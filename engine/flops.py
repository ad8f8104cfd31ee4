"""Counts the floating-point operations of a chunk, and measures how many a device does a second."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import torch

from models.config import TransformerConfig
from models.entry import ModelEntry
from models.sampler import Sampler

__all__ = [
    "Clock",
    "attended_frames",
    "chunk_flops",
    "chunk_passes",
    "matmul_rate",
    "pass_flops",
]

Clock = Callable[[], float]

CPU_RATE_S = 0.5


def pass_flops(config: TransformerConfig, tokens: int, keys: int) -> float:
    """Count the floating-point operations of one network pass over one row."""
    d, f = config.dim, config.ffn_dim
    block = 2 * tokens * (6 * d * d + 2 * d * f) + 4 * tokens * (keys + config.text_len) * d
    return config.num_layers * block + 256 * tokens * d


def chunk_passes(sampler: Sampler, steps: int) -> int:
    """Count the passes over a chunk's tokens: one a step, two where it is guided, and the clean one.

    A clean pass that is merged into another one counts all the same: its work is done.
    """
    return steps * (1 if sampler.guidance == 1 else 2) + 1


def attended_frames(window: int, sink: int, chunk: int, keep_pages: int | None) -> int:
    """Count the latent frames that a chunk attends to once its window is full."""
    return window if keep_pages is None else min(window, sink + keep_pages + chunk)


def chunk_flops(entry: ModelEntry, size: tuple[int, int], steps: int, attended: int) -> float:
    """Count the operations of one chunk of one stream: all its passes.

    Args:
        entry: of the model.
        size: width and height in pixels.
        steps: denoising steps.
        attended: latent frames, see ``attended_frames``.
    """
    config = entry.transformer
    hw = math.prod(config.grid_of(size))
    one = pass_flops(config, entry.cache.chunk_frames * hw, attended * hw)
    return chunk_passes(entry.sampler, steps) * one


@torch.inference_mode()
def matmul_rate(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """Measure the floating-point operations a second of a large product of random matrices.

    Of a GPU the median counts, which is what its power allows; of a CPU the fastest within half a
    second, since other programs take cores away for a while and never give any.
    """
    cuda = device.type == "cuda"
    size, repeats = (8192, 20) if cuda else (640, 1)
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    a @ b
    _finish(device)
    times: list[float] = []
    while len(times) < 3 or sum(times) < (0.0 if cuda else CPU_RATE_S):
        start = clock()
        for _ in range(repeats):
            a @ b
        _finish(device)
        times.append((clock() - start) / repeats)
    return 2.0 * size**3 / (statistics.median(times) if cuda else min(times))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # noqa: TID251 (a benchmark)
