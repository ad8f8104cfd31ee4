"""Opening a stream for a connection: a new one, or one that is resumed.

Both end in an ``Opened`` value or an error message; the stream's record and ticket are made here and
nowhere else. Knows the fabric, no sockets.
"""

import asyncio
import contextlib
import datetime
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from server.fabric import keys
from server.fabric.connection import FabricError, Word
from server.fabric.queue import WorkQueue
from server.fabric.record import (
    create_record,
    forget_session,
    read_record,
    swap_field,
    write_record,
)
from server.fabric.streams import send_control, send_notice
from server.gateway.context import Gateway
from server.live import LiveSpec, WireFormat, choose, choose_codec
from server.media.types import CodecName
from server.wire.messages_in import SessionResume, SessionStart
from server.wire.messages_out import ErrorMessage

WITHDRAWN_MS = 10_000
"""How long the traces of a stream that never began can still be read."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream this connection owns.

    Attributes:
        session_id: Its id.
        token: What a resume must show; valid once.
        connection: This connection's name in control messages.
        spec: What is generated.
        wire_format: How it is sent.
        codec: What this connection watches in; not the stream's own after a resume in a format
            that needs another one.
        ticket: Its entry in the work queue.
        resumed_after: The last chunk the client has; None for a new stream.
        attached_at: The media entry that announced this connection; older notices are history.
    """

    session_id: str
    token: str
    connection: str
    spec: LiveSpec
    wire_format: WireFormat
    codec: CodecName
    ticket: str
    resumed_after: int | None = None
    attached_at: str = "0-0"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def open_new(gateway: Gateway, start: SessionStart) -> Opened | ErrorMessage:
    """Check a start, make the record and queue the ticket."""
    cards = await gateway.cards()
    if not cards:
        return ErrorMessage(
            code="model_not_found",
            message="no worker has reported to this server yet; try again when one runs",
            param="model",
            retryable=True,
        )
    name = start.model if start.model is not None else next(iter(cards))
    card = cards.get(name)
    if card is None:
        return ErrorMessage(
            code="model_not_found",
            message=f"model {name[:80]}; served here: {', '.join(cards)}",
            param="model",
        )
    spec = await asyncio.to_thread(choose, start, card, gateway.draw_seed)
    if isinstance(spec, ErrorMessage):
        return spec
    redis = gateway.redis
    most = gateway.limits.queued_streams
    waiting = await WorkQueue(redis, spec.model, "live").depth()
    if waiting >= most:
        return ErrorMessage(
            code="capacity",
            message=f"{waiting} streams wait for {spec.model}; at most {most} may, try again later",
            retryable=True,
        )
    session_id = f"ses_{secrets.token_hex(12)}"
    token, connection = secrets.token_urlsafe(32), secrets.token_hex(8)
    now = int(datetime.datetime.now(datetime.UTC).timestamp())
    fields: dict[str, Word] = {
        "state": "queued",
        "model": spec.model,
        "spec": spec.to_text(),
        "format": start.format,
        "token": _digest(token),
        "created_at": now,
    }
    try:
        await create_record(redis, "live", session_id, fields)
        if spec.image is not None:
            await redis.do("SET", keys.image(session_id), spec.image)
        await redis.do("ZADD", keys.SESSIONS, now, session_id)
        # The worker drops a ticket whose client was never heard of, so this comes first.
        await send_control(redis, session_id, {"type": "attach", "conn": connection})
        ticket = await WorkQueue(redis, spec.model, "live").put(session_id)
        await write_record(redis, "live", session_id, {"ticket": ticket})
    except FabricError:
        # Nobody will ever know its id. A ticket without a record is dropped by who takes it.
        with contextlib.suppress(FabricError):
            await forget_session(redis, session_id, 0)
        raise
    return Opened(session_id, token, connection, spec, start.format, spec.codec, ticket)


async def open_again(gateway: Gateway, resume: SessionResume) -> Opened | ErrorMessage:
    """Check a resume's token, exchange it for a new one and take the stream over."""
    redis, session_id = gateway.redis, resume.session_id
    record = await read_record(redis, "live", session_id)
    if not record or record["state"] not in ("queued", "running"):
        return ErrorMessage(
            code="session_not_found",
            message=f"stream {session_id}; it never was or has ended, start a new one",
            param="session_id",
        )
    wrong = ErrorMessage(
        code="invalid_token",
        message="this resume_token; each is valid once, the newest video.start has the valid one",
        param="resume_token",
    )
    held = record["token"]
    if not hmac.compare_digest(held, _digest(resume.resume_token)):
        return wrong
    spec = LiveSpec.from_text(record["spec"])
    wire_format: WireFormat = resume.format or record["format"]  # type: ignore[assignment]
    codec = choose_codec(wire_format, spec.codec)
    if isinstance(codec, ErrorMessage):
        codec = choose_codec(wire_format, None)
    assert not isinstance(codec, ErrorMessage), "every format has a codec of its own"
    token, connection = secrets.token_urlsafe(32), secrets.token_hex(8)
    fields = {"token": _digest(token), "format": wire_format}
    if not await swap_field(redis, "live", session_id, "token", held, fields):
        return wrong
    at = await send_notice(redis, session_id, {"t": "attached", "conn": connection})
    await send_control(redis, session_id, {"type": "attach", "conn": connection})
    ticket, after = record.get("ticket", "0-1"), resume.after_chunk
    return Opened(session_id, token, connection, spec, wire_format, codec, ticket, after, at)


async def withdraw(gateway: Gateway, model: str, ticket: str, session_id: str) -> bool:
    """End a stream that no worker has taken yet; False when one has."""
    redis = gateway.redis
    if not await WorkQueue(redis, model, "live").withdraw(ticket):
        return False
    await write_record(redis, "live", session_id, {"state": "done", "reason": "stopped"})
    await send_notice(
        redis, session_id, {"t": "done", "reason": "stopped", "chunks": 0, "frames": 0}
    )
    await forget_session(redis, session_id, WITHDRAWN_MS)
    return True
