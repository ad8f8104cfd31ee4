"""flash-attn over pages where they lie, FlashAttention 2 and 3.

FA2's own paged form wants pages of 256 tokens, which a latent frame is not. Its form for
sequences of different lengths reads any stretch of one tensor: what lies before a row's stretch is
a sequence without queries, the stretch is the one with them. Where the stretch begins and ends is
computed on the device, so one captured graph serves every window. Pages that lie apart, and keys
that are stored unrotated, are gathered first. With a score bias every page is a sequence of its
own, and they are merged by their log-sum-exps (a bias on all keys of a page is an addend to its
log-sum-exp).

The two generations return different things from the same call; ``_Version`` hides that.
Dao 2023 (arXiv:2307.08691), Shah et al. 2024 (arXiv:2407.08608).
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.paged import PagePlan
from kernels.rope import rotate

__all__ = ["FlashAttention", "find_flash", "merge"]


def find_flash(device: torch.device) -> tuple[str, int]:
    """Name the newest flash-attn that is installed and made for ``device``, and its generation.

    Raises:
        ImportError: there is none, and why not.
    """
    capability = torch.cuda.get_device_capability(device)
    if capability[0] == 9 and importlib.util.find_spec("flash_attn_interface"):
        return "flash_attn_interface", 3
    if importlib.util.find_spec("flash_attn"):
        return "flash_attn", 2
    if importlib.util.find_spec("flash_attn_interface"):
        raise ImportError(
            f"only FlashAttention 3 is installed, which runs on sm_90, and this is "
            f"sm_{capability[0]}{capability[1]}; install flash-attn 2"
        )
    raise ImportError('flash-attn is not installed (the extra "gpu" has it)')


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


class FlashAttention:
    """Pages and prompts through flash-attn.

    Args:
        module: ``flash_attn`` (2) or ``flash_attn_interface`` (3).
        generation: 2 or 3.
    """

    name = "flash"
    capturable = True
    takes_bias = True

    def __init__(self, module: ModuleType, generation: int) -> None:
        self._version = _Version(generation, module.flash_attn_varlen_func)

    @classmethod
    def found(cls, device: torch.device) -> "FlashAttention":
        """Import what ``find_flash`` names.

        Raises:
            ImportError: nothing fits the device, or what is installed cannot be imported.
        """
        name, generation = find_flash(device)
        return cls(importlib.import_module(name), generation)

    def paged(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """See ``PagedAttention.paged``."""
        return torch.stack(
            [self._row(q[row], k_pages, v_pages, plan, row) for row in range(plan.rows)]
        )

    def _row(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan, row: int) -> Tensor:
        size, table, length = plan.page_tokens, plan.table[row], plan.lengths[row]
        in_place = plan.contiguous and plan.key_cos is None
        start = size * table[0] if in_place else torch.zeros_like(length)
        if not in_place:
            k_pages, v_pages = k_pages[table], v_pages[table]
        k, v = k_pages.flatten(0, 1), v_pages.flatten(0, 1)
        if plan.key_cos is not None and plan.key_sin is not None:
            k = rotate(k[None], plan.key_cos[row], plan.key_sin[row])[0]
        if plan.bias is None:
            # Without keys the output is zeros, as flash-attn defines it.
            return self._sequences(q[None], k, v, torch.stack((start, start + size * length)))[0][0]
        page = torch.arange(len(table) + 1, dtype=torch.int32, device=q.device)
        parts, lses = self._sequences(
            q.expand(len(table), *q.shape), k, v, start + size * torch.minimum(page, length)
        )
        lses = lses + plan.bias[row][:, None, None]
        alive = (page[:-1] < length)[:, None, None]
        merged = merge(parts, torch.where(alive, lses, -torch.inf))
        return torch.where(length > 0, merged, 0)

    def _sequences(self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from ``q [R, T, N, D]`` over ``k, v [S, N, D]`` from one of R+1 ends to the next.

        Returns:
            ``[R, T, N, D]`` and log-sum-exps ``[R, N, T]``.
        """
        rows, queries = q.shape[:2]
        q_ends = queries * torch.arange(-1, rows + 1, dtype=torch.int32, device=q.device)
        k_ends = torch.cat((torch.zeros_like(ends[:1]), ends))
        out, lse = self._version.attend(
            q.flatten(0, 1), k, v, q_ends.clamp_(min=0), k_ends, (queries, len(k))
        )
        return out.unflatten(0, (rows, queries)), lse.unflatten(1, (rows, queries)).transpose(0, 1)

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``PagedAttention.dense``."""
        rows, keys = k.shape[:2]
        ends = keys * torch.arange(rows + 1, dtype=torch.int32, device=q.device)
        return self._sequences(q, k.flatten(0, 1), v.flatten(0, 1), ends)[0]
