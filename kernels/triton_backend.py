"""The kernels of a CUDA device: fused Triton operations and an attention of choice.

``TritonKernels`` replaces what ``TorchKernels`` does around the matrix products; attention over
pages is Triton's own (``TritonAttention``) or one that reads runs of pages in place
(``kernels.cudnn``, ``kernels.flash``). Inference only: nothing here has a gradient.
"""

from functools import cache

import torch
import triton
from torch import Tensor

from kernels import triton_attention, triton_fp8, triton_ops
from kernels.attention import attention
from kernels.attention_tiles import AttentionTiles, choose_tiles
from kernels.interface import HeadNorm, PagedAttention
from kernels.paged import PagePlan
from kernels.torch_backend import TorchKernels

__all__ = ["TritonAttention", "TritonFp8Attention", "TritonKernels"]


class TritonAttention:
    """Triton over any page table; queries over prompts go through torch's fused attention.

    Args:
        tiles: how to cut the work; chosen for the device and shape when None.
        descriptor: read keys through tensor descriptors; pages that lie apart are copied first.
    """

    name = "triton"
    capturable = True
    takes_bias = True

    def __init__(self, tiles: AttentionTiles | None = None, *, descriptor: bool = False) -> None:
        self._tiles = tiles
        self._descriptor = descriptor

    def tiles_for(self, q: Tensor, k_pages: Tensor, contiguous: bool) -> AttentionTiles:
        """Choose the tiles of a call from its shape."""
        return self._tiles or _tiles(q, k_pages, self._descriptor and contiguous)

    def paged(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """See ``PagedAttention.paged``."""
        k_pages, v_pages, table, contiguous = _rotated(k_pages, v_pages, plan)
        if self._descriptor and not contiguous:
            # On an H200 pages read where they lie took 1.75 ms, and 1.09 in one stretch.
            pages = table.flatten()
            k_pages, v_pages = k_pages[pages], v_pages[pages]
            table, contiguous = _in_order(table), True
        out, _ = triton_attention.paged_attention(
            q, k_pages, v_pages, table, plan.lengths, bias=plan.bias, contiguous=contiguous,
            tiles=self.tiles_for(q, k_pages, contiguous),
        )  # fmt: skip
        return out

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``PagedAttention.dense``."""
        return attention(q, k, v)


class TritonFp8Attention:
    """Triton over a copy of the window in e4m3; ``EmulatedFp8Attention`` is its oracle.

    The copy is made at every call, so pages stay as they are and any table of pages becomes one
    stretch. On an H200 a pass of the 1.3B shapes takes 49.3 ms with it, and 56.3 in bfloat16.

    Args:
        inner: attention over prompts, which is left as it is.
        descriptor: read the copy through tensor descriptors.
    """

    capturable = True
    takes_bias = True

    def __init__(self, inner: PagedAttention, *, descriptor: bool) -> None:
        self.name = f"{inner.name}, fp8"
        self._inner = inner
        self._descriptor = descriptor

    def paged(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """See ``PagedAttention.paged``."""
        k_pages, v_pages, table, _ = _rotated(k_pages, v_pages, plan)
        keys, values = triton_fp8.window(k_pages, v_pages, table, plan.lengths)
        out, _ = triton_attention.paged_attention(
            q, keys, values, _in_order(table), plan.lengths, bias=plan.bias, contiguous=True,
            tiles=_tiles(q, keys, self._descriptor),
        )  # fmt: skip
        return out

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``PagedAttention.dense``."""
        return self._inner.dense(q, k, v)


class TritonKernels(TorchKernels):
    """Fused operations in Triton around an attention.

    Args:
        attend: attention over pages and prompts; Triton's own when None.
    """

    def __init__(self, attend: PagedAttention | None = None) -> None:
        super().__init__(TritonAttention() if attend is None else attend)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """See ``Kernels.layer_norm``."""
        return triton_ops.layer_norm(x, weight, bias, eps)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See ``Kernels.rms_norm``."""
        return triton_ops.rms_norm(x, weight, eps)

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        """See ``Kernels.modulate``."""
        return triton_ops.modulate(x, shift, scale, eps)

    def gated_residual(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """See ``Kernels.gated_residual``."""
        return triton_ops.gated_residual(x, y, gate)

    def gelu_linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """See ``Kernels.gelu_linear``; the matrix product's epilogue applies the GELU."""
        if not x.is_cuda:
            return super().gelu_linear(x, weight, bias)
        out = torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
        return out.unflatten(0, x.shape[:-1])

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
        return triton_ops.write_kv(
            q, k, v, norm.q_weight, norm.k_weight, norm.eps, plan.cos, plan.sin, plan.write,
            k_pages, v_pages, rotate_keys=plan.key_cos is None,
        )  # fmt: skip


def _rotated(
    k_pages: Tensor, v_pages: Tensor, plan: PagePlan
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Return pages with rotated keys, their table, and whether every row's are one stretch."""
    if plan.key_cos is None or plan.key_sin is None:
        return k_pages, v_pages, plan.table, plan.contiguous
    k_pages, v_pages = triton_ops.copy_window(
        k_pages, v_pages, plan.table, plan.lengths, plan.key_cos, plan.key_sin
    )
    return k_pages, v_pages, _in_order(plan.table), True


def _in_order(table: Tensor) -> Tensor:
    """Return the table of a window's copy, row after row."""
    order = torch.arange(table.numel(), dtype=torch.int32, device=table.device)
    return order.view(table.shape)


def _tiles(q: Tensor, k_pages: Tensor, descriptor: bool) -> AttentionTiles:
    rows, queries, heads, head_dim = q.shape
    eight = k_pages.dtype == torch.float8_e4m3fn
    return choose_tiles(
        queries=queries,
        heads=heads,
        rows=rows,
        head_dim=head_dim,
        wide=q.dtype == torch.float32 and not eight,
        processors=_processors(q.device),
        shared=_shared_bytes(q.device),
        descriptor=descriptor,
        eight=eight,
    )


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _shared_bytes(device: torch.device) -> int:
    """Return the shared memory that a program can have on a tensor's device.

    Torch's own properties do not tell it in every version; Triton asks the driver anew each time.
    """
    if device.type != "cuda":
        return 0
    properties = triton.runtime.driver.active.utils.get_device_properties(device.index)
    return int(properties["max_shared_mem"])
