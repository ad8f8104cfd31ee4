"""The dtypes a model can be loaded in by name, and which of them a device computes fastest.

Many CPUs have no bfloat16 units: there bfloat16 products are several times slower than float32,
where they have them several times faster. Accelerators always get bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MEASURED = ("float32", "bfloat16")
"""What ``choose_dtype`` chooses from."""

TOKENS, WIDTH, INNER = 180, 384, 1536
"""The bundled model's feed-forward layer over one chunk, about."""


def dtype_named(name: str, device: torch.device, clock: Callable[[], float]) -> torch.dtype:
    """Return the dtype called ``name``, one of ``DTYPES``; for "auto" see ``choose_dtype``."""
    return choose_dtype(device, clock) if name == "auto" else DTYPES[name]


def choose_dtype(device: torch.device, clock: Callable[[], float], repeats: int = 5) -> torch.dtype:
    """Return bfloat16 or float32, whichever multiplies matrices faster on ``device``.

    Args:
        device: Where the model will run.
        clock: Monotonic seconds.
        repeats: Timed products of each; the fastest counts.
    """
    if device.type != "cpu":
        return torch.bfloat16
    times = {name: _fastest_s(DTYPES[name], clock, repeats) for name in MEASURED}
    # Equal speed is no reason to round more.
    faster = times["bfloat16"] < 0.9 * times["float32"]
    return torch.bfloat16 if faster else torch.float32


@torch.inference_mode()
def _fastest_s(dtype: torch.dtype, clock: Callable[[], float], repeats: int) -> float:
    x = torch.ones(TOKENS, WIDTH, dtype=dtype)
    up = torch.ones(INNER, WIDTH, dtype=dtype)
    down = torch.ones(WIDTH, INNER, dtype=dtype)

    def layer() -> None:
        functional.linear(functional.linear(x, up), down)

    layer()
    fastest = float("inf")
    for _ in range(repeats):
        start = clock()
        for _ in range(4):
            layer()
        fastest = min(fastest, clock() - start)
    return fastest
