"""One stream over several devices: every device has a part of each frame, and some of the heads.

The latents are cut into bands, one for each device, so that projections, norms and feed-forward
layers need no exchange. Around self-attention the devices exchange tokens for heads and back
(DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv:2309.14509): each attends over all tokens with its own
heads and keeps only their keys and values, so the page pool divides by the number of devices too.

All devices run the same program over ``torch.distributed``: device 0 leads, the others repeat its
network calls until it says stop. The module knows neither sessions nor sampling.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.backend import Kernels, TorchKernels
from models.config import TransformerConfig
from models.kv import KVView, QKNorm
from models.paged_kv import KVPool, PagedKV, RowPages
from models.policy import RopeMode
from models.transformer import CausalWan, PromptKV

__all__ = [
    "Bands",
    "ParallelNetwork",
    "RowsView",
    "UlyssesKV",
    "follow",
    "local_pool",
    "plan_bands",
]

PROMPTS_KEPT = 32
"""Prompts whose keys every device keeps, about 90 MB each at 1.3B."""


@dataclass(frozen=True, slots=True)
class Bands:
    """How a latent frame is cut.

    Attributes:
        devices: how many parts.
        axis: 0 cuts rows of tokens, 1 columns.
        grid: tokens in height and width of a whole frame.
    """

    devices: int
    axis: int
    grid: tuple[int, int]

    def cut(self, latents: Tensor, rank: int) -> Tensor:
        """Select a device's band of ``[B, F, C, H, W]``."""
        return latents.chunk(self.devices, dim=3 + self.axis)[rank].contiguous()

    def join(self, bands: Sequence[Tensor]) -> Tensor:
        """Put bands of velocities together again."""
        return torch.cat(list(bands), dim=3 + self.axis)

    def whole(self, parts: Tensor, frames: int) -> Tensor:
        """Bring tokens of all bands ``[R, B, F*hw/R, n, D]`` into token order ``[B, F*hw, n, D]``."""
        rows, columns = self._band
        parts = parts.unflatten(2, (frames, rows, columns))  # [R, B, F, h, w, n, D]
        order = (1, 2, 0, 3, 4, 5, 6) if self.axis == 0 else (1, 2, 3, 0, 4, 5, 6)
        return parts.permute(order).flatten(1, 4)

    def bands(self, tokens: Tensor, frames: int) -> Tensor:
        """Cut tokens ``[B, F*hw, n, D]`` into all bands ``[R, B, F*hw/R, n, D]``."""
        rows, columns = self._band
        if self.axis == 0:
            parts = tokens.unflatten(1, (frames, self.devices, rows, columns))
            parts = parts.permute(2, 0, 1, 3, 4, 5, 6)
        else:
            parts = tokens.unflatten(1, (frames, rows, self.devices, columns))
            parts = parts.permute(3, 0, 1, 2, 4, 5, 6)
        return parts.flatten(2, 4)

    @property
    def _band(self) -> tuple[int, int]:
        rows, columns = self.grid
        if self.axis == 0:
            return rows // self.devices, columns
        return rows, columns // self.devices


def plan_bands(config: TransformerConfig, grid: tuple[int, int], devices: int) -> Bands:
    """Choose how to cut a frame of ``grid`` tokens for ``devices``.

    Raises:
        ValueError: heads or tokens do not divide.
    """
    if config.num_heads % devices:
        raise ValueError(
            f"{devices} devices for {config.num_heads} heads; every device takes as many heads as "
            "any other; choose a number that divides them"
        )
    for axis in (0, 1):
        if grid[axis] % devices == 0:
            return Bands(devices, axis, grid)
    raise ValueError(
        f"{devices} devices for frames of {grid[0]}x{grid[1]} tokens; height or width must divide; "
        "choose another number of devices or another size"
    )


