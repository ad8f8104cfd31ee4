"""Figures with their uncertainty: adherence, distances between sets of features, flicker.

Pure functions of arrays. A score is never reported without a 95 % interval and without
the score that the same verdicts get when the prompts are shuffled between clips.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from models.train.world_scene import NAMES

_RESAMPLES = 1000
_Z = 1.959964

Expectation = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number.

    Attributes:
        value: The estimate.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: Number of observations.
        shuffled: The same figure with prompts shuffled between clips, where that has a meaning.
    """

    value: float
    low: float
    high: float
    n: int
    shuffled: float | None = None

    def to_json(self) -> dict[str, float | int | None]:
        """Return a dictionary with rounded numbers; what could not be measured is None."""
        return {
            name: None if value is None or math.isnan(value) else round(value, 4)
            for name, value in asdict(self).items()
        }


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle = share + _Z * _Z / (2 * n)
    reach = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    scale = 1 + _Z * _Z / n
    return max((middle - reach) / scale, 0.0), min((middle + reach) / scale, 1.0)


def mean_figure(values: Sequence[float]) -> Figure:
    """Return a mean with a bootstrap interval."""
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(0).integers(0, len(array), (_RESAMPLES, len(array)))
    low, high = np.quantile(array[picks].mean(1), (0.025, 0.975))
    return Figure(float(array.mean()), float(low), float(high), len(array))


def hits(expected: Sequence[Expectation], seen: Mapping[str, Sequence[str]]) -> NDArray[np.float64]:
    """Compare clips with their prompts.

    Args:
        expected: For each of n clips the values asked for, None where nothing was asked.
        seen: For each attribute the n values seen.

    Returns:
        ``[n, 7]``: 1 right, 0 wrong, NaN not asked for; columns in the order of ``NAMES``.
    """
    table = np.full((len(expected), len(NAMES)), np.nan)
    for row, wanted in enumerate(expected):
        for column, name in enumerate(NAMES):
            if wanted[name] is not None:
                table[row, column] = float(wanted[name] == seen[name][row])
    return table


def mismatched(
    expected: Sequence[Expectation], seen: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Return each attribute's score over all pairs of a prompt and another prompt's clip."""
    n = len(expected)
    scores = {}
    for name in NAMES:
        asked = [(row, want) for row, e in enumerate(expected) if (want := e[name]) is not None]
        if asked and n > 1:
            count = Counter(seen[name])
            others = [count[value] - (seen[name][row] == value) for row, value in asked]
            scores[name] = sum(others) / (len(asked) * (n - 1))
    return scores


def adherence(
    expected: Sequence[Expectation], seen: Mapping[str, Sequence[str]]
) -> dict[str, Figure]:
    """Return each attribute's share of clips that show what was asked, and their ``mean``.

    The mean is over attributes; its interval comes from resampling clips.
    """
    table, chance = hits(expected, seen), mismatched(expected, seen)
    figures = {}
    for column, name in enumerate(NAMES):
        asked = table[~np.isnan(table[:, column]), column]
        if len(asked):
            low, high = wilson(int(asked.sum()), len(asked))
            figures[name] = Figure(float(asked.mean()), low, high, len(asked), chance.get(name))
    value = _mean_over_attributes(table)
    picks = np.random.default_rng(0).integers(0, len(table), (_RESAMPLES, len(table)))
    spread = np.array([_mean_over_attributes(table[pick]) for pick in picks])
    low, high = np.nanquantile(spread, (0.025, 0.975))
    shuffled = sum(chance.values()) / len(chance) if chance else None
    figures["mean"] = Figure(value, float(low), float(high), len(table), shuffled)
    return figures


def difference(
    expected: Sequence[Expectation],
    seen: Mapping[str, Sequence[str]],
    before: Mapping[str, Sequence[str]],
) -> Figure:
    """Return how much the mean adherence of the same prompts' clips has changed from ``before``.

    The interval comes from resampling pairs of clips, so what a prompt does to both cancels.
    """
    after, base = hits(expected, seen), hits(expected, before)
    picks = np.random.default_rng(0).integers(0, len(after), (_RESAMPLES, len(after)))
    spread = [_mean_over_attributes(after[p]) - _mean_over_attributes(base[p]) for p in picks]
    low, high = np.nanquantile(np.array(spread), (0.025, 0.975))
    value = _mean_over_attributes(after) - _mean_over_attributes(base)
    return Figure(value, float(low), float(high), len(after))


def share_of(right: Sequence[bool], mixed: Sequence[bool]) -> Figure:
    """Return the share of true values, with that of shuffled prompts beside it."""
    low, high = wilson(sum(right), len(right))
    value = sum(right) / len(right) if right else math.nan
    return Figure(value, low, high, len(right), sum(mixed) / len(mixed) if mixed else None)


def frechet(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the Fréchet distance of two sets of features ``[n, d]`` taken as Gaussians."""
    mean_gap = first.mean(0) - second.mean(0)
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(min=0)).sum()
    return float(mean_gap @ mean_gap + np.trace(a) + np.trace(b) - 2 * cross)


