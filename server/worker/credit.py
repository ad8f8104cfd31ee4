"""How far a stream's viewer has come: the credit that lets its generation go on.

Three rules (ARCHITECTURE.md, credits): ``asap`` is credited when the socket has taken a chunk; a
realtime viewer by the frame it says it presented, as far as the clock lets it have come; one that
never says so by the clock, from its first chunk sent and never beyond what was sent. Pure: ``now``
is an argument, in seconds.
"""

from typing import Literal

from engine.playout import ACK_SLACK_FRAMES

FASTEST = 1.001
"""How much faster than here a viewer's clock may run.

Those of computers differ by up to 0.02 %, which is a whole lead after two hours; what a viewer lost
to a slower clock here it would never get back.
"""


class ViewerCredit:
    """The owner's progress, as the number of the last frame played; -1 is none.

    An acknowledgement may not run ahead of a viewer that began with its first chunk and never
    waited but for frames, on a clock at most ``FASTEST`` times as fast as this one: one that
    acknowledges chunks as they arrive would look as if it always had nothing left, and its stream
    would be made before those of others.
    """

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
        self._fastest = float(first_frame - 1)  # last frame of the viewer that never waited
        self._fastest_at = 0.0

    def acknowledged(self, frame: int) -> None:
        """Note the frame the viewer presented; from now on the clock alone does not count.

        Frames that were not sent count when they are.
        """
        self._acked = max(self._acked if self._acked is not None else -1, frame)

    def sent(self, frame: int, now: float) -> None:
        """Note that the socket has taken every frame up to ``frame``."""
        if self._clock_began is None:
            self._clock_began = self._fastest_at = now
        self._follow_fastest(now)
        self._sent = max(self._sent, frame)

    def skipped(self, frame: int) -> None:
        """Note that the viewer can never show what came before and including ``frame``."""
        self._sent = max(self._sent, frame)
        self._floor = max(self._floor, frame)
        self._fastest = max(self._fastest, frame)

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
            self._follow_fastest(now)
            return min(self._acked, self._sent, int(self._fastest) + ACK_SLACK_FRAMES)
        if self._clock_began is None:
            return self._base
        until = now if self._stood_since is None else self._stood_since
        played = self._base + int(max(0.0, until - self._clock_began) * self._fps)
        return min(played, self._sent)

    def _follow_fastest(self, now: float) -> None:
        """Play on as a viewer may that never waited; it plays what it has while paused, too."""
        if self._clock_began is not None:
            passed = max(0.0, now - self._fastest_at) * self._fps * FASTEST
            self._fastest = min(self._fastest + passed, float(self._sent))
            self._fastest_at = max(now, self._fastest_at)
