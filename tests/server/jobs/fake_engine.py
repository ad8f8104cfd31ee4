"""An engine of the runner's interface that draws its frames: closed form, credit-gated."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.asked import Command, Credit, Stop, StreamSpec
from engine.events import (
    Admission,
    Admitted,
    ChunkReady,
    EngineEvent,
    PromptApplied,
    Refused,
    SessionEnded,
)

Sink = Callable[[EngineEvent], None]


def picture(frame: int, width: int, height: int) -> NDArray[np.uint8]:
    """Grey level says which frame it is; survives H.264."""
    level = 16 + 3 * (frame % 70)
    image = np.full((height, width, 3), level, np.uint8)
    image[: height // 4, : width // 4] = 255 if (frame // 8) % 2 else 0
    return image


class Pixels:
    """What the engine's frames look like to the server."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self._array = array
        self.shape = array.shape

    def numpy(self) -> NDArray[np.uint8]:
        return self._array


@dataclass
class Session:
    spec: StreamSpec
    sink: Sink
    begin: int = 0
    credited: int = -1
    frames: int = 0
    stopped: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class FakeEngine:
    """First chunk 9 frames, then 12, at most two chunks ahead of the credit."""

    def __init__(self, answers: tuple[Admission, ...] = ()) -> None:
        self.specs: list[StreamSpec] = []
        self.sessions: dict[str, Session] = {}
        self.generated = 0
        self.hold_at: int | None = None
        """Generate nothing from this frame on, until ``go``."""
        self.error_at: int | None = None
        self.begun_at: list[int] = []
        """Frame at which each admission began: 0, or a state's."""
        self.refused_states: tuple[bytes, ...] = ()
        self._answers = list(answers)
        self._tasks: set[asyncio.Task[None]] = set()

    async def admit(self, spec: StreamSpec, sink: Sink, snapshot: bytes | None = None) -> Admission:
        self.specs.append(spec)
        self.begun_at.append(int(snapshot or b"0"))
        if snapshot in self.refused_states:
            return Refused("bad_snapshot", "damaged")
        if self._answers:
            answer = self._answers.pop(0)
            if not isinstance(answer, Admitted):
                return answer
        session = self.sessions[spec.session_id] = Session(spec, sink, int(snapshot or b"0"))
        task = asyncio.create_task(self._run(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Admitted(spec.session_id, 12)

    async def snapshot(self, session_id: str) -> bytes | None:
        session = self.sessions.get(session_id)
        return None if session is None else str(session.frames).encode()

    def submit(self, command: Command) -> None:
        session = self.sessions.get(command.session_id)
        if session is None:
            return
        if isinstance(command, Credit):
            session.credited = max(session.credited, command.frame)
        elif isinstance(command, Stop):
            session.stopped = True
        session.woken.set()

    def go(self) -> None:
        self.hold_at = None
        for session in self.sessions.values():
            session.woken.set()

    async def _run(self, session: Session) -> None:
        spec, first = session.spec, session.begin
        chunk = 0 if first == 0 else 1 + (first - 9) // 12
        session.credited = first - 1
        assert spec.num_frames is not None
        while first < spec.num_frames and not session.stopped:
            if self.error_at is not None and first >= self.error_at:
                return self._end(session, first, chunk, "the device is on fire")
            held = self.hold_at is not None and first >= self.hold_at
            if held or first > session.credited + 24:
                session.woken.clear()
                await session.woken.wait()
                continue
            count = min(9 if chunk == 0 else 12, spec.num_frames - first)
            frames = np.stack([picture(first + n, spec.width, spec.height) for n in range(count)])
            for timed in spec.timed_prompts:
                if first <= timed.frame < first + count:
                    session.sink(
                        PromptApplied(spec.session_id, f"timed:{timed.frame}", chunk, first)
                    )
            ready = ChunkReady(
                spec.session_id, 0, chunk, first, count, Pixels(frames), 0, 4, 0.0, 0.0, 0.0
            )
            session.sink(ready)
            self.generated += count
            first, chunk = first + count, chunk + 1
            session.frames = first
            await asyncio.sleep(0)
        self._end(session, first, chunk, None)
        return None

    def _end(self, session: Session, frames: int, chunks: int, error: str | None) -> None:
        reason = "error" if error else "stopped" if session.stopped else "complete"
        self.sessions.pop(session.spec.session_id)
        session.sink(
            SessionEnded(session.spec.session_id, reason, chunks, frames, error)  # type: ignore[arg-type]
        )
