"""Linear layers in FP8 (e4m3): a scale for each output channel and one for each token.

Weights are rounded once; activations at every call, each token by its own largest value, so no
calibration is needed. On a GPU of compute capability 8.9 or newer the product runs in FP8, an older
one is refused; on a CPU it is emulated: the same rounding, then a product in float32, which shows
the numbers and not the speed. The layer takes the place of ``nn.Linear`` and knows nothing of the
network.
"""

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FP8", "FP8_MAX", "Fp8Linear", "check_fp8", "multiplies_fp8", "quantise"]

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""Largest finite value of e4m3."""


def multiplies_fp8(device: torch.device) -> bool:
    """Whether ``device`` has FP8 products with a scale for each row and column."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def check_fp8(what: str, device: torch.device) -> None:
    """See that a device can do ``what`` in FP8, by itself or by emulation.

    Raises:
        ValueError: it is a GPU without FP8 products, or Triton, which rounds there, is missing.
    """
    if device.type != "cuda":
        return
    if not multiplies_fp8(device):
        major, minor = torch.cuda.get_device_capability(device)
        raise ValueError(f"{what} on sm_{major}{minor}; it needs sm_89 or newer; leave it out")
    if importlib.util.find_spec("triton") is None:
        raise ValueError(f"{what} without triton; install triton, or leave it out")


def quantise(x: Tensor, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """Round every row of ``x [M, d]`` to e4m3 with its own scale.

    Args:
        x: any float dtype.
        gelu: apply GELU (tanh form) first.

    Returns:
        ``[M, d]`` e4m3 and the scales ``[M, 1]`` float32; their product is about ``x``.
    """
    if x.is_cuda:
        from kernels.triton_fp8 import quantise as fused

        return fused(x, gelu)
    wide = x.float()
    if gelu:
        wide = F.gelu(wide, approximate="tanh")
    scale = wide.abs().amax(-1, keepdim=True).clamp_min(1e-12) / FP8_MAX
    return (wide / scale).to(FP8), scale


class Fp8Linear(nn.Module):
    """``nn.Linear`` with its weight in FP8.

    Args:
        weight: ``[out, in]``.
        bias: ``[out]``.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        rounded, scale = quantise(weight.detach())
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", scale)  # [out, 1]
        self.register_buffer("bias", bias.detach().clone())

    @classmethod
    def of(cls, linear: nn.Linear) -> "Fp8Linear":
        """Round a linear layer."""
        assert linear.bias is not None, "every linear of the network has a bias"
        return cls(linear.weight, linear.bias)

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Multiply ``x [..., in]``, after a GELU if asked; the result has the dtype of ``x``."""
        rounded, scale = quantise(x.flatten(0, -2), gelu)
        if multiplies_fp8(x.device):
            # With a bias it has no float32 result (pytorch#190538); bfloat16 is finer than what came in.
            dtype = torch.bfloat16 if x.dtype == torch.float32 else x.dtype
            out = torch._scaled_mm(
                rounded,
                self.weight.t(),
                scale_a=scale,
                scale_b=self.scale.t(),
                bias=self.bias.to(dtype),
                out_dtype=dtype,
                use_fast_accum=True,
            ).to(x.dtype)
        else:
            product = rounded.float() @ self.weight.float().t()
            out = (product * scale * self.scale.t() + self.bias.float()).to(x.dtype)
        return out.unflatten(0, x.shape[:-1])
