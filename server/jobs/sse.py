"""Server-sent events of a job, resumable by ``Last-Event-ID``.

Each event is ``id: <sequence>``, ``event: video.progress`` (or queued, completed,
failed, cancelled, deleted) and a JSON object with the video as it was then. After the
last one the stream ends. Knows no HTTP.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from server.jobs.record import JobEvent, JobRecord
from server.jobs.store import JobStore

HEARTBEAT_S = 15.0
LOOK_MS = 1000
"""How long one read waits before the record itself is looked at again."""


async def job_events(
    store: JobStore, job: JobRecord, after: int | None, stopping: Callable[[], bool]
) -> AsyncIterator[str]:
    """Yield the text of events.

    Args:
        store: Job records.
        job: As just read.
        after: Sequence number the client has; None begins with the present state.
        stopping: Whether the gateway is shutting down; the client then connects again.
    """
    if after is None:
        # Whoever joins late wants to know how far it is, not how it got there.
        kind = f"video.{job.status}" if job.ended or job.status == "queued" else "video.progress"
        yield _event(JobEvent(job.events, kind, job.status, job.frames_done), job)
        if job.ended:
            return
        after = job.events
    silent_s = 0.0
    while not stopping():
        events = await store.events(job.id, after, LOOK_MS)
        for event in events:
            after = event.sequence
            if event.status in ("completed", "failed", "cancelled"):
                break
            yield _event(event, job)
        silent_s = 0.0 if events else silent_s + LOOK_MS / 1000
        # A job can end without an event: deleted, or given up after its workers died.
        newest = await store.get(job.id)
        if newest is None:
            gone = {"id": job.id, "object": "video.deleted", "deleted": True}
            yield _text(after + 1, "video.deleted", {"video": gone})
            return
        if newest.ended:
            number = max(after, newest.events)
            last = JobEvent(number, f"video.{newest.status}", newest.status, newest.frames_done)
            yield _event(last, newest)
            return
        if silent_s >= HEARTBEAT_S:
            silent_s = 0.0
            yield ": waiting\n\n"


def _event(event: JobEvent, job: JobRecord) -> str:
    body = {"video": job.to_video(event), "frames_done": event.frames_done}
    return _text(event.sequence, event.kind, body)


def _text(sequence: int, kind: str, body: Mapping[str, Any]) -> str:
    data = json.dumps({"type": kind, "sequence_number": sequence, **body}, separators=(",", ":"))
    return f"id: {sequence}\nevent: {kind}\ndata: {data}\n\n"
