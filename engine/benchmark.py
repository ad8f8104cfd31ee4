"""Measures what a loaded model makes per second: streams through the generator and a decoder.

Nothing is simulated: page tables, prompts, noise, denoising, clean pass and decode are those of
the engine; what is left out is scheduling and encoding. Times are taken between the completions
of consecutive chunks once every window is full, and their median counts.
"""

from __future__ import annotations

import math
import resource
import statistics
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.accelerated import EXACT, generator_factory
from engine.config import make_current
from engine.flops import Clock, attended_frames, chunk_flops, chunk_passes
from engine.frame_copy import FrameDecoder, Mark, PendingFrames
from engine.stream import Stream
from engine.work_policy import WorkPolicy
from kernels.interface import Kernels
from models.interface import LoadedModel, VideoCodec
from models.noise import noise
from models.paged_kv import KVPool

__all__ = ["Case", "run_case", "with_share"]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a benchmark.

    Attributes:
        name: of the row.
        size: width and height in pixels.
        window_frames: latent frames attended, sink and chunk included.
        sink_frames: of the window.
        steps: denoising steps of a chunk, of two passes each where the model is guided; the clean
            pass comes on top.
        batch: streams in one forward pass.
        captured: replay CUDA graphs.
        policy: what else is saved; steps, window and sink are said above, and linears are the
            network's, which comes with them.
        growing: measure whole clips from the first chunk until the window is full, instead of
            chunks with a full window.
        chunks: chunks timed (of all clips together when ``growing``).
    """

    name: str
    size: tuple[int, int]
    window_frames: int
    sink_frames: int
    steps: int
    batch: int = 1
    captured: bool = True
    policy: WorkPolicy = EXACT
    growing: bool = False
    chunks: int = 30


def run_case(
    model: LoadedModel,
    case: Case,
    kernels: Kernels,
    clock: Clock,
    codec: VideoCodec | None,
    limit_s: float = math.inf,
) -> dict[str, Any]:
    """Measure one case.

    Args:
        model: its transformer built with ``kernels``.
        case: what to run.
        kernels: of the caches.
        clock: monotonic seconds.
        codec: decodes every chunk; None measures denoising alone.
        limit_s: stop timing after so long; the row says how many chunks it has.

    Returns:
        A row for JSON.
    """
    cache = replace(
        model.entry.cache, window_frames=case.window_frames, sink_frames=case.sink_frames
    )
    model = replace(model, entry=replace(model.entry, cache=cache, sizes=(case.size,)))
    bench = _Bench(model, case, kernels, codec)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    started = clock()
    timed = bench.clips(clock, limit_s) if case.growing else bench.steady(clock, limit_s)
    chunk_s, passes_s, warm_s = timed
    frames = bench.frames_per_chunk * case.batch
    chunk = statistics.median(chunk_s)
    passes = chunk_passes(model.entry.sampler, case.steps)
    row: dict[str, Any] = {
        "case": case.name,
        "kernels": kernels.name,
        "size": f"{case.size[0]}x{case.size[1]}",
        "window_frames": case.window_frames,
        "sink_frames": case.sink_frames,
        "window": "growing from empty" if case.growing else "full",
        "steps": case.steps,
        "batch": case.batch,
        "clean_pass": "merged" if case.policy.merge_clean_pass else "separate",
        "keep_pages": case.policy.keep_pages,
        "linear": case.policy.linear,
        "attention": case.policy.attention,
        "captured": bench.generator.graphs > 0,
        "decoder": "none" if codec is None else type(codec).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "chunks": len(chunk_s),
        "frames_per_s": round(frames / chunk, 3),
        "chunk_ms": round(1000 * chunk, 3),
        "chunk_ms_p95": round(1000 * _quantile(chunk_s, 0.95), 3),
        "passes": passes,
        "pass_ms": round(1000 * statistics.median(passes_s) / passes, 3),
        "warm_up_s": round(warm_s, 3),
        "total_s": round(clock() - started, 3),
        "peak_memory_gb": round(_peak_memory(model.device) / 1e9, 3),
    }
    if not case.growing:
        entry, saved = model.entry, case.policy.keep_pages
        attended = attended_frames(
            case.window_frames, case.sink_frames, entry.cache.chunk_frames, saved
        )
        flops = case.batch * chunk_flops(entry, case.size, case.steps, attended)
        row["denoise_tflops"] = round(flops / statistics.median(passes_s) / 1e12, 3)
        row["end_to_end_tflops"] = round(flops / chunk / 1e12, 3)
    return row


def with_share(row: dict[str, Any], rate: float) -> dict[str, Any]:
    """Return a row with its share of a device's rate of matrix products, see ``matmul_rate``."""
    if "denoise_tflops" not in row:
        return row
    return row | {"share_of_matmul_rate": round(row["denoise_tflops"] * 1e12 / rate, 3)}


