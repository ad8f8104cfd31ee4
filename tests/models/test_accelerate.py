"""A network rebuilt for inference computes what it did before."""

import copy

import pytest
import torch

from kernels.torch_backend import TorchKernels
from models.accelerate import accelerate
from models.config import TransformerConfig
from models.dense_kv import BlockCausalKV
from models.transformer import CausalWan

CONFIG = TransformerConfig(
    dim=64, ffn_dim=128, num_heads=2, num_layers=2, text_dim=16, text_len=5, freq_dim=16
)


@pytest.fixture
def network() -> CausalWan:
    torch.manual_seed(0)
    return CausalWan(CONFIG).requires_grad_(False).eval()


def run(network: CausalWan) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 3, 16, 4, 6, generator=generator)
    prompt = network.prompt_kv(torch.randn(2, 5, 16, generator=generator))
    view = BlockCausalKV.of(torch.arange(3), (2, 3), CONFIG.head_dim)
    with torch.inference_mode():
        return network(latents, torch.full((2, 3), 500.0), prompt, view)


@pytest.mark.parametrize("join", [False, True])
def test_joined_products_change_only_rounding(network: CausalWan, join: bool) -> None:
    expected = run(copy.deepcopy(network))
    actual = run(accelerate(network, TorchKernels(), join=join))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_fp8_changes_the_velocity_by_a_few_percent(network: CausalWan) -> None:
    expected = run(copy.deepcopy(network))
    actual = run(accelerate(network, TorchKernels(), "fp8"))
    error = ((actual - expected).norm() / expected.norm()).item()
    assert 1e-4 < error < 0.05


def test_every_module_uses_the_kernels_it_is_given(network: CausalWan) -> None:
    class Counting(TorchKernels):
        calls = 0

        def modulate(
            self, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, eps: float
        ) -> torch.Tensor:
            Counting.calls += 1
            return super().modulate(x, shift, scale, eps)

    run(accelerate(network, Counting()))
    assert Counting.calls == 2 * CONFIG.num_layers + 1  # twice a block and once in the head


def test_accelerating_twice_is_accelerating_once(network: CausalWan) -> None:
    expected = run(accelerate(network, TorchKernels()))
    assert torch.equal(run(accelerate(network, TorchKernels())), expected)
