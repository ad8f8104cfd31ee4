"""The dense cache: equal to one masked pass, window, sink, both rotary modes, gradients."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kernels import rope
from kernels.attention import reference
from kernels.torch_backend import TorchKernels
from models import masks
from models.config import TransformerConfig
from models.dense_kv import BlockCausalKV, DenseKV
from models.kv import QKNorm
from models.policy import CachePolicy
from models.sampler import Sampler, renoise, x0_from_velocity
from tests.models.wan_weights import random_transformer
from tests.parity.forward import load_transformer

CONFIG = TransformerConfig(
    dim=24, ffn_dim=40, num_heads=2, num_layers=2, text_dim=10, text_len=5, freq_dim=16
)
GRID = (1, 2)
TOKENS = 2
GOLDEN = Path(__file__).parents[1] / "golden"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cache_for(policy, layers=CONFIG.num_layers, *, attached=False):
    return DenseKV(layers, CONFIG.head_dim, GRID, policy, "cpu", attached=attached)


def norm_of(seed):
    q_weight, k_weight = 1 + 0.1 * draw(2, 24, seed=seed)
    return QKNorm(q_weight, k_weight, CONFIG.num_heads, 1e-6, TorchKernels())


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("first_alone", [False, True])
def test_chunk_after_chunk_equals_one_block_causal_pass(chunk, first_alone):
    network = random_transformer(CONFIG, seed=0)
    prompt = network.prompt_kv(draw(2, 5, 10, seed=1))
    latents = draw(2, 7, 16, 2, 4, seed=2)
    times = 1000 * torch.rand(2, 7, generator=torch.Generator().manual_seed(3))
    starts = masks.chunk_starts(7, chunk, first_alone)
    frame_mask = masks.block_causal(7, starts)
    dense = BlockCausalKV.of(torch.arange(7), GRID, CONFIG.head_dim, frame_mask)
    whole = network(latents, times, prompt, dense)

    cache = cache_for(CachePolicy(chunk_frames=chunk))
    for start, end in zip(starts, [*starts[1:], 7], strict=True):
        part = slice(start, end)
        kept = cache.view(end - start, keep=True)
        piece = network(latents[:, part], times[:, part], prompt, kept)
        torch.testing.assert_close(piece, whole[:, part], atol=1e-5, rtol=1e-5)
    assert cache.frames == tuple(range(7))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("mode", "window", "sink"),
    [("absolute", None, 0)]
    + [(mode, *sizes) for mode in ("absolute", "window") for sizes in ((6, 0), (6, 2), (7, 1))],
)
def test_each_chunk_attends_to_the_policys_frames_at_its_positions(mode, window, sink):
    """Against keys kept in a plain list and attention in float64, one layer."""
    policy = CachePolicy(window, sink, mode, chunk_frames=2)
    cache, norm = cache_for(policy, layers=1), norm_of(4)
    keys, values = [], []  # of every frame since the start, unrotated
    for index in range(6):
        q, k, v = draw(3, 1, 2 * TOKENS, 24, seed=10 + index)
        noisy = cache.view(2)
        noisy.attend(0, 9 * q, 9 * k, 9 * v, norm)  # leaves no trace
        clean = cache.view(2, keep=True)
        ours = clean.attend(0, q, k, v, norm)
        keys += norm.key(k).split(TOKENS, 1)
        values += norm.split(v).split(TOKENS, 1)
        attended = policy.attended(2 * index + 2)
        assert cache.frames == attended
        places = range(len(attended)) if mode == "window" else attended
        turn = rope.angles(rope.token_positions(torch.tensor(places), GRID), CONFIG.head_dim)
        key = rope.rotate(torch.cat([keys[i] for i in attended], 1), *turn)
        query = rope.rotate(norm.query(q), *(x[-2 * TOKENS :] for x in turn))
        value = torch.cat([values[i] for i in attended], 1)
        expected = reference(query, key, value).flatten(-2)
        torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_both_rotary_modes_agree_while_the_stream_fits_the_window():
    network = random_transformer(CONFIG, seed=5)
    prompt = network.prompt_kv(draw(1, 5, 10, seed=6))
    latents = draw(1, 9, 16, 2, 4, seed=7)
    caches = [cache_for(CachePolicy(6, 3, mode)) for mode in ("absolute", "window")]
    for index in range(3):
        part = latents[:, 3 * index : 3 * index + 3]
        times = torch.zeros(1, 3)
        a, b = (network(part, times, prompt, cache.view(3, keep=True)) for cache in caches)
        if index < 2:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        else:
            assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("attached", [False, True])
def test_gradients_stay_within_the_chunk_unless_the_cache_is_attached(attached):
    network = random_transformer(CONFIG, seed=8)
    prompt = network.prompt_kv(draw(1, 5, 10, seed=9))
    cache = cache_for(CachePolicy(6, 2, "window", chunk_frames=2), attached=attached)
    chunks = [draw(1, 2, 16, 2, 4, seed=20 + i).requires_grad_() for i in range(3)]
    times = torch.zeros(1, 2)
    for part in chunks[:2]:
        network(part, times, prompt, cache.view(2, keep=True))
    velocity = network(chunks[2], torch.full((1, 2), 500.0), prompt, cache.view(2))
    velocity.sum().backward()
    assert [part.grad is not None for part in chunks] == [attached, attached, True]
    assert chunks[2].grad.abs().max() > 0


def test_a_pass_that_is_not_kept_changes_nothing():
    network = random_transformer(CONFIG, seed=11)
    cache = cache_for(CachePolicy(chunk_frames=2))
    with torch.inference_mode():
        prompt = network.prompt_kv(draw(1, 5, 10, seed=12))
        a, b = draw(2, 1, 2, 16, 2, 4, seed=13)
        times = torch.zeros(1, 2)
        first = network(a, times, prompt, cache.view(2))
        network(b, times, prompt, cache.view(2))
        assert cache.frames == ()
        assert cache.end_frame == 0
        assert torch.equal(network(a, times, prompt, cache.view(2)), first)


@torch.inference_mode()
@pytest.mark.parametrize(
    "name",
    [
        "rollouts/local7_sink1_framewise",
        "rollouts/global_chunk3_batch2",
        "longlive/relative_rope_sink3",
    ],
)
def test_the_training_cache_gives_the_reference_rollouts(name):
    group, case_name = name.split("/")
    case = json.loads((GOLDEN / group / "cases.json").read_text())[case_name]
    golden = load_file(GOLDEN / f"{name}.safetensors")
    network = load_transformer(GOLDEN / "transformer", torch.float32)
    window, chunk = case["local_attn_size"], case["num_frame_per_block"]
    policy = CachePolicy(
        window_frames=None if window == -1 else window,
        sink_frames=case["sink_size"],
        rope="window" if case.get("relative_rope") else "absolute",
        chunk_frames=chunk,
    )
    grid = network.config.grid(*case["latent_hw"])
    cache = DenseKV(network.config.num_layers, network.config.head_dim, grid, policy, "cpu")
    schedule = Sampler(case["timestep_shift"]).schedule()
    prompt = network.prompt_kv(golden["prompt_embeds"])
    for index in range(case["num_frames"] // chunk):
        part = slice(index * chunk, index * chunk + chunk)
        x = golden["noise"][:, part]
        for step, (t, sigma) in enumerate(zip(schedule.timesteps, schedule.sigmas, strict=True)):
            times = torch.full(x.shape[:2], t)
            x0 = x0_from_velocity(x, network(x, times, prompt, cache.view(chunk)), sigma)
            if step + 1 < len(schedule):
                fresh = golden[f"chunk{index:02d}.renoise.{step}"]
                x = renoise(x0, fresh, schedule.sigmas[step + 1])
        torch.testing.assert_close(x0, golden["latents"][:, part], atol=5e-5, rtol=0)
        network(x0, torch.zeros(x.shape[:2]), prompt, cache.view(chunk, keep=True))
