"""The engine against a plain loop over the reference algorithm, in one process.

    python -m tests.bench.reference_loop --streams 1 --runs 12 --json
    python -m tests.bench.reference_loop --window 9 --merge-clean-pass --runs 12 --json

The plain loop keeps contiguous caches and moves them when the window slides, as Self Forcing's
code does, one stream after another. It uses the same network object, attention call, dtype,
cached prompt keys, window, sampler, noise and decoder; only the caches and the loop differ. Both
sides make the same chunks in turn, run by run, so that a change of the machine's speed hits both.
The report also says which share of the engine's tick is spent inside network and decoder, and
which share of the machine's measured rate of matrix products its passes reach.

With a policy of less work (``--window 9 --merge-clean-pass``) the engine follows it and the plain
loop stays what it is, with the model's own window and steps; then the frames may differ.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from engine import work_policy
from engine.accelerated import EXACT, prepare, under
from engine.asked import Credit, PromptPart, StreamSpec
from engine.bench import device_name
from engine.config import EngineConfig
from engine.cost_table import CostTable
from engine.dtype import choose_dtype
from engine.engine import Engine
from engine.events import Admitted, ChunkReady, SessionEnded
from engine.flops import attended_frames, chunk_flops, matmul_rate
from engine.generator import guidance_of
from engine.work_policy import WorkPolicy
from kernels.attention import attention
from kernels.rope import angles, rotate, token_positions
from kernels.torch_backend import TorchKernels
from models.interface import LoadedModel
from models.kv import QKNorm
from models.loading import load_model
from models.noise import noise
from models.policy import CachePolicy
from models.random_model import random_model
from models.registry import find
from models.sampler import implied_noise, renoise, x0_from_velocity
from models.transformer import PromptKV


class ContiguousKV:
    """One stream's caches ``[1, S, N, D]`` for every layer (a ``KVView``)."""

    def __init__(self, model: LoadedModel, policy: CachePolicy, grid: tuple[int, int]) -> None:
        config = model.entry.transformer
        assert policy.window_frames is not None, "the reference keeps a window"
        self.hw, self.grid, self.policy = grid[0] * grid[1], grid, policy
        self.window, self.head_dim = policy.window_frames, config.head_dim
        shape = (1, self.window * self.hw, config.num_heads, config.head_dim)
        self.k = [torch.zeros(shape, dtype=model.dtype) for _ in range(config.num_layers)]
        self.v = [torch.zeros(shape, dtype=model.dtype) for _ in range(config.num_layers)]
        self.frames: list[int] = []
        self.own = 0

    def begin(self, frames: int) -> None:
        """Make room for the next frames: the tokens behind the sink move to the front."""
        start = self.frames[-1] + 1 if self.frames else 0
        overflow = len(self.frames) + frames - self.window
        if overflow > 0:
            sink = self.policy.sink_frames
            held = slice(sink * self.hw, (self.window - overflow) * self.hw)
            moved = slice((sink + overflow) * self.hw, self.window * self.hw)
            for cache in (*self.k, *self.v):
                cache[:, held] = cache[:, moved].clone()
            del self.frames[sink : sink + overflow]
        self.frames += range(start, start + frames)
        self.own = frames
        positions = list(range(len(self.frames)))
        if self.policy.rope == "absolute":
            positions = self.frames
        tokens = token_positions(torch.tensor(positions), self.grid)
        self.cos, self.sin = angles(tokens, self.head_dim)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm) -> Tensor:
        """Write own keys at the end of the cache and attend over all of it."""
        end, new = len(self.frames) * self.hw, self.own * self.hw
        cos, sin = self.cos[end - new :], self.sin[end - new :]
        query, key = rotate(norm.query(q), cos, sin), norm.key(k)
        absolute = self.policy.rope == "absolute"
        self.k[layer][:, end - new : end] = rotate(key, cos, sin) if absolute else key
        self.v[layer][:, end - new : end] = norm.split(v)
        keys = self.k[layer][:, :end]
        if not absolute:
            keys = rotate(keys, self.cos, self.sin)
        return attention(query, keys, self.v[layer][:, :end]).flatten(-2)


