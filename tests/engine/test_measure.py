"""What is timed at start-up, and what is made ready by it."""

import itertools
import math

import torch

from engine.accelerated import prepare
from engine.generator import Generator
from engine.measure import measure_costs
from engine.merged import MergingGenerator
from engine.pixels import Pixels
from engine.playout import LEAST_STEPS
from engine.prompts import PromptStore
from engine.work_policy import WorkPolicy
from kernels.torch_backend import TorchKernels
from models.interface import LoadedModel
from models.paged_kv import KVPool
from models.random_model import random_model
from models.sampler import Schedule
from tests.fakes import tiny_test_entry
from tests.fakes_engine import memory_for

CPU = torch.device("cpu")


class Ahead:
    """A denoiser of whole chunks that says what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, bool, bool]] = []
        self.shapes: list[tuple[int, int]] = []
        self.graphs = 0

    def chunk(
        self, rows, latent_hw, prompts, schedule: Schedule, draw, context_timestep, owed=None
    ):
        merged = owed is not None
        self.shapes.append(latent_hw)
        self.asked.append((len(rows), len(schedule), context_timestep is not None, merged))
        return draw(0).float()


def started(
    model: LoadedModel,
    pool: KVPool,
    generator: Generator,
    seconds: float,
    warm_up_s: float = math.inf,
):
    """Measure with a clock on which a pass takes as long for every batch size."""
    ticks = itertools.count().__next__
    prompts = PromptStore(model.text, model.transformer.prompt_kv, 1 << 20, None)
    pixels = Pixels(model.codec, CPU, 0)
    return measure_costs(model, generator, prompts, pixels, 4, lambda: seconds * ticks(), warm_up_s)


def model_and_pool(
    pictures: tuple[tuple[int, int], ...] = ((64, 32),),
) -> tuple[LoadedModel, KVPool]:
    model = random_model(tiny_test_entry(sizes=pictures), 0)
    sizes, memory = model.entry.transformer, memory_for(model, 4)
    return model, KVPool(
        sizes.num_layers, memory.pages, memory.page_tokens, sizes.num_heads, sizes.head_dim,
        model.dtype, CPU,
    )  # fmt: skip


def test_whole_chunks_are_made_of_every_kind_that_will_run_the_commonest_first() -> None:
    model, pool = model_and_pool()
    entry, ahead = model.entry, Ahead()
    generator = Generator(model.transformer, entry.transformer, entry.cache, pool, denoiser=ahead)
    free = generator.pages.free
    costs = started(model, pool, generator, 0.01)
    full = entry.sampler.num_steps
    used = sorted({costs.best_batch(n, full) for n in range(1, 5)}, reverse=True)
    assert used == [4, 2, 1]
    whole = [asked for asked in ahead.asked if asked[1] > 1]
    expected = [
        (size, steps, True, False)
        for steps in range(full, LEAST_STEPS - 1, -1)
        for size in used
        for _ in range(2)
    ]
    # A stream's last chunk, behind one that is not.
    expected += [(size, full, clean, False) for size in used for clean in (True, False)]
    assert whole == expected
    assert generator.pages.free == free


def test_every_size_of_picture_is_warmed_up() -> None:
    model, pool = model_and_pool(((64, 32), (32, 64)))
    entry, ahead = model.entry, Ahead()
    generator = Generator(model.transformer, entry.transformer, entry.cache, pool, denoiser=ahead)
    free = generator.pages.free
    started(model, pool, generator, 0.01)
    shapes = list(dict.fromkeys(ahead.shapes))
    assert shapes == [(4, 8), (8, 4)]
    assert generator.pages.free == free


def test_the_warm_up_ends_when_its_time_is_over() -> None:
    model, pool = model_and_pool()
    entry, ahead = model.entry, Ahead()
    generator = Generator(model.transformer, entry.transformer, entry.cache, pool, denoiser=ahead)
    started(model, pool, generator, 0.01, warm_up_s=0.025)
    whole = [asked[:2] for asked in ahead.asked if asked[1] > 1]
    full = entry.sampler.num_steps
    assert whole == [(size, full) for size in (4, 2, 1) for _ in range(2)]


def test_with_merged_passes_every_size_makes_a_chunk_that_is_owed_nothing_and_one_that_is() -> None:
    model, pool = model_and_pool()
    entry, ahead = model.entry, Ahead()
    generator = MergingGenerator(
        model.transformer, entry.transformer, entry.cache, pool, denoiser=ahead
    )
    started(model, pool, generator, 0.01)
    steps = entry.sampler.num_steps
    whole = [(rows, merged) for rows, count, clean, merged in ahead.asked if count == steps]
    assert whole[:6] == [(size, merged) for size in (4, 2, 1) for merged in (False, True)]


def test_a_plain_loop_has_nothing_to_capture() -> None:
    model, pool = model_and_pool()
    _, make = prepare(model, WorkPolicy.parse("exact"), TorchKernels())
    generator = make(model, pool)
    asked: list[bool] = []
    chunk = generator.chunk

    def spied(*args, last=False, **options):
        asked.append(last)
        return chunk(*args, last=last, **options)

    generator.chunk = spied
    started(model, pool, generator, 0.01)
    assert asked
    assert all(asked)


def test_a_window_is_rebuilt_once_so_that_no_viewer_s_new_prompt_waits_for_a_first_time() -> None:
    model, pool = model_and_pool()
    entry, ahead = model.entry, Ahead()
    generator = Generator(model.transformer, entry.transformer, entry.cache, pool, denoiser=ahead)
    before_pass: list[int] = []
    recache = generator.recache

    def spied(stream, prompt, prompt_changed=True):
        if prompt_changed:
            before_pass.append(len(ahead.asked))
        recache(stream, prompt, prompt_changed)

    generator.recache = spied
    started(model, pool, generator, 0.01)
    assert before_pass == [0]
