"""Rebuild a loaded network for inference: other kernels, joined projections, FP8 linears.

The weights and what the network computes stay the same, up to rounding; names of the state
dict do not, so this comes after loading. It knows nothing of pages or sessions.
"""

import torch
from torch import Tensor, nn

from kernels.fp8 import Fp8Linear, check_fp8
from kernels.interface import Kernels
from kernels.number_format import NumberFormat
from models.kv import KVView, QKNorm
from models.transformer import Block, CausalWan, SelfAttention

__all__ = ["accelerate"]


class JoinedSelfAttention(nn.Module):
    """Self-attention whose three projections are one product."""

    def __init__(self, attention: SelfAttention, linear: NumberFormat, kernels: Kernels) -> None:
        super().__init__()
        parts = (attention.q, attention.k, attention.v)
        weight = torch.cat([part.weight for part in parts])
        bias = torch.cat([part.bias for part in parts])
        if linear == "fp8":
            self.qkv: nn.Module = Fp8Linear(weight, bias)
            self.o: nn.Module = Fp8Linear.of(attention.o)
        else:
            joined = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            joined.weight = nn.Parameter(weight, requires_grad=False)
            joined.bias = nn.Parameter(bias, requires_grad=False)
            self.qkv, self.o = joined, attention.o
        self.norm_q, self.norm_k = attention.norm_q, attention.norm_k
        self._layer, self._heads, self._eps = attention._layer, attention._heads, attention._eps
        self._kernels = kernels

    def forward(self, x: Tensor, kv: KVView) -> Tensor:
        """See ``SelfAttention.forward``."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        norm = QKNorm(self.norm_q.weight, self.norm_k.weight, self._heads, self._eps, self._kernels)
        return self.o(kv.attend(self._layer, q, k, v, norm))


class Fp8FeedForward(nn.Module):
    """The feed-forward layers in FP8; the GELU is part of the second one's rounding."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        up, down = layers[0], layers[2]
        assert isinstance(up, nn.Linear)
        assert isinstance(down, nn.Linear)
        self.up, self.down = Fp8Linear.of(up), Fp8Linear.of(down)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [B, T, d]`` to the same shape."""
        return self.down(self.up(x), gelu=True)


def accelerate(
    network: CausalWan, kernels: Kernels, linear: NumberFormat = "plain", *, join: bool = True
) -> CausalWan:
    """Change ``network`` in place and return it.

    Args:
        network: in evaluation mode, its weights loaded.
        kernels: every operation from now on.
        linear: "fp8" rounds the blocks' linears (not embeddings and head) to FP8.
        join: compute queries, keys and values by one product.

    Raises:
        ValueError: FP8 on a device that can neither do nor emulate it.
    """
    if linear == "fp8":
        check_fp8("linear=fp8", next(network.parameters()).device)
    for module in network.modules():
        if hasattr(module, "_kernels"):
            setattr(module, "_kernels", kernels)  # noqa: B010 (a module's attributes have no type)
    for block in network.blocks:
        assert isinstance(block, Block)
        if isinstance(block.self_attn, SelfAttention) and (join or linear == "fp8"):
            block.self_attn = JoinedSelfAttention(block.self_attn, linear, kernels)  # type: ignore[assignment]
        if linear == "fp8":
            if isinstance(block.ffn, nn.Sequential):
                block.ffn = Fp8FeedForward(block.ffn)
            for name in ("q", "o"):
                part = getattr(block.cross_attn, name)
                if isinstance(part, nn.Linear):
                    setattr(block.cross_attn, name, Fp8Linear.of(part))
    return network
