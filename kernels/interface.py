"""The operations a network and its cache are made of, as protocols.

``kernels/torch_backend.py`` runs on any device; the faster implementations must give the same
numbers. ``kernels/select.py`` chooses among them. Nothing here knows of models, layers or sessions.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from kernels.paged import PagePlan

__all__ = ["HeadNorm", "Kernels", "PagedAttention"]


class HeadNorm(Protocol):
    """Weights of the RMS norms of queries and keys over the full width d, before the heads."""

    @property
    def q_weight(self) -> Tensor:
        """Weight of the queries' norm, ``[d]``."""

    @property
    def k_weight(self) -> Tensor:
        """Weight of the keys' norm, ``[d]``."""

    @property
    def eps(self) -> float:
        """Added to the mean square."""


class PagedAttention(Protocol):
    """Attention over pages; the part of the kernels that is chosen for itself."""

    name: str
    capturable: bool
    """Whether a captured graph serves any page table: only device tensors are read."""
    takes_bias: bool
    """Whether it can add a bias to the scores of a page."""

    def paged(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan) -> Tensor:
        """Attend from ``q [B, T, N, D]`` over the plan's pages; ``[B, T, N, D]``."""

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from ``q [B, T, N, D]`` over ``k, v [B, S, N, D]`` without mask or bias."""


class Kernels(Protocol):
    """What the network (first group) and a paged cache (second group) call.

    Shapes: B rows, F latent frames, T = F*hw tokens, N heads of D elements, d = N*D, pages
    ``[P, hw, N, D]`` of one layer.
    """

    name: str
    capturable: bool
    takes_bias: bool

    def with_attention(self, wrap: Callable[[PagedAttention], PagedAttention]) -> "Kernels":
        """Return the same operations around what ``wrap`` makes of their attention."""

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Layer norm of ``x [B, T, d]`` with weights ``[d]``."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMS norm of ``x [B, T, d]`` with a weight ``[d]``."""

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        """Layer norm, then ``* (1 + scale) + shift`` with ``[B, F, d]``, one value a frame."""

    def gated_residual(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """``x + y * gate`` with ``gate [B, F, d]``."""

    def gelu_linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """GELU (tanh form) of a linear layer."""

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate heads ``x [B, T, N, D]`` by ``[T, D/2]`` or ``[B, T, D/2]``."""

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        key_bias: Tensor | None = None,
    ) -> Tensor:
        """Attend over dense keys, see ``kernels.attention.attention``."""

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
        """Norm, rotate and split ``q, k [B, T, d]``; write k and v to the plan's pages.

        Keys are written unrotated when the plan has key angles. Returns the queries
        ``[B, T, N, D]``.
        """

    def paged_attention(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: PagePlan
    ) -> Tensor:
        """Attend from ``q [B, T, N, D]`` over the plan's pages; ``[B, T, N, D]``."""
