"""Which message is allowed when: the state of one connection.

``Conversation`` is told what comes in and what goes out and answers with the parsed message or
an error. It knows no sockets and no clock of its own: ``now`` is an argument.
"""

from enum import Enum

from server.wire.limits import Limits
from server.wire.messages_in import (
    ClientMessage,
    PlaybackAck,
    SessionFork,
    SessionResume,
    SessionRewind,
    SessionStart,
)
from server.wire.messages_out import ErrorMessage, ServerMessage
from server.wire.parse import parse


class Phase(Enum):
    """Where the conversation stands."""

    NEW = "before session.start"
    WAITING = "waiting for video.start"
    STREAMING = "streaming"
    ENDED = "after session.done"


_ALLOWED: dict[Phase, tuple[str, ...]] = {
    Phase.NEW: ("session.start", "session.resume", "session.ping"),
    Phase.WAITING: (
        "session.interaction",
        "session.pause",
        "session.play",
        "session.stop",
        "session.ping",
        "session.keyframe",
        "session.fork",
        "session.rewind",
    ),
    Phase.STREAMING: (
        "session.interaction",
        "playback.ack",
        "session.pause",
        "session.play",
        "session.stop",
        "session.ping",
        "session.keyframe",
        "session.fork",
        "session.rewind",
    ),
    Phase.ENDED: (),
}
_NONE_KNOWN = -2
"""Below every chunk a client can name as the last one it has."""


class Conversation:
    """The sans-I/O state machine of one WebSocket connection."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.phase = Phase.NEW
        self._limits = limits
        self._allowance = float(limits.messages_burst)
        self._seen_at = now
        self._sent_frame = self._sent_chunk = -1
        self._known_chunk = _NONE_KNOWN

    def receive(self, raw: str | bytes, now: float) -> ClientMessage | ErrorMessage:
        """Take one message from the client.

        Returns:
            The message when it is well formed and allowed now, else the error to send back.
        """
        if not self._within_rate(now):
            return ErrorMessage(
                code="rate_limited",
                message=f"more than {self._limits.messages_per_s:g} messages a second; this one was ignored, send fewer",
                retryable=True,
            )
        message = parse(raw, self._limits)
        if isinstance(message, ErrorMessage):
            return message
        allowed = _ALLOWED[self.phase]
        if message.type not in allowed:
            return ErrorMessage(
                code="wrong_order",
                message=f"{message.type} {self.phase.value}; allowed now: {', '.join(allowed) or 'nothing'}",
                param="type",
            )
        if isinstance(message, SessionFork | SessionRewind):
            return ErrorMessage(
                code="not_supported",
                message=f"{message.type}; this server has no fork and no rewind yet",
                event_id=message.event_id,
                param="type",
            )
        if isinstance(message, PlaybackAck) and self._ahead(message.frame):
            return ErrorMessage(
                code="invalid_value",
                message=f"frame {message.frame} was not sent; the last one sent is {self._sent_frame}; acknowledge a frame when it is shown",
                param="frame",
            )
        if isinstance(message, SessionResume):
            self._known_chunk = message.after_chunk
        elif isinstance(message, SessionStart):
            self._known_chunk = _NONE_KNOWN
        return message

    def opened(self) -> None:
        """Note that a start or resume was accepted."""
        assert self.phase is Phase.NEW, self.phase
        self.phase = Phase.WAITING

    def sent(self, message: ServerMessage) -> None:
        """Note what went out."""
        if message.type == "video.start":
            self.phase = Phase.STREAMING
        elif message.type == "video.chunk_metadata":
            last = message.first_frame + message.num_frames - 1
            self._sent_frame = max(self._sent_frame, last)
            self._sent_chunk = max(self._sent_chunk, message.chunk_index)
        elif message.type == "session.done" or (message.type == "error" and message.fatal):
            self.phase = Phase.ENDED

    def _ahead(self, frame: int) -> bool:
        """Return whether a frame was never sent.

        After a resume that is known as soon as a chunk came that the client did not have.
        """
        return frame > self._sent_frame and self._sent_chunk > self._known_chunk

    def _within_rate(self, now: float) -> bool:
        """Spend one message of the token bucket when there is one."""
        grown = self._allowance + max(0.0, now - self._seen_at) * self._limits.messages_per_s
        self._allowance = min(float(self._limits.messages_burst), grown)
        self._seen_at = now
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True
