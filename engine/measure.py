"""Times the engine's own operations on the device at start-up, to fill the cost table.

Where chunks are asked for ahead of the device, whole ones are made as well: a graph that chunks
replay is captured before the first viewer comes. What most chunks want comes first, and after
``WARM_UP_S`` the rest is left to the chunks that want it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from engine.asked import PromptPart
from engine.cost_table import CostTable, measure
from engine.generator import Generator
from engine.pixels import Pixels
from engine.playout import LEAST_STEPS
from engine.prompts import PromptStore
from engine.stream import Stream
from models.interface import LoadedModel
from models.sampler import Sampler, Schedule

WARM_UP_S = 60.0
"""How long whole chunks are made at most; the one that is begun by then is ended."""


def measure_costs(
    model: LoadedModel,
    generator: Generator,
    prompts: PromptStore,
    pixels: Pixels,
    max_batch: int,
    clock: Callable[[], float],
    warm_up_s: float = WARM_UP_S,
) -> CostTable:
    """Run passes at every batch size that fits and a decode, with full windows.

    Where the generator is asynchronous whole chunks follow, for ``warm_up_s``: of every size, number
    of steps and batch that will be used, and a stream's last ones.

    The streams it opens are closed again; the pool is empty before and after.
    """
    entry = model.entry
    sizes = list(dict.fromkeys((height // 8, width // 8) for width, height in entry.sizes))
    latent_hw = sizes[0]
    frames = entry.cache.chunk_frames
    window = generator.window_frames(max(frames, entry.cache.planned_window))
    streams: list[Stream] = []

    def open_all(latent_hw: tuple[int, int]) -> None:
        while streams:
            generator.close(streams.pop())
        while len(streams) < max_batch:
            stream = generator.open(latent_hw, window)
            if stream is None:
                break
            streams.append(stream)
            _fill(stream, window, (entry.transformer.out_channels, *latent_hw), model.device)

    open_all(latent_hw)
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

    def whole_chunks(batch: int, steps: int, last: bool) -> None:
        rows, same = streams[:batch], [False] * batch
        noisy = torch.zeros(batch, frames, shape[0], *rows[0].latent_hw, device=model.device)
        for stream in rows:
            generator.settle(stream)
        # Nothing is owed for the first chunk; with merged passes the second makes what the first
        # one owes.
        for index in range(2):
            schedule = entry.sampler.schedule(steps, index)
            ends = last and index == 1
            generator.chunk(
                rows, frames, [prompt] * batch, same, schedule, lambda _: noisy, last=ends
            )
        wait()

    def decode() -> None:
        pixels.decode(streams[0], drawn[:1]).result()

    try:
        # Not timed, only made ready: the first one would keep a viewer's new prompt waiting.
        generator.recache(streams[0], prompt)
        wait()
        batches = [size for size in (1, 2, 4, 8, 16, 32) if size <= len(streams)]
        costs = measure(one_pass, decode, batches, clock)
        if generator.asynchronous:
            until = clock() + warm_up_s
            for hw, batch, steps, last in _wanted(costs, len(streams), entry.sampler, sizes):
                if hw != streams[0].latent_hw:
                    open_all(hw)
                whole_chunks(batch, steps, last)
                if clock() >= until:
                    break
        return costs
    finally:
        for stream in streams:
            generator.close(stream)


def _wanted(
    costs: CostTable, most: int, sampler: Sampler, sizes: list[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], int, int, bool]]:
    """Name what chunks will be asked for: size, batch, steps and whether it is a stream's last one."""
    full = sampler.num_steps
    used = sorted({costs.best_batch(n, full) for n in range(1, most + 1)}, reverse=True)
    for hw in sizes:
        for steps in range(full, min(LEAST_STEPS, full) - 1, -1):
            yield from ((hw, batch, steps, False) for batch in used)
        yield from ((hw, batch, full, True) for batch in used)


def _fill(stream: Stream, frames: int, shape: tuple[int, ...], device: torch.device) -> None:
    """Make a stream look as if it had made ``frames`` latent frames; what is in them costs nothing."""
    stream.table.clear()
    stream.table.append(frames)
    stream.recent, stream.latent_frames = None, 0
    stream.extend(torch.zeros(1, frames, *shape, device=device))