def local_pool(pool: KVPool, devices: int) -> KVPool:
    """Make a device's own pool: the same pages with its share of the heads."""
    layers, pages, tokens, heads, head_dim = pool.k.shape
    return KVPool(layers, pages, tokens, heads // devices, head_dim, pool.k.dtype, pool.k.device)


@dataclass(frozen=True, slots=True)
class _HeadSplit(QKNorm):
    """What stands for the norm once it is done: queries and keys are only split into heads."""

    def query(self, q: Tensor) -> Tensor:
        return self.split(q)

    def key(self, k: Tensor) -> Tensor:
        return self.split(k)


class UlyssesKV:
    """A view of a device's pool for tokens that are spread over all devices (a ``KVView``).

    Args:
        inner: attends over whole chunks with this device's heads.
        bands: how frames are cut.
        frames: latent frames of the pass.
        group: of all devices; None is every process.
    """

    def __init__(
        self, inner: KVView, bands: Bands, frames: int, group: dist.ProcessGroup | None = None
    ) -> None:
        self._inner, self._bands, self._frames, self._group = inner, bands, frames, group

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm) -> Tensor:
        """See ``KVView.attend``; the norms are over all heads and so come before the exchange."""
        heads = norm.heads // self._bands.devices
        query = self._to_heads(norm.query(q)).flatten(-2)
        key = self._to_heads(norm.key(k)).flatten(-2)
        value = self._to_heads(norm.split(v)).flatten(-2)
        split = _HeadSplit(norm.q_weight, norm.k_weight, heads, norm.eps, norm.kernels)
        out = self._inner.attend(layer, query, key, value, split)
        return self._to_tokens(split.split(out)).flatten(-2)

    def _to_heads(self, x: Tensor) -> Tensor:
        """Own tokens of all heads ``[B, F*hw/R, N, D]`` to all tokens of own heads."""
        sent = torch.stack(x.chunk(self._bands.devices, dim=2))
        return self._bands.whole(self._exchange(sent), self._frames)

    def _to_tokens(self, x: Tensor) -> Tensor:
        """All tokens of own heads to own tokens of all heads."""
        received = self._exchange(self._bands.bands(x, self._frames).contiguous())
        return torch.cat(received.unbind(0), dim=2)

    def _exchange(self, sent: Tensor) -> Tensor:
        """Send part i of ``[R, ...]`` to device i; what came from device i is part i."""
        if dist.get_backend(self._group) == "nccl":
            received = torch.empty_like(sent)
            dist.all_to_all_single(received, sent, group=self._group)
            return received
        # gloo has no all-to-all: gather everything and keep what was meant for this device.
        everything = [torch.empty_like(sent) for _ in range(self._bands.devices)]
        dist.all_gather(everything, sent, group=self._group)
        return torch.stack([part[dist.get_rank(self._group)] for part in everything])


@dataclass(frozen=True, slots=True)
class RowsView:
    """Says what view of the pool a network call needs; every device builds its own from it.

    Attributes:
        rows: see ``PagedKV``, as all that follow.
        grid: tokens of a whole frame.
        rope: how keys are stored.
        block_causal: frames of a block.
        past_weight: factor on the attention to past frames.
    """

    rows: tuple[RowPages, ...]
    grid: tuple[int, int]
    rope: RopeMode
    block_causal: int | None
    past_weight: float

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm) -> Tensor:
        """Not possible: there are no tensors here."""
        raise AssertionError("only a parallel network takes this view")

    @classmethod
    def make(
        cls,
        pool: KVPool,
        rows: Sequence[RowPages],
        grid: tuple[int, int],
        rope: RopeMode,
        *,
        block_causal: int | None,
        past_weight: float,
    ) -> KVView:
        """See ``engine.generator.MakeView``; the generator's own pool is not used."""
        return cls(tuple(rows), grid, rope, block_causal, past_weight)


@dataclass(frozen=True, slots=True)
class _Call:
    """One network call, as device 0 announces it to the others."""

    view: RowsView
    latents: tuple[int, ...]
    prompt: int
    prompt_shape: tuple[int, ...] | None
    """Of keys and of values, all layers together; None when the devices have them already."""


