"""What the routes answer of one job: its Video object, or why there is nothing to send."""

import asyncio
import os
from pathlib import Path
from typing import Any

from fastapi.responses import FileResponse, JSONResponse
from starlette.types import Receive, Scope, Send

from server.jobs.errors import Refusal, RequestRefused, not_found
from server.jobs.parts import JobParts
from server.jobs.record import JobRecord
from server.jobs.store import JobStore, number_of

POLL_AFTER_MS = 1000


async def find_job(store: JobStore, video_id: str) -> JobRecord:
    """Return the job of that id.

    Raises:
        RequestRefused: There is none.
    """
    job = None if number_of(video_id) is None else await store.get(video_id)
    if job is None:
        raise not_found(video_id)
    return job


async def not_here(parts: JobParts, video_id: str) -> RequestRefused:
    """Say why files that a record speaks of are not here."""
    if await parts.store.get(video_id) is None:
        return not_found(video_id)
    return RequestRefused(
        Refusal(
            f"Files of video {video_id} are not in this gateway's data folder, "
            f"{parts.data_dir}; gateways and workers must share one (--data-dir).",
            code="storage_failed",
            status=500,
            kind="server_error",
        )
    )


class VideoFile(FileResponse):
    """A file of a video; when it is deleted before it is sent, the video is not found."""

    def __init__(self, video_id: str, path: Path, media_type: str, **more: Any) -> None:
        super().__init__(path, media_type=media_type, **more)
        self._video_id = video_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            self.stat_result = await asyncio.to_thread(os.stat, self.path)
        except FileNotFoundError:
            await refusal_answer(not_found(self._video_id).refusal)(scope, receive, send)
            return
        self.set_stat_headers(self.stat_result)
        await super().__call__(scope, receive, send)


def refusal_answer(refusal: Refusal) -> JSONResponse:
    """Return a refusal in OpenAI's envelope."""
    return JSONResponse(refusal.envelope(), refusal.status, dict(refusal.headers))


def video_answer(job: JobRecord) -> JSONResponse:
    """Return the job as OpenAI's Video object, with the time after which to ask again."""
    return JSONResponse(job.to_video(), headers={"openai-poll-after-ms": str(POLL_AFTER_MS)})


def no_content(job: JobRecord) -> Refusal:
    """Say why a job has no finished video: not yet, or never."""
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
