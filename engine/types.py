"""The values that cross the engine's border: what it is told and what it answers.

Everything here is frozen and free of torch, so that a server may import this file alone. Frame
numbers are pixel frames from 0 at the start of the stream; times are seconds on the engine's
monotonic clock. Nothing here knows sockets, codecs or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Kind = Literal["live", "job"]
Pacing = Literal["realtime", "asap"]
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


class PromptPart(NamedTuple):
    """One text of a weighted blend; weights are normalised to sum to 1 before use."""

    text: str
    weight: float = 1.0


Prompts = tuple[PromptPart, ...]


class TimedPrompt(NamedTuple):
    """A prompt that takes effect at the first chunk starting at or after ``frame``."""

    frame: int
    prompts: Prompts


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream to generate.

    Attributes:
        session_id: Unique among the engine's sessions.
        prompts: At least one part.
        seed: 0 to 2**53 - 1. Noise is a function of seed, chunk and step only.
        width: Pixels; one of the model's sizes.
        height: Pixels.
        fps: Rate at which the viewer plays; paces ``realtime`` sessions.
        num_frames: Pixel frames to deliver exactly; None is endless.
        num_steps: Pinned denoising steps; None is the model's or the policy's number,
            which the engine may lower while it is overloaded.
        kind: ``job`` sessions take what ``live`` ones leave.
        pacing: ``realtime`` runs at most its lead ahead of the viewer; ``asap`` at most two chunks
            ahead of the last credit. Jobs are gated like ``asap``: whoever consumes the chunks
            must call credit.
        timed_prompts: In ascending frame order.
        start_image: uint8 RGB ``[H, W, 3]`` of exactly the stream's size that the video starts
            from, or a clip ``[T, H, W, 3]`` that it continues.
        epoch: Repeated in every chunk.
    """

    session_id: str
    prompts: Prompts
    seed: int
    width: int
    height: int
    fps: float
    num_frames: int | None = None
    num_steps: int | None = None
    kind: Kind = "live"
    pacing: Pacing = "realtime"
    timed_prompts: tuple[TimedPrompt, ...] = ()
    start_image: npt.NDArray[np.uint8] | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class PromptUpdate:
    """A prompt change that takes effect at the next chunk not yet started.

    Attributes:
        event_id: Names the change in its receipts.
        prompts: What the stream shall show.
        transition_chunks: Blend from the old prompt over this many chunks; 0 switches at once.
        recache: Let the model's policy rebuild the window's keys and values under the new prompt;
            False changes cross-attention only.
    """

    event_id: str
    prompts: Prompts
    transition_chunks: int = 0
    recache: bool = True


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


@dataclass(frozen=True, slots=True)
class UpdatePrompt:
    """Change a stream's prompt; answered by ``PromptQueued`` unless the session is gone."""

    session_id: str
    update: PromptUpdate


@dataclass(frozen=True, slots=True)
class Credit:
    """The viewer has presented (``asap``: the socket or the file has taken) all up to ``frame``.

    ``frame`` is the number of that frame, so 8 after a first chunk of 9. Lower or repeated values
    are ignored.
    """

    session_id: str
    frame: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Start no further chunk until ``Play``."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Play:
    """Go on after ``Pause``."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End a stream and free its pages; answered by ``SessionEnded``."""

    session_id: str


Command = UpdatePrompt | Credit | Pause | Play | Stop
