"""Optimiser pieces the stages share: parameter groups, the learning-rate curve, an averaged copy.

Knows nothing of what is being trained.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.train.muon import Muon


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
        self.peak = peak
        self.clip = clip
        self.parameters = [p for _, p in named if p.requires_grad]
        # Weights held in bfloat16 are stepped through float32 masters, or small steps would round away.
        self._masters = [
            p.detach().float().requires_grad_() if p.dtype == torch.bfloat16 else p
            for p in self.parameters
        ]
        names = [name for name, p in named if p.requires_grad]
        is_matrix = [
            muon and p.ndim == 2 and "blocks." in name
            for name, p in zip(names, self._masters, strict=True)
        ]
        pairs = list(zip(is_matrix, self._masters, strict=True))
        matrices = [p for chosen, p in pairs if chosen]
        others = [p for chosen, p in pairs if not chosen]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=peak, betas=betas, weight_decay=weight_decay)
        ]
        if matrices:
            self._parts.append(
                Muon(
                    matrices,
                    peak,
                    weight_decay=weight_decay,
                    dtype=torch.bfloat16 if matrices[0].is_cuda else torch.float32,
                )
            )

    def step(self, progress: float) -> Tensor:
        """Clip, apply the gradients at ``progress`` of the run, clear them; returns the norm."""
        rate = learning_rate(progress, self.peak)
        for live, master in zip(self.parameters, self._masters, strict=True):
            if live is not master and live.grad is not None:
                master.grad, live.grad = live.grad.float(), None
        norm = nn.utils.clip_grad_norm_(self._masters, self.clip)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)
        self._publish()
        return norm

    @torch.no_grad()
    def _publish(self) -> None:
        """Copy the masters to the weights that the network uses."""
        for live, master in zip(self.parameters, self._masters, strict=True):
            if live is not master:
                live.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        """The state of every part, and the masters."""
        masters = [master.detach() for master in self._masters]
        return {"parts": [part.state_dict() for part in self._parts], "masters": masters}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        for master, value in zip(self._masters, state["masters"], strict=True):
            master.copy_(value)
        self._publish()


class Average:
    """An exponential moving average of a module's parameters, kept in float32.

    The decay grows with the number of updates up to its limit, so that a short run does not
    average its own beginning.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).float().requires_grad_(False).eval()
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards ``module``'s present parameters."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        mine: list[Tensor] = list(self.module.parameters())
        theirs = [p.detach().float() for p in module.parameters()]
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
