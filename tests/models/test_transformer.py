"""The network: causality, prompts as values, dtypes, gradients, compilation."""

from dataclasses import replace

import pytest
import torch

from models import masks
from models.config import TransformerConfig
from models.dense_kv import BlockCausalKV
from models.transformer import CausalWan, PromptKV, places
from tests.models.wan_weights import random_transformer

CONFIG = TransformerConfig(
    dim=24, ffn_dim=40, num_heads=2, num_layers=2, text_dim=10, text_len=5, freq_dim=16
)
GRID = (2, 3)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip(batch=1, frames=6, seed=0):
    return draw(batch, frames, 16, 4, 6, seed=seed)


def view(frames=6, chunk=2, positions=None, **changes):
    where = torch.arange(frames) if positions is None else positions
    mask = masks.block_causal(frames, masks.chunk_starts(frames, chunk), **changes)
    return BlockCausalKV.of(where, GRID, CONFIG.head_dim, mask)


@pytest.fixture(scope="module")
def network():
    return random_transformer(CONFIG, seed=1)


@pytest.fixture(scope="module")
def prompt(network):
    with torch.inference_mode():
        return network.prompt_kv(draw(1, 5, 10, seed=2))


@torch.inference_mode()
@pytest.mark.parametrize("changed", range(6))
def test_a_changed_frame_leaves_earlier_chunks_equal(network, prompt, changed):
    latents, times = clip(), torch.full((1, 6), 500.0)
    other = latents.clone()
    other[:, changed] += 1
    before = network(latents, times, prompt, view())
    after = network(other, times, prompt, view())
    start = changed // 2 * 2
    assert torch.equal(before[:, :start], after[:, :start])
    # Its own chunk and every later one do change.
    assert (before[:, start:] != after[:, start:]).flatten(2).any(2).all()


@torch.inference_mode()
def test_a_changed_timestep_leaves_earlier_chunks_equal(network, prompt):
    times = torch.full((1, 6), 500.0)
    other = times.clone()
    other[:, 3] = 100
    before = network(clip(), times, prompt, view())
    after = network(clip(), other, prompt, view())
    assert torch.equal(before[:, :2], after[:, :2])
    assert (before[:, 2:] != after[:, 2:]).flatten(2).any(2).all()


