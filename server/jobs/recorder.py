"""Chunks of pictures in, segments of a job's folder out.

A segment is about three seconds of whole chunks and is written when it is full. Each has an
encoder of its own, so its bytes depend on its pictures alone: a job that was taken over
gives the same file as one that was not. Frames before the start (already committed by an earlier claim) and
after the end are left out. Synchronous; runs in an executor. Knows no Redis, no engine.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.jobs.record import Segment
from server.jobs.request import JobRequest
from server.jobs.segments import THUMBNAIL, JobFolder
from server.media.encoder import ChunkEncoder
from server.media.fmp4 import fragment, init_segment, timing
from server.media.types import CodecName

SEGMENT_S = 3.0
MakeEncoder = Callable[[CodecName, int, int, int], ChunkEncoder]
"""Opens an encoder: codec, width, height, fps."""


@dataclass
class Recorder:
    """Encodes one job from frame ``start`` on.

    Attributes:
        folder: Where files go.
        request: Size, rate and length.
        epoch: The claim's, part of each file's name.
        start: First frame not yet committed.
    """

    folder: JobFolder
    request: JobRequest
    make_encoder: MakeEncoder
    epoch: int
    start: int = 0
    init: str = field(init=False)
    _encoder: ChunkEncoder = field(init=False)
    _pending: list[bytes] = field(init=False, default_factory=list)
    _pending_frames: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        job = self.request
        self._encoder = self._open()
        self._timescale, self._ticks = timing(job.fps)
        self.init = self.folder.put_init(
            init_segment(self._encoder.config, job.width, job.height, self._timescale)
        )

    def add(self, first_frame: int, frames: NDArray[np.uint8]) -> Segment | None:
        """Encode one chunk ``[T, H, W, 3]``; return the segment it filled, if it did.

        The chunk must follow the one before, or begin at or before ``start``.
        """
        if first_frame == 0:
            self._make_thumbnail(frames[:1])
        end = min(first_frame + len(frames), self.request.num_frames)
        at = self.start + self._pending_frames
        if end <= at:
            return None
        assert first_frame <= at, f"chunk at {first_frame}, frame {at} was never given"
        wanted = frames[at - first_frame : end - first_frame]
        units = self._encoder.encode(wanted, key=not self._pending).units
        self._pending.append(fragment(units, at + 1, at * self._ticks, self._ticks))
        self._pending_frames += len(units)
        last = at + len(units) == self.request.num_frames
        full = self._pending_frames + len(frames) > SEGMENT_S * self.request.fps
        return self._cut() if last or full else None

    def _cut(self) -> Segment:
        data = b"".join(self._pending)
        segment = self.folder.put_segment(
            self.init, self.start, self._pending_frames, self.epoch, data
        )
        self._encoder.close()
        self._encoder = self._open()
        self.start += self._pending_frames
        self._pending, self._pending_frames = [], 0
        return segment

    def finish(self, segments: tuple[Segment, ...]) -> str:
        """Write the finished file from the committed segments and return its name."""
        job = self.request
        size = (job.width, job.height)
        return self.folder.finish(segments, self._encoder.config, size, job.fps)

    def close(self) -> None:
        """Release the encoder."""
        self._encoder.close()

    def _open(self) -> ChunkEncoder:
        job = self.request
        return self.make_encoder("h264", job.width, job.height, job.fps)

    def _make_thumbnail(self, frames: NDArray[np.uint8]) -> None:
        job = self.request
        encoder = self.make_encoder("jpeg", job.width, job.height, job.fps)
        try:
            self.folder.put(THUMBNAIL, encoder.encode(frames, key=True).units[0].data)
        finally:
            encoder.close()
