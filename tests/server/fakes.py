"""An engine without a network: pictures whose colour is a function of the prompt.

It keeps the contract of ``engine.engine.Engine`` as the server sees it: credits, receipts right
before their chunk, pages per session. Everything else of the server is real in these tests.
"""

import hashlib
import threading
from dataclasses import dataclass, field

import numpy as np
import torch

from engine.asked import Command, Credit, Pause, Play, PromptUpdate, Stop, StreamSpec, UpdatePrompt
from engine.events import (
    Admission,
    Admitted,
    Capacity,
    ChunkReady,
    EngineEvent,
    PromptApplied,
    PromptSuperseded,
    Refused,
    SessionEnded,
    SessionPaused,
    Wait,
)
from engine.snapshot import Snapshot

CHUNK, FIRST = 12, 9
PAGES = 10


def colour(text: str) -> tuple[int, int, int]:
    """The colour of a prompt's pictures."""
    digest = hashlib.sha256(text.encode()).digest()
    return (40 + digest[0] % 180, 40 + digest[1] % 180, 40 + digest[2] % 180)


@dataclass
class _Session:
    spec: StreamSpec
    text: str
    chunks: int = 0
    frames: int = 0
    played: int = -1
    paused: bool = False
    stopped: bool = False
    prompt_rev: int = 0
    update: PromptUpdate | None = None
    not_before: float = 0.0


@dataclass
class FakeEngine:
    """Deterministic, one chunk a step; ``chunk_s`` is how long each takes."""

    fit: int = 4
    chunk_s: float = 0.0
    max_pages: int = 1000
    fail_on: str = "fail now"
    die: threading.Event = field(default_factory=threading.Event)
    sessions: dict[str, _Session] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)

    def snapshot(self, session_id: str) -> Snapshot | None:
        return None

    def enter(self) -> None:
        pass

    def land(self) -> tuple[EngineEvent, ...]:
        return ()

    def admit(self, spec: StreamSpec, now: float, snapshot: Snapshot | None = None) -> Admission:
        if spec.start_image is not None and spec.kind == "live":
            return Refused("not_supported", "no start image here", "image")
        if len(self.sessions) >= self.fit:
            return Wait("full")
        self.sessions[spec.session_id] = _Session(spec, spec.prompts[0].text)
        return Admitted(spec.session_id, CHUNK)

    def apply(self, command: Command, now: float) -> tuple[EngineEvent, ...]:
        session = self.sessions.get(command.session_id)
        if session is None:
            return ()
        match command:
            case Credit():
                session.played = max(session.played, command.frame)
            case Pause():
                session.paused = True
                return (SessionPaused(command.session_id, session.frames),)
            case Play():
                session.paused = False
            case Stop():
                session.stopped = True
                return self._end(session, "stopped")
            case UpdatePrompt():
                old, session.update = session.update, command.update
                if old is not None:
                    by = command.update.event_id
                    return (PromptSuperseded(command.session_id, old.event_id, by),)
        return ()

    def _ready(self, session: _Session, now: float) -> bool:
        ahead = session.frames - 1 - session.played
        return not session.paused and now >= session.not_before and ahead <= 2 * CHUNK

    def step(self, now: float) -> tuple[EngineEvent, ...]:
        if self.die.is_set():
            raise RuntimeError("told to die")
        for session in sorted(self.sessions.values(), key=lambda s: s.frames):
            if self._ready(session, now):
                return self._chunk(session, now)
        return ()

    def _chunk(self, session: _Session, now: float) -> tuple[EngineEvent, ...]:
        spec = session.spec
        events: list[EngineEvent] = []
        if session.update is not None:
            update, session.update = session.update, None
            session.text = update.prompts[0].text
            session.prompt_rev += 1
            if session.text == self.fail_on:
                return self._end(session, "error", "the prompt said so")
            args = (spec.session_id, update.event_id, session.chunks, session.frames)
            events.append(PromptApplied(*args))
        count = FIRST if session.chunks == 0 else CHUNK
        if spec.num_frames is not None:
            count = min(count, spec.num_frames - session.frames)
        frames = np.empty((count, spec.height, spec.width, 3), np.uint8)
        frames[:] = colour(session.text)
        for index in range(count):
            bar = (session.frames + index) * 2 % spec.width
            frames[index, :, bar : bar + 8] = 255
        events.append(
            ChunkReady(
                session_id=spec.session_id,
                epoch=0,
                chunk_index=session.chunks,
                first_frame=session.frames,
                num_frames=count,
                frames=torch.from_numpy(frames),
                prompt_rev=session.prompt_rev,
                steps=4,
                queue_ms=0.1,
                denoise_ms=self.chunk_s * 1000,
                decode_ms=0.2,
                slack_s=None if session.chunks == 0 else 0.1,
            )
        )
        session.chunks += 1
        session.frames += count
        session.not_before = now + self.chunk_s
        self.made[spec.session_id] = session.frames
        if session.frames == spec.num_frames:
            events += self._end(session, "complete")
        return tuple(events)

    def _end(
        self, session: _Session, reason: str, error: str | None = None
    ) -> tuple[EngineEvent, ...]:
        del self.sessions[session.spec.session_id]
        name = session.spec.session_id
        return (SessionEnded(name, reason, session.chunks, session.frames, error),)  # type: ignore[arg-type]

    def next_deadline(self, now: float) -> float | None:
        waits = [s.not_before for s in self.sessions.values() if self._ready(s, float("inf"))]
        return min(waits, default=None)

    def capacity(self) -> Capacity:
        live = sum(s.spec.kind == "live" for s in self.sessions.values())
        return Capacity(
            streams_fit=self.fit,
            streams_free=self.fit - len(self.sessions),
            sessions_live=live,
            sessions_jobs=len(self.sessions) - live,
            pages_total=self.fit * PAGES,
            pages_in_use=len(self.sessions) * PAGES,
            load=len(self.sessions) / self.fit,
            chunk_seconds=max(self.chunk_s, 0.001),
        )

    def fail_all(self, error: str) -> tuple[EngineEvent, ...]:
        ended = [self._end(session, "error", error) for session in list(self.sessions.values())]
        return tuple(event for events in ended for event in events)
