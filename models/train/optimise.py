"""Optimiser pieces the stages share: parameter groups, the learning-rate curve, an averaged copy.

Knows nothing of what is being trained.
"""

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def learning_rate(progress: float, peak: float, warmup: float = 0.02, floor: float = 0.05) -> float:
    """Linear warm-up over ``warmup`` of the run, then a cosine down to ``floor * peak``."""
    if progress < warmup:
        return peak * max(progress / warmup, 0.01)
    along = (progress - warmup) / (1.0 - warmup)
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * along)))


class Optimiser:
    """Muon for the matrices inside transformer blocks, AdamW for everything else.

    Muon orthogonalises the momentum of a matrix (Jordan et al. 2024); its step is scaled to AdamW's
    root mean square (Liu et al. 2025, arXiv:2502.16982), so one learning rate serves both.

    Args:
        modules: The modules whose parameters are trained.
        peak: Peak learning rate.
        muon: Use Muon for two-dimensional weights whose name contains ``blocks.``; else AdamW only.
        clip: Gradient-norm limit.
        betas: AdamW's decay rates.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        peak: float,
        *,
        muon: bool = False,
        clip: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
    ) -> None:
        named = [item for module in modules for item in module.named_parameters()]
        matrices = [p for name, p in named if muon and p.ndim == 2 and "blocks." in name]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        self.peak = peak
        self.clip = clip
        self.parameters = [p for _, p in named]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=peak, betas=betas, weight_decay=weight_decay)
        ]
        if matrices:
            self._parts.append(
                torch.optim.Muon(
                    matrices, lr=peak, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
                )
            )

    def step(self, progress: float) -> Tensor:
        """Clip, apply the gradients at ``progress`` of the run, clear them; returns the norm."""
        rate = learning_rate(progress, self.peak)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> list[dict[str, object]]:
        """The state of every part."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: list[dict[str, object]]) -> None:
        """Take back what ``state_dict`` gave."""
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


class Average:
    """An exponential moving average of a module's parameters, kept in float32.

    The decay grows with the number of updates up to its limit, so that a short run does not
    average its own beginning.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards ``module``'s present parameters."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        mine = list(self.module.parameters())
        theirs = [p.detach() for p in module.parameters()]
        torch._foreach_lerp_(mine, theirs, 1.0 - decay)
        for held, live in zip(self.module.buffers(), module.buffers(), strict=True):
            held.copy_(live)

    def state_dict(self) -> dict[str, object]:
        """Parameters and count."""
        return {"module": self.module.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take back what ``state_dict`` gave."""
        self.module.load_state_dict(state["module"])  # type: ignore[arg-type]
        self._updates = int(state["updates"])  # type: ignore[call-overload]
