"""The engine's thread as the event loop sees it.

Live streams and jobs use the same bridge: ``admit`` a spec together with a sink for its events,
``submit`` commands, read ``capacity``. Events arrive at the sink on the event loop, in the
engine's order; the last one is ``SessionEnded``, after which the sink is forgotten. Knows neither
Redis nor codecs.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from engine.asked import Command, Stop, StreamSpec
from engine.events import Admission, Admitted, Capacity, EngineEvent, SessionEnded

log = logging.getLogger(__name__)

Sink = Callable[[EngineEvent], None]


class Thread(Protocol):
    """What the bridge needs of ``engine.thread.EngineThread``."""

    def start(self) -> None:
        """Start the thread."""
        ...

    def stop(self, timeout_s: float | None = None) -> None:
        """End the thread after its tick."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        ...

    def admit(self, spec: StreamSpec, snapshot: bytes | None = None) -> Future[Admission]:
        """Ask for a stream to be taken in, or to go on from a snapshot."""
        ...

    def snapshot(self, session_id: str) -> Future[bytes | None]:
        """Ask for a stream's state."""
        ...

    def submit(self, command: Command) -> None:
        """Queue a command."""
        ...

    def capacity(self) -> Capacity:
        """Return how full the engine is."""
        ...


class EngineBridge:
    """Carries commands to the engine's thread and its events to sinks on the loop."""

    def __init__(self, make_thread: Callable[[Sink], Thread]) -> None:
        """Build the thread around this bridge's event callback; must run on the event loop.

        Args:
            make_thread: Given the callback, returns an ``EngineThread`` that is not started.
        """
        self._loop = asyncio.get_running_loop()
        self._sinks: dict[str, Sink] = {}
        self._thread = make_thread(self._arrived)
        self._thread.start()

    async def admit(self, spec: StreamSpec, sink: Sink, snapshot: bytes | None = None) -> Admission:
        """Ask for a stream; ``sink`` gets its events when it was ``Admitted``.

        Args:
            spec: What to generate.
            sink: Takes its events.
            snapshot: What ``snapshot`` gave for the stream: it goes on from there.
        """
        assert spec.session_id not in self._sinks, f"{spec.session_id} was admitted twice"
        self._sinks[spec.session_id] = sink
        answer: Admission | None = None
        try:
            answer = await asyncio.wrap_future(self._thread.admit(spec, snapshot))
        except asyncio.CancelledError:
            # The engine may take the stream in all the same; nobody would ever end it.
            self._thread.submit(Stop(spec.session_id))
            raise
        finally:
            if not isinstance(answer, Admitted):
                self._sinks.pop(spec.session_id, None)
        return answer

    async def snapshot(self, session_id: str) -> bytes | None:
        """Return a stream's state after its last finished chunk; None when it is gone."""
        return await asyncio.wrap_future(self._thread.snapshot(session_id))

    def submit(self, command: Command) -> None:
        """Queue a command; nothing happens when the session has ended."""
        self._thread.submit(command)

    def capacity(self) -> Capacity:
        """Return how full the engine is, as of its last tick or command."""
        return self._thread.capacity()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.alive

    async def close(self) -> None:
        """End the thread after the tick in progress."""
        await asyncio.to_thread(self._thread.stop, 30.0)

    def _arrived(self, event: EngineEvent) -> None:
        """Take an event on the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._deliver, event)
        except RuntimeError:
            log.debug("the loop has ended; %s dropped", type(event).__name__)

    def _deliver(self, event: EngineEvent) -> None:
        ended = isinstance(event, SessionEnded)
        session_id = event.session_id
        sink = self._sinks.pop(session_id, None) if ended else self._sinks.get(session_id)
        if sink is not None:
            sink(event)
