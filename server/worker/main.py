"""A worker process from settings to its end."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from engine.thread import EngineThread
from server.config import Settings
from server.fabric.connection import Connection
from server.fabric.workers import new_worker_id, room
from server.jobs.runner import JobRunner, RunnerParts
from server.jobs.store import JobStore
from server.redis_watch import watched
from server.worker.bridge import EngineBridge
from server.worker.build import Built, Say
from server.worker.host import HostSettings, WorkerHost
from server.worker.job_counts import CountedEngine
from server.worker.kept import KeptStates
from server.worker.parts import LiveParts
from server.worker.stats import WorkerStats

ENCODER_THREADS = 2


async def run_worker(settings: Settings, built: Built, say: Say) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        RuntimeError: The engine's thread died.
    """
    assert settings.redis_url is not None, "read_settings asks for it"
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    redis = Connection(settings.redis_url)
    executor = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="encode")
    bridge = EngineBridge(lambda sink: EngineThread(built.engine, sink))
    try:
        async with watched(settings.redis_url, "worker", say):
            await _serve(settings, built, redis, executor, bridge, stopping, say)
    finally:
        await bridge.close()
        await asyncio.to_thread(built.close)
        await asyncio.to_thread(executor.shutdown)
        await redis.close()


async def _serve(
    settings: Settings,
    built: Built,
    redis: Connection,
    executor: ThreadPoolExecutor,
    bridge: EngineBridge,
    stopping: asyncio.Event,
    say: Say,
) -> None:
    worker_id = new_worker_id(os.getpid())
    stats = WorkerStats()
    store = JobStore(redis, lambda: datetime.now(UTC).timestamp(), stats.job_ended)
    engine = CountedEngine(bridge, stats)
    jobs = JobRunner(
        RunnerParts(store, engine, settings.data_dir, executor, fingerprint=built.fingerprint)
    )
    states = KeptStates(settings.data_dir / "streams", lambda: datetime.now(UTC).timestamp())
    parts = LiveParts(redis, bridge, executor, stats, settings.resume_grace_s, states=states)
    host = WorkerHost(
        HostSettings(worker_id, built.device), built.card, parts, jobs, built.list_models
    )
    serving = asyncio.create_task(host.run())
    told = asyncio.create_task(stopping.wait())
    fit = bridge.capacity().streams_fit
    say(f"worker {worker_id} serves {built.card.name} on {built.device}; {room(fit)}")
    await asyncio.wait({serving, told}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        say("worker stopping: viewers are told, jobs are left for a later start")
        host.drain()
    told.cancel()
    await serving
