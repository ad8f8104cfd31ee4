"""A tick's chunks: latents encoded from what a stream starts from, or denoised, and then decoded.

It brings prompts, noise and schedule together for the generator, and asks for the pixels of what
that makes. Whose turn it is it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.flight import Flight, FlyingChunk
from engine.frame_copy import Mark, PendingFrames
from engine.generator import Generator
from engine.held import Held
from engine.noise_ahead import DrawNoise
from engine.pixels import Pixels
from engine.prompts import PromptStore
from engine.session import ChunkPlan
from engine.start import start_frames
from models.interface import LoadedModel
from models.sampler import Schedule

__all__ = ["ChunkMaker"]


class ChunkMaker:
    """Makes chunks for the engine.

    Args:
        model: What generates.
        generator: Denoises.
        pixels: Encodes start images, decodes chunks.
        prompts: Prepared ones.
        draw_noise: Noise of a place in a stream.
    """

    def __init__(
        self,
        model: LoadedModel,
        generator: Generator,
        pixels: Pixels,
        prompts: PromptStore,
        draw_noise: DrawNoise,
    ) -> None:
        self._model, self._generator, self._pixels = model, generator, pixels
        self._prompts, self._draw_noise = prompts, draw_noise

    def launch(self, rows: Sequence[Held], now: float, clock: Callable[[], float]) -> Flight:
        """Start the next chunk of every row; nobody waits for a device that works by itself.

        Args:
            rows: Whose chunks may share a batch.
            now: The engine's time.
            clock: Monotonic seconds; measures.
        """
        device, clock_s = self._model.device, clock()
        plans = [held.session.start_chunk(now) for held in rows]
        begun = Mark(device, clock)
        latents = self.latents(rows, plans)
        denoised = decoding = Mark(device, clock)
        chunks = []
        for row, (held, plan) in enumerate(zip(rows, plans, strict=True)):
            frames: PendingFrames | Exception
            try:
                frames = self._pixels.decode(held.stream, latents[row : row + 1])
            except Exception as error:
                frames = error
            decoded = self._pixels.mark(clock)
            chunks.append(FlyingChunk(held, plan, frames, decoding, decoded))
            decoding = decoded
        return Flight(tuple(chunks), now, clock_s, begun, denoised)

    def latents(self, rows: Sequence[Held], plans: Sequence[ChunkPlan]) -> Tensor:
        """Make the chunk that each row's plan describes; clean latents ``[B, F, C, H, W]``."""
        if rows[0].starts_from_given(plans[0].index):
            return self._given(rows[0], plans[0])
        frames = plans[0].latents
        shape = (frames, self._model.entry.transformer.out_channels, *rows[0].stream.latent_hw)

        def draw(step: int) -> Tensor:
            drawn = [
                self._draw_noise(held.session.spec.seed, plan.index, step, shape)
                for held, plan in zip(rows, plans, strict=True)
            ]
            return self._to_device(torch.stack(drawn))

        return self._generator.chunk(
            [held.stream for held in rows],
            frames,
            [self._prompts.get(plan.prompt.mix) for plan in plans],
            [plan.prompt.changed and plan.prompt.recache for plan in plans],
            self._schedule(plans[0]),
            draw,
            last=all(plan.last for plan in plans),
        )

    def _given(self, held: Held, plan: ChunkPlan) -> Tensor:
        """Encode the start image or clip and put it at the start of the stream's cache."""
        image = held.session.spec.start_image
        assert image is not None
        latents = self._pixels.encode(start_frames(image, self._model.entry))
        assert latents.shape[1] == plan.latents, (latents.shape, plan.latents)
        self._generator.prefill(held.stream, latents, self._prompts.get(plan.prompt.mix))
        return latents

    def _schedule(self, plan: ChunkPlan) -> Schedule:
        return self._model.entry.sampler.schedule(plan.steps, plan.index)

    def _to_device(self, drawn: Tensor) -> Tensor:
        """Bring noise to the device without waiting for what the device does now."""
        if self._model.device.type != "cuda":
            return drawn.to(self._model.device)
        return drawn.pin_memory().to(self._model.device, non_blocking=True)
