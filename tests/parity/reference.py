"""A second, independent Wan in float64, for vectors at sizes the reference ones do not have.

Nothing of ``kernels`` or ``models`` is used: positions are rotated as complex numbers, each query
picks its keys by a rule on frame indices, a stream recomputes nothing and caches lists. It is
slow and only meant to check that no size is baked into the project or its parity runner.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Seen = Callable[[int, int], bool]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a folder, in the words of its ``config.json``."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    text_dim: int
    text_len: int
    freq_dim: int
    latent_hw: tuple[int, int]
    in_dim: int = 16
    clip_dim: int | None = None

    def config(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        raw: dict[str, Any] = {
            "model_type": "t2v" if self.clip_dim is None else "i2v",
            "patch_size": [1, 2, 2],
            "out_dim": 16,
            "qk_norm": True,
            "cross_attn_norm": True,
            "eps": 1e-6,
        }
        names = ("dim", "ffn_dim", "num_heads", "num_layers", "text_dim", "text_len", "freq_dim")
        raw |= {name: getattr(self, name) for name in (*names, "in_dim")}
        return raw if self.clip_dim is None else {**raw, "clip_dim": self.clip_dim}


def draw_weights(sizes: Sizes, generator: torch.Generator) -> Weights:
    """Draw every parameter of the network under its original name, rounded to bfloat16."""
    d, f, image = sizes.dim, sizes.ffn_dim, sizes.clip_dim

    def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (d, sizes.in_dim, 1, 2, 2),
        "patch_embedding.bias": (d,),
        **linear("text_embedding.0", d, sizes.text_dim),
        **linear("text_embedding.2", d, d),
        **linear("time_embedding.0", d, sizes.freq_dim),
        **linear("time_embedding.2", d, d),
        **linear("time_projection.1", 6 * d, d),
        "head.modulation": (1, 2, d),
        **linear("head.head", 64, d),
    }
    for i in range(sizes.num_layers):
        block = f"blocks.{i}"
        shapes[f"{block}.modulation"] = (1, 6, d)
        shapes |= {f"{block}.norm3.weight": (d,), f"{block}.norm3.bias": (d,)}
        shapes |= linear(f"{block}.ffn.0", f, d) | linear(f"{block}.ffn.2", d, f)
        for kind, part in itertools.product(("self", "cross"), "qkvo"):
            shapes |= linear(f"{block}.{kind}_attn.{part}", d, d)
        for kind, part in itertools.product(("self", "cross"), "qk"):
            shapes[f"{block}.{kind}_attn.norm_{part}.weight"] = (d,)
        if image is not None:
            shapes |= linear(f"{block}.cross_attn.k_img", d, d)
            shapes |= linear(f"{block}.cross_attn.v_img", d, d)
            shapes[f"{block}.cross_attn.norm_k_img.weight"] = (d,)
    if image is not None:
        shapes |= {f"img_emb.proj.0.{part}": (image,) for part in ("weight", "bias")}
        shapes |= linear("img_emb.proj.1", image, image) | linear("img_emb.proj.3", d, image)
        shapes |= {f"img_emb.proj.4.{part}": (d,) for part in ("weight", "bias")}
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("modulation"):
            noise = 0.25 * noise
        elif len(shape) == 1:
            noise = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        else:
            noise = noise / noise[0].numel() ** 0.5
        weights[name] = noise.bfloat16()
    return weights


class Reference:
    """The network as plain functions of its weights."""

    def __init__(self, sizes: Sizes, weights: Weights) -> None:
        self.sizes = sizes
        self.w = {name: weight.double() for name, weight in weights.items()}
        # Cached keys (not rotated) and values by layer and frame, [B, hw, N, D].
        self.cache: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in range(sizes.num_layers)]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def rms(self, name: str, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * self.w[f"{name}.weight"]

    def heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.sizes.num_heads, -1)

    @staticmethod
    def standard(x: Tensor, eps: float = 1e-6) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()

    @staticmethod
    def tanh_gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))

    def rotate(self, x: Tensor, frame: int) -> Tensor:
        """Rotate the heads ``[B, hw, N, D]`` of one frame as complex numbers."""
        height, width = (side // 2 for side in self.sizes.latent_hw)
        size = x.shape[-1]
        space = 2 * (size // 6)
        rows = torch.arange(height).repeat_interleave(width)
        columns = torch.arange(width).repeat(height)
        angles = []
        for part, position in (
            (size - 2 * space, torch.full_like(rows, frame)),
            (space, rows),
            (space, columns),
        ):
            rate = torch.tensor(
                [10000.0 ** (-2 * j / part) for j in range(part // 2)], dtype=torch.float64
            )
            angles.append(position[:, None].double() * rate)
        turn = torch.polar(torch.ones(1, dtype=torch.float64), torch.cat(angles, 1))
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * turn[None, :, None]).flatten(-2)

    @staticmethod
    def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("btnd,bsnd->bnts", q, k) * q.shape[-1] ** -0.5
        return torch.einsum("bnts,bsnd->btnd", scores.softmax(-1), v)

    def text(self, context: Tensor) -> Tensor:
        inner = self.tanh_gelu(self.linear("text_embedding.0", context.double()))
        return self.linear("text_embedding.2", inner)

    def image(self, features: Tensor) -> Tensor:
        def affine(name: str, x: Tensor) -> Tensor:
            scaled = self.standard(x, 1e-5) * self.w[f"img_emb.proj.{name}.weight"]
            return scaled + self.w[f"img_emb.proj.{name}.bias"]

        x = self.linear("img_emb.proj.1", affine("0", features.double()))
        x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
        return affine("4", self.linear("img_emb.proj.3", x))

    def run(
        self,
        latents: Tensor,
        times: Tensor,
        context: Tensor,
        positions: Sequence[int],
        seen: Seen,
        image: Tensor | None = None,
        cached: Sequence[tuple[int, int]] = (),
        store: Sequence[int] = (),
    ) -> Tensor:
        """Velocity ``[B, F, 16, H, W]`` of ``latents [B, F, C, H, W]`` at ``times [B, F]``.

        ``seen(q, k)`` tells whether the pass's q-th frame sees its k-th; ``cached`` are (frame,
        position) in the cache that all of them see as well; ``store`` names the frames that
        the pass puts there, in order, where it is given.
        """
        batch, frames, channels, height, width = latents.shape
        patches = latents.double().reshape(batch, frames, channels, height // 2, 2, width // 2, 2)
        patches = torch.einsum("bfchpwq->bfhwcpq", patches).reshape(
            batch, frames, height * width // 4, -1
        )
        weight = self.w["patch_embedding.weight"].flatten(1)
        x = patches @ weight.T + self.w["patch_embedding.bias"]  # [B, F, hw, d]

        half = self.sizes.freq_dim // 2
        rate = torch.tensor([10000.0 ** (-j / half) for j in range(half)], dtype=torch.float64)
        angle = times.double()[..., None] * rate
        e = self.linear("time_embedding.0", torch.cat((angle.cos(), angle.sin()), -1))
        e = self.linear("time_embedding.2", e * e.sigmoid())
        e6 = self.linear("time_projection.1", e * e.sigmoid()).reshape(batch, frames, 6, -1)

        text = self.text(context)
        tokens = None if image is None else self.image(image)
        for i in range(self.sizes.num_layers):
            x = self.block(i, x, e6, text, tokens, positions, seen, cached, store)
        shift, scale = (self.w["head.modulation"] + e[:, :, None])[:, :, :, None].unbind(2)
        y = self.linear("head.head", self.standard(x) * (1 + scale) + shift)
        y = y.reshape(batch, frames, height // 2, width // 2, 2, 2, 16)
        return torch.einsum("bfhwpqc->bfchpwq", y).reshape(batch, frames, 16, height, width)

    def block(
        self,
        i: int,
        x: Tensor,
        e6: Tensor,
        text: Tensor,
        image: Tensor | None,
        positions: Sequence[int],
        seen: Seen,
        cached: Sequence[tuple[int, int]],
        store: Sequence[int],
    ) -> Tensor:
        name = f"blocks.{i}"
        m = (self.w[f"{name}.modulation"][:, None] + e6)[:, :, :, None].unbind(2)
        h = self.standard(x) * (1 + m[1]) + m[0]
        at = f"{name}.self_attn"
        q = self.heads(self.rms(f"{at}.norm_q", self.linear(f"{at}.q", h)))
        k = self.heads(self.rms(f"{at}.norm_k", self.linear(f"{at}.k", h)))
        v = self.heads(self.linear(f"{at}.v", h))
        queries = [self.rotate(q[:, f], place) for f, place in enumerate(positions)]
        keys = [self.rotate(k[:, f], place) for f, place in enumerate(positions)]
        past = [
            (self.rotate(self.cache[i][frame][0], place), self.cache[i][frame][1])
            for frame, place in cached
        ]
        rows = []
        for f, query in enumerate(queries):
            own = [g for g in range(len(positions)) if seen(f, g)]
            key = torch.cat([pair[0] for pair in past] + [keys[g] for g in own], 1)
            value = torch.cat([pair[1] for pair in past] + [v[:, g] for g in own], 1)
            rows.append(self.softmax_attention(query, key, value))
        for f, frame in enumerate(store):
            self.cache[i][frame] = (k[:, f], v[:, f])
        x = x + m[2] * self.linear(f"{at}.o", torch.stack(rows, 1).flatten(-2))

        at = f"{name}.cross_attn"
        h = self.standard(x) * self.w[f"{name}.norm3.weight"] + self.w[f"{name}.norm3.bias"]
        q = self.heads(self.rms(f"{at}.norm_q", self.linear(f"{at}.q", h))).flatten(1, 2)
        key = self.heads(self.rms(f"{at}.norm_k", self.linear(f"{at}.k", text)))
        y = self.softmax_attention(q, key, self.heads(self.linear(f"{at}.v", text)))
        if image is not None:
            key = self.heads(self.rms(f"{at}.norm_k_img", self.linear(f"{at}.k_img", image)))
            value = self.heads(self.linear(f"{at}.v_img", image))
            y = y + self.softmax_attention(q, key, value)
        x = x + self.linear(f"{at}.o", y.flatten(-2).reshape(x.shape))

        h = self.standard(x) * (1 + m[4]) + m[3]
        inner = self.tanh_gelu(self.linear(f"{name}.ffn.0", h))
        return x + m[5] * self.linear(f"{name}.ffn.2", inner)
