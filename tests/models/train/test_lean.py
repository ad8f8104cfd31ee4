import pytest
import torch

from kernels.torch_backend import TorchKernels
from models import masks
from models.config import TransformerConfig
from models.dense_kv import BlockCausalKV
from models.train.lean import ChunkwiseKV, LeanKernels
from models.transformer import CausalWan

CONFIG = TransformerConfig(dim=48, ffn_dim=64, num_heads=2, num_layers=2, text_dim=16, text_len=5)
GRID = (3, 4)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 6, 16, 6, 8, generator=generator)
    timesteps = torch.rand(2, 6, generator=generator) * 1000
    return latents, timesteps, torch.randn(2, 5, 16, generator=generator)


def run(dtype: torch.dtype, *, lean: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's output and one gradient, with the lean operations or the oracles."""
    torch.manual_seed(1)
    kernels = LeanKernels() if lean else TorchKernels()
    network = CausalWan(CONFIG, kernels).to(dtype)
    positions = torch.arange(6)
    view: BlockCausalKV | ChunkwiseKV
    if lean:
        view = ChunkwiseKV.of(positions, GRID, CONFIG.head_dim, 3, kernels)
    else:
        frames = masks.block_causal(6, [0, 3])
        view = BlockCausalKV.of(positions, GRID, CONFIG.head_dim, frames, kernels)
    latents, timesteps, context = inputs()
    flow = network(latents, timesteps, network.prompt_kv(context.to(dtype)), view)
    flow.float().square().mean().backward()
    gradient = network.blocks[0].self_attn.q.weight.grad
    assert gradient is not None
    return flow.float().detach(), gradient.float()


def test_in_float32_the_lean_operations_equal_the_oracles() -> None:
    for lean, oracle in zip(
        run(torch.float32, lean=True), run(torch.float32, lean=False), strict=True
    ):
        torch.testing.assert_close(lean, oracle, atol=2e-5, rtol=1e-4)


def test_in_bfloat16_they_stay_as_near_to_float32_as_the_oracles_do() -> None:
    exact, _ = run(torch.float32, lean=False)
    lean, oracle = run(torch.bfloat16, lean=True)[0], run(torch.bfloat16, lean=False)[0]
    assert (lean - exact).norm() < 2.0 * (oracle - exact).norm()


@pytest.mark.parametrize("masked", [False, True])
def test_lean_attention_equals_the_oracle(masked: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 6, 3, 8, generator=generator) for _ in range(3))
    mask = torch.ones(6, 6, dtype=torch.bool).tril() if masked else None
    torch.testing.assert_close(
        LeanKernels().attention(q, k, v, mask), TorchKernels().attention(q, k, v, mask)
    )
