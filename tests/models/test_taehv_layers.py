"""Layers of TAEHV against the plain way to compute what they compute."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from models.taehv_layers import GrowConv, TimeGrow, folded

shapes = st.tuples(*(st.integers(1, 4) for _ in range(6)))  # frames, batch, channels, h, w, out
layouts = st.sampled_from([torch.contiguous_format, torch.channels_last])


def plain_growth(grow: TimeGrow, x: torch.Tensor, batch: int) -> torch.Tensor:
    """Frames are groups of channels, and torch's own shuffle makes pixels of the rest."""
    y = grow.conv(x).unflatten(0, (-1, batch)).unflatten(2, (grow.stride, -1))
    return functional.pixel_shuffle(y.transpose(1, 2).flatten(0, 2), grow.scale)


def inputs(
    shape: tuple[int, ...], layout: torch.memory_format
) -> tuple[torch.Generator, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames, batch, channels, h, w, _ = shape
    x = torch.randn(frames * batch, channels, h, w, generator=generator)
    return generator, x.contiguous(memory_format=layout)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(1, 2), layouts)
@torch.inference_mode()
def test_growth_in_time_and_size_equals_transposes_and_a_shuffle(shape, stride, scale, layout):
    _, x = inputs(shape, layout)
    grow = TimeGrow(shape[2], stride, scale).to(memory_format=layout)
    made = grow(x, shape[1])
    torch.testing.assert_close(made, plain_growth(grow, x, shape[1]), atol=1e-5, rtol=0)
    if layout == torch.channels_last:
        assert made.is_contiguous(memory_format=layout)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 2), st.booleans(), layouts)
@torch.inference_mode()
def test_four_small_convolutions_equal_growth_and_a_large_one(shape, stride, subpixel, layout):
    _, x = inputs(shape, layout)
    grow = TimeGrow(shape[2], stride, 2 if subpixel else 1)
    conv = nn.Conv2d(shape[2], shape[5], 3, padding=1, bias=False)
    grown = plain_growth(grow, x, shape[1])
    if not subpixel:
        grown = functional.interpolate(grown, scale_factor=2)
    made = GrowConv(grow, conv).to(memory_format=layout)(x, shape[1])
    torch.testing.assert_close(made, conv(grown), atol=1e-5, rtol=0)
    assert made.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Identity(), TimeGrow(4, 2), nn.Conv2d(4, 4, 3, padding=1, bias=False)),
        (nn.Upsample(scale_factor=2), TimeGrow(4, 2), nn.ReLU()),
    ],
    ids=["nothing doubles the picture", "no convolution behind it"],
)
def test_what_is_no_doubling_and_convolution_stays(layers):
    assert list(folded(nn.Sequential(*layers))) == list(layers)
