"""Norms and modulation against naive float64, and the dtype each one computes in."""

import pytest
import torch

from kernels import norm

EPS = 1e-6


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def naive_layer_norm(x):
    x = x.double()
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + EPS).sqrt()


def expand(per_frame, tokens):
    frames = per_frame.shape[1]
    return per_frame.double().repeat_interleave(tokens // frames, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_norm_equals_naive_float64_rounded_once(dtype):
    x, y = draw(2, 12, 20, seed=1, dtype=dtype) * 3, draw(2, 12, 20, seed=2, dtype=dtype)
    weight, bias = draw(20, seed=3, dtype=dtype), draw(20, seed=4, dtype=dtype)
    shift, scale = draw(2, 3, 20, seed=5), draw(2, 3, 20, seed=6)
    mean_square = x.double().square().mean(-1, keepdim=True)
    pairs = [
        (norm.rms_norm(x, weight, EPS), x.double() / (mean_square + EPS).sqrt() * weight.double()),
        (
            norm.layer_norm(x, weight, bias, EPS),
            naive_layer_norm(x) * weight.double() + bias.double(),
        ),
        (
            norm.modulate(x, shift, scale, EPS),
            naive_layer_norm(x) * (1 + expand(scale, 12)) + expand(shift, 12),
        ),
        (norm.gated_residual(x, y, scale), x.double() + y.double() * expand(scale, 12)),
    ]
    # One rounding: half a unit in the last place, of float32 arithmetic or of bfloat16.
    relative = 2e-6 if dtype == torch.float32 else 2**-8
    for ours, expected in pairs:
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=relative)


def test_statistics_of_large_bfloat16_values_do_not_overflow_or_drown():
    x = (draw(1, 4, 256, seed=7) * 1e-2 + 1000).to(torch.bfloat16)
    ours = norm.modulate(x, torch.zeros(1, 1, 256), torch.zeros(1, 1, 256), EPS)
    torch.testing.assert_close(ours.double(), naive_layer_norm(x), atol=2e-2, rtol=2e-2)


def test_each_frame_has_its_own_modulation():
    x = draw(1, 6, 8, seed=8)
    scale = torch.stack((torch.zeros(8), torch.ones(8), -torch.ones(8)))[None]
    ours = norm.modulate(x, torch.zeros_like(scale), scale, EPS)
    plain = naive_layer_norm(x).float()
    torch.testing.assert_close(ours[:, :2], plain[:, :2])
    torch.testing.assert_close(ours[:, 2:4], 2 * plain[:, 2:4])
    assert ours[:, 4:].abs().max() == 0
    assert torch.equal(norm.gated_residual(x, x, scale)[:, 4:], torch.zeros(1, 2, 8))


def test_float64_stays_float64():
    x = draw(1, 4, 8).double()
    assert norm.rms_norm(x, torch.ones(8), EPS).dtype == torch.float64
    mean_square = x.square().mean(-1, keepdim=True)
    torch.testing.assert_close(
        norm.rms_norm(x, torch.ones(8), EPS), x / (mean_square + EPS).sqrt(), atol=1e-14, rtol=0
    )