class _Chunk(NamedTuple):
    """One chunk of every stream, its frames maybe still on their way."""

    begun: Mark
    denoised: Mark
    frames: list[PendingFrames]


class _Bench:
    """Streams, generator and decoder of one case."""

    def __init__(
        self, model: LoadedModel, case: Case, kernels: Kernels, codec: VideoCodec | None
    ) -> None:
        make_current(model.device)
        self.model, self.case = model, case
        config = model.entry.transformer
        width, height = case.size
        self.latent_hw = (height // 8, width // 8)
        hw = math.prod(config.grid(*self.latent_hw))
        pages = case.batch * case.window_frames + 1
        pool = KVPool(
            config.num_layers, pages, hw, config.num_heads, config.head_dim, model.dtype,
            model.device,
        )  # fmt: skip
        self.generator = generator_factory(
            kernels,
            batch_sizes=(case.batch,),
            max_steps=case.steps,
            capture=case.captured,
            policy=case.policy,
        )(model, pool)
        self.frames = model.entry.cache.chunk_frames
        self.frames_per_chunk = model.codec.frames_for(self.frames, False)
        self.decoder = None
        if codec is not None:
            self.decoder = FrameDecoder(codec, model.device, model.dtype)
        self.schedule = model.entry.sampler.schedule(case.steps, 1)
        with torch.inference_mode():
            self.prompts = [
                model.transformer.prompt_kv(model.text.encode([f"stream {row} of a benchmark"]))
                for row in range(case.batch)
            ]
        self.streams: list[Stream] = []
        self.chunk = 0

    def open(self) -> None:
        """Start a stream for every row."""
        for stream in self.streams:
            self.generator.close(stream)
        opened = [self.generator.open(self.latent_hw) for _ in range(self.case.batch)]
        self.streams = [stream for stream in opened if stream is not None]
        assert len(self.streams) == self.case.batch, "the pool holds every stream"

    def draw(self, step: int) -> Tensor:
        """Noise of every row, as the engine draws it."""
        shape = (self.frames, self.model.entry.transformer.out_channels, *self.latent_hw)
        return torch.stack([noise(row, self.chunk, step, shape) for row in range(self.case.batch)])

    def step(self, clock: Clock) -> _Chunk:
        """Make one chunk of every stream, or on a GPU ask for it."""
        begun = Mark(self.model.device, clock)
        latents = self.generator.chunk(
            self.streams, self.frames, self.prompts, [False] * self.case.batch, self.schedule,
            self._drawn,
        )  # fmt: skip
        denoised = Mark(self.model.device, clock)
        frames: list[PendingFrames] = []
        if self.decoder is not None:
            for row, stream in enumerate(self.streams):
                shown, stream.decoder = self.decoder.decode(latents[row : row + 1], stream.decoder)
                frames.append(shown)
        self.chunk += 1
        return _Chunk(begun, denoised, frames)

    def _drawn(self, step: int) -> Tensor:
        drawn = self.draw(step)
        return drawn if self.model.device.type == "cuda" else drawn.to(self.model.device)

    def run(self, chunks: int, clock: Clock, until: float) -> tuple[list[float], list[float]]:
        """Run chunks with at most two in flight; seconds between completions, and of passes."""
        made: deque[_Chunk] = deque()
        ends: list[float] = []
        passes: list[float] = []

        def finish() -> None:
            chunk = made.popleft()
            for frames in chunk.frames:
                frames.result()
            passes.append(chunk.begun.until(chunk.denoised))
            ends.append(clock())

        in_flight = 2 if self.model.device.type == "cuda" else 1
        for _ in range(chunks):
            made.append(self.step(clock))
            if len(made) >= in_flight:
                finish()
            if clock() > until:
                break
        while made:
            finish()
        return ends, passes

    def steady(self, clock: Clock, limit_s: float) -> tuple[list[float], list[float], float]:
        """Fill the windows, then time chunks."""
        start = clock()
        self.open()
        filling = -(-self.case.window_frames // self.frames) + 2
        ends, _ = self.run(filling, clock, math.inf)
        warm = ends[-1] - start
        more, passes = self.run(self.case.chunks, clock, clock() + limit_s)
        stamps = [ends[-1], *more]
        return [b - a for a, b in pairwise(stamps)], passes, warm

    def clips(self, clock: Clock, limit_s: float) -> tuple[list[float], list[float], float]:
        """Time whole clips from an empty window to a full one; seconds are a clip's mean chunk."""
        start = clock()
        length = self.case.window_frames // self.frames
        self.open()
        self.run(length, clock, math.inf)
        warm = clock() - start
        clips, passes = [], []
        for _ in range(-(-self.case.chunks // length)):
            self.open()
            begun = clock()
            ends, spent = self.run(length, clock, math.inf)
            clips += [(ends[-1] - begun) / length] * length
            passes += spent
            if clock() - start > limit_s:
                break
        return clips, passes, warm


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
