"""cuDNN's fused attention over runs of pages, and nothing else in its place."""

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.backend import RunAttention

__all__ = ["CudnnAttention"]


class CudnnAttention(RunAttention):
    """``scaled_dot_product_attention`` that must run in cuDNN or fail."""

    name = "cudnn"

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``PagedAttention.dense``."""
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
            return super().dense(q, k, v)
