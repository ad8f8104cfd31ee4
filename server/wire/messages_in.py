"""Messages a client may send, as typed values.

Field limits that never change are here; those that depend on the model (size, rate, steps) are
checked by ``server.live`` once the model is known. Unknown fields are ignored.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from server.wire.limits import MAX_SEED, Limits

_LIMITS = Limits()

Prompt = Annotated[str, Field(min_length=1, max_length=_LIMITS.prompt_chars)]
EventId = Annotated[str, Field(min_length=1, max_length=_LIMITS.event_id_chars)]
Frame = Annotated[int, Field(ge=-1, le=MAX_SEED)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class WeightedPrompt(_Message):
    """One text of a blend and its weight; weights are relative to each other."""

    text: Prompt
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0


Prompts = Annotated[
    tuple[WeightedPrompt, ...],
    Field(min_length=1, max_length=_LIMITS.prompt_parts, strict=False),
]


def _one_prompt(prompt: str | None, prompts: tuple[WeightedPrompt, ...] | None) -> None:
    if (prompt is None) == (prompts is None):
        seen = "neither" if prompt is None else "both"
        raise ValueError(f"{seen} of prompt and prompts; exactly one of them is allowed")
    if prompt is not None and not prompt.strip():
        raise ValueError("a prompt of spaces only; say what to show")


class SessionStart(_Message):
    """Open a stream."""

    type: Literal["session.start"]
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    prompt: Prompt | None = None
    prompts: Prompts | None = None
    width: Annotated[int, Field(ge=16, le=8192)] | None = None
    height: Annotated[int, Field(ge=16, le=8192)] | None = None
    fps: Annotated[int, Field(ge=1, le=240)] | None = None
    seed: Seed | None = None
    num_frames: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=100)] | None = None
    format: Literal["m4s", "avcc", "jpeg"] = "m4s"
    codec: Literal["h264", "vp8", "av1", "jpeg"] | None = None
    image: Annotated[str, Field(min_length=1)] | None = None
    pacing: Literal["realtime", "asap"] = "realtime"

    @model_validator(mode="after")
    def _check(self) -> "SessionStart":
        _one_prompt(self.prompt, self.prompts)
        if (self.width is None) != (self.height is None):
            raise ValueError("one of width and height; both or neither are allowed")
        return self


class InteractionEvent(_Message):
    """What to change from the next chunk on."""

    prompt: Prompt | None = None
    prompts: Prompts | None = None
    transition_chunks: Annotated[int, Field(ge=0, le=_LIMITS.transition_chunks)] = 0
    recache: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> "InteractionEvent":
        _one_prompt(self.prompt, self.prompts)
        return self


class Interaction(_Message):
    """An event with the client's own id for its receipts; the server makes one when absent."""

    event_id: EventId | None = None
    event: InteractionEvent


class SessionInteraction(_Message):
    """Change the prompt of the running stream."""

    type: Literal["session.interaction"]
    interaction: Interaction


class PlaybackAck(_Message):
    """The last frame the viewer presented; this is the stream's credit."""

    type: Literal["playback.ack"]
    frame: Frame
    buffered_ms: Annotated[float, Field(ge=0, le=3_600_000)] | None = None
    hidden: bool = False


class SessionPause(_Message):
    """Stop generating, keep the stream."""

    type: Literal["session.pause"]


class SessionPlay(_Message):
    """Go on after a pause."""

    type: Literal["session.play"]


class SessionStop(_Message):
    """End the stream and free what it holds."""

    type: Literal["session.stop"]


class SessionPing(_Message):
    """Ask for a ``session.pong``."""

    type: Literal["session.ping"]


class SessionKeyframe(_Message):
    """The decoder was lost: begin again at the newest key chunk."""

    type: Literal["session.keyframe"]


class SessionResume(_Message):
    """Take an open stream over onto this connection."""

    type: Literal["session.resume"]
    session_id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
    resume_token: Annotated[str, Field(min_length=1, max_length=256)]
    after_chunk: Annotated[int, Field(ge=-1, le=MAX_SEED)] = -1
    format: Literal["m4s", "avcc", "jpeg"] | None = None


class SessionFork(_Message):
    """Begin a second stream from a chunk of this one (answers ``not_supported`` for now)."""

    type: Literal["session.fork"]
    event_id: EventId | None = None
    at_chunk: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    seed: Seed | None = None
    prompt: Prompt | None = None


class SessionRewind(_Message):
    """Go back to a chunk of this stream (answers ``not_supported`` for now)."""

    type: Literal["session.rewind"]
    event_id: EventId | None = None
    to_chunk: Annotated[int, Field(ge=0, le=MAX_SEED)]


ClientMessage = (
    SessionStart
    | SessionInteraction
    | PlaybackAck
    | SessionPause
    | SessionPlay
    | SessionStop
    | SessionPing
    | SessionKeyframe
    | SessionResume
    | SessionFork
    | SessionRewind
)

CLIENT_TYPES: dict[str, type[ClientMessage]] = {
    "session.start": SessionStart,
    "session.interaction": SessionInteraction,
    "playback.ack": PlaybackAck,
    "session.pause": SessionPause,
    "session.play": SessionPlay,
    "session.stop": SessionStop,
    "session.ping": SessionPing,
    "session.keyframe": SessionKeyframe,
    "session.resume": SessionResume,
    "session.fork": SessionFork,
    "session.rewind": SessionRewind,
}
"""Every type a client may send and the class that holds it."""