def frechet_figure(
    generated: NDArray[np.float32], reference: NDArray[np.float32], axes: int = 32
) -> Figure:
    """Return the distance within the ``axes`` main directions of the reference.

    Both sets are projected onto them and scaled by one number, the reference's mean
    standard deviation, so that the distance has no unit. The interval comes from
    resampling the generated set.
    """
    centre = reference.mean(0)
    _, _, directions = np.linalg.svd(reference - centre, full_matrices=False)
    basis = directions[:axes].T
    scale = float((reference - centre).std()) or 1.0
    mine, theirs = (generated - centre) @ basis / scale, (reference - centre) @ basis / scale
    value = frechet(mine, theirs)
    picks = np.random.default_rng(0).integers(0, len(mine), (60, len(mine)))
    spread = np.array([frechet(mine[pick], theirs) for pick in picks])
    # Resampling repeats rows, which widens the distance; the spread is moved to where the estimate is.
    low, high = np.quantile(spread - np.median(spread) + value, (0.025, 0.975))
    return Figure(value, max(float(low), 0.0), float(high), len(mine))


def flicker(
    clips: Sequence[NDArray[np.uint8]], first_chunk: int, chunk: int
) -> tuple[float, float, Figure]:
    """Compare the change from frame to frame at chunk seams with that inside chunks.

    Args:
        clips: uint8 ``[T, H, W, 3]``.
        first_chunk: Frames of a stream's first chunk.
        chunk: Frames of every later chunk.

    Returns:
        Mean absolute change at seams and inside chunks (8-bit steps), and their ratio.
    """
    seams, inside = [], []
    for frames in clips:
        values = frames.astype(np.int16)
        change = np.abs(values[1:] - values[:-1]).mean((1, 2, 3))
        number = np.arange(1, len(values))
        at_seam = (number >= first_chunk) & ((number - first_chunk) % chunk == 0)
        seams.append(change[at_seam].mean())
        inside.append(change[~at_seam].mean())
    seam, rest = np.array(seams), np.array(inside)
    picks = np.random.default_rng(0).integers(0, len(seam), (_RESAMPLES, len(seam)))
    ratio = seam[picks].mean(1) / rest[picks].mean(1).clip(min=1e-6)
    low, high = np.quantile(ratio, (0.025, 0.975))
    value = float(seam.mean() / max(rest.mean(), 1e-6))
    return float(seam.mean()), float(rest.mean()), Figure(value, float(low), float(high), len(seam))


def _mean_over_attributes(table: NDArray[np.float64]) -> float:
    asked = ~np.isnan(table)
    count = asked.sum(0)
    means = np.where(asked, table, 0.0).sum(0)[count > 0] / count[count > 0]
    return float(means.mean()) if len(means) else math.nan
