"""``/v1/videos``: OpenAI's video jobs over HTTP, with what a streaming generator can add.

Stateless: records are in Redis, files in the shared data folder, so any gateway answers
for any job. ``making`` is how jobs come to be; here they are read, listed and deleted and
their files sent. Every error has OpenAI's envelope.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute

from server.jobs.answers import (
    VideoFile,
    find_job,
    no_content,
    not_here,
    refusal_answer,
    video_answer,
)
from server.jobs.errors import Refusal, RequestRefused, not_found, refuse, shown
from server.jobs.making import Making
from server.jobs.parts import JobParts
from server.jobs.playlist import event_playlist
from server.jobs.schema import CREATE_SCHEMA, EXTEND_SCHEMA, REMIX_SCHEMA
from server.jobs.segments import THUMBNAIL, JobFolder
from server.jobs.sse import job_events
from server.jobs.store import number_of

FIRST_SEGMENT_S = 10.0
"""How long a player's first request for the playlist is held until there is a segment."""
_LOOK_S = 0.2


class _EnvelopeRoute(APIRoute):
    """Answers refusals in OpenAI's envelope, whatever the application around does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestRefused as refused:
                return refusal_answer(refused.refusal)

        return answer


def jobs_router(parts: JobParts) -> APIRouter:
    """Return the routes under ``/v1/videos``."""
    router = APIRouter(prefix="/v1/videos", tags=["videos"], route_class=_EnvelopeRoute)
    making, routes = Making(parts), _Routes(parts)
    add = router.add_api_route
    add("", making.create, methods=["POST"], openapi_extra=_body(CREATE_SCHEMA))
    add("", routes.list, methods=["GET"])
    add("/extensions", making.extend, methods=["POST"], openapi_extra=_body(EXTEND_SCHEMA))
    for unbuilt in ("edits", "characters"):
        add(f"/{unbuilt}", routes.not_supported, methods=["POST"], include_in_schema=False)
    add("/{video_id}", routes.retrieve, methods=["GET"])
    add("/{video_id}", routes.delete, methods=["DELETE"])
    add("/{video_id}/remix", making.remix, methods=["POST"], openapi_extra=_body(REMIX_SCHEMA))
    add("/{video_id}/cancel", routes.cancel, methods=["POST"])
    add("/{video_id}/events", routes.events, methods=["GET"])
    add("/{video_id}/content", routes.content, methods=["GET"])
    add("/{video_id}/live.m3u8", routes.playlist, methods=["GET"])
    add("/{video_id}/segments/{name}", routes.segment, methods=["GET"])
    return router


def _body(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that may be JSON or a form."""
    kinds = ("application/json", "multipart/form-data")
    return {"requestBody": {"content": {kind: {"schema": schema} for kind in kinds}}}


