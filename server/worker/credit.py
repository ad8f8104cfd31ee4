"""How far a stream's viewer has come: the credit that lets its generation go on.

Three rules (ARCHITECTURE.md, credits): ``asap`` is credited when the socket has taken a chunk; a
realtime viewer by the frame it says it presented; one that never says so by the clock, from its
first chunk sent and never beyond what was sent. Pure: ``now`` is an argument, in seconds.
"""

from typing import Literal


class ViewerCredit:
    """The owner's progress, as the number of the last frame played; -1 is none."""

    def __init__(self, pacing: Literal["realtime", "asap"], fps: float, first_frame: int = 0):
        """Begin before frame ``first_frame``, which is above 0 after a takeover."""
        self._pacing = pacing
        self._fps = fps
        self._sent = first_frame - 1
        self._acked: int | None = None
        self._floor = first_frame - 1
        self._base = first_frame - 1
        self._clock_began: float | None = None
        self._stood_since: float | None = None

    def acknowledged(self, frame: int) -> None:
        """Note the frame the viewer presented; from now on the clock does not count.

        Frames that were not sent count when they are.
        """
        self._acked = max(self._acked if self._acked is not None else -1, frame)

    def sent(self, frame: int, now: float) -> None:
        """Note that the socket has taken every frame up to ``frame``."""
        self._sent = max(self._sent, frame)
        if self._clock_began is None:
            self._clock_began = now

    def skipped(self, frame: int) -> None:
        """Note that the viewer can never show what came before and including ``frame``."""
        self._sent = max(self._sent, frame)
        self._floor = max(self._floor, frame)

    def stand(self, now: float) -> None:
        """Stop the clock: paused or without a connection."""
        if self._stood_since is None:
            self._stood_since = now

    def go(self, now: float) -> None:
        """Start the clock again where it stood."""
        if self._stood_since is not None and self._clock_began is not None:
            self._clock_began += max(0.0, now - max(self._stood_since, self._clock_began))
        self._stood_since = None

    def frame(self, now: float) -> int:
        """Return the last frame that counts as played."""
        return max(self._floor, self._played(now))

    def _played(self, now: float) -> int:
        if self._pacing == "asap":
            return self._sent
        if self._acked is not None:
            return min(self._acked, self._sent)
        if self._clock_began is None:
            return self._base
        until = now if self._stood_since is None else self._stood_since
        played = self._base + int(max(0.0, until - self._clock_began) * self._fps)
        return min(played, self._sent)
