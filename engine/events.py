"""What the engine answers: whether a stream is taken in, how full it is, and what happens to streams.

Frozen and free of torch, as ``engine.asked`` is. Frame numbers are pixel frames from 0 at the start
of the stream; times are seconds on the engine's monotonic clock. Nothing here knows sockets, codecs
or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy.typing as npt

EndReason = Literal["complete", "stopped", "error"]


class Frames(Protocol):
    """RGB frames ``[T, H, W, 3]`` uint8, contiguous on the CPU (a torch tensor in practice)."""

    @property
    def shape(self) -> Sequence[int]:
        """Sizes ``(T, H, W, 3)``."""
        ...

    def numpy(self) -> npt.NDArray[Any]:
        """Return the same memory as a numpy array."""
        ...


@dataclass(frozen=True, slots=True)
class Admitted:
    """The stream is running.

    Attributes:
        session_id: Whose.
        chunk_frames: Pixel frames of a regular chunk.
        next_frame: Number of the first frame to come; above 0 where it goes on from a snapshot.
    """

    session_id: str
    chunk_frames: int
    next_frame: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """No room now; the same spec may be admitted when another session ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Never possible as asked. ``param`` names the field of the spec at fault."""

    code: str
    message: str
    param: str | None = None


Admission = Admitted | Wait | Refused


@dataclass(frozen=True, slots=True)
class Capacity:
    """How full the engine is.

    Attributes:
        streams_fit: Realtime live sessions the engine could hold when empty.
        streams_free: How many more it would admit now (default size, steps and fps).
        sessions_live: Live sessions held.
        sessions_jobs: Job sessions held.
        pages_total: Pages of the pool, the null page left out.
        pages_in_use: Pages that some session holds.
        load: Share of the device's time that the admitted realtime sessions need.
        chunk_seconds: Expected time of one regular chunk alone, decode included.
    """

    streams_fit: int
    streams_free: int
    sessions_live: int
    sessions_jobs: int
    pages_total: int
    pages_in_use: int
    load: float
    chunk_seconds: float


@dataclass(frozen=True, slots=True)
class ChunkReady:
    """Frames to encode and send.

    Attributes:
        session_id: Whose.
        epoch: Counts rewinds and takeovers.
        chunk_index: From 0.
        first_frame: Number of the first frame.
        num_frames: ``frames.shape[0]``; the last chunk of a finite stream may be cut short.
        frames: uint8 ``[T, H, W, 3]``.
        prompt_rev: 0 for the first prompt, +1 with every one applied.
        steps: Denoising steps used; 0 where the chunk is the given start image or clip.
        queue_ms: From the moment the session could run to the start of its tick.
        denoise_ms: Network passes, a recache included.
        decode_ms: Latents to pixels.
        slack_s: Media time the viewer still had when the chunk was ready, in seconds; negative is
            a stall of that length. None for the first chunk and for ``asap``.
    """

    session_id: str
    epoch: int
    chunk_index: int
    first_frame: int
    num_frames: int
    frames: Frames
    prompt_rev: int
    steps: int
    queue_ms: float
    denoise_ms: float
    decode_ms: float
    slack_s: float | None = None


@dataclass(frozen=True, slots=True)
class PromptQueued:
    """The change was accepted; ``chunk_index`` is the earliest chunk that may show it."""

    session_id: str
    event_id: str
    chunk_index: int


@dataclass(frozen=True, slots=True)
class PromptRejected:
    """The change cannot be shown; the stream goes on as it was."""

    session_id: str
    event_id: str
    message: str


@dataclass(frozen=True, slots=True)
class PromptApplied:
    """The change takes effect with this chunk; comes immediately before its ``ChunkReady``.

    A timed prompt is reported with the event id ``timed:<frame>``.
    """

    session_id: str
    event_id: str
    chunk_index: int
    first_frame: int


@dataclass(frozen=True, slots=True)
class PromptSuperseded:
    """The change never took effect because the change ``by`` came first."""

    session_id: str
    event_id: str
    by: str


@dataclass(frozen=True, slots=True)
class SessionPaused:
    """No chunk will be started until play; ``frame`` is the next frame's number."""

    session_id: str
    frame: int


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The last event of a session; its pages are free."""

    session_id: str
    reason: EndReason
    chunks: int
    frames: int
    error: str | None = None


EngineEvent = (
    ChunkReady
    | PromptQueued
    | PromptRejected
    | PromptApplied
    | PromptSuperseded
    | SessionPaused
    | SessionEnded
)
