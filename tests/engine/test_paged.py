"""The paged cache with the real network: page sizes, company in a batch, repeatability."""

import pytest
import torch

from engine.generator import Generator
from kernels.torch_backend import TorchKernels
from models.interface import LoadedModel
from models.kv import QKNorm
from models.noise import noise
from models.paged_kv import KVPool, PagedKV, RowPages
from models.policy import CachePolicy
from models.random_model import random_model
from models.sampler import Schedule
from tests.fakes import tiny_test_entry

SCHEDULE = Schedule((1000.0, 800.0), (1.0, 0.8))
LATENT_HW = (8, 12)  # 24 tokens a frame


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return random_model(tiny_test_entry(sizes=((96, 64),)), 0)


def generator_of(model, policy, page_tokens=24, streams=3):
    sizes = model.transformer.config
    window = policy.window_frames or 21
    pool = KVPool(
        sizes.num_layers,
        1 + streams * window * 24 // page_tokens,
        page_tokens,
        sizes.num_heads,
        sizes.head_dim,
        torch.float32,
        "cpu",
    )
    return Generator(model.transformer, sizes, policy, pool)


def prompt(model, text):
    with torch.inference_mode():
        return model.transformer.prompt_kv(model.text.encode([text]))


def roll(generator, streams, prompts, seeds, chunks, changes=(), start=0):
    """Make chunks of each stream in one batch; recache the rows named in ``changes``."""
    out = []
    for chunk in range(start, start + chunks):

        def draw(step, chunk=chunk):
            shape = (generator.policy.chunk_frames, 16, *LATENT_HW)
            return torch.stack([noise(seed, chunk, step, shape) for seed in seeds])

        changed = [(chunk, row) in changes for row in range(len(streams))]
        frames = generator.policy.chunk_frames
        out.append(generator.chunk(streams, frames, prompts, changed, SCHEDULE, draw))
    return torch.cat(out, dim=1) if out else None


POLICIES = [
    CachePolicy(9, 3, "window", recache="bidirectional"),
    CachePolicy(9, 3, "window", recache="block_causal"),
    CachePolicy(9, 3, "absolute", recache="bidirectional", keep_sink_on_recache=False),
    CachePolicy(6, 0, "absolute", recache="every_chunk", past_weight=0.3),
    CachePolicy(7, 1, "window", chunk_frames=1),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.rope}-{policy.recache}")
def test_any_page_size_that_divides_a_frame_gives_the_same(model, policy):
    results = []
    for page_tokens in (24, 8, 3):
        generator = generator_of(model, policy, page_tokens, streams=1)
        stream = generator.open(LATENT_HW)
        results.append(roll(generator, [stream], [prompt(model, "a")], [1], 5, changes={(4, 0)}))
    for result in results[1:]:
        assert torch.equal(result, results[0])


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.rope}-{policy.recache}")
def test_a_batch_changes_its_rows_by_rounding_only(model, policy):
    """Rows differ in prompt, age, window length and in when they recache."""
    texts, ages, seeds = ["a red ball", "rain over hills", "x"], [0, 2, 5], [1, 2, 3]
    prompts = [prompt(model, text) for text in texts]
    alone = []
    for row in range(3):
        generator = generator_of(model, policy, streams=1)
        stream = generator.open(LATENT_HW)
        roll(generator, [stream], [prompts[row]], [9], ages[row])
        changes = {(1, 0)} if row == 1 else set()
        alone.append(roll(generator, [stream], [prompts[row]], [seeds[row]], 3, changes))
    together = generator_of(model, policy)
    streams = [together.open(LATENT_HW) for _ in range(3)]
    for row in range(3):
        roll(together, [streams[row]], [prompts[row]], [9], ages[row])
    batch = roll(together, streams, prompts, seeds, 3, changes={(1, 1)})
    for row in range(3):
        torch.testing.assert_close(batch[row : row + 1], alone[row], atol=2e-5, rtol=0)


def test_a_stream_alone_is_bit_identical_twice(model):
    runs = []
    for _ in range(2):
        generator = generator_of(model, POLICIES[0], streams=1)
        stream = generator.open(LATENT_HW)
        runs.append(roll(generator, [stream], [prompt(model, "a")], [1], 6, {(3, 0)}))
    assert torch.equal(*runs)


