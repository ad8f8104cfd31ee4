"""A viewer that plays by the clock: what it has played, how long it stalled.

It starts a little after its first frame came, plays at the stream's rate, stands still when it has
nothing to play and goes on as soon as it has. Pure: ``now`` is an argument, in seconds.
"""

import math


class SimulatedViewer:
    """One stream's playback."""

    def __init__(self, fps: float, start_delay_s: float = 0.1) -> None:
        self.fps = fps
        self.played_s = 0.0
        self.stalled_s = 0.0
        self._delay_s = start_delay_s
        self._before_s = 0.0
        self._have_s = 0.0
        self._at: float | None = None

    @property
    def frame(self) -> int:
        """The last frame presented; -1 before the first."""
        # A hair is added because sums of durations are not exact.
        return math.floor((self._before_s + self.played_s) * self.fps + 1e-6) - 1

    @property
    def buffered_s(self) -> float:
        """What it could play without another chunk, in seconds."""
        return self._have_s - self.played_s

    def advance(self, now: float) -> None:
        """Play, or stall, up to ``now``."""
        if self._at is None or now <= self._at:
            return
        passed = now - self._at
        self._at = now
        plays = min(passed, self.buffered_s)
        self.played_s += plays
        self.stalled_s += passed - plays

    def arrived(self, num_frames: int, now: float) -> bool:
        """Take a chunk in; return whether it came before it was needed."""
        self.advance(now)
        in_time = self._at is None or self.buffered_s > 0
        self._have_s += num_frames / self.fps
        if self._at is None:
            self._at = now + self._delay_s
        return in_time

    def forget(self) -> None:
        """Begin to count anew; what is buffered stays (the end of the warm-up)."""
        self._have_s -= self.played_s
        self._before_s += self.played_s
        self.played_s = 0.0
        self.stalled_s = 0.0
