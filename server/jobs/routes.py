"""``/v1/videos``: OpenAI's video jobs over HTTP, with what a streaming generator can add.

Stateless: records are in Redis, files in the shared data folder, so any gateway answers
for any job. Creating only enqueues; workers do the rest. Every error has OpenAI's
envelope.
"""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute

from server.catalogue import ModelCard
from server.fabric.connection import FabricError
from server.jobs.derive import extended, remixed, source_id
from server.jobs.errors import Refusal, RequestRefused, not_found, refuse, shown
from server.jobs.forms import Upload, read_body
from server.jobs.images import read_start_image
from server.jobs.parse import parse_request
from server.jobs.playlist import event_playlist
from server.jobs.record import JobRecord, Segment
from server.jobs.request import JobLimits, JobRequest
from server.jobs.schema import CREATE_SCHEMA, EXTEND_SCHEMA, REMIX_SCHEMA
from server.jobs.segments import START_IMAGE, THUMBNAIL, JobFolder
from server.jobs.sse import job_events
from server.jobs.store import JobStore, NotCreated, number_of

log = logging.getLogger(__name__)

POLL_AFTER_MS = 1000
FIRST_SEGMENT_S = 10.0
"""How long a player's first request for the playlist is held until there is a segment."""
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class JobParts:
    """What the routes need.

    Attributes:
        store: Job records.
        cards: Returns the models on offer, the default first.
        data_dir: Where the folders of jobs are.
        draw_seed: Gives a seed to a request without one.
        stopping: Whether the gateway is shutting down, so that open event streams end.
    """

    store: JobStore
    cards: Callable[[], Awaitable[Sequence[ModelCard]]]
    data_dir: Path
    draw_seed: Callable[[], int]
    limits: JobLimits = field(default_factory=JobLimits)
    stopping: Callable[[], bool] = lambda: False


class _EnvelopeRoute(APIRoute):
    """Answers refusals in OpenAI's envelope, whatever the application around does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestRefused as refused:
                refusal = refused.refusal
            return JSONResponse(refusal.envelope(), refusal.status, dict(refusal.headers))

        return answer


def jobs_router(parts: JobParts) -> APIRouter:
    """Return the routes under ``/v1/videos``."""
    router = APIRouter(prefix="/v1/videos", tags=["videos"], route_class=_EnvelopeRoute)
    routes = _Routes(parts)
    add = router.add_api_route
    add("", routes.create, methods=["POST"], openapi_extra=_body(CREATE_SCHEMA))
    add("", routes.list, methods=["GET"])
    add("/extensions", routes.extend, methods=["POST"], openapi_extra=_body(EXTEND_SCHEMA))
    for unbuilt in ("edits", "characters"):
        add(f"/{unbuilt}", routes.not_supported, methods=["POST"], include_in_schema=False)
    add("/{video_id}", routes.retrieve, methods=["GET"])
    add("/{video_id}", routes.delete, methods=["DELETE"])
    add("/{video_id}/remix", routes.remix, methods=["POST"], openapi_extra=_body(REMIX_SCHEMA))
    add("/{video_id}/cancel", routes.cancel, methods=["POST"])
    add("/{video_id}/events", routes.events, methods=["GET"])
    for path, answer in (
        ("/{video_id}/content", routes.content),
        ("/{video_id}/live.m3u8", routes.playlist),
        ("/{video_id}/segments/{name}", routes.segment),
    ):
        add(path, answer, methods=["GET"])
        # Apart, since one operation of two methods has one id in /docs and makes it warn.
        add(path, answer, methods=["HEAD"], include_in_schema=False)
    return router


def _body(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that may be JSON or a form."""
    kinds = ("application/json", "multipart/form-data")
    return {"requestBody": {"content": {kind: {"schema": schema} for kind in kinds}}}


