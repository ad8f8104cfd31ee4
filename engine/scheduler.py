"""Which sessions run next, and how many together.

Live ``realtime`` sessions come first, the one whose viewer runs out soonest at the head; then live
``asap`` ones and then jobs, the least recently run first. Sessions that may share a batch are
joined as far as the measured cost table says that it pays and no viewer at the head stalls for
it. Pure: everything arrives as values, nothing here waits, counts pages or knows tensors.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from engine.cost_table import CostTable
from engine.types import Kind, Pacing


@dataclass(frozen=True, slots=True)
class Candidate:
    """A session that may run now: it has credit and is not paused.

    Attributes:
        session_id: Whose chunk.
        kind: See ``StreamSpec``.
        pacing: See ``StreamSpec``.
        deadline: When its viewer runs out of frames; None when nothing is being played.
        ready_since: Since when it may run.
        last_run: When its last chunk was started; minus infinity before the first.
        steps: Denoising steps of its chunk.
        group: Equal for sessions whose chunks can share a batch (size, latent frames, schedule).
    """

    session_id: str
    kind: Kind
    pacing: Pacing
    deadline: float | None
    ready_since: float
    last_run: float
    steps: int
    group: Hashable


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """One tick's work: these sessions, in this order, ``steps`` denoising steps."""

    session_ids: tuple[str, ...]
    steps: int


def urgency(candidate: Candidate) -> tuple[int, float, float, str]:
    """Return the sort key of a candidate; the smallest runs first.

    A realtime session that shows nothing yet is due since it became ready: a first picture is
    worth more than somebody else's fuller buffer.
    """
    if candidate.kind == "job":
        return (2, candidate.last_run, candidate.ready_since, candidate.session_id)
    if candidate.pacing == "asap":
        return (1, candidate.last_run, candidate.ready_since, candidate.session_id)
    due = candidate.ready_since if candidate.deadline is None else candidate.deadline
    return (0, due, candidate.ready_since, candidate.session_id)


def schedule(
    candidates: Sequence[Candidate], costs: CostTable, now: float, max_batch: int
) -> SchedulerOutput | None:
    """Choose one tick's work; None when there is no candidate.

    Args:
        candidates: Sessions that may run.
        costs: Measured on this device.
        now: Current time.
        max_batch: Most rows in one batch.
    """
    if not candidates:
        return None
    ordered = sorted(candidates, key=urgency)
    head = ordered[0]
    mates = [mate for mate in ordered if mate.group == head.group and mate.steps == head.steps]
    size = costs.best_batch(min(len(mates), max_batch), head.steps)
    while size > 1 and _makes_late(mates[:size], costs, now):
        size -= 1
    return SchedulerOutput(tuple(mate.session_id for mate in mates[:size]), head.steps)


def _makes_late(rows: Sequence[Candidate], costs: CostTable, now: float) -> bool:
    """Whether running ``rows`` together stalls a viewer whom running its session alone would not."""
    together = now + costs.chunk_s(len(rows), rows[0].steps)
    alone = now + costs.chunk_s(1, rows[0].steps)
    deadlines = [row.deadline for row in rows if row.deadline is not None]
    soonest = min(deadlines, default=math.inf)
    return alone <= soonest < together