@dataclass
class PlainStream:
    """The reference loop for one stream."""

    model: LoadedModel
    policy: CachePolicy
    latent_hw: tuple[int, int]
    prompt: PromptKV
    seed: int
    steps: int
    chunk: int = 0
    decoder: Any = None
    kv: ContiguousKV = field(init=False)

    def __post_init__(self) -> None:
        grid = self.model.entry.transformer.grid(*self.latent_hw)
        self.kv = ContiguousKV(self.model, self.policy, grid)
        self.guidance = guidance_of(self.model)

    @torch.inference_mode()
    def run(self) -> Tensor:
        """Make the next chunk; uint8 frames ``[T, h, w, 3]``."""
        model, policy = self.model, self.policy
        frames = policy.chunk_size(self.chunk)
        shape = (frames, model.entry.transformer.out_channels, *self.latent_hw)
        schedule = model.entry.sampler.schedule(self.steps, self.chunk)
        self.kv.begin(frames)

        def velocity(latents: Tensor, timestep: float, prompt: PromptKV) -> Tensor:
            times = torch.full(latents.shape[:2], timestep)
            return model.transformer(latents, times, prompt, self.kv)

        x = drawn = noise(self.seed, self.chunk, 0, shape)[None]
        clean = x
        for step, (timestep, sigma) in enumerate(
            zip(schedule.timesteps, schedule.sigmas, strict=True)
        ):
            if step > 0:
                if schedule.fresh_noise:
                    drawn = noise(self.seed, self.chunk, step, shape)[None]
                x = renoise(clean, drawn, sigma)
            flow = velocity(x, timestep, self.prompt)
            if self.guidance is not None:
                empty = velocity(x, timestep, self.guidance.empty)
                flow = torch.lerp(empty, flow, self.guidance.scale)
            clean = x0_from_velocity(x, flow, sigma)
            if not schedule.fresh_noise:
                drawn = implied_noise(x, flow, sigma)
        velocity(clean, policy.context_timestep, self.prompt)
        self.chunk += 1
        weight = next(iter(model.codec.parameters()))  # type: ignore[attr-defined]
        pixels, self.decoder = model.codec.decode(clean.to(weight.dtype), self.decoder)
        scaled = pixels[0].float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        return scaled.permute(0, 2, 3, 1).contiguous()


