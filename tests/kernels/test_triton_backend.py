"""The Triton backend equals plain torch operation for operation."""

from typing import Any, NamedTuple

import pytest
import torch

from kernels.torch_backend import TorchKernels
from tests.kernels.plans import make_plan
from tests.kernels.triton_modules import DEVICE, load

backend: Any = load("triton_backend")

HEADS, HEAD_DIM, GRID = 2, 16, (2, 3)
HW, WIDTH = 6, 32


class Norm(NamedTuple):
    q_weight: torch.Tensor
    k_weight: torch.Tensor
    eps: float = 1e-6


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("rope", ["absolute", "window"])
@pytest.mark.parametrize("read", [[[1, 2, 3], [5, 6]], [[7, 2, 9], [5, 1]], [[2, 3, 1], []]])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("descriptor", [False, True])
def test_a_pass_through_pages_equals_plain_torch(
    rope: str, read: list[list[int]], biased: bool, descriptor: bool
) -> None:
    plan = make_plan(
        write=[[2], [5]],
        read=read,
        query_frames=[[4], [1]],
        grid=GRID,
        head_dim=HEAD_DIM,
        device=DEVICE,
        key_frames=[list(range(len(row))) for row in read] if rope == "window" else None,
        key_bias=[[-0.5 * (i % 2) for i in range(len(row))] for row in read] if biased else None,
        width=4,
    )
    q, k, v = (draw(i, 2, HW, WIDTH) for i in range(3))
    norm = Norm(1 + 0.1 * draw(4, WIDTH), 1 + 0.1 * draw(5, WIDTH))
    pool = draw(6, 2, 11, HW, HEADS, HEAD_DIM)
    results = []
    triton = backend.TritonKernels(backend.TritonAttention(descriptor=descriptor))
    for kernels in (TorchKernels(), triton):
        pages = pool.clone()
        query = kernels.write_kv(q, k, v, norm, plan, pages[0], pages[1])
        results.append((kernels.paged_attention(query, pages[0], pages[1], plan), pages))
    torch.testing.assert_close(results[1][0], results[0][0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(results[1][1], results[0][1], atol=2e-5, rtol=1e-5)


def test_elementwise_operations_equal_plain_torch() -> None:
    plain, fast = TorchKernels(), backend.TritonKernels()
    x, y = draw(0, 2, 12, WIDTH), draw(1, 2, 12, WIDTH)
    m = draw(2, 2, 2, 6, WIDTH).unbind(2)
    weight, bias = draw(3, WIDTH), draw(4, WIDTH)
    up, up_bias = draw(5, 64, WIDTH), draw(6, 64)
    for name, arguments in (
        ("modulate", (x, m[0], m[1], 1e-6)),
        ("gated_residual", (x, y, m[2])),
        ("layer_norm", (x, weight, bias, 1e-6)),
        ("rms_norm", (x, weight, 1e-6)),
        ("gelu_linear", (x, up, up_bias)),
        ("attention", tuple(z.unflatten(-1, (HEADS, HEAD_DIM)) for z in (x, y, y))),
    ):
        torch.testing.assert_close(
            getattr(fast, name)(*arguments),
            getattr(plain, name)(*arguments),
            atol=2e-5,
            rtol=1e-5,
            msg=name,
        )
