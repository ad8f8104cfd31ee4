"""How the work of attention is cut for a device: plain numbers, chosen from the shape of a call.

Knows neither Triton nor tensors.
"""

import math
from dataclasses import dataclass, replace

__all__ = ["AttentionTiles", "choose_tiles"]


@dataclass(frozen=True, slots=True)
class AttentionTiles:
    """How the work is cut: queries and keys of a block, warps, pipeline stages, key splits."""

    queries: int = 128
    keys: int = 128
    warps: int = 8
    stages: int = 3
    splits: int = 1
    descriptor: bool = False

    def shared_bytes(self, head_dim: int, element: int = 2) -> int:
        """Bytes of shared memory that a program takes with keys of ``element`` bytes a number."""
        elements = (self.queries + 2 * self.keys * self.stages) * head_dim
        return element * elements + 4 * self.keys * self.stages


def choose_tiles(
    *,
    queries: int,
    heads: int,
    rows: int,
    head_dim: int,
    wide: bool,
    processors: int,
    shared: int,
    descriptor: bool,
    eight: bool = False,
) -> AttentionTiles:
    """Choose tiles for a device with ``processors`` multiprocessors, one program on each.

    Splitting the keys pays where it fills the last wave better than it costs to merge, about 3 percent.

    Args:
        queries: of a row.
        heads: attention heads.
        rows: of the batch.
        head_dim: channels of a head.
        wide: the products are in float32, whose tiles must be smaller.
        processors: multiprocessors; one is an interpreter.
        shared: bytes of shared memory for a program; the largest tiles are taken that fit.
        descriptor: keys are read through tensor descriptors.
        eight: keys are in FP8.
    """
    if wide or processors == 1:
        return AttentionTiles(queries=16, keys=16, warps=4, stages=2)
    sizes = [(64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2)]
    if head_dim <= 128:
        # Measured on an H200, 4680 queries: 1.05 ms with three stages of descriptors, 1.40 with
        # two; in FP8, keys not split, 0.82 with three and 1.16 with two.
        sizes = [(128, 128, 8, 3 if descriptor else 2), (128, 64, 8, 2), *sizes]
    element = 1 if eight else 2
    fitting = [
        tiles
        for size in sizes
        if (tiles := AttentionTiles(*size)).shared_bytes(head_dim, element) <= shared
    ]
    tiles = replace(
        (fitting or [AttentionTiles(*sizes[-1])])[0], descriptor=descriptor and head_dim <= 128
    )
    programs = math.ceil(queries / tiles.queries) * heads * rows

    def gain(splits: int) -> float:
        waves = programs * splits / processors
        return waves / math.ceil(waves) - 0.03 * (splits > 1)

    return replace(tiles, splits=max((1, 2, 3, 4), key=gain))
