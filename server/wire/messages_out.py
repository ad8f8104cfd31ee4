"""Messages the server sends, as typed values.

``encode`` gives the JSON text; fields that are ``None`` are left out. A ``ChunkMetadata`` is
always followed by exactly one binary message, which the caller sends.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def encode(self) -> str:
        """Return the message as one JSON text."""
        return self.model_dump_json(exclude_none=True)


class SessionQueued(_Message):
    """No worker has room yet; ``position`` 1 is next."""

    type: Literal["session.queued"] = "session.queued"
    position: int


class StreamConfig(_Message):
    """What a player must know.

    ``init`` is base64 of the decoder configuration record, for ``avcc`` with a codec that has one.
    For ``m4s`` the first binary begins with the init segment instead.
    """

    model: str
    width: int
    height: int
    fps: int
    seed: int
    chunk_frames: int
    codec: str
    mime: str
    init: str | None = None


class VideoStart(_Message):
    """The stream is open, or open again after a resume."""

    type: Literal["video.start"] = "video.start"
    request_id: str
    session_id: str
    resume_token: str
    format: Literal["m4s", "avcc", "jpeg"]
    config: StreamConfig


class Unit(_Message):
    """One access unit or image inside the binary message that follows."""

    size: int
    keyframe: bool


class Timings(_Message):
    """Where the chunk's time went, in milliseconds."""

    queue_ms: float
    denoise_ms: float
    decode_ms: float
    encode_ms: float


class ChunkMetadata(_Message):
    """What the next binary message holds; ``pts`` and ``duration`` in seconds."""

    type: Literal["video.chunk_metadata"] = "video.chunk_metadata"
    epoch: int
    chunk_index: int
    first_frame: int
    num_frames: int
    pts: float
    duration: float
    bytes: int
    steps: int
    units: tuple[Unit, ...] | None = None
    prompt_rev: int
    timings: Timings


class InteractionQueued(_Message):
    """The event was accepted; it takes effect at a chunk that has not begun."""

    type: Literal["session.interaction.queued"] = "session.interaction.queued"
    event_id: str


class InteractionApplied(_Message):
    """The chunk whose metadata comes next is the first that shows the event."""

    type: Literal["session.interaction.applied"] = "session.interaction.applied"
    event_id: str
    chunk_index: int
    first_frame: int
    pts: float


class InteractionSuperseded(_Message):
    """A later event took this one's place before it showed."""

    type: Literal["session.interaction.superseded"] = "session.interaction.superseded"
    event_id: str


class SessionPaused(_Message):
    """Generation stands still until ``session.play``."""

    type: Literal["session.paused"] = "session.paused"


class SessionPong(_Message):
    """The answer to ``session.ping``."""

    type: Literal["session.pong"] = "session.pong"


class SessionDone(_Message):
    """The stream has ended; nothing follows."""

    type: Literal["session.done"] = "session.done"
    reason: str
    chunks: int
    frames: int


class ErrorMessage(_Message):
    """What was refused and why; ``fatal`` means that the stream on this connection is over."""

    type: Literal["error"] = "error"
    code: str
    message: str
    event_id: str | None = None
    param: str | None = None
    retryable: bool = False
    fatal: bool = False


ServerMessage = (
    SessionQueued
    | VideoStart
    | ChunkMetadata
    | InteractionQueued
    | InteractionApplied
    | InteractionSuperseded
    | SessionPaused
    | SessionPong
    | SessionDone
    | ErrorMessage
)
