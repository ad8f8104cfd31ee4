"""The network's elementwise operations for training on few cores, and causal attention by chunks.

On a CPU a small network spends most of a training step moving activations, not multiplying matrices.
These operations stay in the dtype they are given (bfloat16 weights train with float32 masters, see
``optimise.py``), use fused primitives, and skip the blocked half of a causal mask by attending chunk
by chunk. In float32 they equal the oracles; a test compares them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import rope
from kernels.interface import Kernels
from kernels.torch_backend import TorchKernels
from models.kv import QKNorm


class LeanKernels(TorchKernels):
    """Fused primitives in the dtype of the activations."""

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Layer norm with affine weights; torch keeps its statistics in float32."""
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMS norm; only the statistics are widened."""
        if x.device.type != "cpu":
            return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)
        mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square()
        scale = torch.rsqrt(mean / x.shape[-1] + eps).to(x.dtype)
        return x * scale * weight

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        """Layer norm, then scale and shift of each frame in one pass."""
        normal = F.layer_norm(x, x.shape[-1:], eps=eps).unflatten(1, (shift.shape[1], -1))
        shift, scale = shift.to(x.dtype).unsqueeze(2), scale.to(x.dtype).unsqueeze(2)
        return torch.addcmul(shift, normal, 1 + scale).flatten(1, 2)

    def gated_residual(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """Add ``y * gate`` to the residual stream in one pass."""
        frames = (gate.shape[1], -1)
        gate = gate.to(x.dtype).unsqueeze(2)
        return torch.addcmul(x.unflatten(1, frames), y.unflatten(1, frames), gate).flatten(1, 2)

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        key_bias: Tensor | None = None,
    ) -> Tensor:
        """Attend; on a CPU by plain products, whose backward is twice as fast as the fused one's."""
        if q.device.type != "cpu" or mask is not None or key_bias is not None:
            return super().attention(q, k, v, mask, key_bias)
        query, key, value = (x.transpose(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
        weights = (query @ key.transpose(-1, -2)).softmax(-1)
        return (weights @ value).transpose(1, 2)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate pairs ``[B, T, N, D]``; on a CPU with two products in the dtype of ``x``."""
        if x.device.type != "cpu":
            return super().rotate(x, cos, sin)
        pairs = x.unflatten(-1, (-1, 2))
        crossed = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
        wide_cos = cos.to(x.dtype).repeat_interleave(2, dim=-1).unsqueeze(-2)
        wide_sin = sin.to(x.dtype).repeat_interleave(2, dim=-1).unsqueeze(-2)
        return torch.addcmul(x * wide_cos, crossed, wide_sin)


@dataclass(frozen=True, slots=True)
class ChunkwiseKV:
    """A block-causal pass without a mask: each chunk attends to a slice of the keys.

    Equal to ``BlockCausalKV`` with the mask of equal chunks.

    Attributes:
        cos: ``[T, D/2]``.
        sin: ``[T, D/2]``.
        chunk_tokens: Tokens of a chunk.
        kernels: That rotate.
    """

    cos: Tensor
    sin: Tensor
    chunk_tokens: int
    kernels: Kernels

    @classmethod
    def of(
        cls,
        frame_positions: Tensor,
        grid: tuple[int, int],
        head_dim: int,
        chunk_frames: int,
        kernels: Kernels,
    ) -> "ChunkwiseKV":
        """Prepare a pass over ``[F]`` frame positions in chunks of ``chunk_frames``."""
        cos, sin = rope.angles(rope.token_positions(frame_positions, grid), head_dim)
        return cls(cos, sin, chunk_frames * grid[0] * grid[1], kernels)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm) -> Tensor:
        """See ``KVView.attend``."""
        query = self.kernels.rotate(norm.query(q), self.cos, self.sin)
        key = self.kernels.rotate(norm.key(k), self.cos, self.sin)
        value = norm.split(v)
        parts = [
            self.kernels.attention(part, key[:, :end], value[:, :end])
            for part, end in zip(
                query.split(self.chunk_tokens, dim=1),
                range(self.chunk_tokens, q.shape[1] + 1, self.chunk_tokens),
                strict=True,
            )
        ]
        return torch.cat(parts, dim=1).flatten(-2)
