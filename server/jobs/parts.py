"""What the job routes of a gateway share."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server.catalogue import ModelCard
from server.jobs.request import JobLimits
from server.jobs.store import JobStore


@dataclass(frozen=True, slots=True)
class JobParts:
    """What the routes need.

    Attributes:
        store: Job records.
        cards: Returns the models on offer, the default first.
        data_dir: Where the folders of jobs are.
        draw_seed: Gives a seed to a request without one.
        stopping: Whether the gateway is shutting down, so that open event streams end.
    """

    store: JobStore
    cards: Callable[[], Awaitable[Sequence[ModelCard]]]
    data_dir: Path
    draw_seed: Callable[[], int]
    limits: JobLimits = field(default_factory=JobLimits)
    stopping: Callable[[], bool] = lambda: False
