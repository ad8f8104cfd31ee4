"""Which sessions run next, and how many together.

Live ``realtime`` sessions come first, the one whose viewer runs out soonest at the head; then live
``asap`` ones and then jobs, the least recently run first. Sessions that may share a batch are
joined as far as the measured cost table says that it pays. Where one round of looking ahead shows
that viewers stall for it, the batch is smaller, or a first picture comes behind those who already
watch and are ready, though it does not wait long. Pure: everything arrives as values, nothing here
waits, counts pages or knows tensors.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from engine.asked import Kind, Pacing
from engine.cost_table import CostTable

PATIENCE_S = 1.0
"""Who has waited so long for a first picture is let through, whatever the costs say will come of it."""


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
        later_steps: Of those that follow.
        group: Equal for sessions whose chunks can share a batch (size, latent frames, schedule).
        media_s: How long its chunk plays.
    """

    session_id: str
    kind: Kind
    pacing: Pacing
    deadline: float | None
    ready_since: float
    last_run: float
    steps: int
    later_steps: int
    group: Hashable
    media_s: float

    @property
    def shows_nothing(self) -> bool:
        """Whether a viewer waits for a first picture."""
        return self.kind == "live" and self.pacing == "realtime" and self.deadline is None


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
    candidates: Sequence[Candidate], costs: CostTable, free_at: float, max_batch: int
) -> SchedulerOutput | None:
    """Choose one tick's work; None when there is no candidate.

    Args:
        candidates: Sessions that may run.
        costs: Measured on this device.
        free_at: When the device can begin.
        max_batch: Most rows in one batch.
    """
    if not candidates:
        return None
    ordered = sorted(candidates, key=urgency)
    head = ordered[0]
    choices = _batches(ordered, costs, max_batch)
    watching = [row for row in ordered if row.deadline is not None]
    if watching and head.shows_nothing and free_at - head.ready_since < PATIENCE_S:
        choices += _batches(watching, costs, max_batch)
    # The first of those that stall the fewest.
    rows = min(choices, key=lambda rows: _stalls(rows, ordered, costs, free_at, max_batch))
    return SchedulerOutput(tuple(row.session_id for row in rows), rows[0].steps)


def _batches(
    ordered: Sequence[Candidate], costs: CostTable, max_batch: int
) -> list[Sequence[Candidate]]:
    """Return the batches around the head of ``ordered``: the size that pays most, then smaller ones."""
    head = ordered[0]
    mates = [mate for mate in ordered if mate.group == head.group and mate.steps == head.steps]
    best = costs.best_batch(min(len(mates), max_batch), head.steps)
    return [mates[:size] for size in range(best, 0, -1)]


def _stalls(
    rows: Sequence[Candidate],
    ordered: Sequence[Candidate],
    costs: CostTable,
    free_at: float,
    max_batch: int,
) -> int:
    """Count the viewers who stall if ``rows`` run now and then, well batched, whoever runs out first.

    Who gets a first picture needs the second chunk before the first one has been played; a first chunk
    so short that the second can never be in time is not counted.
    """
    at = free_at + costs.chunk_s(len(rows), rows[0].steps)
    stalls = sum(row.deadline is not None and row.deadline < at for row in rows)
    running = {row.session_id for row in rows}
    waiting = [
        (row.deadline, row.steps)
        for row in ordered
        if row.deadline is not None and row.session_id not in running
    ]
    waiting += [
        (at + row.media_s, row.later_steps)
        for row in rows
        if row.shows_nothing and row.media_s >= costs.chunk_s(1, row.later_steps)
    ]
    waiting.sort()
    while waiting:
        steps = waiting[0][1]
        size = costs.best_batch(min(len(waiting), max_batch), steps)
        at += costs.chunk_s(size, steps)
        stalls += sum(deadline < at for deadline, _ in waiting[:size])
        waiting = waiting[size:]
    return stalls