class _Routes:
    def __init__(self, parts: JobParts) -> None:
        self._parts = parts
        self._store = parts.store

    async def create(self, request: Request) -> Response:
        """Create a video job from JSON or a multipart form; it starts when a worker has room."""
        body = await read_body(request, self._parts.limits.max_body_bytes)
        parsed = await asyncio.to_thread(
            parse_request,
            body,
            await self._parts.cards(),
            self._parts.limits,
            self._parts.draw_seed,
            read_start_image,
        )
        image = parsed.image

        def fill(folder: JobFolder) -> None:
            if image is not None:
                folder.put(START_IMAGE, image)

        return await self._make(request, body, parsed.request, fill)

    async def remix(self, video_id: str, request: Request) -> Response:
        """Make the same video under another prompt: same seed, size and length."""
        body = await read_body(request, self._parts.limits.max_body_bytes)
        source = await self._job(video_id)
        wanted = remixed(source, body, self._parts.limits)
        origin = JobFolder(self._parts.data_dir, source.id)

        def fill(folder: JobFolder) -> None:
            if wanted.has_image:
                folder.adopt(origin, [START_IMAGE])

        return await self._make(request, body, wanted, fill)

    async def extend(self, request: Request) -> Response:
        """Make a finished video longer; the result begins with the old one's very pictures."""
        body = await read_body(request, self._parts.limits.max_body_bytes)
        source = await self._job(source_id(body))
        if source.status != "completed":
            raise RequestRefused(_no_content(source))
        wanted = extended(source, body, self._parts.limits)
        segments = await self._store.segments(source.id)
        origin = JobFolder(self._parts.data_dir, source.id)

        def fill(folder: JobFolder) -> None:
            names = {name for segment in segments for name in (segment.name, segment.init)}
            folder.adopt(origin, names | ({START_IMAGE} if wanted.has_image else set()))

        return await self._make(request, body, wanted, fill, source.fingerprint, segments)

    async def not_supported(self, request: Request) -> Response:
        """Say that this part of the OpenAI API is not built."""
        raise refuse(
            f"{request.url.path} is not built; POST /v1/videos, /v1/videos/extensions and "
            "/v1/videos/{id}/remix are.",
            code="not_supported",
        )

    async def _make(
        self,
        request: Request,
        body: Mapping[str, Any],
        wanted: JobRequest,
        fill: Callable[[JobFolder], None],
        fingerprint: str = "",
        segments: Sequence[Segment] = (),
    ) -> Response:
        """Put a job's files in place, then make it, so that no worker sees it without them."""
        once_key = request.headers.get("idempotency-key")
        if once_key is not None and not 1 <= len(once_key) <= 255:
            raise refuse(f"Idempotency-Key has {len(once_key)} characters; allowed are 1 to 255.")
        job_id = await self._store.reserve()
        folder = JobFolder(self._parts.data_dir, job_id)
        try:
            await asyncio.to_thread(fill, folder)
        except OSError as error:
            await asyncio.to_thread(folder.remove)
            log.exception("%s: its files cannot be put in place", job_id)
            origin = wanted.extends or wanted.remixed_from
            if origin is None or not isinstance(error, FileNotFoundError):
                raise RequestRefused(_not_written(self._parts.data_dir, error)) from error
            raise await self._not_here(origin) from error
        except BaseException:
            await asyncio.to_thread(folder.remove)
            raise
        try:
            made = await self._store.create(
                job_id,
                wanted,
                max_queued=self._parts.limits.max_queued,
                once_key=once_key,
                once_print=_print_of({"path": request.url.path, **body}),
                fingerprint=fingerprint,
                segments=segments,
            )
        except FabricError:
            # A job may be there whose confirmation was lost; it needs its files.
            if await self._store.get(job_id) is None:
                await asyncio.to_thread(folder.remove)
            raise
        if isinstance(made, NotCreated) or made.repeated:
            await asyncio.to_thread(folder.remove)
        if isinstance(made, NotCreated):
            raise RequestRefused(_NOT_CREATED[made.reason])
        return _video(made.job)

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
        return _video(await self._job(video_id))

    async def delete(self, video_id: str) -> Response:
        """Delete a job with its files; work on it stops."""
        if number_of(video_id) is None or not await self._store.delete(video_id):
            raise not_found(video_id)
        await asyncio.to_thread(JobFolder(self._parts.data_dir, video_id).remove)
        return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})

    async def cancel(self, video_id: str) -> Response:
        """Stop work on a job and keep its record; one that has ended stays as it is."""
        await self._job(video_id)
        job = await self._store.cancel(video_id)
        if job is None:
            raise not_found(video_id)
        return _video(job)

    async def content(self, video_id: str, request: Request) -> Response:
        """Return the finished file (``variant=video``) or its first picture (``thumbnail``)."""
        variant = request.query_params.get("variant", "video")
        job = await self._job(video_id)
        folder = JobFolder(self._parts.data_dir, video_id)
        if variant not in ("video", "thumbnail"):
            raise refuse(
                f"variant is {shown(variant)}; made here are video and thumbnail.",
                param="variant",
                code="not_supported" if variant == "spritesheet" else "invalid_value",
            )
        if job.status != "completed" or job.result is None:
            raise RequestRefused(_no_content(job))
        if variant == "thumbnail":
            path, media_type, kind = folder.path / THUMBNAIL, "image/jpeg", "jpg"
        else:
            path, media_type, kind = folder.path / job.result, "video/mp4", "mp4"
        if not path.is_file():
            raise await self._not_here(video_id)
        return FileResponse(path, media_type=media_type, filename=f"{video_id}.{kind}")

    async def events(self, video_id: str, request: Request) -> Response:
        """Stream what happens to a job as server-sent events; ``Last-Event-ID`` resumes."""
        job = await self._job(video_id)
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
            job = await self._job(video_id)
            segments = await self._store.segments(video_id)
            if segments or job.ended or loop.time() > until or self._parts.stopping():
                break
            await asyncio.sleep(_LOOK_S)
        if not segments:
            raise RequestRefused(_no_content(job))
        text = event_playlist(segments, job.request.fps, ended=job.ended, query=request.url.query)
        return Response(
            text, media_type="application/vnd.apple.mpegurl", headers={"Cache-Control": "no-cache"}
        )

    async def segment(self, video_id: str, name: str) -> Response:
        """Return one immutable file that the playlist names."""
        await self._job(video_id)
        path = JobFolder(self._parts.data_dir, video_id).served(name)
        if path is None or not path.is_file():
            committed = await self._store.segments(video_id)
            if any(name in (segment.name, segment.init) for segment in committed):
                raise await self._not_here(video_id)
            raise RequestRefused(_no_segment(name))
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return FileResponse(path, media_type="video/mp4", headers=headers)

    async def _not_here(self, video_id: str) -> RequestRefused:
        """Say why files that a record speaks of are not here."""
        if await self._store.get(video_id) is None:
            return not_found(video_id)
        return RequestRefused(
            Refusal(
                f"Files of video {video_id} are not in this gateway's data folder, "
                f"{self._parts.data_dir}; gateways and workers must share one (--data-dir).",
                code="storage_failed",
                status=500,
                kind="server_error",
            )
        )

    async def _job(self, video_id: str) -> JobRecord:
        job = None if number_of(video_id) is None else await self._store.get(video_id)
        if job is None:
            raise not_found(video_id)
        return job


