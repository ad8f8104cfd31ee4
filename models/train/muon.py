"""Muon (Jordan et al. 2024): momentum of a matrix, made orthogonal, as its step.

The orthogonalisation is the quintic Newton-Schulz iteration in a dtype of choice. ``torch.optim.Muon``
always takes bfloat16, which some CPUs multiply fifty times slower than float32: there its step took
longer than forward and backward together. Matrices of one shape are iterated as one batch.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalised(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring all singular values of ``[..., m, n]`` near 1, multiplying in ``dtype``."""
    a, b, c = _COEFFICIENTS
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, its step scaled to AdamW's root mean square (arXiv:2502.16982).

    Args:
        matrices: Two-dimensional parameters.
        lr: Learning rate, as AdamW would have it.
        weight_decay: Decoupled.
        momentum: Of the running mean of gradients.
        dtype: In which the iteration multiplies.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        *,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        )
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients that are there."""
        assert closure is None, "this optimiser evaluates nothing"
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(matrix.shape, []).append(matrix)
            for shape, alike in shapes.items():
                moves = torch.stack([self._momentum(matrix, group) for matrix in alike])
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, move in zip(alike, orthogonalised(moves, self._dtype), strict=True):
                    matrix.mul_(1.0 - group["lr"] * group["weight_decay"])
                    matrix.add_(move, alpha=-rate)

    def _momentum(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        """Move the matrix's running mean and return where Nesterov looks."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["mean"] = torch.zeros_like(matrix)
        state["mean"].lerp_(matrix.grad, 1.0 - group["momentum"])
        return matrix.grad.lerp(state["mean"], group["momentum"])
