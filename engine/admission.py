"""Whether one more stream can be taken in; pure arithmetic over what is in use.

Overload is refused here, at the door: every realtime stream is counted with the device time that
it needs with all its steps, every stream with its pages and its decoder's memory. Nothing here
waits or knows a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.asked import Kind, Pacing
from engine.events import Refused, Wait


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


@dataclass(frozen=True, slots=True)
class Taken:
    """What streams take together.

    Attributes:
        live: Live streams.
        jobs: Jobs.
        realtime: Streams that need a share of the device's time.
        pages: Of the pool.
        decoder_bytes: Their decoders' states.
        load: Sum of their shares of the device's time, each alone.
    """

    live: int = 0
    jobs: int = 0
    realtime: int = 0
    pages: int = 0
    decoder_bytes: int = 0
    load: float = 0.0

    @classmethod
    def by(cls, demands: Iterable[Demand]) -> Taken:
        """Add up what all of ``demands`` take."""
        taken = cls()
        for demand in demands:
            taken = taken.plus(demand)
        return taken

    def plus(self, demand: Demand) -> Taken:
        """Return what is taken with one more stream."""
        return Taken(
            self.live + (demand.kind == "live"),
            self.jobs + (demand.kind == "job"),
            self.realtime + (demand.load > 0),
            self.pages + demand.pages,
            self.decoder_bytes + demand.decoder_bytes,
            self.load + demand.load,
        )


def admit(demand: Demand, taken: Taken, limits: Limits, batch_gain: float) -> Wait | Refused | None:
    """Say why a stream cannot be taken in; None when it can.

    A realtime stream that would be alone is taken even by a device too slow for it.

    Args:
        demand: What the stream takes.
        taken: What those that are held take.
        limits: What there is.
        batch_gain: What a chunk costs when as many sessions share batches as pays, over its cost
            alone; at most 1.
    """
    if demand.pages > limits.pages:
        return Refused(
            "too_large",
            f"the stream needs {demand.pages} pages of cache; this worker has {limits.pages}; "
            "ask for a smaller size or a shorter video",
            "num_frames",
        )
    free = limits.pages - taken.pages
    if demand.kind == "job":
        if taken.jobs >= limits.jobs:
            return Wait(f"{taken.jobs} jobs are running; this worker runs {limits.jobs} at a time")
        # Where no live stream runs, a further job leaves room for one.
        spared = limits.live_pages if taken.jobs and not taken.live else 0
        if demand.pages > free - spared:
            return Wait(f"the job needs {demand.pages} pages; {free} are free")
    elif taken.live >= limits.sessions:
        return Wait(f"{taken.live} streams are running; this worker holds {limits.sessions}")
    if demand.pages > free:
        return Wait(f"the stream needs {demand.pages} pages; {free} are free")
    together = taken.plus(demand)
    if (taken.live or taken.jobs) and together.decoder_bytes > limits.decoder_bytes:
        return Wait(
            f"decoders would take {together.decoder_bytes} bytes; {limits.decoder_bytes} are set "
            "aside"
        )
    if demand.load > 0 and taken.realtime:
        load = together.load * batch_gain
        if load > limits.load:
            return Wait(
                f"realtime streams would need {load:.0%} of the device; {limits.load:.0%} may be "
                "promised"
            )
    return None
