"""The view of the page pool that an accelerator takes: everything in tensors on the device.

``PlannedKV`` does what ``PagedKV`` does, in two calls of the kernels a layer and nothing decided
on the host, so that a captured graph can replay it over whatever ``PlanBuffers`` hold by then.
Block-causal passes and pages smaller than a latent frame are left to ``PagedKV``.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from kernels.interface import Kernels
from kernels.paged import PagePlan, PageRun, in_stretches, page_runs
from kernels.rope import angles, token_positions
from models.kv import QKNorm
from models.paged_kv import NULL_PAGE, KVPool, RowPages
from models.policy import RopeMode

__all__ = ["PlanBuffers", "PlannedKV", "plan_rows"]

PADDING = RowPages(write=(), read=(), query_frames=(), key_frames=())
"""A row that nobody watches: it writes to the null page and attends to nothing."""


class PlanBuffers:
    """Tensors of one batch size that a pass reads its page arithmetic from.

    One copy to the device brings a chunk's integers in; rotations are computed from them there.

    Args:
        rows: B.
        frames: own latent frames of every row (F).
        width: pages a row can attend to (W).
        grid: tokens in height and width of a latent frame.
        head_dim: elements of one head.
        rope: whether stored keys are rotated ("absolute") or not ("window").
        device: where the tensors are.
        past_weight: factor on the attention to the frames a row calls past.
    """

    def __init__(
        self,
        rows: int,
        frames: int,
        width: int,
        grid: tuple[int, int],
        head_dim: int,
        rope: RopeMode,
        device: torch.device,
        past_weight: float = 1.0,
    ) -> None:
        self._rows, self._frames, self._width = rows, frames, width
        self._grid, self._head_dim, self._rope = grid, head_dim, rope
        self._score = math.log(past_weight)
        shapes = ((rows, frames), (rows, frames), (rows, width), (rows, width), (rows,))
        ends = list(accumulate((math.prod(shape) for shape in shapes), initial=0))
        self._packed = torch.zeros(ends[-1], dtype=torch.int32, device=device)
        parts = (self._packed[a:b] for a, b in pairwise(ends))
        self._write, self._query_frames, self._table, self._key_frames, self._lengths = (
            part.view(shape) for part, shape in zip(parts, shapes, strict=True)
        )
        self._bias: Tensor | None = None
        if past_weight != 1.0:
            self._bias = torch.zeros(rows, width, dtype=torch.float32, device=device)
        self._runs: tuple[tuple[PageRun, ...], ...] = ((),) * rows

    @property
    def runs(self) -> tuple[tuple[PageRun, ...], ...]:
        """Each row's runs of pages, as last loaded."""
        return self._runs

    @property
    def contiguous(self) -> bool:
        """Whether each row's pages, as last loaded, lie in one stretch of the pool."""
        return in_stretches(self._runs)

    def load(self, rows: Sequence[RowPages]) -> None:
        """Bring a chunk's pages to the device without waiting for it.

        Rows that are missing become padding.
        """
        assert len(rows) <= self._rows, f"{len(rows)} rows for buffers of {self._rows}"
        lines = [*rows, *([PADDING] * (self._rows - len(rows)))]
        write: list[int] = []
        query: list[int] = []
        table: list[int] = []
        keys: list[int] = []
        lengths: list[int] = []
        biases: list[float] = []
        runs: list[tuple[PageRun, ...]] = []
        for row in lines:
            assert len(row.read) == len(row.key_frames), "a page holds a whole latent frame"
            assert len(row.read) <= self._width, f"{len(row.read)} pages, room for {self._width}"
            order = sorted(range(len(row.read)), key=row.read.__getitem__)
            pages = [row.read[i] for i in order]
            rest = self._width - len(pages)
            write += row.write or (NULL_PAGE,) * self._frames
            query += row.query_frames or (0,) * self._frames
            table += pages + [NULL_PAGE] * rest
            keys += [row.key_frames[i] for i in order] + [0] * rest
            lengths.append(len(pages))
            bias = [self._score * row.past[i] for i in order] if row.past else [0.0] * len(pages)
            biases += bias + [0.0] * rest
            runs.append(page_runs(pages, None if self._bias is None else bias))
        self._runs = tuple(runs)
        self._packed.copy_(_staged((*write, *query, *table, *keys, *lengths), self._packed), True)
        if self._bias is not None:
            self._bias.view(-1).copy_(_staged(biases, self._bias), True)

    def plan(self) -> PagePlan:
        """Return the plan over these buffers; its rotations are computed by this call."""
        cos, sin = angles(token_positions(self._query_frames, self._grid), self._head_dim)
        key_cos = key_sin = None
        if self._rope == "window":
            key_cos, key_sin = angles(token_positions(self._key_frames, self._grid), self._head_dim)
        return PagePlan(
            page_tokens=self._grid[0] * self._grid[1],
            write=self._write,
            table=self._table,
            lengths=self._lengths,
            frames=self._key_frames,
            cos=cos,
            sin=sin,
            runs=self._runs,
            key_cos=key_cos,
            key_sin=key_sin,
            bias=self._bias,
        )


def _staged(values: Sequence[int] | Sequence[float], target: Tensor) -> Tensor:
    """Put numbers where a copy to ``target`` need not wait for the device."""
    staged = torch.tensor(values, dtype=target.dtype)
    return staged.pin_memory() if target.is_cuda else staged


def plan_rows(
    rows: Sequence[RowPages],
    grid: tuple[int, int],
    rope: RopeMode,
    head_dim: int,
    device: torch.device,
    past_weight: float = 1.0,
    width: int | None = None,
) -> PagePlan:
    """Plan one pass for a batch's rows; ``width`` is room in the table, the longest row if None."""
    widest = max(1, *(len(row.read) for row in rows)) if width is None else width
    frames = len(rows[0].query_frames)
    buffers = PlanBuffers(len(rows), frames, widest, grid, head_dim, rope, device, past_weight)
    buffers.load(rows)
    return buffers.plan()


class PlannedKV:
    """A batch's view of the pool for all passes over one chunk (a ``KVView``).

    Args:
        pool: read and written in place.
        plan: what each row writes and attends to.
        kernels: that do both.
    """

    def __init__(self, pool: KVPool, plan: PagePlan, kernels: Kernels) -> None:
        self._pool = pool
        self._plan = plan
        self._kernels = kernels

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm) -> Tensor:
        """See ``KVView.attend``."""
        keys, values = self._pool.k[layer], self._pool.v[layer]
        query = self._kernels.write_kv(q, k, v, norm, self._plan, keys, values)
        return self._kernels.paged_attention(query, keys, values, self._plan).flatten(-2)
