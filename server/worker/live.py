"""One live stream on a worker: admission, control, credit, presence, end.

Owns the stream's small state on the event loop; the engine owns what is generated and
``server.worker.output`` what is published. Knows no sockets: viewers are control messages.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from engine.types import (
    Admitted,
    Credit,
    EngineEvent,
    Pause,
    Play,
    PromptPart,
    PromptUpdate,
    Refused,
    SessionEnded,
    SessionPaused,
    Stop,
    UpdatePrompt,
    Wait,
)
from server.entries import config_to_json
from server.fabric import keys
from server.fabric.claim import RENEW_S, Claim
from server.fabric.connection import Connection, FabricError
from server.fabric.streams import drop_streams, read_entries
from server.tasks import end_tasks
from server.worker.bridge import EngineBridge
from server.worker.credit import ViewerCredit
from server.worker.encoders import Encoders
from server.worker.output import Fenced, Output
from server.worker.presence import Presence
from server.worker.start import Beginning, beginning
from server.worker.stats import WorkerStats

log = logging.getLogger(__name__)

WATCH_S = 0.2
"""How often presence and the clock's credit are looked at."""
ENDED_MS = 60_000
"""How long the media stream and the record of an ended stream can still be read."""


@dataclass(frozen=True, slots=True)
class LiveParts:
    """What every live stream of a worker shares."""

    redis: Connection
    bridge: EngineBridge
    executor: Executor
    stats: WorkerStats
    resume_grace_s: float
    clock: Callable[[], float] = time.monotonic


