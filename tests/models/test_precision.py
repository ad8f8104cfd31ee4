"""The dtype choices of ``models/precision.py``, measured on the reference vectors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kernels import rope
from kernels.torch_backend import TorchKernels
from models.dense_kv import BlockCausalKV
from models.sampler import renoise, x0_from_velocity
from models.transformer import CausalWan, sinusoid
from tests.parity import forward
from tests.parity.compare import GATES, compare_one, judge

GOLDEN = Path(__file__).parents[1] / "golden"


class RoundingKernels(TorchKernels):
    """Norms, modulation and residual sums with every intermediate value in bfloat16."""

    def rms_norm(self, x, weight, eps):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    def layer_norm(self, x, weight, bias, eps):
        centred = x - x.mean(-1, keepdim=True)
        spread = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        return centred * spread * weight + bias

    def modulate(self, x, shift, scale, eps):
        tokens = x.shape[1] // shift.shape[1]
        shift, scale = (m.to(x.dtype).repeat_interleave(tokens, 1) for m in (shift, scale))
        return self.layer_norm(x, 1 + scale, shift, eps)

    def gated_residual(self, x, y, gate):
        return x + y * gate.to(x.dtype).repeat_interleave(x.shape[1] // gate.shape[1], 1)


@torch.inference_mode()
def pass_error(kernels=None):
    """Relative error of the bidirectional pass in bfloat16."""
    network = forward.load_transformer(GOLDEN / "transformer", torch.bfloat16)
    if kernels is not None:
        other = CausalWan(network.config, kernels).to(torch.bfloat16)
        other.load_state_dict(network.state_dict())
        network = other
    golden = load_file(GOLDEN / "forward" / "bidirectional.safetensors")
    prompt = network.prompt_kv(golden["context"])
    flow = forward.full_pass(network, golden["x"], golden["t"][:, None], prompt)
    return compare_one(flow, golden["flow"])[1]


def test_every_single_pass_is_within_the_bfloat16_gate():
    cases = {**forward.run(GOLDEN, torch.bfloat16), **forward.run_i2v(GOLDEN, torch.bfloat16)}
    assert len(cases) == 8
    for name, pairs in cases.items():
        verdict = judge(pairs, GATES[torch.bfloat16])
        assert verdict.passed, f"{name}: {verdict.reason}"


def test_float32_inside_the_norms_is_worth_it():
    chosen, rounded = pass_error(), pass_error(RoundingKernels())
    assert chosen < 0.0065
    assert rounded > 1.15 * chosen


@torch.inference_mode()
def test_the_residual_stream_has_the_dtype_of_the_weights():
    network = forward.load_transformer(GOLDEN / "transformer", torch.bfloat16)
    seen = []
    for block in network.blocks:
        block.register_forward_hook(
            lambda _, inputs, out: seen.append((inputs[1].dtype, out.dtype))
        )
    golden = load_file(GOLDEN / "forward" / "bidirectional.safetensors")
    prompt = network.prompt_kv(golden["context"])
    forward.full_pass(network, golden["x"], golden["t"][:, None], prompt)
    assert seen == [(torch.float32, torch.bfloat16)] * len(network.blocks)
    assert {x.dtype for x in prompt.k + prompt.v} == {torch.bfloat16}


def test_rotary_angles_hold_after_days_of_streaming():
    frame = 16 * 3600 * 24 * 7 // 4
    position = torch.tensor([[frame, 0, 0]])
    cos, sin = rope.angles(position, 64)
    exact = rope.angles(position, 64, torch.float64)
    assert cos.dtype == torch.float32
    assert (cos - exact[0]).abs().max() < 1e-7
    assert (sin - exact[1]).abs().max() < 1e-7
    narrow = torch.tensor(float(frame)) * 10000.0 ** -(torch.arange(0, 24, 2) / 24)
    assert (narrow.cos() - exact[0][0, :12]).abs().max() > 1e-3


def test_the_sinusoid_is_float64_until_it_is_rounded():
    embedded = sinusoid(torch.tensor([999.9]), 256)
    assert embedded.dtype == torch.float64
    narrow = torch.cos(torch.tensor(999.9) * 10000.0 ** -(torch.arange(128) / 128))
    assert 0 < (embedded[0, :128] - narrow).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_x0_is_rounded_once(dtype):
    generator = torch.Generator().manual_seed(0)
    x, velocity = (5 * torch.randn(2, 1, 2, 4, 8, 8, generator=generator)).to(dtype)
    exact = x.double() - 0.9375 * velocity.double()
    assert torch.equal(x0_from_velocity(x, velocity, 0.9375), exact.to(dtype))


def test_latents_stay_float32_under_a_bfloat16_network():
    x, velocity = torch.ones(1, 1, 1, 2, 2), torch.ones(1, 1, 1, 2, 2, dtype=torch.bfloat16)
    x0 = x0_from_velocity(x, velocity, 1 / 3)
    assert x0.dtype == torch.float32
    assert x0.flatten()[0].item() == pytest.approx(2 / 3, abs=1e-7)
    assert renoise(x0, x, 0.5).dtype == torch.float32


@torch.inference_mode()
def test_queries_and_keys_are_rotated_in_float32():
    view = BlockCausalKV.of(torch.arange(3), (2, 2), 12)
    assert view.cos.dtype == torch.float32
    x = torch.randn(1, 12, 2, 12, generator=torch.Generator().manual_seed(1)).bfloat16()
    once = rope.rotate(x.float(), view.cos, view.sin).bfloat16()
    assert torch.equal(rope.rotate(x, view.cos, view.sin), once)