_NOT_CREATED = {
    "full": Refusal(
        "Too many videos are waiting; try again when some are done.",
        code="queue_full",
        status=429,
        kind="rate_limit_error",
        headers={"Retry-After": "10"},
    ),
    "key_reused": Refusal(
        "This Idempotency-Key was used for another request; use a new key for a new request.",
        code="idempotency_key_reused",
        status=422,
    ),
}


def _video(job: JobRecord) -> JSONResponse:
    return JSONResponse(job.to_video(), headers={"openai-poll-after-ms": str(POLL_AFTER_MS)})


def _not_written(data_dir: Path, error: OSError) -> Refusal:
    return Refusal(
        f"The gateway could not write the video's files to its data folder, {data_dir}: "
        f"{error.strerror or type(error).__name__}.",
        code="storage_failed",
        status=500,
        kind="server_error",
    )


def _no_segment(name: str) -> Refusal:
    return Refusal(f"No file {shown(name)} for this video.", code="not_found", status=404)


def _no_content(job: JobRecord) -> Refusal:
    if not job.ended:
        return Refusal(
            f"The video is {job.status}, {job.progress} % done; its content is there once it has "
            "completed. Poll it, or watch live.m3u8 meanwhile.",
            code="video_not_ready",
            param="video_id",
            status=409,
            headers={"Retry-After": "2"},
        )
    why = f": {job.error.message}" if job.error else ""
    return Refusal(
        f"The video has {job.status} and has no content{why}",
        code="video_has_no_content",
        param="video_id",
        status=404,
    )


def _print_of(body: Mapping[str, Any]) -> str:
    """Return a digest of a request's fields, equal for a request sent again."""

    def plain(value: object) -> str:
        assert isinstance(value, Upload), value
        return hashlib.sha256(value.data).hexdigest()

    text = json.dumps(body, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()
