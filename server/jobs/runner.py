"""Runs one claimed job on a worker: generate, encode, commit, finish.

The claim is renewed all the while; the moment it is lost (deleted, cancelled, taken over
by another worker) the engine is told to stop and nothing more is written. A job that is
taken over goes on behind its last committed segment: from the newest state of the engine
that was kept (``server.jobs.resume``), else from frame 0 again without encoding what is
committed. Noise is a function of seed, chunk and step, so both give the same pictures, and
segments that viewers may have seen stay as they are.

Knows the engine as ``JobEngine`` and nothing of tensors, HTTP or other sessions.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.asked import Command, Credit, Stop, StreamSpec
from engine.events import Admission, Admitted, ChunkReady, EngineEvent, Refused, SessionEnded
from server.fabric.claim import RENEW_S, Claim
from server.fabric.connection import FabricError
from server.images import pixels
from server.jobs.record import JobError, JobRecord
from server.jobs.recorder import MakeEncoder, Recorder
from server.jobs.request import JobRequest
from server.jobs.resume import EVERY_S, ResumePoints
from server.jobs.segments import START_IMAGE, JobFolder
from server.jobs.spec import stream_spec
from server.jobs.store import JobStore
from server.media.encoder import ChunkEncoder
from server.tasks import end_tasks, in_executor

log = logging.getLogger(__name__)

WATCH_S = 0.5
"""How often the runner asks whether the job is still wanted, between chunks."""
WAIT_S = 0.5
"""How long an engine without room is left alone."""


class JobFailed(Exception):
    """The job cannot be done; ``error`` is what its record will say."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.error = JobError(code, message)


class JobEngine(Protocol):
    """What the runner needs of ``server.worker.bridge.EngineBridge``."""

    async def admit(
        self,
        spec: StreamSpec,
        sink: Callable[[EngineEvent], None],
        snapshot: bytes | None = None,
    ) -> Admission:
        """Ask for a stream, or for going on with one; ``sink`` gets its events on the loop."""
        ...

    async def snapshot(self, session_id: str) -> bytes | None:
        """Return a stream's state after its last chunk; None when it has none to give."""
        ...

    def submit(self, command: Command) -> None:
        """Queue a command; harmless when the session has ended."""
        ...


@dataclass(frozen=True, slots=True)
class RunnerParts:
    """What all jobs of a worker share.

    Attributes:
        store: Job records.
        engine: Generates.
        data_dir: Where the folders of jobs are; shared by all workers and gateways.
        executor: Encodes and writes files.
        fingerprint: Names what decides the pixels: model, device, dtype. A job that another
            kind of worker began is started over.
        make_encoder: Opens encoders.
        state_every_s: Shortest time between two kept states of a job.
    """

    store: JobStore
    engine: JobEngine
    data_dir: Path
    executor: Executor
    fingerprint: str
    make_encoder: MakeEncoder = ChunkEncoder
    state_every_s: float = EVERY_S


