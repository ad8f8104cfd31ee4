"""What a pass costs at each batch size on this device, measured at start-up.

Plain numbers and the rule that turns them into a batch size: whether a batch of sessions is
cheaper than taking turns depends on model and device, so it is measured and not assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

WORTHWHILE = 0.97
"""A larger batch must cost at most this share per session of the smaller one."""


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds, for chunks of the model's default size with a full window.

    Attributes:
        pass_s: One network pass over a chunk, by batch size; 1 is always there.
        decode_s: Decoding one session's chunk.
    """

    pass_s: dict[int, float]
    decode_s: float

    def __post_init__(self) -> None:
        assert 1 in self.pass_s, f"batch sizes {sorted(self.pass_s)}; 1 must be measured"

    def chunk_s(self, batch: int, steps: int) -> float:
        """Return the time of one chunk for ``batch`` sessions, its clean pass and decode included.

        A batch size that was not measured costs as much as the next larger one, or
        proportionally more than the largest.
        """
        sizes = sorted(self.pass_s)
        size = next((size for size in sizes if size >= batch), sizes[-1])
        scale = max(1.0, batch / size)
        return (steps + 1) * self.pass_s[size] * scale + batch * self.decode_s

    def best_batch(self, waiting: int, steps: int) -> int:
        """Return how many of ``waiting`` sessions to run together for the most frames a second."""
        best = 1
        for size in sorted(self.pass_s):
            if size > waiting:
                break
            share = self.chunk_s(size, steps) / size
            if share <= WORTHWHILE * self.chunk_s(best, steps) / best:
                best = size
        return best

    def session_s(self, sessions: int, steps: int) -> float:
        """Return the device time a chunk costs each of ``sessions`` sessions, well batched."""
        batch = self.best_batch(max(1, sessions), steps)
        return self.chunk_s(batch, steps) / batch


def measure(
    one_pass: Callable[[int], None],
    decode: Callable[[], None],
    batches: Sequence[int],
    clock: Callable[[], float],
    repeats: int = 3,
) -> CostTable:
    """Time the two operations.

    Args:
        one_pass: Runs one pass for a batch of the given size to its end.
        decode: Decodes one chunk.
        batches: Sizes to try, ascending from 1. After one that does not pay no larger one is
            tried: a device that is full does not become emptier.
        clock: Monotonic seconds.
        repeats: Timed runs of each after one that warms up; the fastest counts, so that
            what else runs at start-up does not make the device look slow for good.
    """

    def fastest(operation: Callable[[], None]) -> float:
        operation()
        times = []
        for _ in range(repeats):
            start = clock()
            operation()
            times.append(clock() - start)
        return min(times)

    decode_s = fastest(decode)
    pass_s: dict[int, float] = {}
    for batch in batches:
        pass_s[batch] = fastest(lambda batch=batch: one_pass(batch))  # type: ignore[misc]
        shares = [seconds / size for size, seconds in pass_s.items()]
        if len(shares) > 1 and shares[-1] > WORTHWHILE * min(shares[:-1]):
            break
    return CostTable(pass_s, decode_s)
