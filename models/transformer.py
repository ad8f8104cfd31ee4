"""The causal Wan video transformer (Wan team 2025, arXiv:2503.20314).

One pass turns noisy latents into velocities. Every latent frame has its own timestep. The
network knows nothing of positions, masks, caches or prompts' texts: self-attention goes
through a ``KVView`` and a prompt comes as ready keys and values, computed once.

Parameter names and shapes are those of the original Wan release, so the weights of the whole
family load without renaming. ``models/precision.py`` says which operation has which dtype.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.interface import Kernels
from kernels.torch_backend import TorchKernels
from models.config import TransformerConfig
from models.kv import KVView, QKNorm

__all__ = ["CausalWan", "PromptKV", "flow_from_x0", "places", "sinusoid"]


@dataclass(frozen=True, slots=True)
class PromptKV:
    """Keys and values of prompts for every layer's cross-attention.

    Attributes:
        k: for each of L layers ``[B, P, N, D]``, normalised.
        v: for each layer ``[B, P, N, D]``.
        image_k: the same over image tokens; empty for a network that takes none.
        image_v: the same.
    """

    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]
    image_k: tuple[Tensor, ...] = ()
    image_v: tuple[Tensor, ...] = ()

    def rows(self, index: int | slice) -> "PromptKV":
        """Select rows; a single index keeps the batch dimension."""
        if isinstance(index, int):
            index = slice(index, index + 1)
        return PromptKV(*(tuple(x[index] for x in part) for part in self._parts()))

    @staticmethod
    def stack(prompts: Sequence["PromptKV"]) -> "PromptKV":
        """Put the rows of several prompts into one batch, in order."""
        if len(prompts) == 1:
            return prompts[0]
        parts = zip(*(prompt._parts() for prompt in prompts), strict=True)
        return PromptKV(*(tuple(torch.cat(x) for x in zip(*part, strict=True)) for part in parts))

    def _parts(self) -> tuple[tuple[Tensor, ...], ...]:
        return self.k, self.v, self.image_k, self.image_v


def sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    """Embed ``timesteps [...]`` as ``[..., dim]`` float64: all cosines, then all sines."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timesteps.device) / half
    angle = timesteps.to(torch.float64).unsqueeze(-1) * 10000.0**-exponents
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def places(grid: tuple[int, int], dim: int, device: torch.device) -> Tensor:
    """Tell the tokens of a latent frame apart: ``[rows * columns, dim]`` float32.

    A quarter of the width each for sines and cosines of the row, then of the column, both counted
    from 0 to 1 across the picture, at half a turn and up to 8 turns.
    """

    def axis(count: int) -> Tensor:
        at = (torch.arange(count, device=device) + 0.5) / count
        angle = at[:, None] * math.pi * 2.0 ** torch.linspace(0.0, 4.0, dim // 4, device=device)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)

    rows, columns = axis(grid[0]), axis(grid[1])
    both = rows[:, None].expand(-1, grid[1], -1), columns[None].expand(grid[0], -1, -1)
    return torch.cat(both, dim=-1).flatten(0, 1)


def flow_from_x0(latents: Tensor, x0: Tensor, timesteps: Tensor) -> Tensor:
    """Turn an estimate of the clean latents into the velocity ``(latents - x0) / sigma``.

    Args:
        latents: ``[B, F, C, H, W]`` what the network saw.
        x0: ``[B, F, C, H, W]`` its estimate.
        timesteps: ``[B, F]``, 0 to 1000; levels below a twentieth count as that.
    """
    sigma = (timesteps / 1000.0).clamp_min(0.05)[:, :, None, None, None]
    return ((latents.float() - x0.float()) / sigma).to(x0.dtype)


class SelfAttention(nn.Module):
    """Projections around a ``KVView``."""

    def __init__(self, config: TransformerConfig, layer: int, kernels: Kernels) -> None:
        super().__init__()
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = _Scale(config.dim)
        self.norm_k = _Scale(config.dim)
        self._layer = layer
        self._heads, self._eps, self._kernels = config.num_heads, config.eps, kernels

    def forward(self, x: Tensor, kv: KVView) -> Tensor:
        """Attend from ``x [B, T, d]`` to what ``kv`` holds."""
        norm = QKNorm(self.norm_q.weight, self.norm_k.weight, self._heads, self._eps, self._kernels)
        return self.o(kv.attend(self._layer, self.q(x), self.k(x), self.v(x), norm))


class CrossAttention(nn.Module):
    """Attention to a prompt, and to image tokens where the network takes them."""

    def __init__(self, config: TransformerConfig, kernels: Kernels) -> None:
        super().__init__()
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = _Scale(config.dim)
        self.norm_k = _Scale(config.dim)
        if config.image_dim is not None:
            self.k_img = nn.Linear(config.dim, config.dim)
            self.v_img = nn.Linear(config.dim, config.dim)
            self.norm_k_img = _Scale(config.dim)
        self._heads, self._eps, self._kernels = config.num_heads, config.eps, kernels

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self._heads, -1))

    def text_kv(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, P, N, D]`` of embedded text ``[B, P, d]``."""
        k = self._kernels.rms_norm(self.k(text), self.norm_k.weight, self._eps)
        return self._split(k), self._split(self.v(text))

    def image_kv(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of embedded image tokens, the same shapes."""
        k = self._kernels.rms_norm(self.k_img(image), self.norm_k_img.weight, self._eps)
        return self._split(k), self._split(self.v_img(image))

    def forward(self, x: Tensor, prompt: PromptKV, layer: int) -> Tensor:
        """Attend from ``x [B, T, d]`` to the keys that ``prompt`` has for ``layer``."""
        q = self._split(self._kernels.rms_norm(self.q(x), self.norm_q.weight, self._eps))
        out = self._kernels.attention(q, prompt.k[layer], prompt.v[layer])
        if prompt.image_k:
            out = out + self._kernels.attention(q, prompt.image_k[layer], prompt.image_v[layer])
        return self.o(out.flatten(-2))


