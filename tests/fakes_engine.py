"""A model that is fast and predictable, for tests of the engine's and the server's machinery.

Its network answers in closed form: whatever the noise, a chunk comes out as the constant that its
prompt's embedding names, plus a little of the noise it started from. So frames tell the prompt,
the seed and the chunk apart, at no cost. Keys are written to the pool, so pages are really used.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from engine.config import MemoryPlan
from engine.cost_table import CostTable
from engine.engine import Engine
from models.config import TransformerConfig
from models.interface import CodecState, LoadedModel
from models.kv import KVView, QKNorm
from models.policy import CachePolicy
from models.registry import LONGTAKE_TINY
from models.sampler import Sampler
from models.transformer import PromptKV

SIZES = TransformerConfig(
    dim=8, ffn_dim=8, num_heads=1, num_layers=1, text_dim=192, text_len=48, freq_dim=8
)
COSTS = CostTable({1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08}, decode_s=0.005)


class FakeNetwork:
    """Predicts the velocity towards the prompt's constant; counts its passes."""

    def __init__(self, config: TransformerConfig = SIZES) -> None:
        self.config = config
        self.passes = 0
        self.batches: list[int] = []
        self.fail_next: Exception | None = None

    def prompt_kv(self, context: Tensor) -> PromptKV:
        heads = context[:, :, None, :]
        return PromptKV((heads,), (heads,))

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt: PromptKV, kv: KVView) -> Tensor:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        self.passes += 1
        batch, _, channels = latents.shape[:3]
        self.batches.append(batch)
        tokens = latents.mean(dim=2)[..., ::2, ::2].flatten(1)[..., None]
        norm = QKNorm(torch.ones(8), torch.ones(8), 1, 1e-6, cast("Any", _Plain()))
        wide = tokens.expand(-1, -1, self.config.dim)
        kv.attend(0, wide, wide, wide, norm)
        sigma = (timesteps / 1000.0).clamp(min=1e-3)[..., None, None, None]
        target = prompt.k[0][:, 0, 0, :channels][:, None, :, None, None]
        return (latents - target - 0.05 * torch.tanh(latents)) / sigma


class _Plain:
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return x


class FakeText:
    """Every text has its own constant embedding."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.encoded.extend(texts)
        rows = []
        for text in texts:
            digest = hashlib.sha256(text.encode()).digest()
            values = torch.tensor(list(digest), dtype=torch.float32) / 127.5 - 1.0
            rows.append(values.repeat(SIZES.text_dim // 32).expand(SIZES.text_len, -1))
        return torch.stack(rows)


class FakeCodec:
    """Latent channels 0 to 2 as colours, with a bar that moves by one column a frame."""

    def frames_for(self, latent_frames: int, first: bool) -> int:
        return 4 * latent_frames - (3 if first else 0)

    def state_bytes(self, height: int, width: int) -> int:
        return 1024

    def decode(self, latents: Tensor, state: CodecState | None) -> tuple[Tensor, CodecState]:
        done = 0 if state is None else int(state[0].item())
        count = self.frames_for(latents.shape[1], state is None)
        pixels = latents[:, :, :3].float().repeat_interleave(4, 1)[:, -count:]
        pixels = pixels.repeat_interleave(8, -1).repeat_interleave(8, -2).tanh().clone()
        for t in range(count):
            pixels[:, t, :, :, (done + t) % pixels.shape[-1]] = 1.0
        return pixels, (torch.tensor([float(done + count)]),)

    def encode(self, pixels: Tensor, state: CodecState | None) -> tuple[Tensor, CodecState]:
        small = pixels[:, ::4, :, ::8, ::8].atanh().clamp(-3, 3)
        latents = small.new_zeros(*small.shape[:2], 16, *small.shape[3:])
        latents[:, :, :3] = small
        return latents, (torch.tensor([0.0]),)


def fake_model(
    *,
    size: tuple[int, int] = (160, 96),
    cache: CachePolicy | None = None,
    sampler: Sampler | None = None,
    name: str = "longtake-tiny",
) -> LoadedModel:
    """Return a model under the bundled one's entry, with another cache policy if wanted."""
    entry = replace(
        LONGTAKE_TINY,
        name=name,
        transformer=SIZES,
        sizes=(size,),
        cache=cache or replace(LONGTAKE_TINY.cache, recache="bidirectional"),
        sampler=sampler or LONGTAKE_TINY.sampler,
    )
    return LoadedModel(
        entry=entry,
        transformer=cast("Any", FakeNetwork()),
        text=FakeText(),
        codec=FakeCodec(),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def memory_for(model: LoadedModel, streams: int) -> MemoryPlan:
    """Plan room for exactly ``streams`` streams."""
    size = width, height = model.entry.sizes[0]
    rows, columns = model.entry.transformer.grid_of(size)
    extent = model.entry.cache.planned_window
    state = model.codec.state_bytes(height, width)
    return MemoryPlan(rows * columns, 1 + streams * extent, extent, streams * state)


def network_of(engine: Engine) -> FakeNetwork:
    return cast("FakeNetwork", engine.model.transformer)
