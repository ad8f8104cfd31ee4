"""What every live stream of a worker shares."""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from server.fabric.connection import Connection
from server.worker.bridge import EngineBridge
from server.worker.kept import KeptStates
from server.worker.stats import WorkerStats


@dataclass(frozen=True, slots=True)
class LiveParts:
    """What every live stream of a worker shares.

    Attributes:
        redis: The fabric.
        bridge: The engine.
        executor: Encodes.
        stats: The worker's counters.
        resume_grace_s: How long a stream without its viewer is kept.
        states: Engine states kept for a takeover; None keeps none.
        clock: Monotonic seconds.
    """

    redis: Connection
    bridge: EngineBridge
    executor: Executor
    stats: WorkerStats
    resume_grace_s: float
    states: KeptStates | None = None
    clock: Callable[[], float] = time.monotonic