def _modulation(rows: int, dim: int) -> nn.Parameter:
    weight = torch.empty(1, rows, dim)
    if not weight.is_meta:
        # Dividing on the meta device makes torch load its compiler, which takes a second.
        weight = torch.randn(1, rows, dim) / dim**0.5
    return nn.Parameter(weight)


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: TransformerConfig, layer: int, kernels: Kernels) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config, layer, kernels)
        self.norm3 = nn.LayerNorm(config.dim, config.eps)
        self.cross_attn = CrossAttention(config, kernels)
        self.ffn: nn.Module = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.modulation = _modulation(6, config.dim)
        self._layer, self._eps, self._kernels = layer, config.eps, kernels

    def forward(self, x: Tensor, e: Tensor, prompt: PromptKV, kv: KVView) -> Tensor:
        """Update ``x [B, T, d]`` under the time modulation ``e [B, F, 6, d]``, float32."""
        kernels, eps = self._kernels, self._eps
        m = (self.modulation + e).unbind(2)  # shift, scale, gate of attention, then of the ffn
        y = self.self_attn(kernels.modulate(x, m[0], m[1], eps), kv)
        x = kernels.gated_residual(x, y, m[2])
        y = kernels.layer_norm(x, self.norm3.weight, self.norm3.bias, eps)
        x = x + self.cross_attn(y, prompt, self._layer)
        y = self._feed_forward(kernels.modulate(x, m[3], m[4], eps))
        return kernels.gated_residual(x, y, m[5])

    def _feed_forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.ffn, nn.Sequential):
            return self.ffn(x)  # what models/accelerate.py put in its place
        wide, narrow = cast(nn.Linear, self.ffn[0]), cast(nn.Linear, self.ffn[2])
        return narrow(self._kernels.gelu_linear(x, wide.weight, wide.bias))


class Head(nn.Module):
    """Modulated projection of every token to the values of its patch."""

    def __init__(self, config: TransformerConfig, kernels: Kernels) -> None:
        super().__init__()
        _, rows, columns = config.patch
        self.head = nn.Linear(config.dim, rows * columns * config.out_channels)
        self.modulation = _modulation(2, config.dim)
        self._eps, self._kernels = config.eps, kernels

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Project ``x [B, T, d]`` under the time embedding ``e [B, F, d]``, float32."""
        shift, scale = (self.modulation + e.unsqueeze(2)).unbind(2)
        return self.head(self._kernels.modulate(x, shift, scale, self._eps))


class ImageEmbedding(nn.Module):
    """Bring the features of an image encoder to the width of the network."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.image_dim is not None
        self.proj = nn.Sequential(
            nn.LayerNorm(config.image_dim),
            nn.Linear(config.image_dim, config.image_dim),
            nn.GELU(),
            nn.Linear(config.image_dim, config.dim),
            nn.LayerNorm(config.dim),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[B, image tokens, image_dim]`` to ``[B, image tokens, d]``."""
        return self.proj(image)


class _Scale(nn.Module):
    """The weight of a norm; the norm itself is a kernel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))


