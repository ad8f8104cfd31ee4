"""Times the engine's own operations on the device at start-up, to fill the cost table.

Where chunks are asked for ahead of the device, whole ones are made as well, at the model's first size and
default steps: a graph that most chunks replay is captured before the first viewer comes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.cost_table import CostTable, measure
from engine.generator import Generator
from engine.pixels import Pixels
from engine.prompts import PromptStore
from engine.stream import Stream
from engine.types import PromptPart
from models.interface import LoadedModel
from models.sampler import Schedule


def measure_costs(
    model: LoadedModel,
    generator: Generator,
    prompts: PromptStore,
    pixels: Pixels,
    max_batch: int,
    clock: Callable[[], float],
) -> CostTable:
    """Run passes at every batch size that fits, a decode and a recache, with full windows.

    Where the generator is asynchronous two whole chunks follow at every batch size that will be used.

    The streams it opens are closed again; the pool is empty before and after.
    """
    entry = model.entry
    width, height = entry.sizes[0]
    latent_hw = (height // 8, width // 8)
    frames = entry.cache.chunk_frames
    window = generator.window_frames(max(frames, 21))
    streams: list[Stream] = []
    while len(streams) < max_batch:
        stream = generator.open(latent_hw, window)
        if stream is None:
            break
        streams.append(stream)
    assert streams, "the pool has no room for one stream"
    shape = (entry.transformer.out_channels, *latent_hw)
    random = torch.Generator().manual_seed(0)
    prompt = prompts.get((PromptPart("a measurement"),))

    # Drawn once: the engine's own noise is there before a device asks for it.
    drawn = torch.randn(len(streams), frames, *shape, generator=random).to(model.device)

    def wait() -> None:
        # Reading one number makes an asynchronous device finish what was asked of it.
        generator.pool.k[0, 0, 0, 0, 0].item()

    # A chunk of one step without a clean pass is one pass.
    one_step = Schedule((1000.0,), (1.0,))

    def one_pass(batch: int) -> None:
        rows = streams[:batch]
        if entry.cache.window_frames is None:
            for stream in rows:
                _fill(stream, window - frames, shape, model.device)
        noisy, same = drawn[:batch], [False] * batch
        generator.chunk(rows, frames, [prompt] * batch, same, one_step, lambda _: noisy, last=True)
        wait()

    def whole_chunks(batch: int) -> None:
        rows, noisy, same = streams[:batch], drawn[:batch], [False] * batch
        for stream in rows:
            generator.settle(stream)
        # Nothing is owed for the first chunk; with merged passes the second makes what the first one owes.
        for index in range(2):
            schedule = entry.sampler.schedule(None, index)
            generator.chunk(rows, frames, [prompt] * batch, same, schedule, lambda _: noisy)
        wait()

    def decode() -> None:
        pixels.decode(streams[0], drawn[:1]).result()

    def recache() -> None:
        generator.recache(streams[0], prompt)
        wait()

    try:
        for stream in streams:
            _fill(stream, window, shape, model.device)
        batches = [size for size in (1, 2, 4, 8, 16, 32) if size <= len(streams)]
        costs = measure(one_pass, decode, recache, batches, clock)
        if generator.asynchronous:
            steps = entry.sampler.num_steps
            used = {costs.best_batch(waiting, steps) for waiting in range(1, len(streams) + 1)}
            for batch in sorted(used, reverse=True):
                whole_chunks(batch)
        return costs
    finally:
        for stream in streams:
            generator.close(stream)


def _fill(stream: Stream, frames: int, shape: tuple[int, ...], device: torch.device) -> None:
    """Make a stream look as if it had made ``frames`` latent frames; what is in them costs nothing."""
    stream.table.clear()
    stream.table.append(frames)
    stream.recent, stream.latent_frames = None, 0
    stream.extend(torch.zeros(1, frames, *shape, device=device))
