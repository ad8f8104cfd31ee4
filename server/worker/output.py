"""One live stream's way out: engine events in order to encoded, published entries.

The engine's sink puts events into a queue; ``run`` takes them one by one, encodes chunks, and
publishes each with the receipts that take effect with it. A publish that is refused means that
another worker owns the stream now. Knows neither control messages nor credits.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.events import (
    ChunkReady,
    EngineEvent,
    PromptApplied,
    PromptRejected,
    PromptSuperseded,
    SessionEnded,
    SessionPaused,
)
from server.entries import ChunkEntry
from server.fabric import keys
from server.fabric.claim import Claim
from server.fabric.connection import Word
from server.fabric.streams import LIVES_MS, MEDIA_MAXLEN
from server.worker.encoders import Encoders
from server.worker.stats import WorkerStats


class Fenced(Exception):
    """Another worker owns the stream now; this one must stop without a word."""


@dataclass(frozen=True, slots=True)
class Offset:
    """Where a stream goes on after a takeover: its next chunk, frame and prompt revision."""

    chunks: int = 0
    frames: int = 0
    prompt_rev: int = 0


class Output:
    """Publishes what the engine makes for one stream."""

    def __init__(
        self,
        claim: Claim,
        session_id: str,
        encoders: Encoders,
        offset: Offset,
        stats: WorkerStats,
        published: Offset | None = None,
        pending: Sequence[str] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare to publish.

        Args:
            claim: The right to do so.
            session_id: Whose media stream.
            encoders: Encode the chunks.
            offset: What the engine's chunk 0 and frame 0 are to viewers.
            stats: Counts.
            published: What viewers have; chunks before it are made again and not shown.
            pending: Events that show with the first chunk published here (takeover).
            clock: Seconds.
        """
        self._published = published or offset
        self._claim = claim
        self._session_id = session_id
        self._encoders = encoders
        self._offset = offset
        self._stats = stats
        self._clock = clock
        self._events: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self._applied: list[str] = list(pending)
        self._waiting: list[str] = list(pending)
        self._moved = asyncio.Condition()
        self.made = 0
        self.chunks = self._published.chunks
        self.frames = self._published.frames

    def take(self, event: EngineEvent) -> None:
        """Queue one event; the engine's credit bounds how many wait."""
        if isinstance(event, ChunkReady):
            self.made = self._offset.frames + event.first_frame + event.num_frames
        self._events.put_nowait(event)

    async def reached(self, frames: int) -> None:
        """Wait until ``frames`` frames of the stream are published."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.frames >= frames)

    def expect(self, event_id: str) -> str:
        """Note an event that has no receipt yet; return all of those for the record."""
        self._waiting.append(event_id)
        return json.dumps(self._waiting)

    async def run(self) -> SessionEnded:
        """Publish until the engine has ended the session; return that event.

        Raises:
            Fenced: Another worker took the stream over.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, SessionEnded):
                return event
            if isinstance(event, ChunkReady):
                await self._chunk(event)
            elif isinstance(event, PromptApplied):
                # Not one whose receipt went out before a takeover, nor a change of our own.
                if event.event_id in self._waiting and event.event_id not in self._applied:
                    self._applied.append(event.event_id)
            elif isinstance(event, PromptSuperseded):
                self._forget((event.event_id,))
                await self.say({"t": "superseded", "event_id": event.event_id})
            elif isinstance(event, PromptRejected):
                self._forget((event.event_id,))
                rejected = {"event_id": event.event_id, "message": event.message}
                await self.say({"t": "rejected", **rejected})
            elif isinstance(event, SessionPaused):
                await self.say({"t": "paused"})

    async def say(self, message: dict[str, Any]) -> None:
        """Publish an entry without media; it does not count as progress.

        Raises:
            Fenced: Another worker took the stream over.
        """
        text = json.dumps(message, separators=(",", ":"))
        await self._publish({"m": text}, {}, progress=False)

    async def _chunk(self, event: ChunkReady) -> None:
        began = self._clock()
        index = self._offset.chunks + event.chunk_index
        if index < self._published.chunks:
            return
        codecs = await self._encoders.encode(event.frames.numpy(), index)
        entry = ChunkEntry(
            epoch=self._claim.epoch,
            chunk_index=index,
            first_frame=self._offset.frames + event.first_frame,
            num_frames=event.num_frames,
            prompt_rev=max(self._published.prompt_rev, self._offset.prompt_rev + event.prompt_rev),
            steps=event.steps,
            queue_ms=round(event.queue_ms, 3),
            denoise_ms=round(event.denoise_ms, 3),
            decode_ms=round(event.decode_ms, 3),
            applied=tuple(self._applied),
            codecs=codecs,
        )
        self._forget(self._applied)
        self._applied.clear()
        words: dict[str, Word] = {
            "m": json.dumps(entry.to_message(), separators=(",", ":")),
            **{f"d:{codec}": data for codec, data in entry.data().items()},
        }
        self.chunks = index + 1
        self.frames = entry.first_frame + entry.num_frames
        fields: dict[str, Word] = {
            "next_chunk": self.chunks,
            "next_frame": self.frames,
            "prompt_rev": entry.prompt_rev,
            "pending": json.dumps(self._waiting),
        }
        await self._publish(words, fields, progress=True)
        async with self._moved:
            self._moved.notify_all()
        spent = event.denoise_ms + event.decode_ms + (self._clock() - began) * 1000
        self._stats.chunk("live", event.num_frames, spent / 1000, event.slack_s)

    def _forget(self, event_ids: Sequence[str]) -> None:
        self._waiting = [known for known in self._waiting if known not in event_ids]

    async def _publish(
        self, words: dict[str, Word], fields: dict[str, Word], *, progress: bool
    ) -> None:
        entry_id = await self._claim.publish(
            keys.media(self._session_id),
            words,
            fields=fields,
            maxlen=MEDIA_MAXLEN,
            expire_ms=LIVES_MS,
            progress=progress,
        )
        if entry_id is None:
            raise Fenced(self._session_id)
