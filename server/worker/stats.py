"""The worker's counters, as the snapshot that gateways show in ``/metrics``.

One owner: the worker's event loop. Knows neither Prometheus nor Redis; a histogram is a list of
counts per bucket.
"""

from bisect import bisect_left
from typing import Any, Literal

CHUNK_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.625, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)


class Histogram:
    """Counts of values per bucket; the last bucket has no upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def snapshot(self) -> dict[str, Any]:
        """Return bounds, counts and sum as JSON values."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.total}


class WorkerStats:
    """What this worker has done since it started."""

    def __init__(self) -> None:
        self.frames: dict[str, int] = {"live": 0, "job": 0}
        self.streams_ended: dict[str, int] = {}
        self.jobs_ended: dict[str, int] = dict.fromkeys(("completed", "failed", "cancelled"), 0)
        self.stall_s = 0.0
        self.chunk_s = {kind: Histogram(CHUNK_BUCKETS_S) for kind in self.frames}

    def chunk(
        self, kind: Literal["live", "job"], frames: int, seconds: float, slack_s: float | None
    ) -> None:
        """Count one chunk: its frames, its time from noise to published, its viewer's stall."""
        self.frames[kind] += frames
        self.chunk_s[kind].add(seconds)
        if slack_s is not None and slack_s < 0:
            self.stall_s -= slack_s

    def ended(self, reason: str) -> None:
        """Count the end of a live stream."""
        self.streams_ended[reason] = self.streams_ended.get(reason, 0) + 1

    def job_ended(self, status: str) -> None:
        """Count the end of a job here, by the status its clients see."""
        self.jobs_ended[status] = self.jobs_ended.get(status, 0) + 1

    def snapshot(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "frames": dict(self.frames),
            "streams_ended": dict(self.streams_ended),
            "jobs_ended": dict(self.jobs_ended),
            "stall_s": self.stall_s,
            "chunk_s": {kind: times.snapshot() for kind, times in self.chunk_s.items()},
        }
