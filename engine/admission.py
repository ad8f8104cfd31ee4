"""Whether one more stream can be taken in; pure arithmetic over what is in use.

Overload is refused here, at the door: every realtime stream is counted with the device time that
it needs with all its steps, every stream with its pages and its decoder's memory. Nothing here
waits or knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.types import Kind, Pacing, Refused, Wait


@dataclass(frozen=True, slots=True)
class Demand:
    """What a stream takes.

    Attributes:
        kind: Live or job.
        pacing: Only ``realtime`` live streams need a share of the device's time.
        pages: Of the pool.
        decoder_bytes: Its decoder's state.
        chunk_s: Device time of one of its chunks alone, with all its steps.
        chunk_media_s: Media time of that chunk.
    """

    kind: Kind
    pacing: Pacing
    pages: int
    decoder_bytes: int
    chunk_s: float
    chunk_media_s: float

    @property
    def load(self) -> float:
        """Share of the device's time that it needs; 0 where it takes what is left."""
        if self.kind == "job" or self.pacing == "asap":
            return 0.0
        return self.chunk_s / self.chunk_media_s


@dataclass(frozen=True, slots=True)
class Limits:
    """What there is.

    Attributes:
        pages: Of the pool, without the null page.
        decoder_bytes: For all decoders' states.
        sessions: Live sessions at most.
        jobs: Jobs at most at the same time.
        load: Share of the device's time that realtime streams may be promised.
        live_pages: What jobs leave to live streams as long as there is room for it.
    """

    pages: int
    decoder_bytes: int
    sessions: int
    jobs: int
    load: float
    live_pages: int


def batched_load(demands: Sequence[Demand], batch_gain: float) -> float:
    """Return the share of the device's time that ``demands`` need together.

    Args:
        demands: All streams.
        batch_gain: What a chunk costs when as many sessions share batches as pays, over its cost
            alone; at most 1.
    """
    return sum(demand.load for demand in demands) * batch_gain


def admit(
    demand: Demand, held: Sequence[Demand], limits: Limits, batch_gain: float
) -> Wait | Refused | None:
    """Say why a stream cannot be taken in; None when it can.

    A realtime stream that would be alone is taken even by a device too slow for it.
    """
    if demand.pages > limits.pages:
        return Refused(
            "too_large",
            f"the stream needs {demand.pages} pages of cache; this worker has {limits.pages}; "
            "ask for a smaller size or a shorter video",
            "num_frames",
        )
    jobs = [other for other in held if other.kind == "job"]
    live = [other for other in held if other.kind == "live"]
    free = limits.pages - sum(other.pages for other in held)
    if demand.kind == "job":
        if len(jobs) >= limits.jobs:
            return Wait(f"{len(jobs)} jobs are running; this worker runs {limits.jobs} at a time")
        spared = limits.live_pages if jobs or live else 0
        if demand.pages > free - (0 if live else spared):
            return Wait(f"the job needs {demand.pages} pages; {free} are free")
    elif len(live) >= limits.sessions:
        return Wait(f"{len(live)} streams are running; this worker holds {limits.sessions}")
    if demand.pages > free:
        return Wait(f"the stream needs {demand.pages} pages; {free} are free")
    memory = sum(other.decoder_bytes for other in held) + demand.decoder_bytes
    if held and memory > limits.decoder_bytes:
        return Wait(f"decoders would take {memory} bytes; {limits.decoder_bytes} are set aside")
    if demand.load > 0 and any(other.load > 0 for other in held):
        load = batched_load([*held, demand], batch_gain)
        if load > limits.load:
            return Wait(
                f"realtime streams would need {load:.0%} of the device; {limits.load:.0%} may be "
                "promised"
            )
    return None
