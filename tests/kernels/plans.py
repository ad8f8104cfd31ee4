"""Plans of passes from page numbers, for whatever reads plans."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kernels.paged import NO_PAGE, PagePlan, page_runs
from kernels.rope import angles, token_positions

TENSORS = ("write", "table", "lengths", "frames", "cos", "sin", "key_cos", "key_sin", "bias")


def over_tensors_of(plan: PagePlan, other: PagePlan) -> PagePlan:
    """Return what the host knows of ``plan`` over the tensors of ``other``.

    That is what a captured graph replays: its buffers hold other pages by then.
    """
    return replace(plan, **{name: getattr(other, name) for name in TENSORS})


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
