"""Draws a stream's noise before it is needed, on other threads.

Noise is a function of seed, chunk and step, computed on the CPU, so the next chunk's can be drawn
while the device works on this one. A draw that was not foreseen is made on the spot; the values
are the same either way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

__all__ = ["DrawNoise", "NoiseAhead"]

DrawNoise = Callable[[int, int, int, tuple[int, ...]], Tensor]
"""Seed, chunk, step and shape to float32 noise on the CPU."""

_Key = tuple[int, int, int, tuple[int, ...]]


class NoiseAhead:
    """A ``DrawNoise`` that also starts on the same step of the next chunk.

    Args:
        workers: threads.
        draw: what it stands for.
    """

    def __init__(self, workers: int, draw: DrawNoise) -> None:
        self._draw, self._kept = draw, 0
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="noise")
        self._drawn: OrderedDict[_Key, Future[Tensor]] = OrderedDict()

    def __call__(self, seed: int, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """Return the noise of one step of a chunk."""
        ready = self._drawn.pop((seed, chunk, step, shape), None)
        following = (seed, chunk + 1, step, shape)
        if following not in self._drawn:
            self._drawn[following] = self._threads.submit(self._draw, *following)
            self._forget()
        return self._draw(seed, chunk, step, shape) if ready is None else ready.result()

    def keep(self, draws: int) -> None:
        """Remember so many draws at most: the steps of all streams' chunks together.

        Those of ended streams are forgotten first, as nobody asks for them.
        """
        self._kept = draws
        self._forget()

    def _forget(self) -> None:
        while len(self._drawn) > self._kept:
            _, forgotten = self._drawn.popitem(last=False)
            forgotten.cancel()

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
