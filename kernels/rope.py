"""Rotary position embedding over (frame, height, width), computed from integer positions.

Angles are float64 products of integer positions and frequencies, never read from a table, so
a stream has no last frame; only their cosines and sines are rounded (to float32 by default).
The head is split into a temporal, a height and a width part, each with its own frequencies
starting at 1, and adjacent elements (2j, 2j+1) are rotated as one complex number. This is
Wan's layout of rotary embedding (Su et al. 2021, arXiv:2104.09864). The module knows nothing
of caches or windows: which position a token has is the caller's decision.
"""

import torch
from torch import Tensor

__all__ = ["angles", "axis_dims", "rotate", "token_positions"]

THETA = 10000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Split a head of ``head_dim`` elements into its temporal, height and width parts."""
    assert head_dim % 2 == 0, f"head_dim {head_dim} is odd; rotation works on pairs"
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space, space


def token_positions(frames: Tensor, grid: tuple[int, int]) -> Tensor:
    """Give every token its (frame, row, column) position.

    Args:
        frames: temporal positions ``[..., F]``, integers.
        grid: tokens in height and width of one latent frame.

    Returns:
        ``[..., F*hw, 3]`` int64 on the device of ``frames``, tokens in (frame, row, column) order.
    """
    height, width = grid
    rows = torch.arange(height, device=frames.device)
    columns = torch.arange(width, device=frames.device)
    shape = (*frames.shape, height, width)
    time = frames.to(torch.int64)[..., None, None].expand(shape)
    positions = torch.stack((time, rows[:, None].expand(shape), columns.expand(shape)), dim=-1)
    return positions.flatten(-4, -2)  # [..., F*hw, 3]


def angles(
    positions: Tensor, head_dim: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Compute the rotation of every token.

    Args:
        positions: ``[..., T, 3]`` integers: frame, row, column.
        head_dim: elements of one head (D).
        dtype: of the result; the angles themselves are always float64.

    Returns:
        Cosines and sines ``[..., T, D/2]``.
    """
    parts = []
    for axis, dim in enumerate(axis_dims(head_dim)):
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
        parts.append(positions[..., axis, None].to(torch.float64) * THETA**-exponents)
    angle = torch.cat(parts, dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads ``x [B, T, N, D]`` by ``cos, sin [T, D/2]`` or ``[B, T, D/2]``.

    The arithmetic is in the wider of the two dtypes; the result has the dtype of ``x``.
    """
    # One complex product: on a CPU five times faster than four real ones and a stack.
    wide = torch.promote_types(x.dtype, cos.dtype)
    pairs = torch.view_as_complex(x.to(wide).contiguous().unflatten(-1, (-1, 2)))
    turn = torch.complex(cos.to(wide), sin.to(wide)).unsqueeze(-2)  # one rotation for all heads
    rotated = torch.view_as_real(pairs * turn)
    return rotated.flatten(-2).to(x.dtype)
