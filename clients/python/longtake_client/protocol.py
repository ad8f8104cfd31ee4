"""The realtime protocol, version 1, without I/O: bytes in, typed values out, and back.

``Decoder`` takes what a WebSocket delivers, in order, and gives typed messages; a
``video.chunk_metadata`` and the binary behind it become one ``Chunk``. Unknown types and
unknown fields are ignored, as the protocol asks of a client.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from longtake_client.errors import ProtocolError, StreamError

Format = Literal["m4s", "avcc", "jpeg"]


@dataclass(frozen=True, slots=True)
class WeightedPrompt:
    """One text of a blend; weights are relative to each other."""

    text: str
    weight: float = 1.0


Prompt = str | Sequence[WeightedPrompt]


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """What a player must know.

    Attributes:
        chunk_frames: Frames of a regular chunk.
        mime: Codec string (``avc1.42c01e``), or a whole type for ``m4s``.
        init: Decoder configuration record for ``avcc``; empty otherwise.
    """

    model: str
    width: int
    height: int
    fps: int
    seed: int
    chunk_frames: int
    codec: str
    mime: str
    init: bytes = b""


@dataclass(frozen=True, slots=True)
class Queued:
    """No worker has room yet; ``position`` 1 is next."""

    position: int


@dataclass(frozen=True, slots=True)
class Started:
    """The stream is open, or open again; the token of the newest one takes it up again."""

    session_id: str
    resume_token: str
    format: Format
    config: StreamConfig


@dataclass(frozen=True, slots=True)
class Unit:
    """One access unit (or image) of a chunk."""

    size: int
    keyframe: bool


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a chunk's time went, in milliseconds."""

    queue_ms: float
    denoise_ms: float
    decode_ms: float
    encode_ms: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive frames, coded.

    Attributes:
        epoch: Counts rewinds and takeovers of the stream.
        index: Number of the chunk.
        first_frame: Number of its first frame.
        pts_s: When its first frame is shown, in seconds from the start of the stream.
        steps: Denoising steps used.
        prompt_rev: 0 for the first prompt, +1 with every one applied.
        data: ``m4s``: a fragment, with an init segment in front where one is needed, so
            that all ``data`` joined is a file that plays. Else the units joined.
        units: Sizes and kinds of what ``data`` joins; empty for ``m4s``.
    """

    epoch: int
    index: int
    first_frame: int
    num_frames: int
    pts_s: float
    duration_s: float
    steps: int
    prompt_rev: int
    data: bytes
    units: tuple[Unit, ...]
    timings: Timings

    @property
    def last_frame(self) -> int:
        """Number of the last frame."""
        return self.first_frame + self.num_frames - 1

    def access_units(self) -> Iterator[bytes]:
        """Yield the access units or images (``avcc``, ``jpeg``)."""
        at = 0
        for unit in self.units:
            yield self.data[at : at + unit.size]
            at += unit.size

    def split_init(self) -> tuple[bytes, bytes]:
        """Return ``(init segment or nothing, the rest)`` of an ``m4s`` chunk.

        Raises:
            ProtocolError: The data is no MP4.
        """
        at = 0
        while at < len(self.data):
            size, kind = int.from_bytes(self.data[at : at + 4], "big"), self.data[at + 4 : at + 8]
            if kind == b"moof":
                return self.data[:at], self.data[at:]
            if size < 8:
                break
            at += size
        raise ProtocolError(f"chunk {self.index} holds no fragment")


@dataclass(frozen=True, slots=True)
class ChangeQueued:
    """A prompt change was accepted."""

    event_id: str


@dataclass(frozen=True, slots=True)
class Applied:
    """The prompt change shows from this chunk on."""

    event_id: str
    chunk_index: int
    first_frame: int
    pts_s: float


@dataclass(frozen=True, slots=True)
class Superseded:
    """A later change took this one's place."""

    event_id: str


@dataclass(frozen=True, slots=True)
class Paused:
    """Generation stands still until play."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""


@dataclass(frozen=True, slots=True)
class Done:
    """The stream has ended; nothing follows."""

    reason: str
    chunks: int
    frames: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The server's ``error`` message; ``event_id`` names the change it answers, if one."""

    error: StreamError
    event_id: str | None


