"""Fused Triton operations equal their torch oracles."""

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import norm
from kernels.paged import NO_PAGE
from kernels.rope import rotate
from kernels.torch_backend import TorchKernels
from tests.kernels.plans import make_plan
from tests.kernels.triton_modules import DEVICE, load

ops: Any = load("triton_ops")

EXAMPLES = settings(max_examples=12, deadline=None, derandomize=True)
TOLERANCE = {
    torch.float32: {"atol": 2e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 4e-2, "rtol": 2e-2},
}
dtypes = st.sampled_from((torch.float32, torch.bfloat16))


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


@EXAMPLES
@given(
    rows=st.integers(1, 2),
    frames=st.integers(1, 3),
    hw=st.integers(1, 5),
    width=st.sampled_from((6, 32, 48, 96)),
    dtype=dtypes,
    seed=st.integers(0, 99),
)
def test_modulation_and_gate_follow_the_frame(
    rows: int,
    frames: int,
    hw: int,
    width: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    x = draw(seed, rows, frames * hw, width, dtype=dtype)
    y = draw(seed + 1, rows, frames * hw, width, dtype=dtype)
    m = draw(seed + 2, rows, frames, 6, width).unbind(2)
    torch.testing.assert_close(
        ops.modulate(x, m[0], m[1], 1e-6), norm.modulate(x, m[0], m[1], 1e-6), **TOLERANCE[dtype]
    )
    torch.testing.assert_close(
        ops.gated_residual(x, y, m[2]), norm.gated_residual(x, y, m[2]), **TOLERANCE[dtype]
    )


@EXAMPLES
@given(
    tokens=st.integers(1, 5),
    width=st.sampled_from((6, 32, 48, 96)),
    dtype=dtypes,
    seed=st.integers(0, 99),
)
def test_norms_equal_the_oracle(tokens: int, width: int, dtype: torch.dtype, seed: int) -> None:
    x = draw(seed, 2, tokens, width, dtype=dtype) + 0.5
    weight, bias = draw(seed + 1, width, dtype=dtype), draw(seed + 2, width, dtype=dtype)
    torch.testing.assert_close(
        ops.layer_norm(x, weight, bias, 1e-6),
        norm.layer_norm(x, weight, bias, 1e-6),
        **TOLERANCE[dtype],
    )
    torch.testing.assert_close(
        ops.rms_norm(x, weight, 1e-6), norm.rms_norm(x, weight, 1e-6), **TOLERANCE[dtype]
    )


class Norm(NamedTuple):
    q_weight: torch.Tensor
    k_weight: torch.Tensor
    eps: float


@st.composite
def page_writes(data: st.DrawFn) -> tuple[int, list[list[int]]]:
    """Rows of distinct pages, some of them left out."""
    frames = data(st.integers(1, 3))
    rows = data(st.integers(1, 3))
    pages = data(st.permutations(range(1, 11)))
    taken = [pages[row * frames : (row + 1) * frames] for row in range(rows)]
    return frames, [[NO_PAGE if data(st.booleans()) else page for page in row] for row in taken]


@EXAMPLES
@given(
    writes=page_writes(),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from((8, 12, 16)),
    grid=st.sampled_from(((1, 1), (2, 3), (1, 5))),
    dtype=dtypes,
    unrotated=st.booleans(),
    fused=st.booleans(),
    seed=st.integers(0, 99),
)
def test_one_pass_norms_rotates_and_writes_what_the_oracle_does(
    writes: tuple[int, list[list[int]]],
    heads: int,
    head_dim: int,
    grid: tuple[int, int],
    dtype: torch.dtype,
    unrotated: bool,
    fused: bool,
    seed: int,
) -> None:
    frames, pages = writes
    rows, width, hw = len(pages), heads * head_dim, grid[0] * grid[1]
    tokens = frames * hw
    if fused:  # slices of one product, as a fused projection gives them
        q, k, v = draw(seed, rows, tokens, 3 * width, dtype=dtype).split(width, -1)
    else:
        q, k, v = (draw(seed + i, rows, tokens, width, dtype=dtype) for i in range(3))
    weights = Norm(1 + 0.1 * draw(7, width, dtype=dtype), 1 + 0.1 * draw(8, width), 1e-6)
    plan = make_plan(
        write=pages,
        read=[[0]] * rows,
        query_frames=[[row + 5 + i for i in range(frames)] for row in range(rows)],
        grid=grid,
        head_dim=head_dim,
        device=DEVICE,
        key_frames=[[0]] * rows if unrotated else None,
    )
    pool = draw(seed + 9, 2, 11, hw, heads, head_dim, dtype=dtype)
    expected, actual = pool.clone(), pool.clone()
    want = TorchKernels().write_kv(q, k, v, weights, plan, expected[0], expected[1])
    got = ops.write_kv(
        q, k, v, weights.q_weight, weights.k_weight, weights.eps, plan.cos, plan.sin,
        plan.write, actual[0], actual[1], rotate_keys=not unrotated,
    )  # fmt: skip
    torch.testing.assert_close(got, want, **TOLERANCE[dtype])
    torch.testing.assert_close(actual, expected, **TOLERANCE[dtype])
    untouched = [page for page in range(11) if all(page not in row for row in pages)]
    assert torch.equal(actual[:, untouched], pool[:, untouched])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_window_is_rotated_to_its_places(dtype: torch.dtype) -> None:
    pages, values = draw(0, 2, 6, 4, 2, 12, dtype=dtype)
    read = [[3, 1, 5], [2]]
    plan = make_plan(
        write=[[0], [0]],
        read=read,
        query_frames=[[2], [0]],
        grid=(2, 2),
        head_dim=12,
        device=DEVICE,
        key_frames=[[2, 0, 1], [0]],
    )
    assert plan.key_cos is not None
    assert plan.key_sin is not None
    out, copied = (
        x.view(2, 12, 2, 12)
        for x in ops.copy_window(
            pages, values, plan.table, plan.lengths, plan.key_cos, plan.key_sin
        )
    )
    for row, length in enumerate((3, 1)):
        keys = pages[plan.table[row, :length].long()].flatten(0, 1)[None]
        cos, sin = plan.key_cos[row, : 4 * length], plan.key_sin[row, : 4 * length]
        expected = rotate(keys, cos, sin)[0]
        torch.testing.assert_close(out[row, : 4 * length], expected, **TOLERANCE[dtype])
        own = values[plan.table[row, :length].long()].flatten(0, 1)
        assert torch.equal(copied[row, : 4 * length], own)
