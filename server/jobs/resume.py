"""Points from which a taken-over job can go on without generating everything again.

Now and then the engine's state of the job is kept beside its segments. A state of frame
``f`` can be used once every frame before ``f`` is committed; of those the newest is kept.
Where there is none, a job begins at frame 0 again and skips what is committed: slower, the
same pictures. Knows no engine and no Redis; a state is bytes.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.jobs.segments import JobFolder

EVERY_S = 10.0
"""Shortest time between two states."""
COST_SHARE = 0.02
"""Largest part of the time that taking states may cost: a state of a large model is gigabytes."""
MAX_BYTES = 1 << 30
"""A larger state is not kept, and no further one is taken."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A kept state; the engine goes on at or before ``frame``."""

    frame: int
    path: Path

    def read(self) -> bytes:
        """Return the engine's state."""
        return self.path.read_bytes()


class ResumePoints:
    """The states of one job under one fingerprint."""

    def __init__(
        self,
        folder: JobFolder,
        fingerprint: str,
        clock: Callable[[], float],
        every_s: float = EVERY_S,
    ) -> None:
        """Prepare.

        Args:
            folder: The job's.
            fingerprint: Names what decides the pixels; other fingerprints' states are ignored.
            clock: Monotonic seconds.
            every_s: Shortest time between two states.
        """
        self._folder = folder
        self._print = hashlib.sha256(fingerprint.encode()).hexdigest()[:12]
        self._clock = clock
        self._every_s = every_s
        self._next_at = clock() + every_s
        self._wanted = True

    def due(self) -> bool:
        """Return whether it is time to take a state."""
        return self._wanted and self._clock() >= self._next_at

    def stop(self) -> None:
        """Take no further state."""
        self._wanted = False

    def keep(self, frame: int, state: bytes, took_s: float) -> None:
        """Keep a state, unless it is too large.

        Args:
            frame: Where it goes on, or any later frame.
            state: The engine's bytes.
            took_s: What taking it cost; dear ones are taken less often.
        """
        if len(state) > MAX_BYTES:
            self.stop()
            return
        began = self._clock()
        self._folder.put(f"resume-{frame:08d}-{self._print}.state", state)
        cost_s = took_s + self._clock() - began
        self._next_at = self._clock() + max(self._every_s, cost_s / COST_SHARE)

    def newest(self, committed: int) -> ResumePoint | None:
        """Return the newest usable state and remove the ones it makes useless."""
        found = None
        for frame, path in self._states():
            if frame > committed:
                break
            if found is not None:
                found.path.unlink(missing_ok=True)
            found = ResumePoint(frame, path)
        return found

    def drop(self, point: ResumePoint) -> None:
        """Remove a state that the engine would not take."""
        point.path.unlink(missing_ok=True)

    def _states(self) -> list[tuple[int, Path]]:
        """Return frames and files of this fingerprint's states, in order."""
        name = re.compile(rf"resume-(\d+)-{self._print}\.state")
        if not self._folder.path.is_dir():
            return []
        found = [(name.fullmatch(path.name), path) for path in self._folder.path.iterdir()]
        return sorted((int(match[1]), path) for match, path in found if match)
