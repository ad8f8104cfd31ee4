"""The project's generator over the reference's weights, with every network call written down."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.generator import Generator
from engine.stream import Stream
from models.kv import KVView
from models.paged_kv import KVPool
from models.policy import CachePolicy
from models.transformer import CausalWan, PromptKV

Pairs = dict[str, tuple[Tensor, Tensor]]


@dataclass
class Rig:
    """A generator for one case and the calls its network received.

    ``calls`` has a row of (start frame, frames, global end, local end) for each, in tokens where
    the reference counts tokens, and ``timesteps`` the timestep of each.
    """

    network: CausalWan
    generator: Generator
    frame_tokens: int
    calls: list[tuple[int, int, int, int]]
    timesteps: list[float]
    streams: list[Stream]

    @classmethod
    def of(
        cls,
        network: CausalWan,
        policy: CachePolicy,
        latent_hw: tuple[int, int],
        window_frames: int,
        rows: int = 1,
        page_tokens: int | None = None,
    ) -> "Rig":
        """Open ``rows`` streams over a pool that they fill exactly."""
        config = network.config
        tokens = config.grid(*latent_hw)[0] * config.grid(*latent_hw)[1]
        page_tokens = page_tokens or tokens
        pool = KVPool(
            config.num_layers,
            1 + rows * window_frames * tokens // page_tokens,
            page_tokens,
            config.num_heads,
            config.head_dim,
            network.dtype,
            "cpu",
        )

        def call(latents: Tensor, timesteps: Tensor, prompt: PromptKV, kv: KVView) -> Tensor:
            table = rig.streams[0].table
            frames, end = latents.shape[1], table.next_frame
            start = end - frames
            rig.calls.append((start, frames, end * tokens, len(table.frames) * tokens))
            rig.timesteps.append(float(timesteps[0, 0]))
            return network(latents, timesteps, prompt, kv)

        generator = Generator(call, config, policy, pool)
        rig = cls(network, generator, tokens, [], [], [])
        for _ in range(rows):
            stream = generator.open(latent_hw, window_frames)
            assert stream is not None
            rig.streams.append(stream)
        return rig

    def prompts(self, embeds: Tensor) -> list[PromptKV]:
        """Prepare one prompt for each row of ``embeds``."""
        whole = self.network.prompt_kv(embeds.to(self.network.dtype))
        return [whole.rows(row) for row in range(embeds.shape[0])]

    def cache(self, layer: int, frames: int) -> tuple[Tensor, Tensor]:
        """Return keys and values ``[B, frames * tokens, N, D]`` in logical order, 0 where unused."""
        wanted = frames * self.frame_tokens
        rows = []
        for stream in self.streams:
            pair = torch.stack(self.generator.pool.gather(layer, stream.table.logical_pages))
            unused = pair.new_zeros(2, wanted - pair.shape[1], *pair.shape[2:])
            rows.append(torch.cat((pair, unused), dim=1))
        k, v = torch.stack(rows, dim=1)
        return k, v

    def compare_calls(self, passes: Sequence[dict[str, Any]]) -> Pairs:
        """Set the calls against a case's ``passes``."""
        names = ("start_frame", "frames", "global_end", "local_end")
        wanted = [[entry[name] for name in names] for entry in passes]
        times = [entry["timestep"] for entry in passes]
        return {
            "passes": (torch.tensor(self.calls), torch.tensor(wanted)),
            "timesteps": (torch.tensor(self.timesteps), torch.tensor(times)),
        }


class Watch:
    """Collects a chunk's intermediate tensors under the reference's names."""

    def __init__(self, chunk: int, steps: int) -> None:
        self.seen: dict[str, Tensor] = {}
        self._chunk, self._steps = chunk, steps

    def __call__(self, name: str, step: int, value: Tensor) -> None:
        label = "context" if step == self._steps else str(step)
        self.seen[f"chunk{self._chunk:02d}.{name}.{label}"] = value.clone()


def recorded_noise(vectors: dict[str, Tensor], chunk: int, start: int, frames: int) -> Any:
    """Give a chunk the noise that the reference drew."""

    def draw(step: int) -> Tensor:
        if step == 0:
            return vectors["noise"][:, start : start + frames]
        return vectors[f"chunk{chunk:02d}.renoise.{step - 1}"]

    return draw
