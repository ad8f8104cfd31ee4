"""A worker with a real engine and a tiny random model, in a process or in the test's own loop.

``python -m tests.server.real_live_worker URL NAME STATES`` runs until it is killed.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import torch

from engine.config import EngineConfig
from engine.engine import Engine
from server.catalogue import ModelCard
from server.worker.host import WorkerHost
from server.worker.kept import KeptStates
from tests.fakes import tiny_test_model
from tests.server.harness import worker

CARD = ModelCard("tiny", sizes=((64, 32),), fps=(16,), max_steps=4, chunk_frames=12)


@asynccontextmanager
async def real_worker(url: str, name: str, folder: Path) -> AsyncIterator[WorkerHost]:
    """Run a worker that keeps a state as often as it may."""
    engine = Engine(tiny_test_model(seed=1), EngineConfig(memory_share=0.01), time.monotonic)
    states = KeptStates(folder, lambda: time.clock_gettime(time.CLOCK_REALTIME), keep_s=0.05)
    async with worker(url, engine, name=name, takeover_ms=500, card=CARD, states=states) as host:
        yield host


async def main(url: str, name: str, folder: str) -> None:
    torch.set_num_threads(1)
    async with real_worker(url, name, Path(folder)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
