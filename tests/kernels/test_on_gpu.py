"""Real shapes on a CUDA device: every fast path against arithmetic in float32 or wider."""

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F

from kernels.attention_tiles import AttentionTiles
from kernels.cudnn import CudnnAttention
from kernels.fp8 import Fp8Linear
from kernels.fp8_attention import EmulatedFp8Attention, fp8_attention
from kernels.interface import Kernels
from kernels.paged import PagePlan
from kernels.rope import rotate
from kernels.torch_backend import RunAttention, TorchKernels
from tests.kernels.plans import make_plan
from tests.kernels.triton_modules import DEVICE, gpu, load

backend: Any = load("triton_backend")

HEADS, HEAD_DIM, GRID = 12, 128, (30, 52)
HW, WIDTH = 1560, 1536


class Norm(NamedTuple):
    q_weight: torch.Tensor
    k_weight: torch.Tensor
    eps: float = 1e-6


def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert torch.isfinite(actual).all()
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def window(scattered: bool, rope: str = "absolute", bias: bool = False) -> PagePlan:
    read = [9, 2, 14, 5, 7, 3] if scattered else [4, 5, 6, 7, 8, 9]
    return make_plan(
        write=[[7, 8, 9] if not scattered else [5, 7, 3]],
        read=[read],
        query_frames=[[40, 41, 42]],
        grid=GRID,
        head_dim=HEAD_DIM,
        device=DEVICE,
        key_frames=[list(range(len(read)))] if rope == "window" else None,
        key_bias=[[-1.2 if 0 < i < 4 else 0.0 for i in range(len(read))]] if bias else None,
    )


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: PagePlan) -> torch.Tensor:
    """Attention of some queries in float64, head by head."""
    pages = plan.table[0].long()
    keys, values = k[pages].flatten(0, 1), v[pages].flatten(0, 1)
    if plan.key_cos is not None and plan.key_sin is not None:
        keys = rotate(keys[None], plan.key_cos, plan.key_sin)[0]
    bias = 0.0
    if plan.bias is not None:
        bias = plan.bias[0].repeat_interleave(HW).double()
    out = []
    for head in range(HEADS):
        scores = q[:, head].double() @ keys[:, head].double().t() / HEAD_DIM**0.5 + bias
        out.append(scores.softmax(-1) @ values[:, head].double())
    return torch.stack(out, 1)


ATTENTIONS = {
    "sdpa": RunAttention(),
    "cudnn": CudnnAttention(),
    "triton": backend.TritonAttention(),
    "triton descriptors": backend.TritonAttention(descriptor=True),
    "triton in two parts": backend.TritonAttention(AttentionTiles(128, 128, 8, 2, splits=2)),
}


@gpu
@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize(
    ("rope", "bias"), [("absolute", False), ("window", False), ("absolute", True)]
)
@torch.inference_mode()
def test_attention_over_a_window(name: str, scattered: bool, rope: str, bias: bool) -> None:
    torch.manual_seed(0)
    plan = window(scattered, rope, bias)
    k, v = draw(16, HW, HEADS, HEAD_DIM), draw(16, HW, HEADS, HEAD_DIM)
    q = draw(1, 3 * HW, HEADS, HEAD_DIM)
    if bias and not ATTENTIONS[name].takes_bias:
        with pytest.raises(AssertionError, match="score bias"):
            ATTENTIONS[name].paged(q, k, v, plan)
        return
    out = ATTENTIONS[name].paged(q, k, v, plan)
    some = torch.tensor([0, 1, 127, 128, 1559, 1560, 4607, 4608, 4679], device=DEVICE)
    assert error(out[0, some], exact(q[0, some], k, v, plan)) < 1e-2


@gpu
@torch.inference_mode()
def test_fused_operations_at_full_width() -> None:
    torch.manual_seed(0)
    plain, fast = TorchKernels(), backend.TritonKernels()
    x, y = draw(1, 3 * HW, WIDTH), draw(1, 3 * HW, WIDTH)
    m = draw(1, 3, 6, WIDTH, dtype=torch.float32).unbind(2)
    weight, bias = draw(WIDTH), draw(WIDTH)
    up, up_bias = draw(8960, WIDTH) * WIDTH**-0.5, draw(8960)
    for name, arguments in (
        ("modulate", (x, m[0], m[1], 1e-6)),
        ("gated_residual", (x, y, m[2])),
        ("layer_norm", (x, weight, bias, 1e-6)),
        ("rms_norm", (x, weight, 1e-6)),
        ("gelu_linear", (x, up, up_bias)),
    ):
        assert error(getattr(fast, name)(*arguments), getattr(plain, name)(*arguments)) < 5e-3, name


@gpu
@pytest.mark.parametrize("rope", ["absolute", "window"])
@torch.inference_mode()
def test_keys_are_written_to_their_pages_and_nowhere_else(rope: str) -> None:
    torch.manual_seed(0)
    plan = window(scattered=True, rope=rope)
    q, k, v = draw(1, 3 * HW, 3 * WIDTH).split(WIDTH, -1)
    norm = Norm(1 + 0.1 * draw(WIDTH), 1 + 0.1 * draw(WIDTH))
    pool = draw(2, 16, HW, HEADS, HEAD_DIM)
    results = []
    kernels: list[Kernels] = [TorchKernels(), backend.TritonKernels()]
    for each in kernels:
        pages = pool.clone()
        results.append((each.write_kv(q, k, v, norm, plan, pages[0], pages[1]), pages))
    assert error(results[1][0], results[0][0]) < 5e-3
    assert error(results[1][1], results[0][1]) < 5e-3
    untouched = [page for page in range(16) if page not in (3, 5, 7)]
    assert torch.equal(results[1][1][:, untouched], pool[:, untouched])


@gpu
@pytest.mark.parametrize("gelu", [False, True])
@torch.inference_mode()
def test_fp8_products_are_those_of_the_emulation(gelu: bool) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(WIDTH, 8960, device=DEVICE, dtype=torch.bfloat16)
    x = draw(3 * HW, WIDTH)
    layer = Fp8Linear.of(linear)
    expected = linear(F.gelu(x, approximate="tanh") if gelu else x)
    actual = layer(x, gelu=gelu)
    assert 0.005 < error(actual, expected) < 0.05
    emulated = layer.cpu()(x[:256].cpu().float(), gelu=gelu)
    assert error(actual[:256].cpu(), emulated) < 1e-2


@gpu
@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize(
    ("rope", "bias"), [("absolute", False), ("window", False), ("absolute", True)]
)
@torch.inference_mode()
def test_attention_in_fp8_is_that_of_the_emulation(scattered: bool, rope: str, bias: bool) -> None:
    torch.manual_seed(0)
    plan = window(scattered, rope, bias)
    k, v = draw(16, HW, HEADS, HEAD_DIM), draw(16, HW, HEADS, HEAD_DIM)
    q = draw(1, 3 * HW, HEADS, HEAD_DIM)
    out = fp8_attention(RunAttention(), DEVICE, HEAD_DIM).paged(q, k, v, plan)
    some = torch.tensor([0, 1, 127, 128, 1559, 1560, 4607, 4608, 4679], device=DEVICE)
    emulated = EmulatedFp8Attention(RunAttention()).paged(q[:, some], k, v, plan)
    # Weights are rounded under the largest score so far, so each in a place of its own.
    assert error(out[0, some], emulated[0]) < 4e-2
    assert 0.01 < error(out[0, some], exact(q[0, some], k, v, plan)) < 0.1
