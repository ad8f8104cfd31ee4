"""A gateway with streams and jobs, a worker with a drawing engine, and a wire that can be cut."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from server.catalogue import ModelCard
from server.fabric.connection import Connection
from server.gateway.context import Gateway, draw_seed
from server.jobs.parts import JobParts
from server.jobs.routes import jobs_router
from server.jobs.runner import JobRunner, RunnerParts
from server.jobs.store import JobStore
from tests.server.fakes import FakeEngine
from tests.server.harness import gateway, until, worker


@dataclass
class Wire:
    """A TCP relay in front of a port; ``cut`` drops every connection, ``closed`` takes no new."""

    port: int
    target: int
    closed: bool = False
    accepted: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
            return
        self.accepted += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._relay(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(sink)
            sink.close()


@asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    wire = Wire(0, port)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.cut()
        await until(lambda: not wire._tasks)


@dataclass
class Site:
    """Where the server is, directly and over a wire that can be cut."""

    url: str
    wire: Wire
    engine: FakeEngine
    data_dir: Path
    context: Gateway

    @property
    def wired_url(self) -> str:
        return f"http://127.0.0.1:{self.wire.port}"


@asynccontextmanager
async def client_site(redis_url: str, data_dir: Path, engine: FakeEngine) -> AsyncIterator[Site]:
    """Run everything until the block ends."""
    redis = Connection(redis_url)
    store = JobStore(redis, lambda: time.clock_gettime(time.CLOCK_REALTIME))
    contexts: list[Gateway] = []

    async def cards() -> list[ModelCard]:
        return list((await contexts[0].cards()).values())

    router = jobs_router(JobParts(store, cards, data_dir, draw_seed))
    with ThreadPoolExecutor(2) as executor:
        try:
            async with (
                worker(
                    redis_url,
                    engine,
                    run_job=lambda bridge: JobRunner(
                        RunnerParts(store, bridge, data_dir, executor, "fake")
                    ),
                ),
                gateway(redis_url, routers=[router]) as served,
                wire_to(served.port) as wire,
            ):
                contexts.append(served.context)
                await until(served.context.cards)
                yield Site(served.http, wire, engine, data_dir, served.context)
        finally:
            await redis.close()
