"""The operations of ``kernels/interface.py`` in plain torch, on any device.

``TorchKernels`` with ``OracleAttention`` is the oracle: it gathers pages and calls the plain
functions of ``rope``, ``norm`` and ``attention``. The faster implementations replace single
operations.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import attention
from kernels.interface import HeadNorm, PagedAttention
from kernels.norm import gated_residual, layer_norm, modulate, rms_norm
from kernels.paged import PagePlan, gather_pages
from kernels.rope import rotate

__all__ = ["OracleAttention", "RunAttention", "TorchKernels"]


class OracleAttention:
    """Pages gathered into dense keys, then the plain attention function, row by row."""

    name = "torch"
    capturable = False
    takes_bias = True

    def paged(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """See ``PagedAttention.paged``."""
        out = []
        for row, runs in enumerate(plan.runs):
            if not runs:
                out.append(torch.zeros_like(q[row : row + 1]))
                continue
            pages = [run.first + i for run in runs for i in range(run.pages)]
            index = torch.tensor(pages, dtype=torch.int64, device=q.device)
            k, v = k_pages[index].flatten(0, 1)[None], v_pages[index].flatten(0, 1)[None]
            if plan.key_cos is not None and plan.key_sin is not None:
                tokens = k.shape[1]
                k = rotate(k, plan.key_cos[row, :tokens], plan.key_sin[row, :tokens])
            bias = None
            if plan.bias is not None:
                bias = plan.bias[row, : len(pages)].repeat_interleave(plan.page_tokens)
            out.append(attention(q[row : row + 1], k, v, key_bias=bias))
        return torch.cat(out)

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``PagedAttention.dense``."""
        return attention(q, k, v)


class RunAttention:
    """``scaled_dot_product_attention`` over runs of pages where they lie, without a gather.

    Rows whose keys lie in one run are read as a view of the pool. A row in several runs is
    concatenated, and keys that are stored unrotated are rotated into a copy.
    """

    name = "sdpa"
    capturable = False
    takes_bias = True

    def paged(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """See ``PagedAttention.paged``."""
        out = [self._row(q, k_pages, v_pages, plan, row) for row in range(plan.rows)]
        return out[0] if len(out) == 1 else torch.cat(out)

    def _row(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan, row: int) -> Tensor:
        runs = plan.runs[row]
        if not runs:
            return torch.zeros_like(q[row : row + 1])
        k, v = gather_pages(k_pages, runs), gather_pages(v_pages, runs)
        if plan.key_cos is not None and plan.key_sin is not None:
            k = rotate(k[None], plan.key_cos[row, : len(k)], plan.key_sin[row, : len(k)])[0]
        if plan.bias is None:
            return self.dense(q[row : row + 1], k[None], v[None])
        pages = len(k) // plan.page_tokens
        bias = plan.bias[row, :pages].repeat_interleave(plan.page_tokens, output_size=len(k))
        return attention(q[row : row + 1], k[None], v[None], key_bias=bias)

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``PagedAttention.dense``."""
        return attention(q, k, v)


class TorchKernels:
    """Every operation in plain torch; attention is a part that can be exchanged."""

    def __init__(self, attend: PagedAttention | None = None) -> None:
        self._attend: PagedAttention = RunAttention() if attend is None else attend
        self.name = self._attend.name
        self.capturable = self._attend.capturable
        self.takes_bias = self._attend.takes_bias

    def with_attention(self, wrap: Callable[[PagedAttention], PagedAttention]) -> "TorchKernels":
        """See ``Kernels.with_attention``."""
        return type(self)(wrap(self._attend))

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """See ``Kernels.layer_norm``."""
        return layer_norm(x, weight, bias, eps)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See ``Kernels.rms_norm``."""
        return rms_norm(x, weight, eps)

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        """See ``Kernels.modulate``."""
        return modulate(x, shift, scale, eps)

    def gated_residual(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """See ``Kernels.gated_residual``."""
        return gated_residual(x, y, gate)

    def gelu_linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """See ``Kernels.gelu_linear``."""
        return F.gelu(F.linear(x, weight, bias), approximate="tanh")

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """See ``Kernels.rotate``."""
        return rotate(x, cos, sin)

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        key_bias: Tensor | None = None,
    ) -> Tensor:
        """See ``Kernels.attention``."""
        if mask is None and key_bias is None:
            return self._attend.dense(q, k, v)
        return attention(q, k, v, mask, key_bias)

    def write_kv(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        norm: HeadNorm,
        plan: PagePlan,
        k_pages: Tensor,
        v_pages: Tensor,
    ) -> Tensor:
        """See ``Kernels.write_kv``."""
        _, hw, heads, head_dim = k_pages.shape
        q = rms_norm(q, norm.q_weight, norm.eps).unflatten(-1, (heads, head_dim))
        k = rms_norm(k, norm.k_weight, norm.eps).unflatten(-1, (heads, head_dim))
        q = rotate(q, plan.cos, plan.sin)
        if plan.key_cos is None:
            k = rotate(k, plan.cos, plan.sin)
        pages = plan.write.flatten().to(torch.int64)
        k = k.reshape(-1, hw, heads, head_dim)  # [B*F, hw, N, D]
        v = v.reshape(-1, hw, heads, head_dim)
        if not plan.writes_all:
            kept = pages >= 0
            pages, k, v = pages[kept], k[kept], v[kept]
        k_pages.index_copy_(0, pages, k.to(k_pages.dtype))
        v_pages.index_copy_(0, pages, v.to(v_pages.dtype))
        return q

    def paged_attention(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan
    ) -> Tensor:
        """See ``Kernels.paged_attention``."""
        return self._attend.paged(q, k_pages, v_pages, plan)
