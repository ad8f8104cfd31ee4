"""Gaussian noise as a function of (seed, chunk, step), the same on every machine.

A counter-based generator (Philox4x64-10, Salmon et al. 2011) keyed by the seed gives raw bits
for a place in the stream, so noise is never a state: it does not depend on what was drawn
before, on who shares a batch, or on a restart. The bits become normal deviates by the method of
Box and Muller with logarithm, sine and cosine evaluated as polynomials: additions,
multiplications, divisions and square roots are rounded the same way by every CPU, while a
mathematics library's functions are not. The golden values in the tests never change.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["MAX_SEED", "noise"]

MAX_SEED = 2**53 - 1

_Floats = npt.NDArray[np.float64]

# Series of atanh, sine and cosine; on the reduced ranges below their error is under 1e-10,
# which float32 cannot show.
_ATANH = [1 / n for n in range(1, 14, 2)]
_SIN = [(-1) ** n / math.factorial(2 * n + 1) for n in range(7)]
_COS = [(-1) ** n / math.factorial(2 * n) for n in range(7)]

_BLOCK = 4096  # pairs worked on at a time, so that intermediate values stay in the cache


def noise(seed: int, chunk: int, step: int, shape: Sequence[int]) -> Tensor:
    """Draw standard normal noise.

    Args:
        seed: of the stream, 0 to 2**53 - 1.
        chunk: index of the chunk in the stream.
        step: 0 for the initial noise, k for the k-th re-noise.
        shape: of the result, without a batch: ``[F, C, H, W]``.

    Returns:
        float32 on the CPU, limited to about 6.7 in magnitude.

    Raises:
        ValueError: the seed is out of range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed}; seeds are whole numbers from 0 to {MAX_SEED}")
    assert min(chunk, step) >= 0, f"chunk {chunk}, step {step}"
    count = math.prod(shape)
    pairs = -(-count // 2)
    # The low counter word counts blocks of bits; the others place the draw in the stream.
    bits = np.random.Philox(key=seed, counter=[0, step, chunk, 0]).random_raw(pairs)
    values = np.empty((2, pairs), dtype=np.float32)
    for start in range(0, pairs, _BLOCK):
        part = slice(start, start + _BLOCK)
        high = (bits[part] >> np.uint64(32)).astype(np.float64)
        low = (bits[part] & np.uint64(0xFFFFFFFF)).astype(np.float64)
        radius = np.sqrt(-2.0 * _log((high + 1.0) * 2.0**-32))  # of a uniform in (0, 1]
        cos, sin = _circle(low * 2.0**-32)
        values[0, part], values[1, part] = radius * cos, radius * sin
    return torch.from_numpy(values.reshape(-1)[:count].copy()).reshape(tuple(shape))


def _series(coefficients: Sequence[float], x: _Floats) -> _Floats:
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total *= x
        total += coefficient
    return total


def _log(x: _Floats) -> _Floats:
    """Natural logarithm: exponent and a series for the fraction in [1/sqrt 2, sqrt 2)."""
    fraction, exponent = np.frexp(x)
    small = fraction < math.sqrt(0.5)
    fraction = np.where(small, 2.0 * fraction, fraction)
    ratio = (fraction - 1.0) / (fraction + 1.0)
    return (exponent - small) * math.log(2.0) + 2.0 * ratio * _series(_ATANH, ratio * ratio)


def _circle(turns: _Floats) -> tuple[_Floats, _Floats]:
    """Cosine and sine of ``turns`` full turns in [0, 1), by quadrant."""
    quarter = np.rint(4.0 * turns)
    angle = (4.0 * turns - quarter) * (math.pi / 2)  # within an eighth of a turn of 0
    square = angle * angle
    cos, sin = _series(_COS, square), angle * _series(_SIN, square)
    quadrant = quarter.astype(np.int64) % 4
    odd, flip_cos, flip_sin = quadrant % 2 == 1, (quadrant + 1) % 4 >= 2, quadrant >= 2
    return (
        np.where(flip_cos, -1.0, 1.0) * np.where(odd, sin, cos),
        np.where(flip_sin, -1.0, 1.0) * np.where(odd, cos, sin),
    )