class LiveStream:
    """Runs one claimed stream to its end."""

    def __init__(
        self,
        parts: LiveParts,
        claim: Claim,
        record: dict[str, str],
        on_decided: Callable[[], None],
    ) -> None:
        """Prepare a claimed stream.

        Args:
            parts: What the worker's streams share.
            claim: The right to publish it.
            record: Its hash as just read.
            on_decided: Called once, when the engine has taken the stream in or never will.
        """
        self.session_id = claim.ticket.subject
        self._parts = parts
        self._on_decided = on_decided
        self._claim = claim
        self._begin: Beginning = beginning(record, self.session_id, claim.epoch)
        now = parts.clock()
        live = self._begin.live
        self._credit = ViewerCredit(live.pacing, live.fps, self._begin.offset.frames)
        self._presence = Presence(parts.resume_grace_s, now)
        self._control_at = self._begin.control_after
        self._credited = -1
        self._user_paused = False
        self._running = True
        self._stop_reason = "stopped"
        self._stopping = False
        self._early: list[EngineEvent] = []
        self._output: Output | None = None
        self._encoders: Encoders | None = None

    def stop(self, reason: str) -> None:
        """End the stream soon; ``run`` returns when it has ended."""
        if not self._stopping:
            self._stopping = True
            self._stop_reason = reason
            if self._output is not None:
                self._parts.bridge.submit(Stop(self._begin.spec.session_id))

    async def run(self) -> None:
        """Admit, serve and end the stream."""
        helpers: list[asyncio.Task[None]] = [self._task(self._renew())]
        try:
            try:
                admitted = await self._admit()
            finally:
                self._on_decided()
            if admitted is None:
                return
            output = await self._open(admitted)
            helpers += [self._task(self._obey_control()), self._task(self._watch())]
            main = asyncio.create_task(output.run())
            await asyncio.wait({main, *helpers}, return_when=asyncio.FIRST_COMPLETED)
            for helper in helpers:
                if helper.done():
                    await end_tasks(main)
                    helper.result()
            await self._end(await main, output)
        except Fenced:
            log.warning("stream %s: another worker took it over", self.session_id)
            self._parts.bridge.submit(Stop(self._begin.spec.session_id))
        except BaseException:
            self._parts.bridge.submit(Stop(self._begin.spec.session_id))
            raise
        finally:
            await end_tasks(*helpers)
            if self._encoders is not None:
                self._encoders.close()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work)

    # -- beginning and end ---------------------------------------------------------------------

    async def _admit(self) -> Admitted | None:
        """Ask the engine until it takes the stream in; None when the stream is over before."""
        while True:
            reason = await self._over_before_start()
            if reason is not None:
                await self._finish(reason, self._begin.offset.chunks, self._begin.offset.frames)
                return None
            answer = await self._parts.bridge.admit(self._begin.spec, self._arrived)
            if isinstance(answer, Admitted):
                return answer
            if isinstance(answer, Refused):
                error = {"t": "error", "code": answer.code, "message": answer.message}
                await self._say({**error, "param": answer.param, "fatal": True})
                await self._finish("refused", 0, 0)
                return None
            assert isinstance(answer, Wait)
            await asyncio.sleep(WATCH_S)

    async def _over_before_start(self) -> str | None:
        """Return why a stream that has not begun should not begin, if so."""
        if self._stopping:
            return self._stop_reason
        redis, key = self._parts.redis, keys.control(self.session_id)
        entries = await read_entries(redis, key, self._control_at, count=1000)
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
            self._begin.pending,
        )
        for event in self._early:
            self._output.take(event)
        if self._begin.goes_on:
            message = (
                "the worker of this stream died; another one goes on with the newest prompt, "
                "the picture begins anew"
            )
            await self._say({"t": "error", "code": "worker_lost", "message": message})
        config = config_to_json(self._encoders.config)
        await self._say(
            {"t": "open", "chunk_frames": admitted.chunk_frames, "epoch": self._claim.epoch}
            | {"config": config}
        )
        await self._claim.update({"state": "running", "chunk_frames": admitted.chunk_frames})
        if self._stopping:
            parts.bridge.submit(Stop(self._begin.spec.session_id))
        return self._output

    async def _end(self, event: SessionEnded, output: Output) -> None:
        reason = self._stop_reason if event.reason == "stopped" else event.reason
        if event.reason == "error":
            message = event.error or "the engine gave no reason"
            await self._say({"t": "error", "code": "stream_failed", "message": message})
        await self._finish(reason, output.chunks, output.frames)

    async def _finish(self, reason: str, chunks: int, frames: int) -> None:
        self._parts.stats.ended(reason)
        done = {"t": "done", "reason": reason, "chunks": chunks, "frames": frames}
        await self._say(done)
        redis = self._parts.redis
        if await self._claim.finish({"state": "done", "reason": reason}):
            await redis.do("ZREM", keys.SESSIONS, self.session_id)
            await redis.do("PEXPIRE", self._claim.record, ENDED_MS)
            await drop_streams(redis, self.session_id, ENDED_MS)

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

    # -- while it runs ---------------------------------------------------------------------------

    def _arrived(self, event: EngineEvent) -> None:
        """Take an engine event; those before the output is open wait for it."""
        if isinstance(event, SessionPaused) and not self._user_paused:
            return
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

    async def _obey_control(self) -> None:
        redis, key = self._parts.redis, keys.control(self.session_id)
        while True:
            try:
                entries = await read_entries(redis, key, self._control_at, block_ms=2000)
            except FabricError as error:
                log.warning("stream %s: no control for now: %s", self.session_id, error)
                await asyncio.sleep(WATCH_S)
                continue
            for entry in entries:
                self._control_at = entry.entry_id
                await self._obey(entry.message)

    async def _obey(self, message: dict[str, Any]) -> None:
        now = self._parts.clock()
        match message["type"]:
            case "ack":
                self._credit.acknowledged(int(message["frame"]))
                self._give_credit(now)
            case "sent":
                self._credit.sent(int(message["frame"]), now)
                self._give_credit(now)
            case "beat":
                self._presence.heard(message["conn"], now)
            case "attach":
                self._presence.attached(message["conn"], now)
                self._follow_presence(now)
            case "detach":
                self._presence.detached(message["conn"], now)
                self._follow_presence(now)
            case "prompt":
                await self._change_prompt(message)
            case "pause":
                self._user_paused = True
                self._follow_presence(now)
            case "play":
                self._user_paused = False
                self._follow_presence(now)
            case "stop":
                self.stop(message.get("reason", "stopped"))
            case "codec":
                assert self._encoders is not None
                self._encoders.watched(message["codec"])
            case unknown:
                log.warning("stream %s: unknown control %r", self.session_id, unknown)

    async def _change_prompt(self, message: dict[str, Any]) -> None:
        assert self._output is not None
        event_id = message["event_id"]
        pending = self._output.expect(event_id)
        parts = tuple(PromptPart(text, weight) for text, weight in message["prompts"])
        update = PromptUpdate(
            event_id, parts, int(message["transition_chunks"]), message["recache"]
        )
        self._parts.bridge.submit(UpdatePrompt(self._begin.spec.session_id, update))
        fields = {"prompts": json.dumps(message["prompts"]), "pending": pending}
        if not await self._claim.update({**fields, "control_at": self._control_at}):
            raise Fenced(self.session_id)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            now = self._parts.clock()
            self._follow_presence(now)
            self._give_credit(now)

    def _follow_presence(self, now: float) -> None:
        """Generate only while the viewer is there and wants it."""
        state = self._presence.state(now)
        if state == "gone":
            self.stop("connection_lost")
        wanted = state == "here" and not self._user_paused
        if wanted != self._running:
            self._running = wanted
            session_id = self._begin.spec.session_id
            self._parts.bridge.submit(Play(session_id) if wanted else Pause(session_id))
            (self._credit.go if wanted else self._credit.stand)(now)

    def _give_credit(self, now: float) -> None:
        frame = self._credit.frame(now) - self._begin.offset.frames
        if frame > self._credited:
            self._credited = frame
            self._parts.bridge.submit(Credit(self._begin.spec.session_id, frame))
