"""One live stream on a worker: admission, control, credit, presence, end.

Owns the stream's small state on the event loop; the engine owns what is generated and
``server.worker.output`` what is published. Knows no sockets: viewers are control messages.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from engine.asked import Credit, PromptUpdate, Stop, UpdatePrompt
from engine.events import (
    Admitted,
    ChunkReady,
    EngineEvent,
    Refused,
    SessionEnded,
    SessionPaused,
    Wait,
)
from server.entries import config_to_json
from server.fabric import keys
from server.fabric.claim import RENEW_S, Claim
from server.fabric.connection import FabricError
from server.fabric.record import ENDED_MS, read_record
from server.fabric.streams import read_entries
from server.tasks import end_tasks
from server.worker.encoders import Encoders
from server.worker.keeper import Keeper
from server.worker.kept import KeptState
from server.worker.output import Fenced, Output
from server.worker.parts import LiveParts
from server.worker.start import Beginning, beginning, engine_id
from server.worker.steering import Steering

log = logging.getLogger(__name__)

ASK_AGAIN_S = 0.2
"""How long an engine without room is left alone."""
OWN_CHANGE = "\0takeover"
"""Names the prompt change of a takeover; no receipt goes out for it."""


class LiveStream:
    """Runs one claimed stream to its end."""

    def __init__(
        self,
        parts: LiveParts,
        claim: Claim,
        on_decided: Callable[[], None],
    ) -> None:
        """Prepare a claimed stream.

        Args:
            parts: What the worker's streams share.
            claim: The right to publish it.
            on_decided: Called once, when the engine has taken the stream in or never will.
        """
        self.session_id = claim.ticket.subject
        self._parts = parts
        self._on_decided = on_decided
        self._claim = claim
        self._engine_id = engine_id(self.session_id, claim.epoch)
        self._record: dict[str, str] = {}
        self._image: str | None = None
        self._begin: Beginning  # read first of all, by ``run``
        self._stop_reason = "stopped"
        self._stopping = False
        self._early: list[EngineEvent] = []
        self._output: Output | None = None
        self._encoders: Encoders | None = None
        self._steering: Steering | None = None

    def stop(self, reason: str) -> None:
        """End the stream soon; ``run`` returns when it has ended."""
        if not self._stopping:
            self._stopping = True
            self._stop_reason = reason
            if self._output is not None:
                self._parts.bridge.submit(Stop(self._engine_id))

    async def run(self) -> None:
        """Admit, serve and end the stream; a fault ends it with a word to its viewers.

        Raises:
            FabricError: Redis stays away; the ticket is left to whoever reaches it first.
        """
        try:
            try:
                await self._serve()
            except (Fenced, FabricError):
                raise
            except Exception as error:
                log.exception("stream %s ended by a fault", self.session_id)
                await self._fail(
                    f"a fault of the server ({type(error).__name__}); its log has more"
                )
        except Fenced:
            log.warning("stream %s: another worker took it over", self.session_id)

    async def _serve(self) -> None:
        parts = self._parts
        helpers: list[asyncio.Task[None]] = [self._task(self._renew())]
        try:
            try:
                admitted = await self._admit()
            finally:
                self._on_decided()
            if admitted is None:
                return
            output = await self._open(admitted)
            assert self._steering is not None, "opened together with the output"
            helpers += [self._task(self._steering.obey()), self._task(self._steering.watch())]
            if parts.states is not None:
                keeper = Keeper(parts, self.session_id, self._begin, output, self._steering)
                helpers.append(self._task(keeper.run(parts.states)))
            main = asyncio.create_task(output.run())
            try:
                await asyncio.wait({main, *helpers}, return_when=asyncio.FIRST_COMPLETED)
                for helper in helpers:
                    if helper.done():
                        helper.result()
            finally:
                # A state must not be written again once it was dropped.
                await end_tasks(main, *helpers)
            await self._end(main.result(), output)
        finally:
            # Harmless when the session has ended.
            parts.bridge.submit(Stop(self._engine_id))
            await end_tasks(*helpers)
            if self._encoders is not None:
                await self._encoders.close()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work)

    async def _admit(self) -> Admitted | None:
        """Ask the engine until it takes the stream in; None when the stream is over before."""
        self._record = await read_record(self._parts.redis, "live", self.session_id)
        if not self._record:
            # It vanished after the claim; whoever finds the silent ticket drops it.
            log.warning("stream %s: its record is gone", self.session_id)
            return None
        image = await self._parts.redis.do("GET", keys.image(self.session_id))
        self._image = None if image is None else image.decode()
        await self._read()
        await self._look_for_kept()
        while True:
            reason = await self._over_before_start()
            if reason is not None:
                published = self._begin.published
                await self._finish(reason, published.chunks, published.frames)
                return None
            begin = self._begin
            answer = await self._parts.bridge.admit(begin.spec, self._arrived, begin.kept)
            if isinstance(answer, Admitted):
                return answer
            if isinstance(answer, Refused) and begin.kept is not None:
                log.warning("stream %s begins anew: %s", self.session_id, answer.message)
                await self._read()
                continue
            if isinstance(answer, Refused):
                error = {"t": "error", "code": answer.code, "message": answer.message}
                await self._say({**error, "param": answer.param, "fatal": True})
                await self._finish("refused", 0, 0)
                return None
            assert isinstance(answer, Wait)
            await asyncio.sleep(ASK_AGAIN_S)

    async def _read(self, kept: KeptState | None = None) -> None:
        """Read from the record how to begin; a start image is decoded in a thread."""
        self._begin = await asyncio.to_thread(
            beginning, self._record, self.session_id, self._claim.epoch, kept, self._image
        )

    async def _look_for_kept(self) -> None:
        """Go on from a kept state of the engine when a takeover finds one."""
        states = self._parts.states
        if states is not None and self._begin.goes_on:
            kept = await asyncio.to_thread(states.read, self.session_id)
            await self._read(kept)

    async def _over_before_start(self) -> str | None:
        """Return why a stream that has not begun should not begin, if so."""
        if self._stopping:
            return self._stop_reason
        redis, key = self._parts.redis, keys.control(self.session_id)
        entries = await read_entries(redis, key, self._begin.control_after, count=1000)
        if any(entry.message["type"] == "stop" for entry in entries):
            return "stopped"
        newest = await redis.do("XREVRANGE", key, "+", "-", "COUNT", 1)
        seconds, micros = await redis.do("TIME")
        heard_ms = int(newest[0][0].split(b"-")[0]) if newest else 0
        silent_s = int(seconds) + int(micros) / 1e6 - heard_ms / 1e3
        return "connection_lost" if silent_s > self._parts.resume_grace_s else None

    async def _open(self, admitted: Admitted) -> Output:
        live, parts = self._begin.live, self._parts
        self._encoders = Encoders(
            live.codec,
            (live.width, live.height),
            live.fps,
            admitted.chunk_frames,
            parts.executor,
            parts.clock,
        )
        self._output = Output(
            self._claim,
            self.session_id,
            self._encoders,
            self._begin.offset,
            parts.stats,
            self._begin.published,
            self._begin.pending,
        )
        self._steering = Steering(
            parts, self._claim, self._begin, self._encoders, self._output, self.stop
        )
        for event in self._early:
            self._output.take(event)
        if self._begin.goes_on:
            how = "the picture begins anew" if self._begin.kept is None else "from its kept state"
            message = f"the worker of this stream died; another one goes on with it, {how}"
            await self._say({"t": "error", "code": "worker_lost", "message": message})
        config = config_to_json(self._encoders.config)
        await self._say(
            {"t": "open", "chunk_frames": admitted.chunk_frames, "epoch": self._claim.epoch}
            | {"config": config}
        )
        await self._claim.update({"state": "running", "chunk_frames": admitted.chunk_frames})
        if self._begin.changed:
            spec = self._begin.spec
            update = PromptUpdate(OWN_CHANGE, spec.prompts)
            parts.bridge.submit(UpdatePrompt(spec.session_id, update))
        if self._stopping:
            parts.bridge.submit(Stop(self._engine_id))
        return self._output

    async def _end(self, event: SessionEnded, output: Output) -> None:
        if event.reason == "error":
            await self._fail(event.error or "the engine gave no reason")
            return
        reason = self._stop_reason if event.reason == "stopped" else event.reason
        await self._finish(reason, output.chunks, output.frames)

    async def _fail(self, message: str) -> None:
        await self._say({"t": "error", "code": "stream_failed", "message": message})
        output, record = self._output, self._record
        chunks = output.chunks if output else int(record.get("next_chunk", 0))
        frames = output.frames if output else int(record.get("next_frame", 0))
        await self._finish("error", chunks, frames)

    async def _finish(self, reason: str, chunks: int, frames: int) -> None:
        self._parts.stats.ended(reason)
        done = {"t": "done", "reason": reason, "chunks": chunks, "frames": frames}
        await self._say(done)
        ours = await self._claim.finish({"state": "done", "reason": reason})
        if ours and self._parts.states is not None:
            await asyncio.to_thread(self._parts.states.drop, self.session_id)

    async def _say(self, message: dict[str, Any]) -> None:
        if self._output is not None:
            await self._output.say(message)
            return
        text = json.dumps(message, separators=(",", ":"))
        media = keys.media(self.session_id)
        if (
            await self._claim.publish(
                media, {"m": text}, fields={}, maxlen=64, expire_ms=ENDED_MS, progress=False
            )
            is None
        ):
            raise Fenced(self.session_id)

    def _arrived(self, event: EngineEvent) -> None:
        """Take an engine event; those before the output is open wait for it."""
        if isinstance(event, SessionPaused) and not (self._steering and self._steering.paused):
            return
        begin = self._begin
        again = begin.published.chunks - begin.offset.chunks
        if isinstance(event, ChunkReady) and event.chunk_index < again:
            # Viewers have it: it is made again only to get beyond it.
            last = event.first_frame + event.num_frames - 1
            self._parts.bridge.submit(Credit(event.session_id, last))
        if self._output is None:
            self._early.append(event)
        else:
            self._output.take(event)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                if not await self._claim.renew():
                    raise Fenced(self.session_id)
            except FabricError as error:
                log.warning("stream %s: claim not renewed: %s", self.session_id, error)
