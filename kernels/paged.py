"""Where the keys of one forward pass lie: pages of a pool, as tensors on the device.

A page holds the tokens of one latent frame. A pass writes the pages of its own frames and
attends over a window of pages; ``PagePlan`` says which, for every row of the batch, and with
which rotation. It is built once for the passes of a chunk and read by every layer. The order
of keys means nothing to a softmax, so a ring of pages that lies in one stretch of the pool
becomes one run, and attention reads it in place. The module knows nothing of sessions,
eviction or sharing: it is told page numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.rope import angles, token_positions

__all__ = [
    "NO_PAGE",
    "PagePlan",
    "PageRun",
    "gather_pages",
    "in_stretches",
    "make_plan",
    "page_runs",
]

NO_PAGE = -1
"""A page number that is never written: the frame's keys and values are dropped."""


class PageRun(NamedTuple):
    """Pages that follow each other in the pool and share one score bias."""

    first: int
    pages: int
    bias: float = 0.0


@dataclass(frozen=True, slots=True)
class PagePlan:
    """The page arithmetic of one pass for B rows, F own frames and up to W attended pages.

    Attributes:
        page_tokens: tokens of a page (hw).
        write: ``[B, F]`` int32: page of each own latent frame, ``NO_PAGE`` to write nothing.
        table: ``[B, W]`` int32: attended pages; entries past ``lengths`` are not read.
        lengths: ``[B]`` int32: attended pages of each row.
        frames: ``[B, W]`` int32: temporal position of each attended page.
        cos: ``[B, F*hw, D/2]`` float32: rotation of the queries.
        sin: as ``cos``.
        key_cos: ``[B, W*hw, D/2]`` float32 when keys are stored unrotated: their rotation in
            the order of ``table``. None when keys are stored rotated.
        key_sin: as ``key_cos``.
        bias: ``[B, W]`` float32 added to the scores of a page, or None.
        runs: the same pages for the host: each row's runs, in the order of ``table``.
        writes_all: whether no entry of ``write`` is ``NO_PAGE``, for the host.
    """

    page_tokens: int
    write: Tensor
    table: Tensor
    lengths: Tensor
    frames: Tensor
    cos: Tensor
    sin: Tensor
    runs: tuple[tuple[PageRun, ...], ...]
    key_cos: Tensor | None = None
    key_sin: Tensor | None = None
    bias: Tensor | None = None
    writes_all: bool = True

    @property
    def rows(self) -> int:
        """Rows of the batch (B)."""
        return self.write.shape[0]

    @property
    def contiguous(self) -> bool:
        """Whether every row's pages lie in one ascending stretch of the pool."""
        return all(a.first + a.pages == b.first for runs in self.runs for a, b in pairwise(runs))

    def tensors(self) -> dict[str, Tensor]:
        """Return the device tensors by name, without those that are None."""
        names = ("write", "table", "lengths", "frames", "cos", "sin", "key_cos", "key_sin", "bias")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def with_tensors(self, tensors: dict[str, Tensor]) -> "PagePlan":
        """Return the same plan over other tensors, for buffers that a captured graph reads."""
        return replace(self, **tensors)  # type: ignore[arg-type]


def page_runs(pages: Sequence[int], bias: Sequence[float] | None = None) -> tuple[PageRun, ...]:
    """Merge neighbours: ``(4, 5, 6, 9)`` becomes a run of three and a run of one."""
    runs: list[PageRun] = []
    for index, page in enumerate(pages):
        score = 0.0 if bias is None else bias[index]
        last = runs[-1] if runs else None
        if last is not None and last.first + last.pages == page and last.bias == score:
            runs[-1] = last._replace(pages=last.pages + 1)
        else:
            runs.append(PageRun(page, 1, score))
    return tuple(runs)


def in_stretches(rows: Sequence[Sequence[PageRun]]) -> bool:
    """Whether the pages of every row follow one another, whatever their bias."""
    return all(a.first + a.pages == b.first for runs in rows for a, b in pairwise(runs))


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> list[list[int]]:
    return [[*row, *([fill] * (width - len(row)))] for row in rows]


def make_plan(
    *,
    write: Sequence[Sequence[int]],
    read: Sequence[Sequence[int]],
    query_frames: Sequence[Sequence[int]],
    grid: tuple[int, int],
    head_dim: int,
    device: torch.device,
    key_frames: Sequence[Sequence[int]] | None = None,
    key_bias: Sequence[Sequence[float]] | None = None,
    keep_order: bool = False,
    width: int | None = None,
) -> PagePlan:
    """Build the plan of a pass from page numbers.

    Args:
        write: for every row the page of each own latent frame, or ``NO_PAGE``.
        read: for every row the pages it attends to, its own included.
        query_frames: for every row the temporal position of each own latent frame.
        grid: tokens in height and width of a latent frame.
        head_dim: elements of one head.
        device: where the tensors go.
        key_frames: temporal position of each page of ``read``; given when keys are stored
            unrotated. Else a page's place in ``read``, which nothing is rotated by.
        key_bias: addend to the scores of each page of ``read``.
        keep_order: keep the order of ``read`` instead of sorting it into runs.
        width: pages the tensors have room for; the longest row when None.
    """
    rows = range(len(read))
    assert len(write) == len(read) == len(query_frames), "one entry a row"
    orders = [
        list(range(len(pages))) if keep_order else sorted(range(len(pages)), key=pages.__getitem__)
        for pages in read
    ]
    read = [[read[row][i] for i in orders[row]] for row in rows]
    if key_bias is not None:
        key_bias = [[key_bias[row][i] for i in orders[row]] for row in rows]
    widest = max(len(pages) for pages in read) if width is None else width

    def ints(values: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32).to(device)

    def rotation(frames: Tensor) -> tuple[Tensor, Tensor]:
        return angles(token_positions(frames, grid), head_dim)

    cos, sin = rotation(ints(query_frames))
    key_cos = key_sin = bias = None
    places = key_frames or [range(len(pages)) for pages in read]
    frames = ints(_padded([[places[row][i] for i in orders[row]] for row in rows], widest, 0))
    if key_frames is not None:
        key_cos, key_sin = rotation(frames)
    if key_bias is not None:
        padded = [[*row, *([0.0] * (widest - len(row)))] for row in key_bias]
        bias = torch.tensor(padded, dtype=torch.float32).to(device)
    return PagePlan(
        page_tokens=grid[0] * grid[1],
        write=ints(write),
        table=ints(_padded(read, widest, 0)),
        lengths=torch.tensor([len(pages) for pages in read], dtype=torch.int32).to(device),
        frames=frames,
        cos=cos,
        sin=sin,
        runs=tuple(
            page_runs(read[row], None if key_bias is None else key_bias[row]) for row in rows
        ),
        key_cos=key_cos,
        key_sin=key_sin,
        bias=bias,
        writes_all=all(page != NO_PAGE for pages in write for page in pages),
    )


def gather_pages(pages: Tensor, runs: Sequence[PageRun]) -> Tensor:
    """Read ``pages [P, pt, N, D]`` as keys ``[S, N, D]``; one run is a view, not a copy."""
    parts = [pages[run.first : run.first + run.pages].flatten(0, 1) for run in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
