"""What a running stream is told: control messages, credit, presence.

Reads the stream's control entries in order and turns them into commands for the engine. Lets the
engine generate only while the viewer is there, wants it, and has credit. Knows no media.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from engine.asked import Credit, Pause, Play, PromptPart, PromptUpdate, UpdatePrompt
from server.fabric import keys
from server.fabric.claim import Claim
from server.fabric.connection import FabricError, Word
from server.fabric.streams import read_entries
from server.worker.credit import ViewerCredit
from server.worker.encoders import Encoders
from server.worker.output import Fenced, Output
from server.worker.parts import LiveParts
from server.worker.presence import Presence
from server.worker.start import Beginning

log = logging.getLogger(__name__)

WATCH_S = 0.2
"""How often presence and the clock's credit are looked at."""


class Steering:
    """Steers one stream for as long as it runs."""

    def __init__(
        self,
        parts: LiveParts,
        claim: Claim,
        begin: Beginning,
        encoders: Encoders,
        output: Output,
        stop: Callable[[str], None],
    ) -> None:
        """Prepare to steer.

        Args:
            parts: What the worker's streams share.
            claim: The right to write the stream's record.
            begin: How the stream began here.
            encoders: Told which codecs are watched.
            output: Told which events owe a receipt.
            stop: Ends the stream, with a reason.
        """
        self._parts = parts
        self._claim = claim
        self._engine_id = begin.spec.session_id
        self._subject = claim.ticket.subject
        self._first_frame = begin.offset.frames
        self._encoders = encoders
        self._output = output
        self._stop = stop
        self._credit = ViewerCredit(begin.live.pacing, begin.live.fps, begin.published.frames)
        self._presence = Presence(parts.resume_grace_s, parts.clock())
        self._at = begin.control_after
        self._credited = -1
        self._running = True
        self.paused = begin.paused
        self.prompts = begin.prompts_text

    async def obey(self) -> None:
        """Carry out control messages in order, for ever.

        Raises:
            Fenced: Another worker owns the stream now.
        """
        redis, key = self._parts.redis, keys.control(self._subject)
        while True:
            try:
                entries = await read_entries(redis, key, self._at, block_ms=2000)
            except FabricError as error:
                log.warning("stream %s: no control for now: %s", self._subject, error)
                await asyncio.sleep(WATCH_S)
                continue
            for entry in entries:
                self._at = entry.entry_id
                await self._carry_out(entry.message)

    async def watch(self) -> None:
        """Look after presence and the clock's credit, for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            now = self._parts.clock()
            self._follow_presence(now)
            self._give_credit(now)

    async def _carry_out(self, message: dict[str, Any]) -> None:
        now = self._parts.clock()
        match message["type"]:
            case "ack":
                self._credit.acknowledged(int(message["frame"]))
                self._give_credit(now)
            case "sent":
                self._credit.sent(int(message["frame"]), now)
                self._give_credit(now)
            case "skipped":
                self._credit.skipped(int(message["frame"]))
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
            case "pause" | "play" as kind:
                self.paused = kind == "pause"
                self._follow_presence(now)
                await self._remember({"paused": int(self.paused)})
            case "stop":
                self._stop(message.get("reason", "stopped"))
            case "codec":
                self._encoders.watched(message["codec"])
            case unknown:
                log.warning("stream %s: unknown control %r", self._subject, unknown)

    async def _change_prompt(self, message: dict[str, Any]) -> None:
        event_id = message["event_id"]
        pending = self._output.expect(event_id)
        parts = tuple(PromptPart(text, weight) for text, weight in message["prompts"])
        # Who says nothing leaves it to the model's policy, as who says yes.
        recache = message["recache"] is not False
        update = PromptUpdate(event_id, parts, int(message["transition_chunks"]), recache)
        self._parts.bridge.submit(UpdatePrompt(self._engine_id, update))
        self.prompts = json.dumps(message["prompts"])
        await self._remember({"prompts": self.prompts, "pending": pending})

    async def _remember(self, fields: dict[str, Word]) -> None:
        """Write what a worker that takes over must know."""
        if not await self._claim.update({**fields, "control_at": self._at}):
            raise Fenced(self._subject)

    def _follow_presence(self, now: float) -> None:
        """Generate only while the viewer is there and wants it."""
        state = self._presence.state(now)
        if state == "gone":
            self._stop("connection_lost")
        wanted = state == "here" and not self.paused
        if wanted != self._running:
            self._running = wanted
            engine_id = self._engine_id
            self._parts.bridge.submit(Play(engine_id) if wanted else Pause(engine_id))
            (self._credit.go if wanted else self._credit.stand)(now)

    def _give_credit(self, now: float) -> None:
        frame = self._credit.frame(now) - self._first_frame
        if frame > self._credited:
            self._credited = frame
            self._parts.bridge.submit(Credit(self._engine_id, frame))
