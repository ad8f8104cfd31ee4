"""REST over live streams: list, look, stop, and watch one as an MP4 that never ends.

Spectators read the same media stream as the owner and give no credit. A spectator of a stream whose
owner watches in another codec asks the worker for H.264 beside it for as long as it watches.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from server.entries import ChunkEntry
from server.fabric import keys
from server.fabric.record import read_record
from server.fabric.streams import send_control
from server.gateway.context import Gateway
from server.gateway.envelope import RestError
from server.gateway.opening import withdraw
from server.gateway.reader import MediaReader, Notice
from server.gateway.wrap import Wrapper
from server.live import LiveSpec

log = logging.getLogger(__name__)

WATCH_BEAT_S = 1.0
FIRST_CHUNK_S = 20.0
"""How long a spectator waits for the first chunk it can show."""
STOP_S = 3.0


def _shown(record: dict[str, str]) -> dict[str, Any]:
    """Return a stream as clients see it: nothing that opens it."""
    spec = LiveSpec.from_text(record["spec"])
    return {
        "id": record["id"],
        "object": "stream",
        "status": record["state"],
        "reason": record.get("reason"),
        "model": spec.model,
        "created_at": int(record["created_at"]),
        "width": spec.width,
        "height": spec.height,
        "fps": spec.fps,
        "seed": spec.seed,
        "pacing": spec.pacing,
        "codec": spec.codec,
        "chunks": int(record.get("next_chunk", 0)),
        "frames": int(record.get("next_frame", 0)),
        "worker": record.get("worker"),
    }


def _listed(record: dict[str, str]) -> list[dict[str, Any]]:
    """Return a stream as a list shows it; none where another release wrote its record."""
    try:
        return [_shown(record)]
    except Exception:
        log.exception("stream %s cannot be read and is not listed", record.get("id"))
        return []


async def _found(gateway: Gateway, session_id: str) -> dict[str, str]:
    record = await read_record(gateway.redis, "live", session_id)
    if not record:
        raise RestError(
            404, "not_found", f"stream {session_id[:64]}; GET /v1/streams lists what there is", "id"
        )
    return record


async def _stop(gateway: Gateway, record: dict[str, str]) -> bool:
    """End a stream; False when its worker has not confirmed it in time."""
    session_id = record["id"]
    if record["state"] in ("done", "dead"):
        return True
    ticket = record.get("ticket", "0-1")
    if await withdraw(gateway, record["model"], ticket, session_id):
        return True
    await send_control(gateway.redis, session_id, {"type": "stop", "reason": "deleted"})
    deadline = gateway.clock() + STOP_S
    while gateway.clock() < deadline:
        state = await gateway.redis.do("HGET", keys.record("live", session_id), "state")
        if state in (None, b"done", b"dead"):
            return True
        await asyncio.sleep(0.05)
    return False


async def _mp4(
    gateway: Gateway, session_id: str, reader: MediaReader, spec: LiveSpec, request: Request
) -> AsyncIterator[bytes]:
    """Yield one fMP4 stream that begins at time 0 with the viewer's first key chunk."""
    wrapper: Wrapper | None = None
    deadline = gateway.clock() + FIRST_CHUNK_S
    beat_at = 0.0
    while not gateway.draining.is_set() and not await request.is_disconnected():
        now = gateway.clock()
        if spec.codec != "h264" and now >= beat_at:
            beat_at = now + WATCH_BEAT_S
            await send_control(gateway.redis, session_id, {"type": "codec", "codec": "h264"})
        if wrapper is None and now > deadline:
            return
        for item in await reader.read(500):
            if isinstance(item, ChunkEntry):
                if wrapper is None:
                    size = (spec.width, spec.height)
                    wrapper = Wrapper("m4s", "h264", size, spec.fps, item.first_frame)
                yield wrapper.wrap(item)[1]
            elif isinstance(item, Notice) and item.kind == "done":
                return


def router(gateway: Gateway) -> APIRouter:
    """Return the routes over live streams."""
    routes = APIRouter(tags=["streams"])

    @routes.get("/v1/streams")
    async def list_streams() -> dict[str, Any]:
        """List live streams, oldest first."""
        redis = gateway.redis
        found = []
        for name in await redis.do("ZRANGE", keys.SESSIONS, 0, -1):
            record = await read_record(redis, "live", name.decode())
            if record:
                found += _listed(record)
            else:
                await redis.do("ZREM", keys.SESSIONS, name)
        return {"object": "list", "data": found}

    @routes.get("/v1/streams/{session_id}")
    async def get_stream(session_id: str) -> dict[str, Any]:
        """Return one stream; an ended one is known for a minute."""
        return _shown(await _found(gateway, session_id))

    @routes.delete("/v1/streams/{session_id}")
    async def stop_stream(session_id: str) -> Response:
        """Stop a stream; its viewers get ``session.done``."""
        stopped = await _stop(gateway, await _found(gateway, session_id))
        body = {"id": session_id, "object": "stream.deleted", "deleted": stopped}
        return JSONResponse(body, status_code=200 if stopped else 202)

    @routes.get("/v1/streams/{session_id}/live.mp4")
    async def watch_stream(session_id: str, request: Request) -> Response:
        """Watch a stream as fragmented MP4, from its newest key chunk on."""
        record = await _found(gateway, session_id)
        if record["state"] not in ("queued", "running"):
            raise RestError(404, "session_not_found", f"stream {session_id} has ended", "id")
        reader = MediaReader(gateway.redis, session_id, "h264")
        await reader.seek(None)
        spec = LiveSpec.from_text(record["spec"])
        body = _mp4(gateway, session_id, reader, spec, request)
        return StreamingResponse(
            body, media_type="video/mp4", headers={"Cache-Control": "no-store"}
        )

    return routes
