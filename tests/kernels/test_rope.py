"""Rotary embedding: exact angles, relative positions, no last frame."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import rope


def naive_rotation(x, position, head_dim):
    """Rotate one head as complex numbers, in Python floats."""
    values = list(x)
    out, start = [], 0
    for axis, dim in enumerate(rope.axis_dims(head_dim)):
        for j in range(dim // 2):
            angle = position[axis] * 10000.0 ** (-2 * j / dim)
            a, b = values[start + 2 * j], values[start + 2 * j + 1]
            turned = complex(a, b) * complex(math.cos(angle), math.sin(angle))
            out += [turned.real, turned.imag]
        start += dim
    return out


def turn(x, frames, grid):
    return rope.rotate(x, *rope.angles(rope.token_positions(frames, grid), x.shape[-1]))


@pytest.mark.parametrize(
    ("head_dim", "dims"), [(128, (44, 42, 42)), (64, (24, 20, 20)), (20, (8, 6, 6))]
)
def test_the_head_splits_as_in_wan(head_dim, dims):
    assert rope.axis_dims(head_dim) == dims


@pytest.mark.parametrize("head_dim", [6, 20, 64])
def test_rotation_equals_complex_multiplication(head_dim):
    grid, frames = (2, 3), torch.tensor([0, 5, 700])
    x = torch.randn(1, 18, 2, head_dim, generator=torch.Generator().manual_seed(0)).double()
    positions = rope.token_positions(frames, grid)
    cos, sin = rope.angles(positions, head_dim, torch.float64)
    turned = rope.rotate(x, cos, sin)
    for token in range(18):
        for head in range(2):
            expected = naive_rotation(
                x[0, token, head].tolist(), positions[token].tolist(), head_dim
            )
            assert turned[0, token, head].tolist() == pytest.approx(expected, abs=1e-12)


def test_tokens_are_ordered_frame_row_column():
    positions = rope.token_positions(torch.tensor([7, 3]), (2, 3))
    assert positions.tolist() == [[f, h, w] for f in (7, 3) for h in range(2) for w in range(3)]


def test_rows_may_stand_at_different_frames():
    frames = torch.tensor([[0, 1], [40, 41]])
    x = torch.randn(2, 12, 1, 12, generator=torch.Generator().manual_seed(1))
    together = turn(x, frames, (2, 3))
    for row in range(2):
        assert torch.equal(together[row], turn(x[row : row + 1], frames[row], (2, 3))[0])


@given(shift=st.integers(0, 10**7), first=st.integers(0, 30), second=st.integers(0, 30))
def test_scores_depend_on_distance_only(shift, first, second):
    generator = torch.Generator().manual_seed(first * 31 + second)
    q, k = torch.randn(2, 1, 4, 1, 32, generator=generator).double()
    grid = (2, 2)

    def scores(offset):
        query_turn, key_turn = (
            rope.angles(rope.token_positions(torch.tensor([at + offset]), grid), 32, torch.float64)
            for at in (first, second)
        )
        query, key = rope.rotate(q, *query_turn), rope.rotate(k, *key_turn)
        return torch.einsum("btnd,bsnd->bts", query, key)

    torch.testing.assert_close(scores(shift), scores(0), atol=1e-7, rtol=0)


def test_a_stream_has_no_last_frame():
    day = 16 * 3600 * 24 // 4
    x = torch.randn(1, 4, 1, 24, generator=torch.Generator().manual_seed(2))
    turned = turn(x, torch.tensor([day]), (2, 2))
    exact = naive_rotation(x[0, 3, 0].tolist(), (day, 1, 1), 24)
    assert turned[0, 3, 0].tolist() == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_rotation_rounds_once_to_the_dtype_of_its_input(dtype):
    x = torch.randn(1, 4, 1, 24, generator=torch.Generator().manual_seed(3)).to(dtype)
    turned = turn(x, torch.tensor([9]), (2, 2))
    assert turned.dtype == dtype
    wide = turn(x.to(torch.promote_types(dtype, torch.float32)), torch.tensor([9]), (2, 2))
    assert torch.equal(turned, wide.to(dtype))
