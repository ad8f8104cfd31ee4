"""What self-attention attends to, outside the network: positions, masks and caches.

The network hands each layer's raw query, key and value projections to a ``KVView``; the view
normalises, rotates, stores and attends. Serving's views are in ``models/paged_kv.py`` and
``models/planned_kv.py``, training's in ``models/dense_kv.py``. Views know nothing of timesteps,
prompts or sampling.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from kernels.interface import Kernels

__all__ = ["KVView", "QKNorm"]


@dataclass(frozen=True, slots=True)
class QKNorm:
    """The norm of one layer's queries and keys, over the full width before the head split.

    Attributes:
        q_weight: ``[d]``.
        k_weight: ``[d]``.
        heads: number of heads (N).
        eps: added to the mean square.
        kernels: that compute it.
    """

    q_weight: Tensor
    k_weight: Tensor
    heads: int
    eps: float
    kernels: Kernels

    def query(self, q: Tensor) -> Tensor:
        """Normalise ``[B, T, d]`` and split it into heads ``[B, T, N, D]``."""
        return self.split(self.kernels.rms_norm(q, self.q_weight, self.eps))

    def key(self, k: Tensor) -> Tensor:
        """Normalise ``[B, T, d]`` and split it into heads ``[B, T, N, D]``."""
        return self.split(self.kernels.rms_norm(k, self.k_weight, self.eps))

    def split(self, x: Tensor) -> Tensor:
        """Split ``[B, T, d]`` into heads ``[B, T, N, D]``."""
        return x.unflatten(-1, (self.heads, -1))


class KVView(Protocol):
    """What one forward pass attends to."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm) -> Tensor:
        """Attend for one layer.

        Args:
            layer: index of the block, from 0.
            q: raw query projections ``[B, T, d]`` of the pass's own tokens.
            k: raw keys, the same.
            v: values, the same.
            norm: of queries and keys.

        Returns:
            ``[B, T, d]``, heads merged, before the output projection.
        """
        ...
