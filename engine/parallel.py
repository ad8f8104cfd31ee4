"""One stream over several devices: every device has a part of each frame, and some of the heads.

The latents are cut into bands, one for each device, so that projections, norms and feed-forward
layers need no exchange. Around self-attention the devices exchange tokens for heads and back
(DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv:2309.14509): each attends over all tokens with its own
heads and keeps only their keys and values, so the page pool divides by the number of devices too.

Device 0 leads, the others repeat its network calls until it says stop (``engine/team.py``). Every
call runs eagerly: its exchanges and the announcement before it are no part of a captured graph.
The module knows neither sessions nor sampling, nor how the processes come to be
(``engine/followers.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.bands import Bands, plan_bands
from engine.prompts import kv_bytes
from engine.spread_pool import Export, Load, SpreadPool
from engine.team import Team
from kernels.interface import Kernels
from kernels.torch_backend import TorchKernels
from models.kv import KVView, QKNorm
from models.paged_kv import KVPool, PagedKV, RowPages
from models.policy import RopeMode
from models.transformer import CausalWan, PromptKV, places

__all__ = ["ParallelNetwork", "RowsView", "UlyssesKV", "follow"]

PROMPT_BYTES = 1 << 30
"""Of the prompts' keys and values that every device keeps, but always the newest prompt's."""


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
        team: all devices.
    """

    def __init__(self, inner: KVView, bands: Bands, frames: int, team: Team) -> None:
        self._inner, self._bands, self._frames, self._team = inner, bands, frames, team

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
        return self._bands.whole(self._team.exchange(sent), self._frames)

    def _to_tokens(self, x: Tensor) -> Tensor:
        """All tokens of own heads to own tokens of all heads."""
        received = self._team.exchange(self._bands.bands(x, self._frames).contiguous())
        return torch.cat(received.unbind(0), dim=2)


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

    def __init__(self, network: CausalWan, pool: SpreadPool, team: Team, kernels: Kernels) -> None:
        self._network, self._pool, self._team, self._kernels = network, pool, team, kernels

    def run(self, view: RowsView, latents: Tensor, timesteps: Tensor, prompt: PromptKV) -> Tensor:
        """Compute this device's band of the velocity and gather all."""
        network, team = self._network, self._team
        bands = plan_bands(network.config, view.grid, team.devices)
        inner = PagedKV(
            self._pool, view.rows, view.grid, view.rope, self._kernels, view.block_causal,
            view.past_weight,
        )  # fmt: skip
        spread = UlyssesKV(inner, bands, latents.shape[1], team)
        own = None
        if network.config.placed:
            whole = places(view.grid, network.config.dim, latents.device)  # [h*w, d]
            own = bands.bands(whole[None, :, None], 1)[team.rank].flatten(0, 2)
        flow = network(bands.cut(latents, team.rank), timesteps, prompt, spread, own)
        return bands.join(team.gather(flow))


class ParallelNetwork:
    """Device 0's network: announces every call to the others and returns the joined result.

    Give it to a ``Generator`` with ``RowsView.make`` as its view.

    Args:
        network: the transformer, whole, on this device.
        pool: this device's part.
        team: all devices; this one leads.
        kernels: of the pool's views; default plain torch.
    """

    def __init__(
        self, network: CausalWan, pool: SpreadPool, team: Team, kernels: Kernels | None = None
    ) -> None:
        assert team.rank == 0, "device 0 leads"
        self._device, self._team = _Device(network, pool, team, kernels or TorchKernels()), team
        self._prompts: OrderedDict[int, PromptKV] = OrderedDict()  # by number, what all have
        self._next_prompt = 0

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt: PromptKV, kv: KVView) -> Tensor:
        """See ``Network``."""
        assert isinstance(kv, RowsView), "the generator's view is RowsView.make"
        assert not prompt.image_k, "image tokens are not spread over devices"
        number = next((n for n, known in self._prompts.items() if known is prompt), None)
        shape = None
        if number is None:
            number, self._next_prompt = self._next_prompt, self._next_prompt + 1
            _remember(self._prompts, number, prompt)
            shape = (len(prompt.k), *prompt.k[0].shape)
        team = self._team
        with team.in_step():
            team.announce(_Call(kv, tuple(latents.shape), number, shape))
            latents = team.share(latents.float())
            timesteps = team.share(timesteps.float())
            if shape is not None:
                team.share(torch.stack(prompt.k))
                team.share(torch.stack(prompt.v))
            return self._device.run(kv, latents, timesteps, prompt)


@torch.inference_mode()
def follow(network: CausalWan, pool: SpreadPool, team: Team, kernels: Kernels | None = None) -> int:
    """Do what device 0 announces until it stops, which is an announcement of None.

    Args:
        network: the same transformer, on this device.
        pool: this device's part.
        team: all devices; this one does not lead.
        kernels: of the pool's views; default plain torch.

    Returns:
        How many network calls there were.

    Raises:
        RuntimeError: device 0 is gone, or an exchange failed.
    """
    device = _Device(network, pool, team, kernels or TorchKernels())
    prompts: OrderedDict[int, PromptKV] = OrderedDict()
    place, calls = pool.k.device, 0
    while (call := team.hear()) is not None:
        if isinstance(call, Export | Load):
            pool.take_part(call)
            continue
        assert isinstance(call, _Call), call
        latents = team.share(torch.empty(call.latents, device=place))
        timesteps = team.share(torch.empty(call.latents[:2], device=place))
        if call.prompt_shape is not None:
            k, v = (
                team.share(torch.empty(call.prompt_shape, dtype=network.dtype, device=place))
                for _ in range(2)
            )
            _remember(prompts, call.prompt, PromptKV(k.unbind(), v.unbind()))
        device.run(call.view, latents, timesteps, prompts[call.prompt])
        calls += 1
    return calls


def _remember(prompts: OrderedDict[int, PromptKV], number: int, prompt: PromptKV) -> None:
    """Keep a prompt's keys; every device forgets the same ones."""
    prompts[number] = prompt
    kept = sum(map(kv_bytes, prompts.values()))
    while kept > PROMPT_BYTES and len(prompts) > 1:
        _, oldest = prompts.popitem(last=False)
        kept -= kv_bytes(oldest)
