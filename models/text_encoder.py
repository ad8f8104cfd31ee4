"""UMT5 encoder: prompt tokens in, one embedding per token out.

Pre-norm T5 with a relative position bias in every layer, no attention scaling and a
gated GELU; original Wan names. The same class is Wan's 5.7 B encoder and the bundled
model's small one, and it can be trained jointly with the video network. Knows
nothing of prompts over time, caching or where the weights came from.

UMT5: Chung et al. 2023, "UniMax" (arXiv:2304.09151); T5: Raffel et al. 2020 (arXiv:1910.10683).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.tokenizer import Tokenizer, token_ids


@dataclass(frozen=True, slots=True)
class TextEncoderConfig:
    """Shape of a UMT5 encoder; the defaults are UMT5-XXL as Wan2.1 uses it.

    Attributes:
        text_len: rows P of a prompt embedding, padding included.
        buckets: entries of the relative position table, half of them per direction.
        max_distance: all distances from here on share the last bucket.
    """

    vocab_size: int = 256384
    dim: int = 4096
    dim_attn: int = 4096
    dim_ffn: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    text_len: int = 512
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6


def relative_buckets(relative: Tensor, buckets: int = 32, max_distance: int = 128) -> Tensor:
    """Map ``key - query`` distances to rows of the position table.

    Half of the rows are for keys after the query. Of each half, the first half are
    exact distances and the rest logarithmic up to ``max_distance``.

    Args:
        relative: int64, any shape.
        buckets: rows of the table.
        max_distance: distance that reaches the last row.
    """
    half = buckets // 2
    exact = half // 2
    distance = relative.abs()
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
    return (relative > 0).long() * half + torch.where(distance < exact, distance, far)


def _embedding(rows: int, dim: int) -> nn.Embedding:
    weight = torch.empty(rows, dim)
    if not weight.is_meta:
        # Drawing on the meta device gives nothing, and makes torch load its compiler for a second.
        nn.init.normal_(weight)
    return nn.Embedding(rows, dim, _weight=weight)


class _RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(self.weight.dtype)


class _Attention(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.q = nn.Linear(config.dim, config.dim_attn, bias=False)
        self.k = nn.Linear(config.dim, config.dim_attn, bias=False)
        self.v = nn.Linear(config.dim, config.dim_attn, bias=False)
        self.o = nn.Linear(config.dim_attn, config.dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        # bias: [B, N, P, P]. Scores are not scaled down, so bfloat16 would round them by whole
        # tenths: they and their softmax are at least float32 whatever the weights are.
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = q.to(wide) @ k.to(wide).transpose(-1, -2) + bias
        y = scores.softmax(-1).to(v.dtype) @ v
        return self.o(y.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(config.dim, config.dim_ffn, bias=False), nn.GELU(approximate="tanh")
        )
        self.fc1 = nn.Linear(config.dim, config.dim_ffn, bias=False)
        self.fc2 = nn.Linear(config.dim_ffn, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x) * self.gate(x))


class _RelativePosition(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.embedding = _embedding(config.buckets, config.num_heads)

    def forward(self, rows: Tensor) -> Tensor:
        return self.embedding(rows).permute(2, 0, 1)[None]  # [1, N, P, P]


class _Block(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.norm1 = _RMSNorm(config.dim, config.eps)
        self.attn = _Attention(config)
        self.norm2 = _RMSNorm(config.dim, config.eps)
        self.ffn = _FeedForward(config)
        self.pos_embedding = _RelativePosition(config)

    def forward(self, x: Tensor, rows: Tensor, padding: Tensor) -> Tensor:
        bias = (self.pos_embedding(rows).float() + padding).clamp(min=torch.finfo(x.dtype).min)
        x = x + self.attn(self.norm1(x), bias)
        return x + self.ffn(self.norm2(x))


class UMT5(nn.Module):
    """The encoder network, any width."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = _embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.norm = _RMSNorm(config.dim, config.eps)

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw T5's initial weights, so that unscaled attention starts well-behaved."""
        c = self.config
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if ".norm" in name or name.startswith("norm"):
                    weight.fill_(1.0)
                    continue
                fan_in = weight.shape[-1]
                std = 1.0 if name == "token_embedding.weight" else fan_in**-0.5
                if name.endswith("attn.q.weight"):
                    std = (c.dim * c.dim_attn / c.num_heads) ** -0.5
                elif "pos_embedding" in name:
                    std = (2 * c.dim) ** -0.5
                weight.normal_(0.0, std, generator=generator)

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode ``ids`` ``[B, P]`` under ``mask`` ``[B, P]``; padded rows are not meaningful.

        Returns:
            ``[B, P, dim]`` in the weights' dtype.
        """
        length = ids.shape[1]
        position = torch.arange(length, device=ids.device)
        rows = relative_buckets(
            position[None, :] - position[:, None], self.config.buckets, self.config.max_distance
        )
        # Activations of T5 grow large, so the sum over blocks is float32 under bfloat16 weights.
        x: Tensor = self.token_embedding(ids)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        padding = torch.zeros(mask.shape, dtype=torch.float32, device=ids.device)
        padding = padding.masked_fill(mask == 0, torch.finfo(x.dtype).min)[:, None, None, :]
        for block in self.blocks:
            x = block(x, rows, padding)
        return self.norm(x)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode ``ids`` ``[B, P]``; rows where ``mask`` is 0 come back as zeros.

        Returns:
            Prompt embeddings ``[B, P, dim]`` in the weights' dtype.
        """
        hidden = self.hidden(ids, mask)
        return hidden * (mask != 0).to(hidden.dtype)[..., None]


class TextEncoder:
    """A tokenizer and the network that reads its tokens.

    ``network`` is an ordinary module: training updates it in place and gradients flow
    through ``encode`` unless the caller turns them off.
    """

    def __init__(self, network: UMT5, tokenizer: Tokenizer) -> None:
        if tokenizer.vocab_size > network.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the text encoder "
                f"{network.config.vocab_size}; use the tokenizer of this checkpoint"
            )
        self.network = network
        self.tokenizer = tokenizer

    @property
    def text_len(self) -> int:
        """Rows P of every prompt embedding."""
        return self.network.config.text_len

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return self.network.token_embedding.weight.device

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed B prompts.

        Returns:
            ``[B, text_len, dim]``, zero where a prompt has no token; on the network's
            device, in its dtype.
        """
        ids, mask = token_ids(self.tokenizer, texts, self.text_len, trim=True)
        rows: Tensor = self.network(ids.to(self.device), mask.to(self.device))
        return functional.pad(rows, (0, 0, 0, self.text_len - rows.shape[1]))
