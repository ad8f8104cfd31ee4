"""The thread that owns an engine.

Commands come in from any thread, events go out through one callback on the engine's own thread;
the callback must only hand the value over. It decides when to call ``step`` and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from engine.asked import Command, StreamSpec
from engine.events import Admission, Capacity, EngineEvent, Refused
from engine.snapshot import Snapshot, SnapshotError

log = logging.getLogger(__name__)
T = TypeVar("T")


class Stepped(Protocol):
    """What the thread needs of an engine."""

    def enter(self) -> None:
        """Prepare the calling thread, which is the one that uses the engine from now on."""
        ...

    def admit(self, spec: StreamSpec, now: float, snapshot: Snapshot | None = None) -> Admission:
        """Take a stream in, or say why not."""
        ...

    def snapshot(self, session_id: str) -> Snapshot | None:
        """Copy what a stream needs to go on elsewhere."""
        ...

    def apply(self, command: Command, now: float) -> tuple[EngineEvent, ...]:
        """Carry out one command."""
        ...

    def step(self, now: float) -> tuple[EngineEvent, ...]:
        """Generate at most one chunk for one batch of sessions."""
        ...

    def next_deadline(self, now: float) -> float | None:
        """Return when ``step`` next has work without a further command; None is never."""
        ...

    def land(self) -> tuple[EngineEvent, ...]:
        """Wait for the chunks that are being made and report them."""
        ...

    def capacity(self) -> Capacity:
        """Return how full the engine is."""
        ...

    def fail_all(self, error: str) -> tuple[EngineEvent, ...]:
        """End every session with ``error``."""
        ...


class EngineThread:
    """Runs an engine until ``stop``.

    Args:
        engine: Used by nobody else from ``start`` on.
        on_event: Called on the engine's thread with every event, in order; must not block.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        engine: Stepped,
        on_event: Callable[[EngineEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._on_event = on_event
        self._clock = clock
        self._wake = threading.Condition()
        self._inbox: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._capacity = engine.capacity()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> None:
        """Finish the tick in progress and end the thread; sessions are not told."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def admit(self, spec: StreamSpec, snapshot: bytes | None = None) -> Future[Admission]:
        """Ask for a stream to be taken in; its first events may precede the answer's reading.

        Args:
            spec: What to generate.
            snapshot: What ``snapshot`` gave for the stream, here or elsewhere: it goes on from
                there. Bytes that cannot be used are ``Refused`` with the code ``bad_snapshot``.
        """

        def admit() -> Admission:
            if snapshot is None:
                return self._engine.admit(spec, self._clock())
            try:
                unpacked = Snapshot.from_bytes(snapshot)
            except SnapshotError as error:
                return Refused("bad_snapshot", str(error))
            return self._engine.admit(spec, self._clock(), unpacked)

        return self.call(admit)

    def snapshot(self, session_id: str) -> Future[bytes | None]:
        """Ask for a stream's state after its last finished chunk; None when it is gone.

        All chunks up to it have been given to the callback before.
        """

        def take() -> bytes | None:
            self._emit(self._engine.land())
            snapshot = self._engine.snapshot(session_id)
            return None if snapshot is None else snapshot.to_bytes()

        return self.call(take)

    def submit(self, command: Command) -> None:
        """Queue a command; what it leads to comes as events. Unknown sessions are ignored."""
        now = self._clock()
        self._post(lambda: self._emit(self._engine.apply(command, now)))

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run ``function`` on the engine's thread, between two ticks."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._post(run)
        return future

    def capacity(self) -> Capacity:
        """Return the engine's capacity as of the last tick or command; never waits."""
        return self._capacity

    def _post(self, item: Callable[[], None]) -> None:
        with self._wake:
            if self._stopping:
                raise RuntimeError("the engine thread is stopping; no further command is taken")
            self._inbox.append(item)
            self._wake.notify()

    def _run(self) -> None:
        self._engine.enter()
        while self._wait_for_work():
            while self._inbox:
                self._obey(self._inbox.popleft())
                self._capacity = self._engine.capacity()
            try:
                self._emit(self._engine.step(self._clock()))
            except Exception as error:
                # The engine ends the sessions of a failing tick itself; what arrives here is a
                # defect outside any tick, and no session can be trusted to go on.
                log.exception("engine failed between ticks")
                self._emit(self._engine.fail_all(f"internal error: {type(error).__name__}"))
            self._capacity = self._engine.capacity()

    @staticmethod
    def _obey(command: Callable[[], None]) -> None:
        try:
            command()
        except Exception:
            log.exception("a command failed and was dropped")

    def _wait_for_work(self) -> bool:
        """Sleep until there is a command or a due step; False when stopping."""
        with self._wake:
            while not self._stopping and not self._inbox:
                now = self._clock()
                due = self._engine.next_deadline(now)
                if due is not None and due <= now:
                    break
                self._wake.wait(None if due is None else due - now)
            return not self._stopping

    def _emit(self, events: tuple[EngineEvent, ...]) -> None:
        for event in events:
            try:
                self._on_event(event)
            except Exception:
                log.exception("event callback failed on %s", type(event).__name__)
