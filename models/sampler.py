"""Few-step sampling: which noise levels a chunk passes through, and the steps between them.

Latents lie on the straight path ``x_s = (1 - s) * x0 + s * noise`` of rectified flow (Liu et
al. 2022, arXiv:2209.03003); s is sigma, 1 is pure noise. The network predicts the velocity
``noise - x0``. Each step estimates x0 and noises it again to the next, lower sigma: a distilled
model with fresh noise, as in Self Forcing (Huang et al. 2025, arXiv:2506.08009), an undistilled one
with the noise that the step itself implies, which is Euler's method on the probability-flow ODE.

Levels are read from the training schedule's table of 1000 shifted sigmas in float32, so that
they equal the reference's bit for bit. The sampler knows nothing of networks or of where noise
comes from.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Sampler", "Schedule", "implied_noise", "renoise", "x0_from_velocity"]

TABLE_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class Schedule:
    """The passes of one chunk, in order.

    Attributes:
        timesteps: what the network is told, 0 to 1000.
        sigmas: the noise level of each pass's input.
        fresh_noise: as in ``Sampler``.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    fresh_noise: bool = True

    def __len__(self) -> int:
        """Number of denoising passes (K)."""
        return len(self.timesteps)


@dataclass(frozen=True, slots=True)
class Sampler:
    """A model's way of sampling.

    Attributes:
        shift: of the sigma table, ``shift * u / (1 + (shift - 1) * u)``.
        steps: timesteps the model was distilled at, descending, 0 to 1000.
        warp: whether ``steps`` are places in the table (True) or timesteps as they are.
        first_chunk_steps: used instead of ``steps`` for chunk 0.
        spacing: how another number of steps is chosen. "subset" takes evenly spaced ones of
            ``steps`` when fewer are asked for, so that the network stays at levels it was
            trained at, and evenly spaced timesteps from 1000 down when more are. "linspace"
            takes evenly spaced whole timesteps from 1000 to 0, both included (Krea).
        fresh_noise: noise every estimate with a new draw; False keeps the noise it came from.
        guidance: how far to go from the empty prompt's velocity towards and beyond the prompt's
            (Ho and Salimans 2022, arXiv:2207.12598), at two passes a step; 1 is none of it, as
            distilled models want.
        usual_steps: passes of a chunk when no number is asked for; None is as many as ``steps`` has.
    """

    shift: float = 5.0
    steps: tuple[float, ...] = (1000.0, 750.0, 500.0, 250.0)
    warp: bool = True
    first_chunk_steps: tuple[float, ...] | None = None
    spacing: Literal["subset", "linspace"] = "subset"
    fresh_noise: bool = True
    guidance: float = 1.0
    usual_steps: int | None = None

    def __post_init__(self) -> None:
        for steps in (self.steps, self.first_chunk_steps or self.steps):
            inside = all(0 <= step <= TABLE_LENGTH for step in steps)
            if not steps or not inside or list(steps) != sorted(set(steps), reverse=True):
                raise ValueError(
                    f"steps {steps}; they must descend within 0 to {TABLE_LENGTH}, each once; "
                    "list the highest noise first"
                )
        if self.usual_steps is not None and not 1 <= self.usual_steps <= len(self.steps):
            raise ValueError(
                f"{self.usual_steps} steps as the usual number; the model was made for "
                f"{len(self.steps)}; use 1 to {len(self.steps)}"
            )
        if self.guidance < 1:
            raise ValueError(
                f"guidance {self.guidance}; 1 is none, more is stronger; use 1 or more"
            )
        if self.shift <= 0:
            raise ValueError(f"shift {self.shift}; it must be positive")

    @property
    def num_steps(self) -> int:
        """Passes of a chunk when no number is asked for."""
        return len(self.steps) if self.usual_steps is None else self.usual_steps

    def schedule(self, num_steps: int | None = None, chunk_index: int = 0) -> Schedule:
        """Choose the passes of a chunk.

        Args:
            num_steps: passes wanted; None is the usual number. As many as ``steps`` has are the
                model's own schedule, whose first chunk may have another number.
            chunk_index: 0 for the first chunk of a stream.

        Raises:
            ValueError: ``num_steps`` is below 1 or above 1000.
        """
        steps = self._steps(num_steps, chunk_index)
        table = _sigma_table(self.shift)
        timesteps = table * np.float32(1000)
        if self.warp:
            # The table has no entry for 0; upstream appends one.
            ends = np.append(timesteps, np.float32(0))
            told = tuple(float(ends[TABLE_LENGTH - round(step)]) for step in steps)
        else:
            told = steps
        nearest = (int(np.abs(timesteps - np.float32(t)).argmin()) for t in told)
        sigmas = tuple(float(table[i]) for i in nearest)
        return Schedule(told, sigmas, self.fresh_noise)

    def passes(self, num_steps: int, chunk_index: int) -> int:
        """Return how many passes ``schedule`` gives; asking it for that many gives the same ones.

        Args:
            num_steps: passes wanted.
            chunk_index: 0 for the first chunk of a stream.

        Raises:
            ValueError: ``num_steps`` is below 1 or above 1000.
        """
        return len(self._steps(num_steps, chunk_index))

    def _steps(self, num_steps: int | None, chunk_index: int) -> tuple[float, ...]:
        steps = self.steps
        if chunk_index == 0 and self.first_chunk_steps is not None:
            steps = self.first_chunk_steps
        wanted = self.num_steps if num_steps is None else num_steps
        if wanted in (len(self.steps), len(steps)):
            return steps
        return self._respaced(steps, wanted)

    def _respaced(self, steps: tuple[float, ...], wanted: int) -> tuple[float, ...]:
        if not 1 <= wanted <= TABLE_LENGTH:
            raise ValueError(f"{wanted} steps; 1 to {TABLE_LENGTH} are possible; ask for fewer")
        if self.spacing == "linspace":
            return tuple(float(int(step)) for step in np.linspace(TABLE_LENGTH, 0, wanted))
        if wanted < len(steps):
            return tuple(steps[round(i * len(steps) / wanted)] for i in range(wanted))
        return tuple(TABLE_LENGTH * (1 - i / wanted) for i in range(wanted))


