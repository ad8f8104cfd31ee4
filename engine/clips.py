"""Clips made by an engine without a server: as many at a time as it admits.

A request becomes a stream when its turn comes, so its picture or clip is read once and only then,
and its frames are handed out when its last chunk is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from engine.asked import Credit, StreamSpec
from engine.engine import Engine
from engine.events import Admitted, ChunkReady, Frames, PromptApplied, SessionEnded, Wait
from engine.requests import ClipRequest

__all__ = ["Clip", "make_clips"]


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip that is made.

    Attributes:
        request: What was asked for.
        frames: uint8 ``[T, H, W, 3]``.
        applied: Its later prompts, when they took effect.
    """

    request: ClipRequest
    frames: npt.NDArray[np.uint8]
    applied: tuple[PromptApplied, ...]


@dataclass(slots=True)
class _Making:
    """A clip that is being made."""

    request: ClipRequest
    chunks: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    applied: list[PromptApplied] = field(default_factory=list)

    def clip(self) -> Clip:
        return Clip(self.request, np.concatenate(self.chunks), tuple(self.applied))


def make_clips(
    engine: Engine,
    requests: Sequence[ClipRequest],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[Clip]:
    """Make every clip; each is handed out when it ends, so not always in the order asked for.

    Args:
        engine: Has no other streams.
        requests: Of different names.
        clock: Monotonic seconds.
        sleep: Waits for so many seconds.

    Raises:
        ValueError: A request cannot be read or is refused, or a stream ends with an error. What was
            running then has been finished and handed out; no other clip was begun.
        OSError: A request's picture or clip is not there; likewise.
    """
    queue = deque(requests)
    spec: StreamSpec | None = None  # of the request at the head of the queue
    running: dict[str, _Making] = {}
    full = False  # until a clip ends
    failure: ValueError | OSError | None = None
    while running or (queue and failure is None):
        while queue and not full and failure is None:
            try:
                spec = spec or queue[0].spec(engine.model.entry)
            except (ValueError, OSError) as error:
                failure = error
                break
            answer = engine.admit(spec, clock())
            if isinstance(answer, Admitted):
                running[spec.session_id] = _Making(queue.popleft())
                spec = None
            elif isinstance(answer, Wait) and running:
                full = True
            else:
                reason = answer.reason if isinstance(answer, Wait) else answer.message
                failure = ValueError(f"{spec.session_id}: {reason}")
        if not running:
            continue
        due = engine.next_deadline(clock())
        assert due is not None, "a clip's chunks are credited at once, so it always goes on"
        sleep(max(0.0, due - clock()))
        for event in engine.step(clock()):
            making = running[event.session_id]
            if isinstance(event, ChunkReady):
                making.chunks.append(_kept(event.frames))
                last = event.first_frame + event.num_frames - 1
                engine.apply(Credit(event.session_id, last), clock())
            elif isinstance(event, PromptApplied):
                making.applied.append(event)
            elif isinstance(event, SessionEnded):
                del running[event.session_id]
                full = False
                if event.reason == "complete":
                    yield making.clip()
                else:
                    reason = event.error or event.reason
                    failure = failure or ValueError(f"{event.session_id} ended: {reason}")
    if failure is not None:
        raise failure


def _kept(frames: Frames) -> npt.NDArray[np.uint8]:
    if isinstance(frames, torch.Tensor) and frames.is_pinned():
        # A whole clip would hold that much memory locked.
        frames = frames.clone()
    return frames.numpy()
