"""Attention over pages in FP8 (e4m3): queries, keys, values and weights rounded, sums in float32.

No scales: e4m3 keeps three bits of a number wherever it lies between 2^-6 and 448, and keys that
went through an RMS norm, and values, lie there; what is larger saturates. Weights are raised so that
the largest of a query is 256, which keeps more of the small ones. FP8 in both products follows
FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608). On a GPU of compute capability 8.9 or newer Triton does it (``triton_backend``); on a CPU
it is emulated, which shows the numbers and not the speed. Attention over prompts is left alone.
"""

import math

import torch
from torch import Tensor

from kernels.fp8 import FP8, FP8_MAX, check_fp8
from kernels.interface import PagedAttention
from kernels.paged import PagePlan
from kernels.rope import rotate

__all__ = ["EmulatedFp8Attention", "fp8_attention"]

LARGEST_WEIGHT = 256.0
LEAST_HEAD_DIM = 32
"""Terms that an FP8 product of the tensor cores adds up at least."""
MOST_HEAD_DIM = 256


def fp8_attention(inner: PagedAttention, device: torch.device, head_dim: int) -> PagedAttention:
    """Return attention over pages in FP8, and over prompts by ``inner``.

    Raises:
        ValueError: the device has no FP8 products, they do not take such heads, or Triton is not
            installed.
    """
    if device.type != "cuda":
        return EmulatedFp8Attention(inner)
    if head_dim & (head_dim - 1) or not LEAST_HEAD_DIM <= head_dim <= MOST_HEAD_DIM:
        raise ValueError(
            f"attention=fp8 with heads of {head_dim}; it takes powers of two from {LEAST_HEAD_DIM} to "
            f"{MOST_HEAD_DIM}; leave it out"
        )
    check_fp8("attention=fp8", device)
    from kernels.triton_backend import TritonFp8Attention

    descriptor = torch.cuda.get_device_capability(device) >= (9, 0)
    return TritonFp8Attention(inner, descriptor=descriptor)


class EmulatedFp8Attention:
    """The rounding of FP8 in plain torch, the products in float32.

    Args:
        inner: attention over prompts, which is left as it is.
    """

    capturable = True
    """Runs of pages are not looked at, so whoever chooses pages need not say them."""
    takes_bias = True

    def __init__(self, inner: PagedAttention) -> None:
        self.name = f"{inner.name}, fp8"
        self._inner = inner

    def paged(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """See ``PagedAttention.paged``."""
        return torch.cat([self._row(q[row], k_pages, v_pages, plan, row) for row in range(len(q))])

    def _row(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan, row: int) -> Tensor:
        pages = plan.table[row, : int(plan.lengths[row])].long()
        if not len(pages):
            return torch.zeros_like(q)[None]
        k, v = k_pages[pages].flatten(0, 1), v_pages[pages].flatten(0, 1)
        if plan.key_cos is not None and plan.key_sin is not None:
            k = rotate(k[None], plan.key_cos[row, : len(k)], plan.key_sin[row, : len(k)])[0]
        query, k, v = _rounded(q), _rounded(k), _rounded(v)
        scores = torch.einsum("tnd,snd->nts", query, k) / math.sqrt(q.shape[-1])
        if plan.bias is not None:
            scores += plan.bias[row, : len(pages)].repeat_interleave(plan.page_tokens)
        weights = LARGEST_WEIGHT * (scores - scores.amax(-1, keepdim=True)).exp()
        out = torch.einsum("nts,snd->tnd", _rounded(weights), v)
        return (out / weights.sum(-1).t()[..., None]).to(q.dtype)[None]

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``PagedAttention.dense``."""
        return self._inner.dense(q, k, v)


def _rounded(x: Tensor) -> Tensor:
    """Round to e4m3, saturating; float32."""
    return x.float().clamp(-FP8_MAX, FP8_MAX).to(FP8).float()