class JobRunner:
    """Runs claimed jobs, several at a time if asked. Cancelling a run gives its job back."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts

    async def __call__(self, claim: Claim) -> None:
        """Work on a claimed job until it has ended, is lost, or this task is cancelled."""
        run = _Run(self._parts, claim)
        work = asyncio.create_task(run.work())
        watch = asyncio.create_task(run.watch())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                log.info("job %s: no longer wanted here, stopping", run.job_id)
        except asyncio.CancelledError:
            await end_tasks(work)
            with contextlib.suppress(FabricError):
                await asyncio.shield(self._parts.store.release(claim))
            raise
        finally:
            await end_tasks(work, watch)
            await self.clear_up(run.job_id)

    async def clear_up(self, job_id: str) -> None:
        """Remove what an ended job needs no more, and every file of a deleted one.

        To be called when nothing is done for the job here any more: what a claim that was lost
        wrote meanwhile goes too. A job that waits or is in progress keeps everything.
        """
        store, executor = self._parts.store, self._parts.executor
        folder = JobFolder(self._parts.data_dir, job_id)
        with contextlib.suppress(FabricError):
            job = await store.get(job_id)
            if job is None:
                await in_executor(executor, folder.remove)
            elif job.ended:
                await in_executor(executor, folder.tidy, await store.segments(job_id))


class _Run:
    """One claim of one job."""

    def __init__(self, parts: RunnerParts, claim: Claim) -> None:
        self.job_id = claim.ticket.subject
        self._parts = parts
        self._executor = parts.executor
        self._claim = claim
        self._folder = JobFolder(parts.data_dir, self.job_id)
        # A session's name is used once: an earlier claim's session may still be ending.
        self._session = f"{self.job_id}.{claim.epoch}"

    async def watch(self) -> None:
        """Renew the claim; return when it is lost."""
        since_renewal = math.inf
        while True:
            try:
                if since_renewal >= RENEW_S:
                    since_renewal = 0.0
                    if not await self._claim.renew():
                        return
                if not await self._parts.store.is_wanted(self._claim):
                    return
            except FabricError as error:
                log.warning("job %s: claim not renewed: %s", self.job_id, error)
            await asyncio.sleep(WATCH_S)
            since_renewal += WATCH_S

    async def work(self) -> None:
        """Generate and commit until the job has ended or is lost."""
        store = self._parts.store
        job = await store.get(self.job_id)
        if job is None:
            return
        try:
            recorder = await in_executor(self._executor, self._open_recorder, job.request)
            try:
                fingerprint = f"{self._parts.fingerprint} {recorder.init}"
                begun = await store.begin(self._claim, fingerprint)
                if begun is not None:
                    await self._generate(begun, recorder, fingerprint)
            finally:
                self._parts.engine.submit(Stop(self._session))
                await in_executor(self._executor, recorder.close)
        except FabricError:
            # Unrenewed, the ticket goes to whoever reaches Redis first; nothing is lost.
            raise
        except JobFailed as failure:
            await store.fail(self._claim, failure.error)
        except OSError as error:
            if not await store.is_wanted(self._claim):
                # Deleted together with its folder, while a file was being written.
                return
            log.exception("job %s: files cannot be written", self.job_id)
            message = _why_not_stored(error, self._parts.data_dir)
            await store.fail(self._claim, JobError("storage_failed", message))
        except Exception as error:
            log.exception("job %s ended by a fault", self.job_id)
            message = f"A fault of the server ({type(error).__name__}); its log has more."
            await store.fail(self._claim, JobError("internal_error", message))

    async def _generate(self, job: JobRecord, recorder: Recorder, fingerprint: str) -> None:
        request, store = job.request, self._parts.store
        recorder.start = job.frames_committed
        points = ResumePoints(self._folder, fingerprint, time.monotonic, self._parts.state_every_s)
        if recorder.start < request.num_frames:
            events = _Events()
            await self._admit(request, events, points, recorder.start)
            done = 0
            while done < request.num_frames:
                event = await events.get()
                if isinstance(event, SessionEnded):
                    raise JobFailed("generation_failed", _why_short(event, request))
                if not isinstance(event, ChunkReady):
                    continue
                done = event.first_frame + event.num_frames
                frames = event.frames.numpy()
                segment = await in_executor(self._executor, recorder.add, event.first_frame, frames)
                if segment is not None and not await store.commit(self._claim, segment):
                    return
                if not await store.advance(self._claim, min(done, request.num_frames)):
                    return
                self._parts.engine.submit(Credit(self._session, done - 1))
                if segment is not None:
                    await in_executor(self._executor, points.newest, recorder.start)
                    if points.due():
                        await self._keep_state(points, events)
        segments = await store.segments(self.job_id)
        result = await in_executor(self._executor, recorder.finish, segments)
        await store.complete(self._claim, result)

    async def _keep_state(self, points: ResumePoints, events: "_Events") -> None:
        """Keep the engine's state, so that a takeover need not begin at frame 0."""
        began = time.monotonic()
        try:
            state = await self._parts.engine.snapshot(self._session)
        except Exception:
            # A copy of a large state may not fit into memory; the job itself is not harmed.
            log.exception("job %s: no state could be taken, none will be", self.job_id)
            points.stop()
            return
        if state is not None:
            # Chunks may have come since it was taken: then it goes on before ``generated``, which
            # costs a takeover a chunk and loses nothing.
            took_s = time.monotonic() - began
            await in_executor(self._executor, points.keep, events.generated, state, took_s)

    async def _admit(
        self, request: JobRequest, events: "_Events", points: ResumePoints, committed: int
    ) -> None:
        """Wait until the engine takes the job in, from a kept state where there is one."""
        spec = await in_executor(self._executor, self._spec, request)
        point = await in_executor(self._executor, points.newest, committed)
        state = None if point is None else await in_executor(self._executor, point.read)
        while True:
            answer = await self._parts.engine.admit(spec, events.take, state)
            if isinstance(answer, Admitted):
                return
            if isinstance(answer, Refused):
                if point is None or state is None:
                    raise JobFailed(answer.code, answer.message)
                log.warning("job %s: kept state not usable: %s", self.job_id, answer.message)
                await in_executor(self._executor, points.drop, point)
                state = None
                continue
            await asyncio.sleep(WAIT_S)

    def _spec(self, request: JobRequest) -> StreamSpec:
        image = None
        if request.has_image:
            image = pixels((self._folder.path / START_IMAGE).read_bytes())
        return stream_spec(self._session, request, image)

    def _open_recorder(self, request: JobRequest) -> Recorder:
        return Recorder(self._folder, request, self._parts.make_encoder, self._claim.epoch)


class _Events(asyncio.Queue[EngineEvent]):
    """A session's events on their way, and how far generation has come."""

    generated = 0

    def take(self, event: EngineEvent) -> None:
        """Take an event on the loop."""
        if isinstance(event, ChunkReady):
            self.generated = event.first_frame + event.num_frames
        self.put_nowait(event)


def _why_not_stored(error: OSError, data_dir: Path) -> str:
    if isinstance(error, FileNotFoundError):
        return (
            f"Files of the video are not in the worker's data folder, {data_dir}; gateways and "
            "workers must share one (--data-dir)."
        )
    reason = error.strerror or type(error).__name__
    return f"The worker could not write the video's files to its data folder, {data_dir}: {reason}."


def _why_short(event: SessionEnded, request: JobRequest) -> str:
    why = event.error or event.reason
    return f"Generation ended after {event.frames} of {request.num_frames} frames: {why}."
