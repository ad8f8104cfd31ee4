"""The engine as jobs use it, with every chunk counted on its way."""

from collections.abc import Callable

from engine.asked import Command, StreamSpec
from engine.events import Admission, ChunkReady, EngineEvent
from server.jobs.runner import JobEngine
from server.worker.stats import WorkerStats


class CountedEngine:
    """Passes everything on; knows nothing of what a job is."""

    def __init__(self, engine: JobEngine, stats: WorkerStats) -> None:
        self._engine = engine
        self._stats = stats

    async def admit(
        self,
        spec: StreamSpec,
        sink: Callable[[EngineEvent], None],
        snapshot: bytes | None = None,
    ) -> Admission:
        """Ask for a stream; its chunks are counted before ``sink`` gets them."""

        def counted(event: EngineEvent) -> None:
            if isinstance(event, ChunkReady):
                seconds = (event.denoise_ms + event.decode_ms) / 1000
                self._stats.chunk("job", event.num_frames, seconds, None)
            sink(event)

        return await self._engine.admit(spec, counted, snapshot)

    async def snapshot(self, session_id: str) -> bytes | None:
        """Return a stream's state after its last chunk; None when it has none to give."""
        return await self._engine.snapshot(session_id)

    def submit(self, command: Command) -> None:
        """Queue a command; harmless when the session has ended."""
        self._engine.submit(command)
