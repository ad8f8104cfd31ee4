"""A gateway and a worker in the test's own loop, and a client that speaks the protocol."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from engine.thread import EngineThread, Stepped
from server.catalogue import ModelCard
from server.fabric.connection import Connection
from server.gateway.app import create_app
from server.gateway.auth import Gate
from server.gateway.context import Gateway
from server.wire.limits import Limits
from server.worker.bridge import EngineBridge
from server.worker.host import HostSettings, JobRunner, WorkerHost
from server.worker.kept import KeptStates
from server.worker.parts import LiveParts
from server.worker.stats import WorkerStats
from tests.server.fakes import CHUNK, FakeEngine

CARD = ModelCard(
    name="fake", sizes=((160, 96), (64, 48)), fps=(16, 8), max_steps=4, chunk_frames=CHUNK
)


async def until(
    condition: Callable[[], Awaitable[Any]] | Callable[[], Any], timeout_s: float = 20.0
) -> Any:
    """Wait for a condition to hold; return what it gave."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def worker(
    redis_url: str,
    engine: Stepped,
    *,
    name: str = "w1",
    grace_s: float = 30.0,
    run_job: Callable[[EngineBridge], JobRunner] | None = None,
    takeover_ms: int = 10_000,
    card: ModelCard = CARD,
    states: KeptStates | None = None,
) -> AsyncIterator[WorkerHost]:
    """Run a worker host around ``engine`` until the block ends."""
    redis = Connection(redis_url, retries=3)
    executor = ThreadPoolExecutor(1)
    bridge = EngineBridge(lambda sink: EngineThread(engine, sink))
    parts = LiveParts(redis, bridge, executor, WorkerStats(), grace_s, states=states)
    job = run_job(bridge) if run_job else None
    host = WorkerHost(HostSettings(name, "cpu (fake)", takeover_ms=takeover_ms), card, parts, job)
    running = asyncio.create_task(host.run())
    try:
        yield host
    finally:
        host.drain()
        await asyncio.gather(running, return_exceptions=True)
        await bridge.close()
        executor.shutdown()
        await redis.close()


@asynccontextmanager
async def gateway(
    redis_url: str, *, gate: Gate | None = None, limits: Limits | None = None, **options: Any
) -> AsyncIterator["Served"]:
    """Run a gateway on a free loopback port until the block ends."""
    context = Gateway(
        Connection(redis_url, retries=3), gate=gate or Gate(), limits=limits or Limits()
    )
    app = create_app(context, **{"web": None, **options})
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
        access_log=False,
        ws_ping_interval=None,
    )
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        try:
            yield Served(port, context)
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def serving(
    redis_url: str, engine: FakeEngine | None = None, **worker_options: Any
) -> AsyncIterator["Served"]:
    """Run a worker and a gateway until the block ends."""
    async with (
        worker(redis_url, engine or FakeEngine(), **worker_options),
        gateway(redis_url) as served,
    ):
        await until(served.context.cards)
        yield served


@dataclass
class Served:
    """Where a gateway listens."""

    port: int
    context: Gateway

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def viewer(self, **headers: Any) -> AsyncIterator["Viewer"]:
        """Connect a client that has said nothing yet."""
        url = f"ws://127.0.0.1:{self.port}/v1/realtime/video"
        async with connect(
            url, compression=None, max_size=None, close_timeout=0.2, **headers
        ) as socket_:
            yield Viewer(socket_)


@dataclass
class Chunk:
    """A chunk as received: metadata and the binary behind it."""

    metadata: dict[str, Any]
    binary: bytes

    @property
    def index(self) -> int:
        return int(self.metadata["chunk_index"])

    @property
    def last_frame(self) -> int:
        return int(self.metadata["first_frame"] + self.metadata["num_frames"] - 1)


@dataclass
class Viewer:
    """Speaks the protocol; ``seen`` is every message so far, chunks with their binaries."""

    socket: ClientConnection
    seen: list[dict[str, Any] | Chunk] = field(default_factory=list)

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def start(self, prompt: str = "a red ball", **fields: Any) -> dict[str, Any]:
        """Open a stream and return its ``video.start``."""
        await self.say("session.start", prompt=prompt, **fields)
        return await self.message("video.start")

    async def change(self, prompt: str, event_id: str) -> None:
        event = {"event_id": event_id, "event": {"prompt": prompt}}
        await self.say("session.interaction", interaction=event)

    async def ack(self, frame: int) -> None:
        # The server may have said goodbye behind the chunk that is acknowledged.
        with contextlib.suppress(ConnectionClosed):
            await self.say("playback.ack", frame=frame)

    async def next(self, timeout_s: float = 20.0) -> dict[str, Any] | Chunk:
        async with asyncio.timeout(timeout_s):
            text = await self.socket.recv()
            assert isinstance(text, str), "a binary without its metadata"
            message: dict[str, Any] | Chunk = json.loads(text)
            assert isinstance(message, dict)
            if message["type"] == "video.chunk_metadata":
                binary = await self.socket.recv()
                assert isinstance(binary, bytes), "metadata without its binary"
                message = Chunk(message, binary)
        self.seen.append(message)
        return message

    async def message(self, kind: str, *, ack: bool = False) -> dict[str, Any]:
        """Return the next message of a type, skipping others; acknowledge chunks on the way."""
        while True:
            found = await self.next()
            if isinstance(found, Chunk):
                if ack:
                    await self.ack(found.last_frame)
            elif found["type"] == kind:
                return found
            elif found["type"] == "error":
                raise AssertionError(f"waited for {kind}, got {found}")

    async def chunk(self, *, ack: bool = True) -> Chunk:
        """Return the next chunk, skipping messages."""
        while True:
            found = await self.next()
            if isinstance(found, Chunk):
                if ack:
                    await self.ack(found.last_frame)
                return found
            assert found["type"] != "error", found
            assert found["type"] != "session.done", found

    async def error(self) -> dict[str, Any]:
        """Return the next error, skipping everything else."""
        while True:
            found = await self.next()
            if isinstance(found, dict) and found["type"] == "error":
                return found
