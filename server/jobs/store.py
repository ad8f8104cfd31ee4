"""Durable job records in Redis: who may change what, and in which order.

queued -> in_progress -> completed | failed | cancelled. Gateways create, cancel and
delete; the worker that holds the claim does the rest. Every change is one Lua script:
it compares the claim's epoch, so a worker that was only slow changes nothing, and it
writes the record, the event and the ticket together or not at all.

The list of committed segments lives here too and is the only authority on what exists:
a file in the job's folder that the list does not name was never committed.
"""

import json
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from server.fabric.claim import Claim
from server.fabric.connection import Connection, FabricError, Script, Word
from server.fabric.keys import GROUP
from server.fabric.keys import record as record_key
from server.fabric.queue import WorkQueue
from server.fabric.record import read_record
from server.jobs import keys, scripts
from server.jobs.record import JobError, JobEvent, JobRecord, Segment, read_job, status_of
from server.jobs.request import JobRequest

log = logging.getLogger(__name__)

ONCE_S = 86_400
"""How long an idempotency key is remembered."""

WallClock = Callable[[], float]
"""Seconds since 1970; only for the times that clients see."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the list of jobs.

    Attributes:
        jobs: Those that could be read.
        last: The last one looked at, whether it could be read or not; None on an empty page.
        has_more: Whether there are more behind it.
    """

    jobs: tuple[JobRecord, ...]
    last: str | None
    has_more: bool


@dataclass(frozen=True, slots=True)
class Created:
    """The job exists; ``repeated`` when an earlier request with the same key had made it."""

    job: JobRecord
    repeated: bool


@dataclass(frozen=True, slots=True)
class NotCreated:
    """No job was made.

    ``full``: too many jobs wait. ``key_reused``: the key belongs to another request.
    """

    reason: Literal["full", "key_reused"]


def new_job_id(number: int) -> str:
    """Return an id that sorts by creation and cannot be guessed from another."""
    return f"video_{number:010x}{secrets.token_hex(8)}"


def number_of(job_id: str) -> int | None:
    """Return the number inside an id, also of a deleted job; None when it is no job id."""
    match = re.fullmatch(r"video_([0-9a-f]{10})[0-9a-f]{16}", job_id)
    return int(match[1], 16) if match else None


