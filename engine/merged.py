"""The clean pass of a chunk inside the first pass of the next one.

A chunk's clean pass writes the keys that the next chunk attends to. Both can go through the
network together: in every layer the clean frames write their keys and attend as they would have
alone, then the noisy frames write theirs and attend to everything, the clean frames' keys
included. The numbers are those of two passes, up to the rounding of larger products; what is
saved is a pass's overhead, and a chunk's frames leave one pass earlier.

Until the next chunk comes the clean pass is owed, and the stream keeps the debt (``Stream.owed``).
It is made by itself where the next chunk has another prompt or another number of frames, where
streams of a batch do not owe it together, and where a stream is forked or its state is copied. A
recache that rewrites the whole window takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import Draw, OwedPass
from engine.denoise import Network, Trace, denoise
from engine.generator import Generator
from engine.stream import Owed, Stream
from models.kv import KVView, QKNorm
from models.paged_kv import RowPages
from models.sampler import Schedule
from models.transformer import PromptKV

__all__ = ["MergedKV", "MergingGenerator", "MergingNetwork"]


class MergedKV:
    """A pass over tokens of two chunks, each with its own view (a ``KVView``).

    Args:
        clean: of the first tokens; writes and attends first.
        noisy: of the others.
        clean_tokens: tokens that belong to ``clean``.
    """

    def __init__(self, clean: KVView, noisy: KVView, clean_tokens: int) -> None:
        self._clean, self._noisy, self._tokens = clean, noisy, clean_tokens

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm) -> Tensor:
        """See ``KVView.attend``."""
        n = self._tokens
        clean = self._clean.attend(layer, q[:, :n], k[:, :n], v[:, :n], norm)
        noisy = self._noisy.attend(layer, q[:, n:], k[:, n:], v[:, n:], norm)
        return torch.cat((clean, noisy), dim=1)


class MergingNetwork:
    """A network whose first call, a pass with the rows' own prompts, also makes an owed clean pass.

    Args:
        network: the transformer.
        owed: clean latents ``[B, F, C, H, W]``.
        timestep: of the clean pass.
        view: their view.
        tokens: theirs.
    """

    def __init__(
        self, network: Network, owed: Tensor, timestep: float | Tensor, view: KVView, tokens: int
    ) -> None:
        self._network, self._view, self._tokens = network, view, tokens
        self._owed: Tensor | None = owed
        self._timestep = timestep

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt: PromptKV, kv: KVView) -> Tensor:
        """See ``Network``."""
        owed, self._owed = self._owed, None
        if owed is None:
            return self._network(latents, timesteps, prompt, kv)
        if isinstance(self._timestep, Tensor):
            clean = self._timestep.to(timesteps.dtype).expand(owed.shape[:2])
        else:
            clean = torch.full_like(timesteps[:, :1], self._timestep).expand(owed.shape[:2])
        flow = self._network(
            torch.cat((owed.to(latents.dtype), latents), dim=1),
            torch.cat((clean, timesteps), dim=1),
            prompt,
            MergedKV(self._view, kv, self._tokens),
        )
        return flow[:, owed.shape[1] :]


class MergingGenerator(Generator):
    """A ``Generator`` that makes every clean pass together with the next chunk's first one.

    Takes what ``Generator`` takes.
    """

    @torch.inference_mode()
    def chunk(
        self,
        streams: Sequence[Stream],
        frames: int,
        prompts: Sequence[PromptKV],
        prompt_changed: Sequence[bool],
        schedule: Schedule,
        draw: Draw,
        last: bool = False,
        trace: Trace | None = None,
    ) -> Tensor:
        """See ``Generator.chunk``."""
        if not self.keeps_cache:
            return super().chunk(
                streams, frames, prompts, prompt_changed, schedule, draw, last, trace
            )
        owed = self._claim(streams, frames, prompts, prompt_changed)
        rows = self._open_chunk(streams, frames, prompts, prompt_changed)
        latents = self._denoise(streams[0], rows, owed, prompts, schedule, draw, trace)
        for row, stream in enumerate(streams):
            stream.extend(latents[row : row + 1])
            if not last:
                stream.owed = Owed(latents[row : row + 1], prompts[row], rows[row])
        return latents

    @torch.inference_mode()
    def settle(self, stream: Stream) -> None:
        """Make the clean pass that ``stream`` is owed, if any."""
        debt, stream.owed = stream.owed, None
        if debt is not None:
            self._clean_pass([stream], debt.latents, [debt.row], debt.prompt)

    def _claim(
        self,
        streams: Sequence[Stream],
        frames: int,
        prompts: Sequence[PromptKV],
        prompt_changed: Sequence[bool],
    ) -> list[Owed]:
        """Take over the passes that the next chunk can make, all streams' or none; make the rest."""
        together = []
        for stream, prompt, changed in zip(streams, prompts, prompt_changed, strict=True):
            if changed and self._recache.rewrites_window:
                stream.owed = None
            debt = stream.owed
            if debt is not None and debt.prompt is prompt and debt.latents.shape[1] == frames:
                together.append(debt)
        if len(together) < len(streams):
            together = []
            for stream in streams:
                self.settle(stream)
        for stream in streams:
            stream.owed = None
        return together

    def _denoise(
        self,
        first: Stream,
        rows: Sequence[RowPages],
        owed: Sequence[Owed],
        prompts: Sequence[PromptKV],
        schedule: Schedule,
        draw: Draw,
        trace: Trace | None,
    ) -> Tensor:
        latents = torch.cat([debt.latents for debt in owed]) if owed else None
        timestep = self.policy.context_timestep
        if self._denoiser is not None and trace is None:
            debt = None
            if latents is not None:
                debt = OwedPass([debt.row for debt in owed], latents, timestep)
            return self._denoiser.chunk(rows, first.latent_hw, prompts, schedule, draw, None, debt)
        network = self._network
        if latents is not None:
            grid = self._config.grid(*first.latent_hw)
            network = MergingNetwork(
                self._network,
                latents,
                timestep,
                self._view(first, [debt.row for debt in owed]),
                latents.shape[1] * grid[0] * grid[1],
            )
        batch = self._batch(first, rows, prompts, schedule, draw, None)
        return denoise(network, batch, trace)
