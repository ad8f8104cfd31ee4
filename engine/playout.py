"""How far one viewer has played, and so when the next chunk may and must be made.

Pure arithmetic over frame counts and times that are passed in. ``realtime``: the viewer's
acknowledgements are the credit; until the first one comes (some clients never send any) the clock
plays for it from the first chunk on. ``asap``: a chunk is credited when it has been taken, and at
most two are outstanding. Knows no prompts, pages or devices.

The lead, chunk + ceil(p95 of the time to make a chunk x fps) + 4 frames, is the smallest that does
not stall between acknowledgements that come every four frames; more would only delay a change.
"""

from __future__ import annotations

import math
from collections import deque

from engine.asked import Pacing

ACK_SLACK_FRAMES = 4
ASAP_CHUNKS_AHEAD = 2
RESPONSES_KEPT = 32
LEAST_STEPS = 2
"""To so many the steps of a stream are lowered whose viewer stalls."""


class Playout:
    """One session's credit.

    Args:
        pacing: See ``StreamSpec``.
        fps: Rate of the viewer.
        chunk_frames: Pixel frames of a regular chunk.
        expected_s: Time one chunk is expected to take until enough have been measured.
        generated: Frames of a restored stream that its viewer has had already.
    """

    def __init__(
        self,
        pacing: Pacing,
        fps: float,
        chunk_frames: int,
        expected_s: float,
        generated: int = 0,
    ) -> None:
        self._realtime = pacing == "realtime"
        self._fps = fps
        self._chunk_frames = chunk_frames
        self._responses: deque[float] = deque([expected_s], maxlen=RESPONSES_KEPT)
        self._lead = self._compute_lead()
        self._outstanding: deque[int] = deque()  # asap: end frames of chunks not yet credited
        self._acked: int | None = None  # frames played by the viewer's own account
        self._acked_at = 0.0
        self._origin: float | None = None  # by the clock: when frame 0 is presented
        self._paused_at: float | None = None
        self.generated = generated  # frames made or being made
        self._ready = generated  # frames made

    @property
    def ready_frames(self) -> int:
        """Frames that are made; ``generated`` also counts those being made."""
        return self._ready

    @property
    def lead_frames(self) -> int:
        """Frames that may be made ahead of the one being played."""
        return self._lead

    def credit(self, frame: int, now: float) -> None:
        """Note that all frames up to number ``frame`` have been presented or taken."""
        played = min(frame + 1, self._ready)
        if self._acked is not None and played <= self._acked:
            return
        self._acked, self._acked_at = played, now
        while self._outstanding and self._outstanding[0] <= played:
            self._outstanding.popleft()

    def start(self, frames: int) -> None:
        """Note that a chunk of ``frames`` is being made: the next one comes behind it."""
        self.generated += frames
        self._outstanding.append(self.generated)

    def made(self, frames: int, now: float, response_s: float) -> float | None:
        """Note a finished chunk of ``frames``, the oldest of those that were started.

        Args:
            frames: Pixel frames of the chunk.
            now: When it was ready.
            response_s: From the moment it could have been started to ``now``.

        Returns:
            Seconds of media the viewer still had at ``now``; negative is a stall. None where
            nothing was being played.
        """
        deadline = self._runs_out(self._ready)
        self._ready += frames
        assert self._ready <= self.generated, "a chunk is started before it is made"
        self._responses.append(response_s)
        self._lead = self._compute_lead()
        if not self._realtime:
            return None
        if self._origin is None:
            self._origin = now - (self._ready - frames) / self._fps
            return None
        assert deadline is not None
        if self._acked is None:
            # A viewer that ran dry stood still; what it plays next it plays that much later.
            self._origin += max(0.0, now - deadline)
        return deadline - now

    def runnable_at(self, frames: int) -> float | None:
        """Return when a chunk of ``frames`` may be started; None until more credit comes.

        Minus infinity: at once, and the wait is not the viewer's doing.
        """
        if self._paused_at is not None:
            return None
        if not self._realtime:
            if len(self._outstanding) < ASAP_CHUNKS_AHEAD:
                return -math.inf if self._acked is None else self._acked_at
            return None
        if self._origin is None:
            return -math.inf
        must_have_played = self.generated + frames - self._lead
        if self._acked is not None:
            return self._acked_at if must_have_played <= self._acked else None
        return self._origin + max(0, must_have_played) / self._fps

    def deadline(self) -> float | None:
        """Return when the viewer runs out of frames; None when nothing is being played."""
        return self._runs_out(self.generated)

    def pause(self, now: float) -> None:
        """Stop the clock."""
        if self._paused_at is None:
            self._paused_at = now

    def play(self, now: float) -> None:
        """Start the clock again where it stood."""
        if self._paused_at is None:
            return
        # What an acknowledgement says that came meanwhile was true when it came.
        self._acked_at += now - max(self._paused_at, self._acked_at)
        if self._origin is not None:
            self._origin += now - self._paused_at
        self._paused_at = None

    @property
    def paused(self) -> bool:
        """Whether it stands still by request."""
        return self._paused_at is not None

    def _runs_out(self, frames: int) -> float | None:
        """Return when the viewer has played ``frames``; None when nothing is being played."""
        if not self._realtime or self._origin is None:
            return None
        if self._acked is None:
            return self._origin + frames / self._fps
        return self._acked_at + (frames - self._acked) / self._fps

    def _compute_lead(self) -> int:
        ordered = sorted(self._responses)
        p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
        lead = self._chunk_frames + math.ceil(p95 * self._fps) + ACK_SLACK_FRAMES
        # Beyond this the device is simply too slow, and a longer lead would only delay changes.
        return min(lead, max(3 * self._chunk_frames, self._chunk_frames + math.ceil(self._fps)))


class StepGovernor:
    """Lowers a session's denoising steps while its chunks come too late, and raises them again.

    One late chunk changes nothing, two in a row cost one step, so that a stream that runs alone on
    a device that can serve it always uses the same number.

    Args:
        full: Steps when there is time.
        pinned: Never change them.
        least: Fewest steps.
    """

    def __init__(self, full: int, pinned: bool, least: int = LEAST_STEPS) -> None:
        self._full = full
        self._least = full if pinned else min(least, full)
        self._late = 0
        self._early = 0
        self.steps = full

    def restore(self, steps: int) -> None:
        """Go on with the steps of another governor, as far as this one's bounds allow."""
        self.steps = max(self._least, min(steps, self._full))

    def observe(self, slack_s: float | None, cost_s: float) -> None:
        """Note how much media the viewer had left when a chunk of ``cost_s`` was ready."""
        if slack_s is None:
            return
        self._late = self._late + 1 if slack_s < 0 else 0
        self._early = self._early + 1 if slack_s > cost_s / 2 else 0
        if self._late >= 2 and self.steps > self._least:
            self.steps -= 1
            self._late = 0
        elif self._early >= 8 and self.steps < self._full:
            self.steps += 1
            self._early = 0