def _sigma_table(shift: float) -> npt.NDArray[np.float32]:
    """Sigmas of the training schedule, descending from 1, without the final 0."""
    u = torch.linspace(1.0, 0.0, TABLE_LENGTH + 1)[:-1].numpy()
    return (shift * u / (1 + (shift - 1) * u)).astype(np.float32)


def _per_row(sigma: float | Tensor, like: Tensor) -> float | Tensor:
    """Let a sigma for each row, or each row and frame, broadcast over ``[B, F, C, H, W]``."""
    if isinstance(sigma, Tensor):
        return sigma.reshape(*sigma.shape, *(1,) * (like.dim() - sigma.dim()))
    return sigma


def x0_from_velocity(x: Tensor, velocity: Tensor, sigma: float | Tensor) -> Tensor:
    """Estimate clean latents from noisy ones, in float64, rounded to the dtype of ``x``.

    Args:
        x: noisy latents ``[B, F, C, H, W]``.
        velocity: of the same shape, any dtype.
        sigma: of ``x``: a number, ``[B]`` or ``[B, F]``.
    """
    if isinstance(sigma, Tensor):
        sigma = sigma.double()
    return (x.double() - _per_row(sigma, x) * velocity.double()).to(x.dtype)


def implied_noise(x: Tensor, velocity: Tensor, sigma: float | Tensor) -> Tensor:
    """Noise that ``x`` at ``sigma`` holds if ``velocity`` is right, in the dtype of ``x``.

    Args:
        x: noisy latents ``[B, F, C, H, W]``.
        velocity: of the same shape, any dtype.
        sigma: of ``x``: a number, ``[B]`` or ``[B, F]``.
    """
    if isinstance(sigma, Tensor):
        sigma = sigma.double()
    return (x.double() + (1 - _per_row(sigma, x)) * velocity.double()).to(x.dtype)


def renoise(x0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """Put clean latents at ``sigma``, in float32 or wider, rounded to the dtype of ``x0``.

    Args:
        x0: clean latents ``[B, F, C, H, W]``.
        noise: standard normal, of the same shape.
        sigma: a number, ``[B]`` or ``[B, F]``.
    """
    level = _per_row(sigma, x0)
    wide = torch.promote_types(x0.dtype, torch.float32)
    return ((1 - level) * x0.to(wide) + level * noise.to(wide)).to(x0.dtype)
