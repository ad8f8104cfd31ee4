"""A running gateway with the job routes, and a worker whose engine draws its frames."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn

from server.fabric.claim import Claim, claim
from server.fabric.connection import Connection
from server.fabric.queue import WorkQueue
from server.fabric.workers import announce_model
from server.gateway.app import create_app
from server.gateway.context import Gateway
from server.jobs import runner
from server.jobs.parts import JobParts
from server.jobs.request import JobLimits
from server.jobs.routes import jobs_router
from server.jobs.runner import JobRunner, RunnerParts
from server.jobs.store import JobStore
from server.tasks import end_tasks
from tests.conftest import RedisServer
from tests.server.jobs.fake_engine import FakeEngine
from tests.server.jobs.making import CARD


@dataclass
class Site:
    """A gateway that answers on a port, its store and its one worker's engine."""

    url: str
    store: JobStore
    redis: Connection
    engine: FakeEngine
    data_dir: Path
    gateway: Gateway

    def openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0)

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=30)


@pytest.fixture
async def site(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    monkeypatch.setattr(runner, "WATCH_S", 0.02)
    redis = Connection(redis_server.url)
    await announce_model(redis, CARD.name, CARD.to_json())
    gateway = Gateway(redis=Connection(redis_server.url))
    store = JobStore(redis, lambda: time.clock_gettime(time.CLOCK_REALTIME))
    engine = FakeEngine()

    async def cards() -> list[object]:
        return list((await gateway.cards()).values())

    router = jobs_router(
        JobParts(
            store,
            cards,  # type: ignore[arg-type]
            tmp_path,
            gateway.draw_seed,
            JobLimits(max_queued=3, max_body_bytes=2**20),
            gateway.draining.is_set,
        )
    )
    app = create_app(gateway, [router], web=None)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", ws="none", timeout_graceful_shutdown=3)
    )
    serving = asyncio.create_task(server.serve())
    with ThreadPoolExecutor(2) as executor:
        parts = RunnerParts(store, engine, tmp_path, executor, "tiny cpu float32")
        working = asyncio.create_task(_work(redis, JobRunner(parts)))
        try:
            while not server.started:
                assert not serving.done(), "the gateway ended at once"
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            url = f"http://127.0.0.1:{port}"
            yield Site(url, store, redis, engine, tmp_path, gateway)
        finally:
            gateway.draining.set()
            server.should_exit = True
            await end_tasks(working)
            await serving
            await redis.close()


async def _work(redis: Connection, run: JobRunner) -> None:
    """Take one ticket after the other, as the worker host does."""
    queue = WorkQueue(redis, CARD.name, "job")
    while True:
        ticket = await queue.take("w1", 50)
        if ticket is not None:
            held = await claim(redis, ticket, "w1")
            if isinstance(held, Claim):
                await run(held)
