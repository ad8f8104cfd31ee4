"""cuDNN's fused attention over runs of pages, and nothing else in its place."""

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.paged import PagePlan
from kernels.torch_backend import RunAttention

__all__ = ["CudnnAttention"]


class CudnnAttention(RunAttention):
    """``scaled_dot_product_attention`` that must run in cuDNN or fail."""

    name = "cudnn"
    takes_bias = False

    def paged(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """See ``PagedAttention.paged``."""
        assert plan.bias is None, "a model with a score bias is refused when kernels are chosen"
        return super().paged(q, k_pages, v_pages, plan)

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``PagedAttention.dense``."""
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
            return super().dense(q, k, v)