class EngineStreams:
    """The engine with some streams that always have credit."""

    def __init__(
        self, model: LoadedModel, streams: int, steps: int | None, batch: int, less: WorkPolicy
    ) -> None:
        self.inside_s = 0.0
        if less.linear != "plain":
            # The plain loop keeps the network as it is.
            model = replace(model, transformer=copy.deepcopy(model.transformer))
        model, make = prepare(model, less, TorchKernels())
        for owner, name in ((model.transformer, "forward"), (model.codec, "decode")):
            self._time(owner, name)
        costs = CostTable({1: 1.0, **({batch: 0.9 * batch} if batch > 1 else {})}, 0.0)
        config = EngineConfig(max_sessions=streams, max_jobs=0, max_batch=batch, max_load=1e9)
        self.engine = Engine(model, config, time.perf_counter, costs, make_generator=make)
        self.streams, self.last = streams, {}
        width, height = model.entry.sizes[0]
        for seed in range(streams):
            parts = (PromptPart("the same prompt on both sides"),)
            spec = StreamSpec(
                str(seed), parts, seed, width, height, 16.0, None, steps, "live", "asap"
            )
            admitted = self.engine.admit(spec, time.perf_counter())
            assert isinstance(admitted, Admitted), admitted

    def _time(self, owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.inside_s += time.perf_counter() - start

        setattr(owner, name, timed)

    def run(self) -> list[ChunkReady]:
        """Tick until every stream has made its next chunk."""
        chunks: list[ChunkReady] = []
        while len(chunks) < self.streams:
            for event in self.engine.step(time.perf_counter()):
                assert not isinstance(event, SessionEnded), event
                if isinstance(event, ChunkReady):
                    chunks.append(event)
        for chunk in chunks:
            last = chunk.first_frame + chunk.num_frames - 1
            self.engine.apply(Credit(chunk.session_id, last), time.perf_counter())
        return chunks


def compare(
    model: LoadedModel, streams: int, runs: int, batch: int, steps: int, less: WorkPolicy = EXACT
) -> dict[str, Any]:
    """Interleave both sides; medians of the chunks after the window is full."""
    policy = model.entry.cache
    width, height = model.entry.sizes[0]
    latent_hw = (height // 8, width // 8)
    text = model.text.encode(["the same prompt on both sides"])
    with torch.inference_mode():
        prompt = model.transformer.prompt_kv(text)
    plain = [PlainStream(model, policy, latent_hw, prompt, seed, steps) for seed in range(streams)]
    # Steps that a policy gives are those of streams that ask for no number.
    side = EngineStreams(model, streams, None if less.steps else steps, batch, less)
    taken = less.steps or steps
    assert policy.window_frames is not None
    filling = policy.window_frames // policy.chunk_frames + 1
    rate = matmul_rate(model.device, model.dtype, time.perf_counter)
    engine_s, plain_s, inside, worst = [], [], [], 0
    for run in range(filling + runs):
        start = time.perf_counter()
        frames = [stream.run() for stream in plain]
        middle = time.perf_counter()
        side.inside_s = 0.0
        chunks = side.run()
        end = time.perf_counter()
        for chunk in chunks:
            other = frames[int(chunk.session_id)]
            shown = torch.from_numpy(chunk.frames.numpy())
            worst = max(worst, int((shown.int() - other.int()).abs().max()))
        if run >= filling:
            plain_s.append(middle - start)
            engine_s.append(end - middle)
            inside.append(side.inside_s / (end - middle))
    rate = max(rate, matmul_rate(model.device, model.dtype, time.perf_counter))
    cache = less.cache(policy)
    assert cache.window_frames is not None, "the model has a window"
    attended = attended_frames(
        cache.window_frames, cache.sink_frames, cache.chunk_frames, less.keep_pages
    )
    flops = streams * chunk_flops(model.entry, (width, height), taken, attended)
    made = streams * model.codec.frames_for(policy.chunk_frames, False)
    ratios = [b / a for a, b in zip(engine_s, plain_s, strict=True)]
    return {
        "model": model.entry.name,
        "device": device_name(model.device),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "policy": str(less),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "streams": streams,
        "batch": batch,
        "window_frames": cache.window_frames,
        "sink_frames": cache.sink_frames,
        "plain_window_frames": policy.window_frames,
        "guided": model.entry.sampler.guidance != 1,
        "steps": taken,
        "plain_steps": steps,
        "runs": runs,
        "engine_frames_per_s": round(made / statistics.median(engine_s), 2),
        "plain_frames_per_s": round(made / statistics.median(plain_s), 2),
        "engine_over_plain": round(statistics.median(ratios), 3),
        "largest_pixel_difference": worst,
        "share_of_tick_in_network_and_decoder": round(statistics.median(inside), 3),
        "matmul_gflops": round(rate / 1e9, 1),
        "engine_gflops": round(flops / statistics.median(engine_s) / 1e9, 1),
        "share_of_matmul_rate": round(flops / statistics.median(engine_s) / rate, 3),
    }


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="longtake-tiny")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1, help="streams in one forward pass")
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--both-windows", type=int, help="instead of the model's own window")
    work_policy.add_flags(parser)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    device = torch.device("cpu")
    dtype = getattr(torch, options.dtype, None) or choose_dtype(device, time.perf_counter)
    try:
        less = work_policy.from_flags(options)
        if options.random_weights:
            model = random_model(find(options.model), device=device, dtype=dtype)
        else:
            model = load_model(options.model, device=device, dtype=dtype)
        if options.both_windows is not None:
            cache = replace(model.entry.cache, window_frames=options.both_windows)
            model = replace(model, entry=replace(model.entry, cache=cache))
        under(model, less)  # refuses before anything is measured
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    steps = model.entry.sampler.num_steps
    result = compare(model, options.streams, options.runs, options.batch, steps, less)
    result["weights"] = "random" if options.random_weights else "trained"
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:38} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
