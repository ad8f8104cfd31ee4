"""The Wan VAE: reference numbers, streaming equal to offline, state that is a value."""

from pathlib import Path

import pytest
import torch

from models.vae import VaeConfig, WanVae, decoder_state_shapes
from tests.parity import vae as parity

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def vae():
    return parity.load_vae(GOLDEN / "vae", torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_vae_case_equals_the_reference(dtype):
    atol = 5e-5 if dtype == torch.float32 else 0.12
    cases = parity.run(GOLDEN, dtype)
    assert set(cases) == {
        "vae/streaming",
        "vae/streaming.encode",
        "vae/streaming.single_frame",
        "vae/demo_zero_cache",
    }
    for pairs in cases.values():
        for ours, reference in pairs.values():
            torch.testing.assert_close(ours.float(), reference, atol=atol, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("split", [(5,), (1, 1, 1, 1, 1), (1, 4), (3, 2), (2, 1, 2)])
def test_any_split_of_a_stream_decodes_to_the_same_pixels(vae, split):
    latents = torch.randn(2, 5, 16, 2, 3, generator=torch.Generator().manual_seed(1))
    whole, _ = vae.decode_raw(latents, None)
    assert whole.shape == (2, 17, 3, 16, 24)
    state, parts = None, []
    for chunk in latents.split(split, dim=1):
        expected = vae.frames_for(chunk.shape[1], state is None)
        part, state = vae.decode_raw(chunk, state)
        assert part.shape[1] == expected
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_a_kept_state_forks_a_stream(vae):
    g = torch.Generator().manual_seed(2)
    first, left, right = (torch.randn(1, 1, 16, 2, 3, generator=g) for _ in range(3))
    _, state = vae.decode(first)
    kept = tuple(t.clone() for t in state)
    a, _ = vae.decode(left, state)
    b, _ = vae.decode(right, state)
    again, _ = vae.decode(left, state)
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert all(torch.equal(x, y) for x, y in zip(state, kept, strict=True))


@torch.inference_mode()
def test_rows_of_two_streams_batch_by_concatenating_their_states(vae):
    g = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 3, 16, 2, 3, generator=g)
    alone = []
    for row in range(2):
        _, state = vae.decode(latents[row : row + 1, :2])
        alone.append((state, vae.decode(latents[row : row + 1, 2:], state)[0]))
    joined = tuple(torch.cat(pair) for pair in zip(alone[0][0], alone[1][0], strict=True))
    together, _ = vae.decode(latents[:, 2:], joined)
    torch.testing.assert_close(together, torch.cat([a[1] for a in alone]), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_state_bytes_counts_the_tensors_of_the_state(vae):
    _, state = vae.decode(torch.zeros(1, 1, 16, 2, 3))
    shapes = decoder_state_shapes(vae.config, 2, 3)
    assert [tuple(t.shape[1:]) for t in state] == list(shapes)
    assert vae.state_bytes(16, 24) == sum(t.numel() * 4 for t in state)


def test_the_full_size_state_is_the_published_one():
    shapes = decoder_state_shapes(VaeConfig(), 60, 104)
    assert len(shapes) == 32
    assert sum(torch.Size(s).numel() for s in shapes) * 2 == pytest.approx(1.89e9, rel=2e-3)


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        full = WanVae(VaeConfig())
    assert sum(p.numel() for p in full.parameters()) == pytest.approx(126.9e6, rel=1e-3)
    assert sum(p.numel() for p in full.decoder.parameters()) == pytest.approx(73.3e6, rel=1e-3)


@pytest.mark.parametrize(("frames", "started"), [(0, False), (4, False), (5, True), (2, True)])
def test_an_uneven_clip_is_refused_with_the_allowed_lengths(vae, frames, started):
    with torch.inference_mode():
        state = vae.encode(torch.zeros(1, 1, 3, 16, 16))[1] if started else None
        with pytest.raises(ValueError, match="multiple of 4"):
            vae.encode(torch.zeros(1, frames, 3, 16, 16), state)
