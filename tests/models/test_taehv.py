"""TAEHV: reference numbers, exact streaming both ways, gradients, published size."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.checkpoint import Weights
from models.taehv import Taehv, TaehvConfig
from models.taehv_layers import GrowConv
from tests.parity import taehv as parity

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = TaehvConfig(decoder_widths=(12, 8, 6, 4), encoder_width=6, latent_channels=5)


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return Taehv(SMALL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_taehv_case_equals_the_reference(dtype):
    atol = 5e-5 if dtype == torch.float32 else 0.12
    cases = parity.run(GOLDEN, dtype)
    assert set(cases) == {"taehv/decode.raw", "taehv/decode.stream", "taehv/decode.encode"}
    for pairs in cases.values():
        for ours, reference in pairs.values():
            torch.testing.assert_close(ours.float(), reference, atol=atol, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("split", [(6,), (1,) * 6, (3, 3), (1, 2, 3)])
def test_any_split_decodes_to_the_same_pixels(codec, split, layout):
    latents = torch.randn(2, 6, 5, 4, 3, generator=torch.Generator().manual_seed(1))
    whole, _ = codec.decode(latents)
    codec = codec.to(memory_format=layout)
    state, parts = None, []
    for chunk in latents.split(split, dim=1):
        expected = codec.frames_for(chunk.shape[1], state is None)
        part, state = codec.decode(chunk, state)
        assert part.shape[1] == expected
        parts.append(part)
    assert parts[0].shape[1] == 4 * split[0] - 3
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("subpixel", [False, True])
def test_a_decoder_laid_out_for_a_cpu_shows_the_same_pixels(subpixel):
    torch.manual_seed(0)
    plain = Taehv(replace(SMALL, subpixel=subpixel))
    laid_out = copy.deepcopy(plain).requires_grad_(False)
    laid_out.lay_out()
    assert not any(parameter.requires_grad for parameter in laid_out.parameters())
    assert sum(isinstance(layer, GrowConv) for layer in laid_out.decoder) == 3
    latents = torch.randn(2, 5, 5, 4, 3, generator=torch.Generator().manual_seed(1))
    whole, _ = plain.decode(latents)
    first, state = laid_out.decode(latents[:, :2])
    rest, _ = laid_out.decode(latents[:, 2:], state)
    torch.testing.assert_close(torch.cat((first, rest), 1), whole, atol=1e-5, rtol=0)


def test_a_decoder_on_another_device_keeps_its_layers():
    with torch.device("meta"):
        codec = Taehv(SMALL)
    names = set(codec.state_dict())
    codec.lay_out()
    assert set(codec.state_dict()) == names


@torch.inference_mode()
@pytest.mark.parametrize("split", [(13,), (1, 12), (1, 4, 8), (5, 4, 4)])
def test_any_split_encodes_to_the_same_latents(codec, split):
    pixels = torch.rand(2, 13, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole, _ = codec.encode(pixels)
    assert whole.shape == (2, 4, 5, 2, 3)
    state, parts = None, []
    for chunk in pixels.split(split, dim=1):
        part, state = codec.encode(chunk, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_states_are_small_values_that_fork_and_batch(codec):
    g = torch.Generator().manual_seed(2)
    latents = torch.randn(2, 3, 5, 4, 3, generator=g)
    rows = [codec.decode(latents[i : i + 1, :2])[1] for i in range(2)]
    assert codec.state_bytes(32, 24) == sum(t.numel() * 4 for t in rows[0])
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in rows[0])
    alone = [codec.decode(latents[i : i + 1, 2:], rows[i])[0] for i in range(2)]
    joined = tuple(torch.cat(pair) for pair in zip(*rows, strict=True))
    together, _ = codec.decode(latents[:, 2:], joined)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter_through_both_directions(codec):
    pixels = torch.rand(1, 9, 3, 16, 16) * 2 - 1
    latents, _ = codec.encode(pixels)
    decoded, _ = codec.decode(latents, clamp=False)
    assert decoded.shape == pixels.shape
    (decoded - pixels).square().mean().backward()
    assert [n for n, p in codec.named_parameters() if p.grad is None] == []


def test_the_published_decoder_has_its_published_size():
    with torch.device("meta"):
        full = Taehv(TaehvConfig())
    assert sum(p.numel() for p in full.decoder.parameters()) == 9_844_611


@pytest.mark.parametrize(("frames", "started"), [(0, False), (4, False), (5, True)])
def test_an_uneven_clip_is_refused_with_the_allowed_lengths(codec, frames, started):
    with torch.inference_mode():
        state = codec.encode(torch.zeros(1, 1, 3, 16, 16))[1] if started else None
        with pytest.raises(ValueError, match="multiple of 4"):
            codec.encode(torch.zeros(1, frames, 3, 16, 16), state)


def test_a_checkpoint_that_grows_more_frames_keeps_its_last_groups(codec):
    weights = dict(codec.state_dict())
    name = "decoder.7.conv.weight"  # stride 1 here; two frames in the wider checkpoint
    wanted = weights[name].clone()
    weights[name] = torch.cat([torch.zeros_like(wanted), wanted])
    adapted = codec.adapt(Weights(weights, "wide")).tensors
    assert torch.equal(adapted[name], wanted)
    assert {n: t.shape for n, t in adapted.items()} == {
        n: t.shape for n, t in codec.state_dict().items()
    }