def test_pages_in_pieces_give_the_same_as_one_run(model):
    policy = POLICIES[0]
    whole = generator_of(model, policy)
    expected = roll(whole, [whole.open(LATENT_HW)], [prompt(model, "a")], [1], 6)
    pieces = generator_of(model, policy)
    taken = [pieces.pages.allocate(1) for _ in range(27)]
    for pages in taken[::2]:
        pieces.pages.release(pages)
    stream = pieces.open(LATENT_HW)
    assert stream.table.pages != tuple(range(stream.table.pages[0], stream.table.pages[0] + 9))
    result = roll(pieces, [stream], [prompt(model, "a")], [1], 6)
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=0)


def test_a_fork_goes_its_own_way_and_its_parent_does_not_notice(model):
    policy = POLICIES[0]

    def parent(fork):
        generator = generator_of(model, policy)
        stream = generator.open(LATENT_HW)
        prompts = [prompt(model, "a")]
        roll(generator, [stream], prompts, [1], 4)
        twin = None
        if fork:
            twin = generator.fork(stream)
            roll(generator, [twin], [prompt(model, "b")], [2], 1, {(4, 0)}, start=4)
        rest = roll(generator, [stream], prompts, [1], 3, start=4)
        return generator, stream, twin, rest

    *_, expected = parent(fork=False)
    generator, stream, twin, rest = parent(fork=True)
    assert torch.equal(rest, expected)
    generator.pages.check_integrity([stream.table.pages, twin.table.pages])
    # What the twin makes with the parent's seed and prompt is what the parent makes.
    copy = generator_of(model, policy)
    original = copy.open(LATENT_HW)
    roll(copy, [original], [prompt(model, "a")], [1], 4)
    same = roll(copy, [copy.fork(original)], [prompt(model, "a")], [1], 3, start=4)
    torch.testing.assert_close(same, expected, atol=2e-6, rtol=0)


def test_a_stream_far_past_its_window_and_any_table_goes_on_at_the_same_cost(model):
    generator = generator_of(model, POLICIES[2], streams=1)
    stream = generator.open(LATENT_HW)
    for _ in range(1000):
        stream.table.append(3)
    latents = roll(generator, [stream], [prompt(model, "a")], [1], 4, start=1000)
    assert torch.isfinite(latents).all()
    assert stream.table.row(3).query_frames == (3009, 3010, 3011)
    assert len(stream.table.row(3).read) == 9
    assert stream.recent.shape[1] == 9


def test_padding_rows_write_to_the_null_page_and_come_out_as_zeros(model):
    generator = generator_of(model, POLICIES[0], streams=1)
    stream = generator.open(LATENT_HW)
    roll(generator, [stream], [prompt(model, "a")], [1], 2)
    stream.table.append(3)
    real = stream.table.row(3)
    padding = RowPages(write=(0,) * 3, read=(), query_frames=(0, 1, 2), key_frames=())
    before = generator.pool.k.clone()
    view = PagedKV(generator.pool, [real, padding], (4, 6), "window")
    norm = _norm(model)
    x = torch.randn(2, 72, 64, generator=torch.Generator().manual_seed(0))
    out = view.attend(0, x, x, x, norm)
    assert out[0].abs().max() > 0
    assert torch.equal(out[1], torch.zeros(72, 64))
    changed = (generator.pool.k != before).flatten(2).any(2).nonzero()[:, 1].unique()
    assert set(changed.tolist()) == set(real.write)


def _norm(model):
    attention = model.transformer.blocks[0].self_attn
    heads = model.transformer.config.num_heads
    return QKNorm(
        attention.norm_q.weight.detach(),
        attention.norm_k.weight.detach(),
        heads,
        1e-6,
        TorchKernels(),
    )


def test_a_page_size_that_does_not_divide_a_frame_is_a_defect_that_shows(model):
    with pytest.raises(AssertionError):
        generator_of(model, POLICIES[0], page_tokens=5).open(LATENT_HW)
