"""How a video job comes to be: new, under another prompt, or longer than an old one.

Stateless. Making only puts files in place and enqueues; workers do the rest.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from server.fabric.connection import FabricError
from server.jobs.answers import find_job, no_content, not_here, video_answer
from server.jobs.derive import extended, remixed, source_id
from server.jobs.errors import Refusal, RequestRefused, refuse
from server.jobs.forms import Upload, read_body
from server.jobs.images import read_start_image
from server.jobs.parse import parse_request
from server.jobs.parts import JobParts
from server.jobs.record import Segment
from server.jobs.request import JobRequest
from server.jobs.segments import START_IMAGE, JobFolder
from server.jobs.store import NotCreated

log = logging.getLogger(__name__)


class Making:
    """The routes that make a job."""

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
        source = await find_job(self._store, video_id)
        wanted = remixed(source, body, self._parts.limits)
        origin = JobFolder(self._parts.data_dir, source.id)

        def fill(folder: JobFolder) -> None:
            if wanted.has_image:
                folder.adopt(origin, [START_IMAGE])

        return await self._make(request, body, wanted, fill)

    async def extend(self, request: Request) -> Response:
        """Make a finished video longer; the result begins with the old one's very pictures."""
        body = await read_body(request, self._parts.limits.max_body_bytes)
        source = await find_job(self._store, source_id(body))
        if source.status != "completed":
            raise RequestRefused(no_content(source))
        wanted = extended(source, body, self._parts.limits)
        segments = await self._store.segments(source.id)
        origin = JobFolder(self._parts.data_dir, source.id)

        def fill(folder: JobFolder) -> None:
            names = {name for segment in segments for name in (segment.name, segment.init)}
            folder.adopt(origin, names | ({START_IMAGE} if wanted.has_image else set()))

        return await self._make(request, body, wanted, fill, source.fingerprint, segments)

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
            raise await not_here(self._parts, origin) from error
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
        return video_answer(made.job)


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


def _not_written(data_dir: Path, error: OSError) -> Refusal:
    return Refusal(
        f"The gateway could not write the video's files to its data folder, {data_dir}: "
        f"{error.strerror or type(error).__name__}.",
        code="storage_failed",
        status=500,
        kind="server_error",
    )


def _print_of(body: Mapping[str, Any]) -> str:
    """Return a digest of a request's fields, equal for a request sent again."""

    def plain(value: object) -> str:
        assert isinstance(value, Upload), value
        return hashlib.sha256(value.data).hexdigest()

    text = json.dumps(body, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()
