"""How close is close enough: the two gates, and the verdict on one case."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""Tensor name: (ours, reference)."""


@dataclass(frozen=True)
class Gate:
    """Largest differences that pass."""

    max_abs: float
    rel_rms: float


GATES = {
    torch.float32: Gate(max_abs=5e-5, rel_rms=1e-5),
    torch.bfloat16: Gate(max_abs=0.12, rel_rms=1.5e-2),
}


@dataclass(frozen=True)
class Verdict:
    """The worst tensor of a case; differences are None where nothing could be compared."""

    max_abs: float | None
    rel_rms: float | None
    passed: bool
    reason: str = ""

    def as_json(self) -> dict[str, float | bool | None]:
        return {"max_abs": self.max_abs, "rel_rms": self.rel_rms, "pass": self.passed}


def compare_one(ours: Tensor, reference: Tensor) -> tuple[float, float]:
    """Largest absolute difference, and rms(a - b) / rms(b); infinite where not finite."""
    ours, reference = ours.detach().double(), reference.double()
    error = ours - reference
    size = reference.square().mean().sqrt().item()
    rms = error.square().mean().sqrt().item()
    relative = rms / size if size > 0 else (0.0 if rms == 0 else math.inf)
    largest = error.abs().max().item()
    if not (math.isfinite(largest) and math.isfinite(relative)):
        return math.inf, math.inf
    return largest, relative


# Timesteps reach 1000 and sigmas tell how far apart two are: both are compared relatively.
LEVELS = ("timesteps", "sigmas")
LEVELS_RELATIVE = 1e-6


def _levels_differ(ours: Tensor, reference: Tensor) -> bool:
    error = (ours.double() - reference.double()).abs()
    return not bool((error <= LEVELS_RELATIVE * reference.double().abs()).all())


def judge(pairs: Pairs, gate: Gate) -> Verdict:
    """Compare every tensor of a case; integers must be equal.

    Noise levels have a gate of their own and are not part of the reported differences.
    """
    if not pairs:
        return Verdict(None, None, False, "nothing was compared")
    worst_abs, worst_rms, reasons = 0.0, 0.0, []
    for name, (ours, reference) in pairs.items():
        if ours.shape != reference.shape or ours.numel() == 0:
            reasons.append(f"{name} has shape {list(ours.shape)}, not {list(reference.shape)}")
            continue
        if name.rpartition(".")[2] in LEVELS:
            if _levels_differ(ours, reference):
                reasons.append(f"{name} differ by more than {LEVELS_RELATIVE:g} of their value")
            continue
        largest, relative = compare_one(ours, reference)
        worst_abs, worst_rms = max(worst_abs, largest), max(worst_rms, relative)
        exact = not reference.is_floating_point()
        allowed = Gate(0.0, 0.0) if exact else gate
        if not (largest <= allowed.max_abs and relative <= allowed.rel_rms):
            reasons.append(f"{name} is off by {largest:.3g}, relative rms {relative:.3g}")
    finite = math.isfinite(worst_abs) and math.isfinite(worst_rms)
    found = (worst_abs, worst_rms) if finite else (None, None)
    return Verdict(*found, not reasons, "; ".join(reasons))
