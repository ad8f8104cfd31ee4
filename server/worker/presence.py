"""Whether a stream's viewer is there.

The gateway of the owner's connection beats; silence or a goodbye means that the connection is
lost, and after the resume grace that the stream is over. Pure: ``now`` is an argument, in seconds.
"""

from typing import Literal

SILENCE_S = 1.5
"""Silence that counts as a lost connection; gateways beat three times as often."""

State = Literal["here", "lost", "gone"]


class Presence:
    """Follows one owner's connection."""

    def __init__(self, grace_s: float, now: float) -> None:
        self._grace_s = grace_s
        self._heard_at = now
        self._lost_at: float | None = None
        self._connection: str | None = None

    def heard(self, connection: str, now: float) -> None:
        """Note a sign of life; one from an older connection than the newest does not count."""
        if self._connection is None:
            self._connection = connection
        if connection == self._connection:
            self._heard_at = now
            self._lost_at = None

    def attached(self, connection: str, now: float) -> None:
        """Note that a connection took the stream over."""
        self._connection = connection
        self.heard(connection, now)

    def detached(self, connection: str, now: float) -> None:
        """Note a lost connection, unless another has taken over since."""
        if self._connection in (None, connection) and self._lost_at is None:
            self._lost_at = now

    def state(self, now: float) -> State:
        """Return whether the viewer is here, lost for the moment or gone for good."""
        if self._lost_at is None and now - self._heard_at > SILENCE_S:
            self._lost_at = self._heard_at
        if self._lost_at is None:
            return "here"
        return "gone" if now - self._lost_at > self._grace_s else "lost"
