"""flash-attn over runs of pages where they lie, FlashAttention 2 and 3.

FA2's own paged form wants pages of 256 tokens, which a latent frame is not. Its form for
sequences of different lengths reads any stretches of one tensor, so a run of pages is a sequence
there, and what lies between two runs is a sequence without queries. Rows whose pages are in
several runs, or carry a score bias, are computed run by run and merged by their log-sum-exps
(a bias on all keys of a run is an addend to its log-sum-exp).

The two generations return different things from the same call; ``_Version`` hides that.
Dao 2023 (arXiv:2307.08691), Shah et al. 2024 (arXiv:2407.08608).
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.backend import RunAttention
from kernels.paged import PagePlan

__all__ = ["FlashAttention", "merge"]


def merge(parts: Tensor, lses: Tensor) -> Tensor:
    """Merge attention over disjoint sets of keys.

    Args:
        parts: ``[K, T, N, D]``, each normalised over its own keys.
        lses: ``[K, N, T]`` log-sum-exps.

    Returns:
        ``[T, N, D]`` in the dtype of ``parts``.
    """
    weights = lses.softmax(0).transpose(1, 2).unsqueeze(-1)  # [K, T, N, 1]
    return (parts.float() * weights).sum(0).to(parts.dtype)


@dataclass(frozen=True, slots=True)
class _Version:
    """One installed flash-attn."""

    generation: int
    varlen: Callable[..., Any]

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_ends: Tensor,
        k_ends: Tensor,
        longest: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Attend from ``q [T, N, D]`` over ``k, v [S, N, D]`` cut at ``q_ends`` and ``k_ends``.

        Returns:
            ``[T, N, D]`` and the log-sum-exp ``[N, T]``.
        """
        arguments: dict[str, Any] = {"max_seqlen_q": longest[0], "max_seqlen_k": longest[1]}
        # FA2 calls it a test option and adds a third result; some builds of FA3 lack the option
        # and return the log-sum-exp always.
        try:
            results = self.varlen(
                q,
                k,
                v,
                cu_seqlens_q=q_ends,
                cu_seqlens_k=k_ends,
                return_attn_probs=True,
                **arguments,
            )
        except TypeError:
            results = self.varlen(q, k, v, cu_seqlens_q=q_ends, cu_seqlens_k=k_ends, **arguments)
        assert isinstance(results, tuple), "this flash-attn does not return log-sum-exps"
        return results[0], results[1]


class FlashAttention(RunAttention):
    """Pages and prompts through flash-attn.

    Args:
        module: ``flash_attn`` (2) or ``flash_attn_interface`` (3).
        generation: 2 or 3.
    """

    name = "flash"
    capturable = False

    def __init__(self, module: ModuleType, generation: int) -> None:
        self._version = _Version(generation, module.flash_attn_varlen_func)

    @classmethod
    def found(cls, device: torch.device) -> "FlashAttention":
        """Import the newest generation that is installed and made for ``device``."""
        hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
        if hopper and importlib.util.find_spec("flash_attn_interface"):
            return cls(importlib.import_module("flash_attn_interface"), 3)
        return cls(importlib.import_module("flash_attn"), 2)

    def paged(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """See ``PagedAttention.paged``."""
        single = all(len(runs) == 1 and runs[0].bias == 0.0 for runs in plan.runs)
        if plan.key_cos is not None:
            return super().paged(q, k_pages, v_pages, plan)  # rotated copies, through ``dense``
        if single:
            return self._rows_at_once(q, k_pages, v_pages, plan)
        return torch.stack(
            [self._run_by_run(q[row], k_pages, v_pages, plan, row) for row in range(plan.rows)]
        )

    def _rows_at_once(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """One call for all rows: runs in the order of the pool, gaps as sequences of no queries."""
        size, queries = plan.page_tokens, q.shape[1]
        order = sorted(range(plan.rows), key=lambda row: plan.runs[row][0].first)
        k_ends, q_ends = [0], [0]
        for count, row in enumerate(order, 1):
            run = plan.runs[row][0]
            start, stop = run.first * size, (run.first + run.pages) * size
            if start < k_ends[-1]:  # rows share pages: a forked stream
                return torch.stack(
                    [self._run_by_run(q[r], k_pages, v_pages, plan, r) for r in range(plan.rows)]
                )
            k_ends += [start, stop]
            q_ends += [(count - 1) * queries, count * queries]
        longest = max(b - a for a, b in pairwise(k_ends))
        ordered = order == list(range(plan.rows))
        packed = q if ordered else q[order]
        out, _ = self._version.attend(
            packed.flatten(0, 1),
            k_pages.flatten(0, 1),
            v_pages.flatten(0, 1),
            _ends(q_ends, q.device),
            _ends(k_ends, q.device),
            (queries, longest),
        )
        out = out.unflatten(0, (plan.rows, queries))
        if ordered:
            return out
        back = torch.empty_like(out)
        back[order] = out
        return back

    def _run_by_run(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan, row: int
    ) -> Tensor:
        parts, lses = [], []
        for run in plan.runs[row]:
            pages = slice(run.first, run.first + run.pages)
            part, lse = self._attend(q, k_pages[pages].flatten(0, 1), v_pages[pages].flatten(0, 1))
            parts.append(part)
            lses.append(lse + run.bias)
        if not parts:
            return torch.zeros_like(q)
        return merge(torch.stack(parts), torch.stack(lses))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from ``[T, N, D]`` over ``[S, N, D]``."""
        q_ends, k_ends = _ends([0, len(q)], q.device), _ends([0, len(k)], q.device)
        return self._version.attend(q, k, v, q_ends, k_ends, (len(q), len(k)))

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``PagedAttention.dense``."""
        rows, queries, keys = q.shape[0], q.shape[1], k.shape[1]
        out, _ = self._version.attend(
            q.flatten(0, 1),
            k.flatten(0, 1),
            v.flatten(0, 1),
            _ends([queries * i for i in range(rows + 1)], q.device),
            _ends([keys * i for i in range(rows + 1)], q.device),
            (queries, keys),
        )
        return out.unflatten(0, (rows, queries))


def _ends(values: list[int], device: torch.device) -> Tensor:
    """Put offsets on the device without waiting for it."""
    host = torch.tensor(values, dtype=torch.int32)
    if device.type == "cuda":
        return host.pin_memory().to(device, non_blocking=True)
    return host