class _Device:
    """What every device does for a network call."""

    def __init__(
        self, network: CausalWan, pool: KVPool, kernels: Kernels, group: dist.ProcessGroup | None
    ) -> None:
        self.network, self.pool, self.kernels, self.group = network, pool, kernels, group
        self.rank, self.devices = dist.get_rank(group), dist.get_world_size(group)

    def run(self, view: RowsView, latents: Tensor, timesteps: Tensor, prompt: PromptKV) -> Tensor:
        """Compute this device's band of the velocity and gather all."""
        bands = plan_bands(self.network.config, view.grid, self.devices)
        inner = PagedKV(
            self.pool, view.rows, view.grid, view.rope, self.kernels, view.block_causal,
            view.past_weight,
        )  # fmt: skip
        spread = UlyssesKV(inner, bands, latents.shape[1], self.group)
        flow = self.network(bands.cut(latents, self.rank), timesteps, prompt, spread).contiguous()
        parts = [torch.empty_like(flow) for _ in range(self.devices)]
        dist.all_gather(parts, flow, group=self.group)
        return bands.join(parts)

    def share(self, value: Tensor) -> Tensor:
        """Broadcast device 0's tensor."""
        value = value.contiguous()
        dist.broadcast(value, src=0, group=self.group)
        return value


class ParallelNetwork:
    """Device 0's network: announces every call to the others and returns the joined result.

    Give it to a ``Generator`` with ``RowsView.make`` as its view.

    Args:
        network: the transformer, whole, on this device.
        pool: this device's pool, see ``local_pool``.
        kernels: of the pool's views; default plain torch.
        group: of all devices; None is every process.
    """

    def __init__(
        self,
        network: CausalWan,
        pool: KVPool,
        kernels: Kernels | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._device = _Device(network, pool, kernels or TorchKernels(), group)
        assert self._device.rank == 0, "device 0 leads"
        self._prompts: OrderedDict[int, PromptKV] = OrderedDict()  # by number, what all have
        self._next_prompt = 0

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt: PromptKV, kv: KVView) -> Tensor:
        """See ``Network``."""
        assert isinstance(kv, RowsView), "the generator's view is RowsView.make"
        assert not prompt.image_k, "image tokens are not spread over devices"
        device = self._device
        number = next((n for n, known in self._prompts.items() if known is prompt), None)
        shape = None
        if number is None:
            number, self._next_prompt = self._next_prompt, self._next_prompt + 1
            _remember(self._prompts, number, prompt)
            shape = (len(prompt.k), *prompt.k[0].shape)
        call = _Call(kv, tuple(latents.shape), number, shape)
        dist.broadcast_object_list([call], src=0, group=device.group)
        latents = device.share(latents.float())
        timesteps = device.share(timesteps.float())
        if shape is not None:
            device.share(torch.stack(prompt.k))
            device.share(torch.stack(prompt.v))
        return device.run(kv, latents, timesteps, prompt)

    def stop(self) -> None:
        """Let ``follow`` return on the other devices."""
        dist.broadcast_object_list([None], src=0, group=self._device.group)


@torch.inference_mode()
def follow(
    network: CausalWan,
    pool: KVPool,
    kernels: Kernels | None = None,
    group: dist.ProcessGroup | None = None,
) -> int:
    """Repeat device 0's network calls until it stops.

    Args:
        network: the same transformer, on this device.
        pool: this device's pool, see ``local_pool``.
        kernels: of the pool's views; default plain torch.
        group: of all devices; None is every process.

    Returns:
        How many calls there were.
    """
    device = _Device(network, pool, kernels or TorchKernels(), group)
    prompts: OrderedDict[int, PromptKV] = OrderedDict()
    place, calls = pool.k.device, 0
    while True:
        announced: list[_Call | None] = [None]
        dist.broadcast_object_list(announced, src=0, group=group)
        call = announced[0]
        if call is None:
            return calls
        latents = device.share(torch.empty(call.latents, device=place))
        timesteps = device.share(torch.empty(call.latents[:2], device=place))
        if call.prompt_shape is not None:
            k, v = (
                device.share(torch.empty(call.prompt_shape, dtype=network.dtype, device=place))
                for _ in range(2)
            )
            _remember(prompts, call.prompt, PromptKV(k.unbind(), v.unbind()))
        device.run(call.view, latents, timesteps, prompts[call.prompt])
        calls += 1


def _remember(prompts: OrderedDict[int, PromptKV], number: int, prompt: PromptKV) -> None:
    """Keep a prompt's keys; every device forgets the same ones."""
    prompts[number] = prompt
    if len(prompts) > PROMPTS_KEPT:
        prompts.popitem(last=False)
