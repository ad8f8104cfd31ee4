"""The worker host: takes tickets while the engine has room, reports, drains.

It owns the tasks of its live streams and jobs and nothing of their content. Several hosts share
the queues; Redis decides who gets a ticket.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.catalogue import ModelCard
from server.entries import end_notices
from server.fabric import workers
from server.fabric.claim import Claim, Dead, Dropped, claim
from server.fabric.connection import FabricError
from server.fabric.queue import TAKEOVER_MS, Ticket, WorkQueue
from server.fabric.record import read_record
from server.fabric.streams import send_notice
from server.tasks import end_tasks
from server.worker.live import LiveStream
from server.worker.parts import LiveParts

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How long the host waits before it looks for room again."""
TAKE_BLOCK_MS = 500
TAKEOVER_EVERY_S = 1.0


class JobRunner(Protocol):
    """Runs jobs."""

    async def __call__(self, claim: Claim) -> None:
        """Run one claimed job: renew, work, finish or release.

        Cancelled when the worker drains, upon which it must release its claim.
        """
        ...

    async def clear_up(self, job_id: str) -> None:
        """Remove what a job that was not started, since it has ended, needs no more."""
        ...


ListModels = Callable[[], Sequence[Mapping[str, Any]]]
"""Describes every model that could be served here; called in a thread."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """How this worker names itself and what it takes.

    Attributes:
        worker_id: Its consumer name and metrics label.
        device: Shown in the snapshot, e.g. ``cpu (bfloat16)``.
        max_jobs: Jobs run at the same time.
        takeover_ms: Silence of another worker after which its tickets are taken over; above
            ``RENEW_S`` with room to spare.
    """

    worker_id: str
    device: str
    max_jobs: int = 2
    takeover_ms: int = TAKEOVER_MS


class WorkerHost:
    """Pulls work for one model until drained."""

    def __init__(
        self,
        settings: HostSettings,
        card: ModelCard,
        parts: LiveParts,
        run_job: JobRunner | None = None,
        list_models: ListModels | None = None,
    ) -> None:
        self._settings = settings
        self._list_models = list_models
        self._card = card
        self._parts = parts
        self._run_job = run_job
        self._streams: dict[LiveStream, asyncio.Task[None]] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._held: set[str] = set()
        self._draining = asyncio.Event()
        self._admitting = 0

    async def run(self) -> None:
        """Serve until ``drain`` is called or the engine's thread dies.

        Raises:
            RuntimeError: The engine's thread died; nothing more can be served here.
        """
        redis, name = self._parts.redis, self._card.name
        live, job = WorkQueue(redis, name, "live"), WorkQueue(redis, name, "job")
        loops: list[Coroutine[Any, Any, None]] = [self._report()]
        loops.append(self._pull(live, self._room_live, self._serve_live))
        if self._list_models is not None:
            loops.append(self._announce_known(self._list_models))
        if self._run_job is not None:
            loops.append(self._pull(job, self._room_jobs, self._serve_job))
        tasks = [asyncio.create_task(loop) for loop in loops]
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({draining, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await end_tasks(*tasks, draining)
            await self._end_everything()
            # Where Redis has gone, its memory of this worker soon has, too.
            with contextlib.suppress(FabricError):
                await workers.withdraw(redis, self._settings.worker_id)

    def drain(self) -> None:
        """End live streams with a word to their viewers and give jobs back."""
        self._draining.set()

    async def _pull(
        self,
        queue: WorkQueue,
        room: Callable[[], bool],
        serve: Callable[[Ticket], Awaitable[None]],
    ) -> None:
        """Take tickets of one queue, new ones first, silent owners' once a second."""
        loop, worker_id = asyncio.get_running_loop(), self._settings.worker_id
        look_over_at = 0.0
        while True:
            if not room():
                await asyncio.sleep(POLL_S)
                continue
            try:
                ticket = None
                if loop.time() >= look_over_at:
                    look_over_at = loop.time() + TAKEOVER_EVERY_S
                    silent_ms = self._settings.takeover_ms
                    silent = await queue.take_over(worker_id, silent_ms)
                    # One of our own only came late with its renewal, which this has made good.
                    ticket = next((t for t in silent if t.subject not in self._held), None)
                ticket = ticket or await queue.take(worker_id, TAKE_BLOCK_MS)
                if ticket is not None:
                    await serve(ticket)
            except FabricError as error:
                log.info("no work for now, Redis does not answer: %s", error)
                await asyncio.sleep(POLL_S)

    def _room_live(self) -> bool:
        return self._admitting == 0 and self._parts.bridge.capacity().streams_free > 0

    def _room_jobs(self) -> bool:
        return len(self._jobs) < self._settings.max_jobs

    async def _claimed(self, ticket: Ticket) -> Claim | None:
        """Claim a ticket; the viewers of a dead stream are told."""
        redis = self._parts.redis
        held = await claim(redis, ticket, self._settings.worker_id)
        if isinstance(held, Claim):
            return held
        log.info("%s %s was not started: %s", ticket.kind, ticket.subject, held.reason)
        if ticket.kind == "job":
            self._count_job(held)
        elif isinstance(held, Dead):
            self._parts.stats.ended("error")
            if self._parts.states is not None:
                await asyncio.to_thread(self._parts.states.drop, ticket.subject)
            for notice in end_notices(await read_record(redis, "live", ticket.subject)):
                await send_notice(redis, ticket.subject, notice)
        return None

    def _count_job(self, held: Dead | Dropped) -> None:
        """Count a job that ended with no worker at it, or not by the one that was."""
        if isinstance(held, Dead):
            self._parts.stats.job_ended("failed")
        elif held.reason == "cancelled":
            self._parts.stats.job_ended("cancelled")

    async def _serve_live(self, ticket: Ticket) -> None:
        held = await self._claimed(ticket)
        if held is None:
            return
        stream = LiveStream(self._parts, held, self._admitted)
        self._admitting += 1
        task = asyncio.create_task(self._guarded(stream.run(), ticket.subject))
        self._streams[stream] = task
        task.add_done_callback(lambda _: self._streams.pop(stream, None))

    def _admitted(self) -> None:
        """Note that a stream's admission was decided; the next ticket may be taken."""
        self._admitting -= 1

    async def _serve_job(self, ticket: Ticket) -> None:
        run, held = self._run_job, await self._claimed(ticket)
        assert run is not None
        work = run.clear_up(ticket.subject) if held is None else run(held)
        task = asyncio.create_task(self._guarded(work, ticket.subject))
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _report(self) -> None:
        while True:
            if not self._parts.bridge.alive:
                raise RuntimeError("the engine's thread died; this worker cannot go on")
            try:
                redis, worker_id = self._parts.redis, self._settings.worker_id
                await workers.announce_model(redis, self._card.name, self._card.to_json())
                await workers.report(redis, worker_id, self.snapshot())
            except FabricError as error:
                log.info("no report for now, Redis does not answer: %s", error)
            await asyncio.sleep(workers.SNAPSHOT_S)

    async def _announce_known(self, list_models: ListModels) -> None:
        """Publish what this machine has and needs of every model, so that gateways can show it."""
        while True:
            listing = await asyncio.to_thread(list_models)
            try:
                await workers.announce_known(self._parts.redis, self._settings.worker_id, listing)
            except FabricError as error:
                log.info("no list of models for now, Redis does not answer: %s", error)
            await asyncio.sleep(workers.KNOWN_S)

    def snapshot(self) -> Mapping[str, Any]:
        """Return what gateways show of this worker."""
        capacity = self._parts.bridge.capacity()
        return {
            "model": self._card.name,
            "device": self._settings.device,
            "streams_fit": capacity.streams_fit,
            "streams_free": capacity.streams_free,
            "sessions": {"live": capacity.sessions_live, "job": capacity.sessions_jobs},
            "pages_total": capacity.pages_total,
            "pages_in_use": capacity.pages_in_use,
            "load": capacity.load,
            "chunk_seconds": capacity.chunk_seconds,
            **self._parts.stats.snapshot(),
        }

    async def _guarded(self, work: Awaitable[None], subject: str) -> None:
        """Run one stream or job; its failure is its own."""
        self._held.add(subject)
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s ended by a fault", subject)
        finally:
            self._held.discard(subject)

    async def _end_everything(self) -> None:
        for stream in list(self._streams):
            stream.stop("shutdown")
        for job in self._jobs:
            job.cancel()
        waiting = [*self._streams.values(), *self._jobs]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=10)
            await end_tasks(*late)
