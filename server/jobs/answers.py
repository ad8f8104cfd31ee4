"""What the routes answer of one job: its Video object, or why there is nothing to send."""

from fastapi.responses import JSONResponse

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
