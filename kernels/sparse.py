"""Attention over the few pages of a window that matter: a policy, and an approximation.

Each layer scores every page of its window by the mean of the chunk's queries against the mean of
the page's keys, summed over heads, and attends to the best ``keep`` and to those that are always
kept: the sink and the chunk's own pages. The choice is made in tensors and nobody waits for it,
so with a capturable attention a graph replays it. Means per page as a cheap score follow Quest
(Tang et al. 2024, arXiv:2406.10774), which bounds instead of averaging.
"""

from dataclasses import replace

import torch
from torch import Tensor

from kernels.interface import PagedAttention
from kernels.paged import PagePlan, PageRun, page_runs
from kernels.rope import rotate

__all__ = ["SparsePages"]


class SparsePages:
    """An attention that narrows every page table before it hands it on.

    Args:
        inner: attends over the pages that are left.
        keep: pages chosen by score, besides those that are always kept.
        sink_frames: leading latent frames of the stream, whose pages are always kept.
    """

    def __init__(self, inner: PagedAttention, keep: int, sink_frames: int) -> None:
        assert keep >= 1, f"keep {keep}; at least one page must be left"
        self._inner, self._keep, self._sink = inner, keep, sink_frames
        self.name = f"{inner.name}, best {keep} pages"
        self.capturable, self.takes_bias = inner.capturable, inner.takes_bias

    def paged(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """See ``PagedAttention.paged``."""
        own = plan.write.shape[1]
        kept = self._sink + own + self._keep
        if plan.table.shape[1] <= kept:
            return self._inner.paged(q, k_pages, v_pages, plan)
        return self._inner.paged(q, k_pages, v_pages, self._narrowed(q, k_pages, plan, kept))

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``PagedAttention.dense``."""
        return self._inner.dense(q, k, v)

    def _narrowed(self, q: Tensor, k_pages: Tensor, plan: PagePlan, kept: int) -> PagePlan:
        table = plan.table.long()  # [B, W]
        width = table.shape[1]
        keys = self._mean_keys(k_pages, plan, table)
        score = torch.einsum("bnd,bwnd->bw", q.float().mean(1), keys)
        place = torch.arange(width, device=table.device)
        own = (table[:, :, None] == plan.write[:, None, :]).any(-1)
        always = own | (plan.frames < self._sink)
        score = score.masked_fill(always, torch.inf)
        score = score.masked_fill(place >= plan.lengths[:, None], -torch.inf)
        chosen = score.topk(kept, dim=1).indices.sort(dim=1).values
        lengths = plan.lengths.clamp(max=kept)
        # Rows shorter than what is kept keep all their pages, which are the first of the table.
        short = (plan.lengths <= kept)[:, None]
        chosen = torch.where(short, place[:kept], chosen)
        narrow = table.gather(1, chosen).to(torch.int32)
        bias = None if plan.bias is None else plan.bias.gather(1, chosen)
        key_cos, key_sin = (_chosen_tokens(x, chosen, width) for x in (plan.key_cos, plan.key_sin))
        runs = self._runs(narrow, lengths, bias)
        return replace(
            plan,
            table=narrow,
            lengths=lengths,
            frames=plan.frames.gather(1, chosen),
            bias=bias,
            runs=runs,
            key_cos=key_cos,
            key_sin=key_sin,
        )

    def _mean_keys(self, k_pages: Tensor, plan: PagePlan, table: Tensor) -> Tensor:
        """Mean key of every page of the window as it is attended to, ``[B, W, N, D]``."""
        if plan.key_cos is None or plan.key_sin is None:
            return k_pages[table].mean(2, dtype=torch.float32)
        keys = k_pages[table].float().flatten(1, 2)  # [B, W*hw, N, D]
        keys = rotate(keys, plan.key_cos, plan.key_sin)
        return keys.unflatten(1, (table.shape[1], plan.page_tokens)).mean(2)

    def _runs(
        self, table: Tensor, lengths: Tensor, bias: Tensor | None
    ) -> tuple[tuple[PageRun, ...], ...]:
        if self.capturable:
            # Not known on the host: two runs that do not follow one another say "anywhere".
            return ((*page_runs((1,)), *page_runs((3,))),) * len(table)
        scores = None if bias is None else bias.tolist()
        return tuple(
            page_runs(pages[:count], None if scores is None else scores[row][:count])
            for row, (pages, count) in enumerate(zip(table.tolist(), lengths.tolist(), strict=True))
        )


def _chosen_tokens(x: Tensor | None, chosen: Tensor, width: int) -> Tensor | None:
    """Select the tokens ``[B, W*hw, n]`` of the chosen pages."""
    if x is None:
        return None
    pages = x.unflatten(1, (width, -1))  # [B, W, hw, n]
    index = chosen[:, :, None, None].expand(-1, -1, *pages.shape[2:])
    return pages.gather(1, index).flatten(1, 2)
