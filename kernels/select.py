"""Chooses the kernels for a device, and says why it cannot be another one.

Every backend is checked against the device, dtype and head size it would run with. A backend
that was asked for and cannot run is an error; only ``auto`` looks further. What is preferred on
a GPU was measured, see ``tests/bench/results``.
"""

import importlib.util
import os
from dataclasses import dataclass
from typing import get_args

import torch

from kernels.backend_name import BackendName, Wanted
from kernels.flash import FlashAttention
from kernels.interface import Kernels, PagedAttention
from kernels.torch_backend import OracleAttention, RunAttention, TorchKernels

__all__ = [
    "BackendStatus",
    "KernelsUnavailableError",
    "Target",
    "choose",
    "report",
    "select",
]

PREFERENCE: tuple[BackendName, ...] = ("triton", "cudnn", "sdpa")
"""What ``auto`` takes on a CUDA device, the first that can run."""


class KernelsUnavailableError(ValueError):
    """The kernels that were asked for cannot run here."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the kernels must run on.

    Attributes:
        device: a torch device.
        dtype: of the activations.
        head_dim: elements of one head (D).
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int

    def __str__(self) -> str:
        name = str(self.device)
        if self.device.type == "cuda" and torch.cuda.is_available():
            major, minor = torch.cuda.get_device_capability(self.device)
            name += f" ({torch.cuda.get_device_name(self.device)}, sm_{major}{minor})"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}, head size {self.head_dim}"


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """Whether a backend can run on a target.

    Attributes:
        name: of the backend.
        usable: whether it can.
        reason: what it would use, or what is missing.
    """

    name: BackendName
    usable: bool
    reason: str


def report(target: Target) -> tuple[BackendStatus, ...]:
    """Check every backend against ``target``."""
    return tuple(_check(name, target) for name in get_args(BackendName))


def choose(target: Target, wanted: Wanted = "auto") -> BackendName:
    """Return the backend for ``target``.

    Args:
        target: what it must run on.
        wanted: a backend by name, or "auto" for the fastest that can run.

    Raises:
        KernelsUnavailableError: the wanted backend cannot run on ``target``.
    """
    if wanted == "auto" and target.device.type != "cuda":
        return "sdpa"
    if wanted == "auto":
        return next(name for name in PREFERENCE if _check(name, target).usable)
    if wanted not in get_args(BackendName):
        raise KernelsUnavailableError(
            f'kernels "{wanted}"; known are {", ".join(get_args(BackendName))} and auto; '
            "choose one of them"
        )
    status = _check(wanted, target)
    if not status.usable:
        others = [other.name for other in report(target) if other.usable]
        raise KernelsUnavailableError(
            f'kernels "{wanted}" on {target}: {status.reason}; '
            f"what can run here is {', '.join(others)}; choose one of them, or auto"
        )
    return wanted


def select(target: Target, wanted: Wanted = "auto") -> Kernels:
    """Return the kernels of the backend that ``choose`` names.

    Raises:
        KernelsUnavailableError: the wanted backend cannot run on ``target``.
    """
    return _build(choose(target, wanted), target)


def _build(name: BackendName, target: Target) -> Kernels:
    attend: PagedAttention
    if name == "torch":
        return TorchKernels(OracleAttention())
    if name == "triton":
        from kernels.triton_backend import TritonAttention, TritonKernels

        return TritonKernels(TritonAttention(descriptor=_has_descriptors(target)))
    if name == "cudnn":
        from kernels.cudnn import CudnnAttention

        attend = CudnnAttention()
    elif name == "flash":
        attend = FlashAttention.found(target.device)
    else:
        attend = RunAttention()
    if _triton_problem(target) is None and target.device.type == "cuda":
        from kernels.triton_backend import TritonKernels

        return TritonKernels(attend)
    return TorchKernels(attend)


def _check(name: BackendName, target: Target) -> BackendStatus:
    if name == "torch":
        return BackendStatus(name, True, "gathers pages; the reference for all others")
    if name == "sdpa":
        return BackendStatus(
            name, True, f"scaled_dot_product_attention of torch {torch.__version__} over page runs"
        )
    problem, answer = {
        "cudnn": (_cudnn_problem, "cuDNN's fused attention over page runs, without score bias"),
        "flash": (_flash_problem, "flash-attn over pages where they lie"),
        "triton": (_triton_problem, "paged attention and fused operations"),
    }[name]
    found = problem(target)
    return BackendStatus(name, found is None, answer if found is None else found)


def _half_problem(target: Target) -> str | None:
    if target.dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16, not {str(target.dtype).removeprefix('torch.')}"
    return None


def _cuda_problem(target: Target, least: tuple[int, int]) -> str | None:
    if target.device.type != "cuda":
        return f"it needs a CUDA device, this is {target.device.type}"
    if not torch.cuda.is_available():
        return "it needs a CUDA device and torch sees none"
    capability = torch.cuda.get_device_capability(target.device)
    if capability < least:
        return (
            f"it needs sm_{least[0]}{least[1]} or newer, this is sm_{capability[0]}{capability[1]}"
        )
    return None


def _cudnn_problem(target: Target) -> str | None:
    found = _cuda_problem(target, (8, 0)) or _half_problem(target)
    if found is None and not torch.backends.cudnn.is_available():
        found = "this torch has no cuDNN"
    if found is None and (target.head_dim % 8 or target.head_dim > 128):
        found = f"head sizes are multiples of 8 up to 128, this is {target.head_dim}"
    return found


def _flash_problem(target: Target) -> str | None:
    found = _cuda_problem(target, (8, 0)) or _half_problem(target)
    if found is None:
        try:
            FlashAttention.found(target.device)
        except ImportError as error:
            found = str(error)
    if found is None and (target.head_dim % 8 or target.head_dim > 256):
        found = f"head sizes are multiples of 8 up to 256, this is {target.head_dim}"
    return found


def _triton_problem(target: Target) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    found = None
    if not (target.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        found = _cuda_problem(target, (8, 0))
    size = target.head_dim
    if found is None and (size & (size - 1) or not 16 <= size <= 256):
        found = f"head sizes are powers of two from 16 to 256, this is {size}"
    return found


def _has_descriptors(target: Target) -> bool:
    """Whether keys can be read through tensor descriptors: Hopper and newer, in half precision."""
    return (
        target.device.type == "cuda"
        and target.dtype != torch.float32
        and torch.cuda.get_device_capability(target.device) >= (9, 0)
    )
