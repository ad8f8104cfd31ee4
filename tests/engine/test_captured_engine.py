"""A whole engine over static buffers shows what the plain loop shows, whatever its viewers do."""

import itertools

import pytest
import torch

from engine.asked import Credit, PromptPart, PromptUpdate, Stop, StreamSpec, UpdatePrompt
from engine.config import EngineConfig
from engine.cost_table import CostTable
from engine.cuda_graph import CapturedDenoiser
from engine.engine import Engine
from engine.events import Admitted, ChunkReady, EngineEvent, SessionEnded
from engine.generator import Generator
from engine.merged import MergingGenerator
from kernels.interface import Kernels
from kernels.torch_backend import TorchKernels
from models.interface import LoadedModel
from models.paged_kv import KVPool
from models.policy import CachePolicy, Recache, RopeMode
from models.random_model import random_model
from models.sampler import Sampler
from tests.fakes import tiny_test_entry
from tests.fakes_engine import memory_for
from tests.kernels.triton_modules import gpu

COSTS = CostTable({1: 0.01, 2: 0.012, 4: 0.02}, 0.001)
Shown = dict[tuple[str, int], torch.Tensor]


def spec(name: str, seed: int, chunks: int | None) -> StreamSpec:
    frames = None if chunks is None else 9 + 12 * (chunks - 1)
    part = PromptPart(f"a {name}")
    return StreamSpec(name, (part,), seed, 64, 32, 16.0, frames, 2, "live", "asap")


def build(
    kind: type[Generator], cache: CachePolicy, device: str, static: Kernels | None, capture: bool
) -> Engine:
    entry = tiny_test_entry(sizes=((64, 32),), cache=cache, sampler=Sampler())
    model = random_model(entry, 0, device=torch.device(device))

    def make(model: LoadedModel, pool: KVPool) -> Generator:
        own, denoiser = model.entry, None
        if static is not None:
            denoiser = CapturedDenoiser(
                model.transformer, own.transformer, own.cache, pool, static, capture=capture
            )
        return kind(model.transformer, own.transformer, own.cache, pool, denoiser=denoiser)

    ticks = itertools.count().__next__
    return Engine(
        model, EngineConfig(max_batch=3), lambda: ticks() / 100, COSTS, memory_for(model, 3),
        make_generator=make,
    )  # fmt: skip


def watch(engine: Engine) -> Shown:
    """Three streams that come, change their prompt, are stopped and end at different times."""
    shown: Shown = {}

    def take(events: list[EngineEvent], now: float) -> None:
        for event in events:
            if isinstance(event, ChunkReady):
                frames = torch.from_numpy(event.frames.numpy().copy()).int()
                shown[event.session_id, event.chunk_index] = frames
                last = event.first_frame + event.num_frames - 1
                engine.apply(Credit(event.session_id, last), now)
            assert not isinstance(event, SessionEnded) or event.error is None, event

    assert isinstance(engine.admit(spec("ball", 1, 10), 0.0), Admitted)
    for tick in range(40):
        now = float(tick)
        if tick == 2:
            assert isinstance(engine.admit(spec("bird", 2, 6), now), Admitted)
        if tick == 4:
            assert isinstance(engine.admit(spec("boat", 3, None), now), Admitted)
        if tick == 6:
            update = PromptUpdate("event", (PromptPart("night"),))
            take(engine.apply(UpdatePrompt("ball", update), now), now)
        if tick == 9:
            take(engine.apply(Stop("boat"), now), now)
        take(engine.step(now), now)
        take(engine.land(), now)  # so that a viewer's wish meets the same chunk on any device
    assert engine.capacity().pages_in_use == 0
    return shown


def compare(expected: Shown, actual: Shown, most: int) -> None:
    # Where the device is asked ahead, a stream that is stopped may have made a chunk more or less.
    whole = {key for key in expected if key[0] != "boat"}
    assert whole == {key for key in actual if key[0] != "boat"}
    assert len(whole) == 16
    for key in expected.keys() & actual.keys():
        assert (expected[key] - actual[key]).abs().max() <= most, key


@pytest.mark.parametrize("kind", [Generator, MergingGenerator])
@pytest.mark.parametrize("recache", ["bidirectional", "block_causal", "none"])
@pytest.mark.parametrize("rope", ["absolute", "window"])
def test_static_buffers_show_what_the_plain_loop_shows(
    rope: RopeMode, recache: Recache, kind: type[Generator]
) -> None:
    cache = CachePolicy(9, 2, rope, recache=recache, keep_sink_on_recache=rope == "window")
    expected = watch(build(Generator, cache, "cpu", None, False))
    actual = watch(build(kind, cache, "cpu", TorchKernels(), False))
    compare(expected, actual, 1)


@gpu
@pytest.mark.parametrize("kind", [Generator, MergingGenerator])
@pytest.mark.parametrize("rope", ["absolute", "window"])
def test_replayed_graphs_show_what_the_plain_loop_shows(
    rope: RopeMode, kind: type[Generator]
) -> None:
    from kernels.triton_backend import TritonKernels

    cache = CachePolicy(9, 2, rope)
    expected = watch(build(Generator, cache, "cuda", None, False))
    actual = watch(build(kind, cache, "cuda", TritonKernels(), True))
    compare(expected, actual, 2)
