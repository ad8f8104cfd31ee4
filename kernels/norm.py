"""Normalisation and modulation: the operations of a block that are not matrix products.

Statistics, scale, shift and gate are computed in float32 (float64 stays float64) and rounded
once, to the dtype of the input, whatever the dtype of the weights. These are the plain torch
oracles that faster versions are tested against; they know nothing of layers or heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gated_residual", "layer_norm", "modulate", "rms_norm"]


def _wide(x: Tensor) -> Tensor:
    """Raise half precision to float32; leave float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _per_frame(x: Tensor, frames: int) -> Tensor:
    """View tokens ``[B, F*hw, d]`` as ``[B, F, hw, d]`` so that per-frame values broadcast."""
    return x.unflatten(1, (frames, -1))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide ``x [..., d]`` by its root mean square over ``d`` and multiply by ``weight [d]``."""
    wide = _wide(x)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm of ``x [..., d]`` with an affine ``weight, bias [d]``."""
    wide = _wide(x)
    normal = F.layer_norm(wide, wide.shape[-1:], weight.to(wide.dtype), bias.to(wide.dtype), eps)
    return normal.to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm without weights, then ``* (1 + scale) + shift`` for each latent frame.

    Args:
        x: ``[B, T, d]`` with ``T = F * hw`` tokens in frame order.
        shift: ``[B, F, d]``.
        scale: ``[B, F, d]``.
        eps: added to the variance.

    Returns:
        ``[B, T, d]`` in the dtype of ``x``.
    """
    wide = _per_frame(_wide(x), shift.shape[1])
    normal = F.layer_norm(wide, wide.shape[-1:], eps=eps)
    return (normal * (1 + scale.unsqueeze(2)) + shift.unsqueeze(2)).flatten(1, 2).to(x.dtype)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Return ``x + y * gate`` for ``x, y [B, T, d]`` and a ``gate [B, F, d]`` of each frame.

    The result has the dtype of ``x``, the residual stream.
    """
    frames = gate.shape[1]
    gated = _per_frame(_wide(y), frames) * gate.unsqueeze(2)
    return (_per_frame(_wide(x), frames) + gated).flatten(1, 2).to(x.dtype)