class _Routes:
    def __init__(self, parts: JobParts) -> None:
        self._parts = parts
        self._store = parts.store

    async def not_supported(self, request: Request) -> Response:
        """Say that this part of the OpenAI API is not built."""
        raise refuse(
            f"{request.url.path} is not built; POST /v1/videos, /v1/videos/extensions and "
            "/v1/videos/{id}/remix are.",
            code="not_supported",
        )

    async def list(self, request: Request) -> Response:
        """List jobs, newest first unless ``order=asc``; ``after`` and ``limit`` page."""
        query = request.query_params
        order, limit, after = (
            query.get("order", "desc"),
            query.get("limit", "20"),
            query.get("after"),
        )
        if order not in ("asc", "desc"):
            raise refuse(f"order is {shown(order)}; allowed are asc and desc.", param="order")
        if not re.fullmatch(r"\d{1,3}", limit) or not 1 <= int(limit) <= 100:
            raise refuse(f"limit is {shown(limit)}; allowed are 1 to 100.", param="limit")
        if after is not None and number_of(after) is None:
            raise refuse(f"after is {shown(after)}; the id of a video is needed.", param="after")
        page = await self._store.page(after=after, limit=int(limit), newest_first=order == "desc")
        videos = [job.to_video() for job in page.jobs]
        return JSONResponse(
            {
                "object": "list",
                "data": videos,
                "has_more": page.has_more,
                "first_id": videos[0]["id"] if videos else None,
                "last_id": page.last,
            }
        )

    async def retrieve(self, video_id: str) -> Response:
        """Return a job as it stands."""
        return video_answer(await find_job(self._store, video_id))

    async def delete(self, video_id: str) -> Response:
        """Delete a job with its files; work on it stops."""
        if number_of(video_id) is None or not await self._store.delete(video_id):
            raise not_found(video_id)
        await asyncio.to_thread(JobFolder(self._parts.data_dir, video_id).remove)
        return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})

    async def cancel(self, video_id: str) -> Response:
        """Stop work on a job and keep its record; one that has ended stays as it is."""
        await find_job(self._store, video_id)
        job = await self._store.cancel(video_id)
        if job is None:
            raise not_found(video_id)
        return video_answer(job)

    async def content(self, video_id: str, request: Request) -> Response:
        """Return the finished file (``variant=video``) or its first picture (``thumbnail``)."""
        variant = request.query_params.get("variant", "video")
        job = await find_job(self._store, video_id)
        folder = JobFolder(self._parts.data_dir, video_id)
        if variant not in ("video", "thumbnail"):
            raise refuse(
                f"variant is {shown(variant)}; made here are video and thumbnail.",
                param="variant",
                code="not_supported" if variant == "spritesheet" else "invalid_value",
            )
        if job.status != "completed" or job.result is None:
            raise RequestRefused(no_content(job))
        if variant == "thumbnail":
            path, media_type, kind = folder.path / THUMBNAIL, "image/jpeg", "jpg"
        else:
            path, media_type, kind = folder.path / job.result, "video/mp4", "mp4"
        if not path.is_file():
            raise await not_here(self._parts, video_id)
        return VideoFile(video_id, path, media_type, filename=f"{video_id}.{kind}")

    async def events(self, video_id: str, request: Request) -> Response:
        """Stream what happens to a job as server-sent events; ``Last-Event-ID`` resumes."""
        job = await find_job(self._store, video_id)
        after = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
        if after is not None and not re.fullmatch(r"\d{1,15}", after):
            raise refuse(f"Last-Event-ID is {shown(after)}; a sequence number is needed.")
        return StreamingResponse(
            job_events(
                self._store, job, None if after is None else int(after), self._parts.stopping
            ),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def playlist(self, video_id: str, request: Request) -> Response:
        """Return the HLS playlist of what is generated so far."""
        loop = asyncio.get_running_loop()
        until = loop.time() + FIRST_SEGMENT_S
        while True:
            # The job is read first: segments read after it are at least as new.
            job = await find_job(self._store, video_id)
            segments = await self._store.segments(video_id)
            if segments or job.ended or loop.time() > until or self._parts.stopping():
                break
            await asyncio.sleep(_LOOK_S)
        if not segments:
            raise RequestRefused(no_content(job))
        text = event_playlist(segments, job.request.fps, ended=job.ended, query=request.url.query)
        return Response(
            text, media_type="application/vnd.apple.mpegurl", headers={"Cache-Control": "no-cache"}
        )

    async def segment(self, video_id: str, name: str) -> Response:
        """Return one immutable file that the playlist names."""
        await find_job(self._store, video_id)
        path = JobFolder(self._parts.data_dir, video_id).served(name)
        if path is None or not path.is_file():
            committed = await self._store.segments(video_id)
            if any(name in (segment.name, segment.init) for segment in committed):
                raise await not_here(self._parts, video_id)
            raise RequestRefused(_no_segment(name))
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return VideoFile(video_id, path, "video/mp4", headers=headers)


def _no_segment(name: str) -> Refusal:
    return Refusal(f"No file {shown(name)} for this video.", code="not_found", status=404)
