"""Softmax attention of queries over keys, through torch's fused scaled dot product.

It takes what it is given: positions are already rotated into the heads, and which keys a
query may see is a mask made by the caller. ``reference`` is the same in plain float64
arithmetic and is what every implementation is tested against.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attention", "reference"]


def _score_bias(mask: Tensor | None, key_bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Combine both into one addend (or boolean mask) that broadcasts to ``[B, N, T, S]``."""
    if mask is not None:
        mask = mask.unsqueeze(-3)  # [1, T, S] or [B, 1, T, S]: one mask for all heads
    if key_bias is None:
        return mask
    bias = key_bias.to(dtype)[..., None, None, :]  # [1, 1, S] or [B, 1, 1, S]
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, -math.inf)
    return mask + bias


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Attend from ``q [B, T, N, D]`` over ``k, v [B, S, N, D]``.

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: ``[T, S]`` or ``[B, T, S]``: boolean (true may be seen), or floats added to the
            scores in the dtype of ``q``. Every query must see a key.
        key_bias: ``[S]`` or ``[B, S]``, added to the scores of a key for every query.

    Returns:
        ``[B, T, N, D]``.
    """
    bias = _score_bias(mask, key_bias, q.dtype)
    if bias is not None and bias.dim() == 3:
        bias = bias.unsqueeze(0)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, N, T, D]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Compute ``attention`` in float64, one product at a time; the result is float64."""
    scores = torch.einsum("btnd,bsnd->bnts", q.double(), k.double()) / math.sqrt(q.shape[-1])
    if key_bias is not None:
        scores = scores + key_bias.double()[..., None, None, :]
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask.unsqueeze(-3), -math.inf)
    elif mask is not None:
        scores = scores + mask.double().unsqueeze(-3)
    return torch.einsum("bnts,bsnd->btnd", scores.softmax(-1), v.double())
