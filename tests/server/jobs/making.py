"""What the job suites share: a card, a request, a claim."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

from server.catalogue import ModelCard
from server.fabric.claim import Claim, claim
from server.fabric.connection import Connection
from server.fabric.queue import WorkQueue
from server.jobs.record import JobRecord, Segment
from server.jobs.request import JobRequest, PromptText, TimedPrompt
from server.jobs.store import Created, JobStore

CARD = ModelCard(
    "tiny",
    sizes=((160, 96), (96, 160)),
    fps=(16, 8),
    max_steps=8,
    chunk_frames=12,
    start_image=True,
)
REQUEST = JobRequest(
    model="tiny",
    prompts=(TimedPrompt(0.0, (PromptText("a red ball"),)),),
    seconds="4",
    width=160,
    height=96,
    fps=16,
    num_frames=64,
    seed=7,
)


def request(**changes: object) -> JobRequest:
    return dataclasses.replace(REQUEST, **changes)  # type: ignore[arg-type]


async def make(store: JobStore, wanted: JobRequest = REQUEST) -> JobRecord:
    made = await store.create(await store.reserve(), wanted, max_queued=100)
    assert isinstance(made, Created)
    return made.job


async def take(redis: Connection, worker: str = "w1", *, silent_ms: int | None = None) -> Claim:
    """Claim the next ticket, or take over one whose owner fell silent."""
    queue = WorkQueue(redis, "tiny", "job")
    if silent_ms is None:
        ticket = await queue.take(worker, 0)
    else:
        ticket = next(iter(await queue.take_over(worker, silent_ms)), None)
    assert ticket is not None, "no ticket waits"
    held = await claim(redis, ticket, worker)
    assert isinstance(held, Claim), held
    return held


def segment(first: int, frames: int = 24) -> Segment:
    return Segment(f"seg-{first}.m4s", "init.mp4", first, frames, 100)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait for a condition; 20 s without it is a failure."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - conditions of another process
            await asyncio.sleep(0.01)