class JobStore:
    """Job records in one Redis."""

    def __init__(
        self,
        redis: Connection,
        clock: WallClock,
        on_ended: Callable[[str], None] = lambda status: None,
        keep_s: float | None = None,
    ) -> None:
        """Use a Redis.

        Args:
            redis: Holds the records.
            clock: For the times that clients see.
            on_ended: Told the status of every job that is ended through here.
            keep_s: How long ended jobs are kept; None is for ever.
        """
        self._redis = redis
        self._clock = clock
        self._on_ended = on_ended
        self._keep_s = keep_s

    async def reserve(self) -> str:
        """Return a fresh job id, so that files can be put in place before the job exists."""
        return new_job_id(int(await self._redis.do("INCR", keys.NUMBER)))

    async def create(
        self,
        job_id: str,
        request: JobRequest,
        *,
        max_queued: int,
        once_key: str | None = None,
        once_print: str = "",
        fingerprint: str = "",
        segments: Sequence[Segment] = (),
    ) -> Created | NotCreated:
        """Make a job and its ticket, both or neither.

        Args:
            job_id: From ``reserve``.
            request: What to generate.
            max_queued: Most tickets the model's queue may hold.
            once_key: Idempotency key; a second request with it gets the first one's job.
            once_print: Identifies the request's contents; another one under the key is refused.
            fingerprint: What made ``segments``.
            segments: Committed from the start; their files are in place.
        """
        queue = WorkQueue(self._redis, request.model, "job")
        await queue.ensure()
        number = number_of(job_id)
        assert number is not None, f"{job_id} is not from reserve()"
        outcome, value = await self._redis.run(
            scripts.CREATE,
            (
                record_key("job", job_id),
                keys.INDEX,
                keys.events(job_id),
                queue.key,
                keys.idempotency(once_key or ""),
                keys.segments(job_id),
            ),
            (
                job_id,
                number,
                self._clock(),
                json.dumps(request.to_json(), separators=(",", ":")),
                max_queued,
                "" if once_key is None else "1",
                once_print,
                ONCE_S,
                fingerprint,
                sum(segment.num_frames for segment in segments),
                *(segment.to_json() for segment in segments),
            ),
        )
        if outcome == b"full":
            return NotCreated("full")
        if outcome == b"key_reused":
            return NotCreated("key_reused")
        job = await self.get(value.decode())
        if job is None:
            # The first request's job was deleted since; its key must not make a second one.
            return NotCreated("key_reused")
        return Created(job, repeated=outcome == b"repeated")

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a job; None when there is none."""
        job = read_job(await read_record(self._redis, "job", job_id))
        if job is None or not job.ended or job.completed_at is None or self._keep_s is None:
            return job
        return replace(job, expires_at=job.completed_at + self._keep_s)

    def expired(self, moment: float | None) -> bool:
        """Whether what ended at ``moment`` has been kept long enough; nothing where it is None."""
        if moment is None or self._keep_s is None:
            return False
        return moment + self._keep_s <= self._clock()

    async def page(self, *, after: str | None, limit: int, newest_first: bool) -> Page:
        """Return jobs behind ``after``; a deleted job's id still marks its place.

        One that cannot be read is left out, so that it does not hide the others.
        """
        start, end, extra = "-inf", "+inf", limit + 1
        if after is not None:
            number = number_of(after)
            assert number is not None, f"{after} is no job id"
            start, end = (start, f"({number}") if newest_first else (f"({number}", end)
        words: list[Word] = (
            ["ZREVRANGEBYSCORE", keys.INDEX, end, start]
            if newest_first
            else ["ZRANGEBYSCORE", keys.INDEX, start, end]
        )
        found = [one.decode() for one in await self._redis.do(*words, "LIMIT", 0, extra)]
        jobs = [await self._listed(job_id) for job_id in found[:limit]]
        last = found[:limit][-1] if found else None
        return Page(tuple(job for job in jobs if job is not None), last, len(found) > limit)

    async def _listed(self, job_id: str) -> JobRecord | None:
        try:
            return await self.get(job_id)
        except FabricError:
            raise
        except Exception:
            log.exception("%s cannot be read and is not listed; delete it", job_id)
            return None

    async def cancel(self, job_id: str) -> JobRecord | None:
        """Cancel a job that has not ended; return it as it is then, None when there is none."""
        await self._redis.run(
            scripts.CANCEL, (record_key("job", job_id), keys.events(job_id)), (self._clock(),)
        )
        return await self.get(job_id)

    async def delete(self, job_id: str) -> bool:
        """Forget a job and stop its work; False when there is none. Files are the caller's."""
        return bool(
            await self._redis.run(
                scripts.DELETE,
                (
                    record_key("job", job_id),
                    keys.INDEX,
                    keys.segments(job_id),
                    keys.events(job_id),
                ),
                (job_id,),
            )
        )

    async def segments(self, job_id: str) -> tuple[Segment, ...]:
        """Return the committed segments in playing order."""
        found: Sequence[bytes] = await self._redis.do("LRANGE", keys.segments(job_id), 0, -1)
        return tuple(Segment.from_json(text) for text in found)

    async def events(self, job_id: str, after: int, block_ms: int) -> list[JobEvent]:
        """Return events with a higher sequence number, waiting for one at most ``block_ms``."""
        words: list[Word] = ["XREAD", "COUNT", 100]
        if block_ms > 0:
            words += ["BLOCK", block_ms]
        reply = await self._redis.do(*words, "STREAMS", keys.events(job_id), f"{after}-0")
        return [_event(i, fields) for _, entries in reply or () for i, fields in entries]

    async def begin(self, claim: Claim, fingerprint: str) -> JobRecord | None:
        """Start or go on with a claimed job; return it as it is then.

        Segments made under another ``fingerprint`` (model, device, dtype, encoder) would not
        continue seamlessly, so they are dropped and the job starts over.

        Returns:
            None when the claim is no longer ours or the job has ended.
        """
        job_id = claim.ticket.subject
        ours = await self._redis.run(
            scripts.BEGIN,
            (claim.record, keys.segments(job_id), keys.events(job_id)),
            (claim.epoch, self._clock(), fingerprint),
        )
        return await self.get(job_id) if ours else None

    async def advance(self, claim: Claim, frames_done: int) -> bool:
        """Report generated frames; False when the work must stop: deleted, cancelled, taken."""
        return await self._write(claim, scripts.ADVANCE, frames_done)

    async def commit(self, claim: Claim, segment: Segment) -> bool:
        """Add a segment whose file is in place; False as in ``advance``.

        It must continue the committed ones without a gap.
        """
        args = (segment.first_frame, segment.num_frames, segment.to_json())
        return await self._write(claim, scripts.COMMIT, *args)

    async def complete(self, claim: Claim, result: str) -> bool:
        """End the job well and remove its ticket; False as in ``advance``."""
        return await self._end(claim, "completed", "result", result)

    async def fail(self, claim: Claim, error: JobError) -> bool:
        """End the job badly and remove its ticket; False as in ``advance``."""
        text = json.dumps({"code": error.code, "message": error.message})
        return await self._end(claim, "failed", "error", text)

    async def release(self, claim: Claim) -> bool:
        """Give the job back for a later start; what is committed stays."""
        return await claim.release({"state": "queued"})

    async def is_wanted(self, claim: Claim) -> bool:
        """Return whether the claim still holds: not deleted, cancelled or taken over."""
        epoch = await self._redis.do("HGET", claim.record, "epoch")
        return bool(epoch == str(claim.epoch).encode())

    async def _end(self, claim: Claim, state: str, name: str, value: str) -> bool:
        ticket = claim.ticket
        args = (state, self._clock(), name, value, GROUP, ticket.entry_id)
        ours = await self._write(claim, scripts.END, *args)
        if ours:
            self._on_ended(state)
        return ours

    async def _write(self, claim: Claim, script: Script, *args: Word) -> bool:
        job_id = claim.ticket.subject
        places = (claim.record, keys.segments(job_id), keys.events(job_id), claim.ticket.queue)
        return bool(await self._redis.run(script, places, (claim.epoch, *args)))


def _event(entry_id: bytes, fields: Any) -> JobEvent:
    return JobEvent(
        sequence=int(entry_id.partition(b"-")[0]),
        kind=fields[b"kind"].decode(),
        status=status_of(fields[b"state"].decode()),
        frames_done=int(fields[b"frames_done"]),
    )
