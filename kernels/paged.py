"""Where the keys of one forward pass lie: pages of a pool, as tensors on the device.

A pass writes the pages of its own frames and attends over a window of pages; ``PagePlan`` says
which, for every row of the batch, and with which rotation. It is built once for the passes of a
chunk and read by every layer. In a plan every page holds the tokens of one latent frame; a pool
may have smaller pages, over which no plan is made. The order of keys means nothing to a softmax,
so a ring of pages that lies in one stretch of the pool becomes one run, and attention reads it in
place. The module knows nothing of sessions, eviction or sharing: it is told page numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "NO_PAGE",
    "PagePlan",
    "PageRun",
    "gather_pages",
    "in_stretches",
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
        return in_stretches(self.runs)


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


def gather_pages(pages: Tensor, runs: Sequence[PageRun]) -> Tensor:
    """Read ``pages [P, pt, N, D]`` as keys ``[S, N, D]``; one run is a view, not a copy."""
    parts = [pages[run.first : run.first + run.pages].flatten(0, 1) for run in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
