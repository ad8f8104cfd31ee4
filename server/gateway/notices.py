"""What a viewer is told about a notice in the media stream. Pure."""

from collections.abc import Mapping
from typing import Any

from server.wire.messages_out import (
    ErrorMessage,
    InteractionSuperseded,
    ServerMessage,
    SessionDone,
    SessionPaused,
)

RETRYABLE = ("worker_lost", "capacity")


def told_by(notice: Mapping[str, Any]) -> ServerMessage | None:
    """Return the message for one notice; None for those that are not for viewers."""
    match notice["t"]:
        case "superseded":
            return InteractionSuperseded(event_id=notice["event_id"])
        case "rejected":
            return ErrorMessage(
                code="interaction_failed", message=notice["message"], event_id=notice["event_id"]
            )
        case "paused":
            return SessionPaused()
        case "error":
            # Not fatal: the connection is over with session.done, which follows where it must.
            return ErrorMessage(
                code=notice["code"],
                message=notice["message"],
                param=notice.get("param"),
                retryable=notice["code"] in RETRYABLE,
            )
        case "done":
            return SessionDone(
                reason=notice["reason"], chunks=notice["chunks"], frames=notice["frames"]
            )
    return None