class CausalWan(nn.Module):
    """Velocity of noisy latents, for any size the configuration gives.

    Args:
        config: widths and counts.
        kernels: operations to build it from; default plain torch.
    """

    frame_places: nn.Parameter | None

    def __init__(self, config: TransformerConfig, kernels: Kernels | None = None) -> None:
        super().__init__()
        kernels = kernels or TorchKernels()
        dim = config.dim
        self.config = config
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, config.patch, config.patch)
        told = nn.Parameter(torch.zeros(config.frame_places, dim)) if config.frame_places else None
        self.register_parameter("frame_places", told)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config, i, kernels) for i in range(config.num_layers))
        self.head = Head(config, kernels)
        if config.image_dim is not None:
            self.img_emb = ImageEmbedding(config)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, which is also that of the residual stream."""
        return self.patch_embedding.weight.dtype

    def prompt_kv(self, context: Tensor, image: Tensor | None = None) -> PromptKV:
        """Prepare prompts for every pass that follows.

        Args:
            context: embedded prompts ``[B, P, text_dim]``, padding rows zero.
            image: features of a start image ``[B, image tokens, image_dim]``, for a network
                with an ``image_dim``.
        """
        assert (image is None) == (self.config.image_dim is None), "image features and image_dim"
        text = self.text_embedding(context.to(self.dtype))
        attentions = [block.cross_attn for block in self._blocks()]
        k, v = zip(*(attention.text_kv(text) for attention in attentions), strict=True)
        if image is None:
            return PromptKV(k, v)
        tokens = self.img_emb(image.to(self.dtype))
        image_kv = (attention.image_kv(tokens) for attention in attentions)
        return PromptKV(k, v, *zip(*image_kv, strict=True))

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        prompt: PromptKV,
        kv: KVView,
        token_places: Tensor | None = None,
    ) -> Tensor:
        """Predict the velocity, noise minus clean latents.

        Args:
            latents: ``[B, F, C, H, W]``, with mask and image channels for image-to-video.
            timesteps: ``[B, F]``, 0 to 1000.
            prompt: of every row, from ``prompt_kv``.
            kv: what self-attention sees; it also knows the frames' positions.
            token_places: for a placed network whose ``latents`` are a part of a picture: the
                ``places`` of that part's tokens, ``[tokens of a frame, d]``.

        Returns:
            ``[B, F, out_channels, H, W]`` in the dtype of the weights (of autocast inside it).
        """
        height, width = latents.shape[-2:]
        grid = self.config.grid(height, width)
        x = self._patchify(latents.to(self.dtype), grid).to(self.dtype)
        if self.config.placed:
            if token_places is None:
                token_places = places(grid, self.config.dim, x.device)
            x = x + token_places.to(x.dtype).repeat(latents.shape[1], 1)
        if self.frame_places is not None:
            place = torch.arange(latents.shape[1], device=x.device) % len(self.frame_places)
            x = x + self.frame_places[place].repeat_interleave(grid[0] * grid[1], dim=0)
        frequencies = sinusoid(timesteps, self.config.freq_dim).to(self.dtype)
        e = self.time_embedding(frequencies)  # [B, F, d]
        e6 = self.time_projection(e).float().unflatten(-1, (6, -1))  # [B, F, 6, d]
        for block in self.blocks:
            x = block(x, e6, prompt, kv)
        out = self._unpatchify(self.head(x, e.float()), grid)
        return flow_from_x0(latents, out, timesteps) if self.config.predicts_x0 else out

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _patchify(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Embed patches: the convolution's stride is its size, so it is a matrix product."""
        batch, frames, channels = latents.shape[:3]
        _, rows, columns = self.config.patch
        patches = latents.reshape(batch, frames, channels, grid[0], rows, grid[1], columns)
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)  # [B, T, C*4]
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def _unpatchify(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        _, rows, columns = self.config.patch
        patches = tokens.unflatten(1, (-1, *grid)).unflatten(-1, (rows, columns, -1))
        return patches.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
