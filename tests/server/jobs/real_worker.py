"""A worker that runs jobs on a real engine with a tiny random model, as a process to be killed.

``python -m tests.server.jobs.real_worker REDIS_URL NAME DATA_DIR``. It takes work over after
half a second of silence, so that tests need not wait for ten.
"""

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from engine.config import EngineConfig
from engine.engine import Engine
from engine.thread import EngineThread
from server.catalogue import ModelCard
from server.fabric.connection import Connection
from server.jobs.runner import JobRunner, RunnerParts
from server.jobs.store import JobStore
from server.worker.bridge import EngineBridge
from server.worker.host import HostSettings, WorkerHost
from server.worker.parts import LiveParts
from server.worker.stats import WorkerStats
from tests.fakes import tiny_test_model

CARD = ModelCard("tiny", sizes=((64, 32),), fps=(16,), max_steps=4, chunk_frames=12)


async def main(redis_url: str, name: str, data_dir: Path) -> None:
    torch.set_num_threads(1)
    redis = Connection(redis_url)
    engine = Engine(tiny_test_model(seed=1), EngineConfig(memory_share=0.01), time.monotonic)
    bridge = EngineBridge(lambda sink: EngineThread(engine, sink))
    with ThreadPoolExecutor(2) as executor:
        store = JobStore(redis, lambda: time.clock_gettime(time.CLOCK_REALTIME))
        runner = JobRunner(
            RunnerParts(store, bridge, data_dir, executor, "tiny cpu", state_every_s=0.0)
        )
        parts = LiveParts(redis, bridge, executor, WorkerStats(), 30.0)
        await WorkerHost(HostSettings(name, "cpu", takeover_ms=500), CARD, parts, runner).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
