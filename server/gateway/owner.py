"""One owner's stream on one connection: media out, control in, signs of life.

``Owner`` runs from an accepted start or resume until the stream ends or the connection is lost. It
sends through the callable it is given and knows no sockets.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable

from server.entries import ChunkEntry, config_from_json
from server.fabric.connection import FabricError
from server.fabric.record import read_record
from server.fabric.streams import send_control
from server.gateway.context import Gateway
from server.gateway.notices import told_by
from server.gateway.opening import Opened, withdraw
from server.gateway.outage import Outage
from server.gateway.reader import MediaReader, Notice, Skipped
from server.gateway.silence import Silence
from server.gateway.wrap import Wrapper, stream_config
from server.live import prompt_parts
from server.media.types import CodecConfig
from server.tasks import end_tasks
from server.wire import messages_in as said
from server.wire.messages_out import (
    ErrorMessage,
    InteractionApplied,
    InteractionQueued,
    ServerMessage,
    VideoStart,
)

log = logging.getLogger(__name__)

BEAT_S = 0.5
READ_MS = 250

Send = Callable[[ServerMessage, bytes | None], Awaitable[None]]


class TakenOver(Exception):
    """Another connection resumed this stream."""


class Owner:
    """Serves one stream to the connection that owns it."""

    def __init__(self, gateway: Gateway, opened: Opened, send: Send, began: float) -> None:
        spec = opened.spec
        self.opened = opened
        self._gateway = gateway
        self._redis = gateway.redis
        self._send = send
        self._began = began
        self._reader = MediaReader(self._redis, opened.session_id, opened.codec)
        self._wrapper = Wrapper(
            opened.wire_format, opened.codec, (spec.width, spec.height), spec.fps
        )
        self._started = False
        self._first_sent = opened.resumed_after is not None
        self._begin_again = opened.resumed_after is not None
        self._begin_after = opened.resumed_after
        self._owed: dict[str, int] = {}
        self._outage = Outage(opened.session_id, send, gateway.clock)
        self._silence = Silence(gateway.redis, opened, send)
        self._received_at: dict[str, float] = {}

    async def run(self) -> None:
        """Send media until the stream ends.

        Raises:
            TakenOver: Another connection owns the stream now.
            CannotGoOn: Redis stays away, or has lost the stream.
        """
        beat = asyncio.create_task(self._beat())
        try:
            await self._pump()
        finally:
            await end_tasks(beat)

    async def lost(self) -> None:
        """Tell the worker that the connection is gone; a stream still queued is dropped."""
        opened = self.opened
        try:
            if not await self._withdraw():
                await self._control({"type": "detach", "conn": opened.connection})
        except FabricError as error:
            log.warning("stream %s: goodbye not told: %s", opened.session_id, error)

    async def _withdraw(self) -> bool:
        opened = self.opened
        return await withdraw(self._gateway, opened.spec.model, opened.ticket, opened.session_id)

    async def obey(self, message: said.ClientMessage) -> None:
        """Carry out one message of the client."""
        match message:
            case said.PlaybackAck():
                await self._control({"type": "ack", "frame": message.frame})
            case said.SessionInteraction():
                await self._interact(message.interaction)
            case said.SessionPause():
                await self._control({"type": "pause"})
            case said.SessionPlay():
                await self._control({"type": "play"})
            case said.SessionKeyframe():
                # The pump moves the reader; a read of its own may be under way.
                self._begin_again = True
            case said.SessionStop():
                # A stream no worker has taken ends here; its `done` comes through the pump.
                if not await self._withdraw():
                    await self._control({"type": "stop"})
            case _:
                raise AssertionError(f"{message.type} is not for a running stream")

    async def _interact(self, interaction: said.Interaction) -> None:
        event = interaction.event
        event_id = interaction.event_id or f"evt_{secrets.token_hex(6)}"
        self._received_at[event_id] = self._gateway.clock()
        # Sent first: `applied` may come through the pump as soon as the worker knows.
        await self._send(InteractionQueued(event_id=event_id), None)
        try:
            await self._control(
                {
                    "type": "prompt",
                    "event_id": event_id,
                    "prompts": prompt_parts(event),
                    "transition_chunks": event.transition_chunks,
                    "recache": event.recache,
                }
            )
        except FabricError:
            message = "the change could not be passed on to the worker; send it again"
            await self._send(
                ErrorMessage(
                    code="interaction_failed", message=message, event_id=event_id, retryable=True
                ),
                None,
            )

    async def _control(self, message: dict[str, object]) -> None:
        await send_control(self._redis, self.opened.session_id, message)

    async def _beat(self) -> None:
        while True:
            try:
                await self._control({"type": "beat", "conn": self.opened.connection})
                if self.opened.codec != self.opened.spec.codec:
                    await self._control({"type": "codec", "codec": self.opened.codec})
            except FabricError as error:
                log.warning("stream %s: no sign of life: %s", self.opened.session_id, error)
            await asyncio.sleep(BEAT_S)

    async def _pump(self) -> None:
        """Pass on what comes; where Redis is away for a while, everything waits for it."""
        items: deque[ChunkEntry | Notice | Skipped] = deque()
        while True:
            try:
                await self._report()
                if not items:
                    await self._move()
                    items.extend(await self._reader.read(READ_MS))
                    if items:
                        self._silence.over()
                    elif await self._silence.go_on(waits=self._waits()):
                        return
                while items:
                    if await self._pass_on(items[0]):
                        return
                    items.popleft()
                    await self._report()
                self._outage.over()
            except FabricError as error:
                self._silence.over()
                await self._outage.endure(error)

    def _waits(self) -> bool:
        """Whether nothing has come yet of a stream that this connection began."""
        return not self._started and self.opened.resumed_after is None

    async def _move(self) -> None:
        """Go to where this viewer begins or, having lost its decoder, begins again."""
        if not self._begin_again:
            return
        self._begin_again = False
        try:
            before = await self._reader.seek(self._begin_after)
        except FabricError:
            self._begin_again = True
            raise
        self._begin_after = None
        if before is not None:
            self._owed["skipped"] = before
            await self._report()

    async def _pass_on(self, item: ChunkEntry | Notice | Skipped) -> bool:
        """Send one item; True when the stream has ended. It raises FabricError before it sends."""
        if isinstance(item, ChunkEntry):
            await self._chunk(item)
        elif isinstance(item, Skipped):
            # Credited, or the worker would wait for frames that this viewer can never show.
            self._owed["skipped"] = item.frame
        else:
            return await self._notice(item)
        return False

    async def _report(self) -> None:
        """Tell the worker how far this viewer has come; what fails stays owed."""
        for kind, frame in list(self._owed.items()):
            await self._control({"type": kind, "frame": frame})
            del self._owed[kind]

    async def _chunk(self, entry: ChunkEntry) -> None:
        if not self._started:
            await self._start(entry.codecs[self._wrapper.codec].config)
        for event_id in entry.applied:
            await self._send(
                InteractionApplied(
                    event_id=event_id,
                    chunk_index=entry.chunk_index,
                    first_frame=entry.first_frame,
                    pts=entry.first_frame / self.opened.spec.fps,
                ),
                None,
            )
        metadata, binary = self._wrapper.wrap(entry)
        await self._send(metadata, binary)
        now, metrics = self._gateway.clock(), self._gateway.metrics
        metrics.sent_bytes.inc(len(binary))
        if not self._first_sent:
            self._first_sent = True
            metrics.ttfc_s.observe(now - self._began)
        for event_id in entry.applied:
            received = self._received_at.pop(event_id, None)
            if received is not None:
                metrics.applied_s.observe(now - received)
        self._owed["sent"] = entry.first_frame + entry.num_frames - 1

    async def _notice(self, notice: Notice) -> bool:
        """Pass one notice on; True when the stream has ended."""
        message = notice.message
        match notice.kind:
            case "open" if not self._started and message["config"]["codec"] == self.opened.codec:
                await self._start(config_from_json(message["config"]), message["chunk_frames"])
            case "error" if not notice.after(self.opened.attached_at):
                pass
            case "attached" if notice.after(self.opened.attached_at):
                raise TakenOver
            case kind:
                if kind in ("superseded", "rejected"):
                    self._received_at.pop(message["event_id"], None)
                told = told_by(message)
                if told is not None:
                    await self._send(told, None)
                return kind == "done"
        return False

    async def _start(self, config: CodecConfig, chunk_frames: int | None = None) -> None:
        opened = self.opened
        if chunk_frames is None:
            record = await read_record(self._redis, "live", opened.session_id)
            chunk_frames = int(record.get("chunk_frames", 0))
        self._started = True
        await self._send(
            VideoStart(
                request_id=f"req_{secrets.token_hex(8)}",
                session_id=opened.session_id,
                resume_token=opened.token,
                format=opened.wire_format,
                config=stream_config(opened.spec, self._wrapper, config, chunk_frames),
            ),
            None,
        )