@torch.inference_mode()
def test_only_distances_between_frames_matter(network, prompt):
    times = torch.full((1, 6), 300.0)
    here = network(clip(), times, prompt, view())
    there = network(clip(), times, prompt, view(positions=torch.arange(6) + 100_000))
    torch.testing.assert_close(here, there, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_rows_do_not_know_of_each_other(network):
    latents, times = clip(3), 1000 * torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    context = draw(3, 5, 10, seed=3)
    positions = torch.arange(6) + torch.tensor([[0], [7], [90]])
    starts = (masks.chunk_starts(6, 2), masks.chunk_starts(6, 3), [0, 1, 4])
    frame_mask = torch.stack([masks.block_causal(6, start) for start in starts])
    together = network(
        latents,
        times,
        network.prompt_kv(context),
        BlockCausalKV.of(positions, GRID, CONFIG.head_dim, frame_mask),
    )
    for i in range(3):
        row = slice(i, i + 1)
        alone = network(
            latents[row],
            times[row],
            network.prompt_kv(context[row]),
            BlockCausalKV.of(positions[i], GRID, CONFIG.head_dim, frame_mask[i]),
        )
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_prompts_mix_in_a_batch_as_values(network):
    context = draw(3, 5, 10, seed=4)
    whole = network.prompt_kv(context)
    mixed = PromptKV.stack([whole.rows(2), whole.rows(0)])
    direct = network.prompt_kv(context[[2, 0]])
    for ours, expected in zip(mixed.k + mixed.v, direct.k + direct.v, strict=True):
        torch.testing.assert_close(ours, expected)
    assert [k.shape for k in mixed.k] == [(2, 5, 2, 12)] * 2
    assert PromptKV.stack([whole]) is whole
    assert torch.equal(whole.rows(slice(0, 2)).v[1], whole.v[1][:2])


@torch.inference_mode()
def test_image_prompts_mix_too():
    config = TransformerConfig(
        24, 40, 2, 1, in_channels=36, text_dim=10, text_len=5, freq_dim=16, image_dim=8
    )
    network = random_transformer(config, seed=5)
    whole = network.prompt_kv(draw(2, 5, 10, seed=6), draw(2, 7, 8, seed=7))
    again = PromptKV.stack([whole.rows(0), whole.rows(1)])
    assert torch.equal(again.image_k[0], whole.image_k[0])
    assert whole.image_v[0].shape == (2, 7, 2, 12)


def test_a_network_without_image_tokens_takes_none(network):
    with pytest.raises(AssertionError, match="image features"):
        network.prompt_kv(draw(1, 5, 10), draw(1, 7, 8))


def test_a_latent_that_does_not_divide_is_refused(network, prompt):
    with pytest.raises(ValueError, match="latent of 5x6"):
        network(draw(1, 6, 16, 5, 6), torch.zeros(1, 6), prompt, view())


@torch.inference_mode()
def test_patches_are_those_of_the_convolution(network):
    latents = clip(2, 3)
    ours = network._patchify(latents, GRID)
    convolved = network.patch_embedding(latents.transpose(1, 2)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, convolved, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter():
    network = random_transformer(CONFIG, seed=8).train()
    context, times = draw(2, 5, 10, seed=9), torch.full((2, 6), 700.0)
    velocity = network(clip(2), times, network.prompt_kv(context), view())
    velocity.square().mean().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_half_precision_stays_near_float32(mode):
    network = random_transformer(CONFIG, seed=10)
    context, times = draw(1, 5, 10, seed=11), torch.full((1, 6), 400.0)
    with torch.no_grad():
        expected = network(clip(), times, network.prompt_kv(context), view())
        if mode == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                velocity = network(clip(), times, network.prompt_kv(context), view())
        else:
            network = network.to(torch.bfloat16)
            velocity = network(clip(), times, network.prompt_kv(context), view())
    assert velocity.dtype == torch.bfloat16
    error = (velocity.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 2e-2


def test_autocast_trains():
    network = random_transformer(CONFIG, seed=12).train()
    times = torch.full((1, 6), 400.0)
    with torch.autocast("cpu", torch.bfloat16):
        prompt = network.prompt_kv(draw(1, 5, 10, seed=13))
        loss = network(clip(), times, prompt, view()).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert {p.grad.dtype for p in network.parameters()} == {torch.float32}


def test_the_training_pass_is_one_graph(network, prompt):
    """No Python per token and nothing that breaks a compiled graph, for any number of rows."""
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for batch in (1, 2):
        rows = PromptKV.stack([prompt] * batch)
        times = torch.full((batch, 6), 250.0)
        with torch.no_grad():
            ours = compiled(clip(batch), times, rows, view())
            torch.testing.assert_close(ours, network(clip(batch), times, rows, view()))


def test_parameters_are_counted_as_published():
    with torch.device("meta"):
        small = CausalWan(TransformerConfig(1536, 8960, 12, 30))
        large = CausalWan(TransformerConfig(5120, 13824, 40, 40))
    assert sum(p.numel() for p in small.parameters()) == 1_418_996_800
    assert sum(p.numel() for p in large.parameters()) == 14_288_491_584
    assert (len(small.state_dict()), len(large.state_dict())) == (825, 1095)


def test_every_token_of_a_placed_network_has_a_place_of_its_own() -> None:
    at = places((5, 8), 32, torch.device("cpu"))
    assert at.shape == (40, 32)
    assert torch.cdist(at, at).fill_diagonal_(9.0).min() > 0.1


def test_alike_tokens_come_out_alike_unless_they_are_placed() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(
        dim=32, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=4
    )
    latents = torch.ones(1, 1, 16, 8, 8)
    for placed in (False, True):
        network = CausalWan(replace(config, placed=placed))
        prompt = network.prompt_kv(torch.zeros(1, 4, 8))
        view = BlockCausalKV.of(torch.arange(1), (4, 4), 16)
        with torch.no_grad():
            flow = network(latents, torch.full((1, 1), 900.0), prompt, view)
        tokens = flow[0, 0].view(16, 4, 2, 4, 2).permute(1, 3, 0, 2, 4).reshape(16, 64)
        spread = tokens.std(dim=0).max()
        assert (spread > 1e-3) if placed else (spread < 1e-5)


def test_alike_frames_come_out_alike_unless_they_are_told_their_place_in_the_chunk() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(
        dim=32, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=4
    )
    latents = torch.ones(1, 6, 16, 4, 4)
    for told in (0, 3):
        network = CausalWan(replace(config, frame_places=told))
        if network.frame_places is not None:
            torch.nn.init.normal_(network.frame_places)
        prompt = network.prompt_kv(torch.zeros(1, 4, 8))
        view = BlockCausalKV.of(torch.arange(6), (2, 2), 16)
        with torch.no_grad():
            flow = network(latents, torch.full((1, 6), 900.0), prompt, view)
        apart = (flow[:, 1:3] - flow[:, :1]).abs().amax(dim=(0, 2, 3, 4))
        assert (apart > 1e-3).all() if told else (apart < 1e-5).all()
        # The second chunk's frames have the places of the first's.
        assert told == 0 or (flow[:, 3:] - flow[:, :3]).abs().max() < apart.max()


def test_a_network_that_predicts_x0_returns_the_flow_from_it() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(
        dim=32, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=4
    )
    plain, clean = CausalWan(config), CausalWan(replace(config, predicts_x0=True))
    clean.load_state_dict(plain.state_dict())
    latents, times = torch.randn(1, 2, 16, 4, 4), torch.tensor([[800.0, 0.0]])
    prompt = plain.prompt_kv(torch.zeros(1, 4, 8))
    view = BlockCausalKV.of(torch.arange(2), (2, 2), 16)
    with torch.no_grad():
        out, flow = plain(latents, times, prompt, view), clean(latents, times, prompt, view)
    torch.testing.assert_close(latents[:, :1] - 0.8 * flow[:, :1], out[:, :1])
    assert flow.isfinite().all()  # a clean frame's flow means nothing, but is a number
