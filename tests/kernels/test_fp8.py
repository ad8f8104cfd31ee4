"""FP8 linear layers: their rounding, their error, and the Triton rounding against the oracle."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kernels.fp8 import FP8_MAX, Fp8Linear, check_fp8, multiplies_fp8, quantise
from tests.kernels.triton_modules import DEVICE, load

triton_fp8: Any = load("triton_fp8")


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    difference = actual.double() - expected.double()
    return (difference.norm() / expected.double().norm()).item()


def test_every_row_uses_the_whole_range_and_comes_back_within_its_rounding() -> None:
    x = draw(0, 5, 64) * torch.tensor([1e-3, 1.0, 50.0, 1e4, 0.0], device=DEVICE)[:, None]
    rounded, scale = quantise(x)
    assert rounded.float().abs().amax(-1)[:4].tolist() == [FP8_MAX] * 4
    back = rounded.float() * scale
    # e4m3 has three mantissa bits: half a step is 1/16 of the number.
    assert ((back - x).abs() <= x.abs() / 16 + scale * 2**-9).all()
    assert back[4].abs().max() == 0


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 4),
    width=st.sampled_from((16, 48, 100)),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
    gelu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_triton_rounds_like_the_oracle(
    rows: int, width: int, dtype: torch.dtype, gelu: bool, seed: int
) -> None:
    x = draw(seed, rows, width, dtype=dtype)
    rounded, scale = triton_fp8.quantise(x, gelu)
    wide = x.float()
    if gelu:
        wide = F.gelu(wide, approximate="tanh")
    want_scale = wide.abs().amax(-1, keepdim=True) / FP8_MAX
    torch.testing.assert_close(scale, want_scale, atol=1e-9, rtol=1e-5)
    gap = (rounded.float() * scale - wide).abs()
    fine = gap <= wide.abs() / 16 * 1.001 + want_scale * 2**-9
    if DEVICE.type == "cpu":  # Triton's interpreter loses the carry into the exponent
        fine |= torch.frexp((wide / want_scale).abs()).mantissa >= 31 / 32
    assert fine.all()


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_is_within_four_percent_of_its_linear(dtype: torch.dtype, gelu: bool) -> None:
    linear = nn.Linear(256, 128).to(DEVICE, dtype)
    nn.init.normal_(linear.weight, std=256**-0.5)
    x = draw(1, 2, 16, 256, dtype=dtype)
    with torch.inference_mode():
        expected = linear(F.gelu(x, approximate="tanh") if gelu else x)
        actual = Fp8Linear.of(linear)(x, gelu=gelu)
    assert actual.dtype == dtype
    assert actual.shape == (2, 16, 128)
    assert 0.005 < error(actual, expected) < 0.04


def test_weights_take_a_byte_each() -> None:
    layer = Fp8Linear.of(nn.Linear(64, 32))
    assert layer.weight.element_size() == 1
    assert layer.scale.shape == (32, 1)


def test_a_cpu_has_no_fp8_products_and_emulates_them() -> None:
    assert not multiplies_fp8(torch.device("cpu"))
    check_fp8("linear=fp8", torch.device("cpu"))


def test_a_gpu_without_fp8_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ValueError, match="linear=fp8 on sm_80; it needs sm_89 or newer; leave it"):
        check_fp8("linear=fp8", torch.device("cuda"))


def test_a_gpu_without_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="linear=fp8 without triton; install triton, or leave"):
        check_fp8("linear=fp8", torch.device("cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_devices_product_is_asked_for_what_it_gives(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(a: torch.Tensor, b: torch.Tensor, **options: Any) -> torch.Tensor:
        # torch's own refusal, word for word.
        if options["out_dtype"] == torch.float32:
            raise RuntimeError("Bias is not supported when out_dtype is set to Float32")
        out = (a.float() @ b.float()) * options["scale_a"] * options["scale_b"]
        return (out + options["bias"].float()).to(options["out_dtype"])

    torch.manual_seed(0)
    layer = Fp8Linear.of(nn.Linear(48, 32))
    x = torch.randn(2, 5, 48).to(dtype)
    expected = layer(x)
    monkeypatch.setattr("kernels.fp8.multiplies_fp8", lambda device: True)
    monkeypatch.setattr(torch, "_scaled_mm", product)
    got = layer(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)