ServerEvent = (
    Queued | Started | Chunk | ChangeQueued | Applied | Superseded | Paused | Pong | Done | Refused
)


class Decoder:
    """Turns the messages of one connection into typed values."""

    def __init__(self) -> None:
        self._metadata: dict[str, Any] | None = None

    def text(self, raw: str) -> ServerEvent | None:
        """Take a text message; None where nothing is to be told (yet).

        Raises:
            ProtocolError: It is not JSON, lacks a field, or a binary message is due.
        """
        if self._metadata is not None:
            raise ProtocolError("a text message where the binary of a chunk was due")
        try:
            message = json.loads(raw)
            kind = message["type"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ProtocolError(f"not a message: {raw[:80]!r}") from error
        if kind == "video.chunk_metadata":
            self._metadata = message
            return None
        try:
            return _typed(kind, message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"{kind} without a usable {error}") from error

    def binary(self, data: bytes) -> Chunk:
        """Take a binary message.

        Raises:
            ProtocolError: No metadata came before it, or the sizes differ.
        """
        message, self._metadata = self._metadata, None
        if message is None:
            raise ProtocolError(f"{len(data)} binary bytes without metadata before them")
        try:
            chunk = _chunk(message, data)
            told = sum(unit.size for unit in chunk.units) if chunk.units else message["bytes"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ProtocolError(f"video.chunk_metadata without a usable {error}") from error
        if told != len(data):
            raise ProtocolError(f"chunk {chunk.index} has {len(data)} bytes; {told} were told")
        return chunk


def _chunk(message: Mapping[str, Any], data: bytes) -> Chunk:
    times = message.get("timings", {})
    names = ("queue_ms", "denoise_ms", "decode_ms", "encode_ms")
    return Chunk(
        epoch=message["epoch"],
        index=message["chunk_index"],
        first_frame=message["first_frame"],
        num_frames=message["num_frames"],
        pts_s=message["pts"],
        duration_s=message["duration"],
        steps=message["steps"],
        prompt_rev=message["prompt_rev"],
        data=data,
        units=tuple(Unit(u["size"], u["keyframe"]) for u in message.get("units") or ()),
        timings=Timings(*(times.get(name, 0.0) for name in names)),
    )


def _typed(kind: str, m: Mapping[str, Any]) -> ServerEvent | None:
    match kind:
        case "session.queued":
            return Queued(m["position"])
        case "video.start":
            return Started(m["session_id"], m["resume_token"], m["format"], _config(m["config"]))
        case "session.interaction.queued":
            return ChangeQueued(m["event_id"])
        case "session.interaction.applied":
            return Applied(m["event_id"], m["chunk_index"], m["first_frame"], m["pts"])
        case "session.interaction.superseded":
            return Superseded(m["event_id"])
        case "session.paused":
            return Paused()
        case "session.pong":
            return Pong()
        case "session.done":
            return Done(m["reason"], m["chunks"], m["frames"])
        case "error":
            retryable, fatal = bool(m.get("retryable")), bool(m.get("fatal"))
            error = StreamError(
                m["code"], m["message"], m.get("param"), retryable=retryable, fatal=fatal
            )
            return Refused(error, m.get("event_id"))
        case _:
            return None


def _config(m: Mapping[str, Any]) -> StreamConfig:
    try:
        init = base64.b64decode(m.get("init") or "", validate=True)
    except binascii.Error as error:
        raise ProtocolError("config.init is not base64") from error
    names = ("model", "width", "height", "fps", "seed", "chunk_frames", "codec", "mime")
    return StreamConfig(**{name: m[name] for name in names}, init=init)


def encode(kind: str, **fields: Any) -> str:
    """Return one client message; fields that are None are left out."""
    present = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({"type": kind, **present}, separators=(",", ":"))


def prompt_fields(prompt: Prompt) -> dict[str, Any]:
    """Return ``{"prompt": …}`` for a text and ``{"prompts": […]}`` for a blend."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    return {"prompts": [{"text": part.text, "weight": part.weight} for part in prompt]}
