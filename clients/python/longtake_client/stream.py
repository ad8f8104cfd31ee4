"""One live stream, iterated chunk by chunk, that survives a lost connection.

A task of the stream's own reads the socket; prompt changes wait for their receipts while
chunks go on arriving. When the connection is lost the stream is taken up again behind the
last chunk received, with waits that double from a quarter second, until the server's
grace is over. Knows the protocol as ``longtake_client.protocol`` and nothing of codecs.
"""

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from longtake_client import protocol
from longtake_client.errors import (
    ApiError,
    ChangeSuperseded,
    ConnectionLost,
    ProtocolError,
    StreamError,
)
from longtake_client.protocol import Applied, Chunk, Done, Format, Prompt, StreamConfig


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What to generate, and how to receive it. ``None`` leaves the choice to the server.

    Attributes:
        num_frames: Length; None is endless.
        pacing: ``realtime`` plays at the model's rate; ``asap`` comes as fast as it is taken.
        image: Encoded picture to start from, base64.
        reconnect_s: How long to try taking up a lost stream; 0 never tries.
        buffer_chunks: Chunks held for a reader that is slow, before reading stops.
    """

    model: str | None = None
    width: int | None = None
    height: int | None = None
    fps: int | None = None
    seed: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    format: Format = "m4s"
    codec: Literal["h264", "vp8", "av1"] | None = None
    image: str | None = None
    pacing: Literal["realtime", "asap"] = "realtime"
    reconnect_s: float = 30.0
    buffer_chunks: int = 8


_RETRY_FIRST_S = 0.25
_RETRY_MOST_S = 5.0
_START_FIELDS = (
    "model", "width", "height", "fps", "seed", "num_frames", "num_inference_steps", "format",
    "codec", "image", "pacing",
)  # fmt: skip


class _Lost(Exception):
    """The server ended the connection but not the stream."""


class PromptChange:
    """A prompt change the server has accepted; ``await change.applied()`` for where it shows."""

    def __init__(self, event_id: str, message: str) -> None:
        self.event_id = event_id
        self._message = message
        loop = asyncio.get_running_loop()
        self._queued: asyncio.Future[None] = loop.create_future()
        self._applied: asyncio.Future[Applied] = loop.create_future()
        # Nobody is obliged to wait for a receipt, so its failure is no loose end.
        for future in (self._queued, self._applied):
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def applied(self) -> Applied:
        """Wait for the first chunk that shows the change.

        Raises:
            ChangeSuperseded: A later change came first.
            StreamError: The server refused it.
            ConnectionLost: The stream was lost before.
        """
        return await asyncio.shield(self._applied)

    def _fail(self, error: Exception) -> None:
        for future in (self._queued, self._applied):
            if not future.done():
                future.set_exception(error)


class Stream:
    """A live stream. Use it as an async context manager and iterate over its chunks."""

    def __init__(
        self, url: str, headers: Mapping[str, str], prompt: Prompt, options: StreamOptions
    ) -> None:
        """Prepare a stream; nothing is sent before ``async with``.

        Args:
            url: ``ws://`` or ``wss://`` address of the realtime endpoint.
            headers: Sent with the handshake.
            prompt: A text or a weighted blend.
            options: The rest.
        """
        self._url = url
        self._headers = dict(headers)
        self._options = options
        fields = {name: getattr(options, name) for name in _START_FIELDS}
        self._start = protocol.encode("session.start", **protocol.prompt_fields(prompt), **fields)
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._chunks: deque[Chunk] = deque()
        self._changes: dict[str, PromptChange] = {}
        self._started: protocol.Started | None = None
        self._last_chunk = -1
        self._next_frame = 0
        self._stopping = False
        self._over = False
        self._failure: Exception | None = None
        self.queue_position: int | None = None
        """Place in the server's queue while it has no room; None otherwise."""
        self.reconnects = 0
        """How often the stream was taken up again."""
        self.done: Done | None = None
        """The server's last word, once the stream has ended well."""

    async def __aenter__(self) -> Self:
        """Connect and send the start; ``config`` comes with the first answer."""
        self._reader = asyncio.create_task(self._run(), name="longtake stream")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the stream, so that the server frees it at once, and close the connection."""
        assert self._reader is not None
        async with self._changed:
            self._stopping = True
            self._changed.notify_all()
        with contextlib.suppress(WebSocketException, OSError, ConnectionLost):
            if not self._over and self._socket is not None:
                await self._socket.send(protocol.encode("session.stop"))
                await self._socket.close()
        while not self._reader.done():
            self._reader.cancel()
            await asyncio.wait({self._reader}, timeout=1)

    async def config(self) -> StreamConfig:
        """Return the stream's configuration, waiting until it has begun.

        Raises:
            StreamError: The server refused the stream.
            ConnectionLost: It could not be reached.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._started is not None or self._over)
            if self._started is None:
                raise self._failure or ConnectionLost("the stream ended before it began")
            return self._started.config

    @property
    def session_id(self) -> str | None:
        """The server's name for the stream, once it has begun."""
        return None if self._started is None else self._started.session_id

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Iterate over chunks in order, each once, until the stream ends."""
        return self

    async def __anext__(self) -> Chunk:
        """Return the next chunk.

        Raises:
            StreamError: The server ended the stream.
            ConnectionLost: It could not be taken up again.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._chunks) or self._over)
            if self._chunks:
                chunk = self._chunks.popleft()
                self._changed.notify_all()
                return chunk
        if self._failure is not None:
            raise self._failure
        raise StopAsyncIteration

    async def prompt(
        self, prompt: Prompt, *, transition_chunks: int = 0, recache: bool | None = None
    ) -> PromptChange:
        """Change what the stream shows; returns when the server has accepted the change.

        Args:
            prompt: A text or a weighted blend.
            transition_chunks: Blend over this many chunks; 0 switches at once.
            recache: Rebuild the context under the new prompt; None is the model's own policy.

        Raises:
            StreamError: The server refused it.
            ConnectionLost: The stream is over.
        """
        event_id = f"evt_{secrets.token_hex(6)}"
        event: dict[str, Any] = protocol.prompt_fields(prompt)
        if transition_chunks:
            event["transition_chunks"] = transition_chunks
        if recache is not None:
            event["recache"] = recache
        message = protocol.encode(
            "session.interaction", interaction={"event_id": event_id, "event": event}
        )
        await self.config()
        change = self._changes[event_id] = PromptChange(event_id, message)
        async with self._changed:
            # Reading goes on for a receipt, however many chunks are waiting.
            self._changed.notify_all()
            if self._over:
                self._fail_changes()
        # A change that cannot be sent now goes out when the stream is taken up again.
        with contextlib.suppress(WebSocketException, OSError):
            if self._socket is not None:
                await self._socket.send(message)
        await asyncio.shield(change._queued)
        return change

    async def ack(
        self, frame: int, *, buffered_ms: float | None = None, hidden: bool = False
    ) -> None:
        """Tell the last frame presented; from then on this, not the clock, paces the stream."""
        await self._send(
            "playback.ack", frame=frame, buffered_ms=buffered_ms, hidden=hidden or None
        )

    async def pause(self) -> None:
        """Stop generating, keep the stream."""
        await self._send("session.pause")

    async def play(self) -> None:
        """Go on after a pause."""
        await self._send("session.play")

    async def stop(self) -> None:
        """End the stream; what is on its way can still be iterated."""
        async with self._changed:
            self._stopping = True
            self._changed.notify_all()
        await self._send("session.stop")

    async def _send(self, kind: str, **fields: Any) -> None:
        await self.config()
        if self._over:
            return
        with contextlib.suppress(WebSocketException, OSError):
            if self._socket is not None:
                await self._socket.send(protocol.encode(kind, **fields))

    async def _run(self) -> None:
        failure: Exception | None = None
        try:
            await self._read_all()
        except (StreamError, ConnectionLost, ProtocolError, ApiError) as error:
            failure = error
        finally:
            async with self._changed:
                self._over = True
                self._failure = failure
                self._fail_changes()
                self._changed.notify_all()

    async def _read_all(self) -> None:
        """Read until the stream ends, over as many connections as it takes."""
        loop = asyncio.get_running_loop()
        wait_s, lost_at = _RETRY_FIRST_S, loop.time()
        while True:
            taken_up = False
            try:
                async with connect(
                    self._url,
                    additional_headers=self._headers,
                    max_size=None,
                    compression=None,
                    open_timeout=10,
                    close_timeout=1,
                ) as socket:
                    try:
                        await socket.send(self._opening())
                        async for event in self._events(socket):
                            if isinstance(event, protocol.Started):
                                taken_up = True
                                await self._take_up(socket, event)
                            elif await self._take(event):
                                return
                    finally:
                        self._socket = None
                reason = "the server closed the connection"
            except InvalidStatus as error:
                raise _refused_handshake(error) from error
            except (WebSocketException, OSError, _Lost) as error:
                reason = str(error) or type(error).__name__
            if taken_up:
                wait_s, lost_at = _RETRY_FIRST_S, loop.time()
            if self._started is None:
                raise ConnectionLost(f"{self._url} cannot be reached: {reason}")
            if self._stopping or loop.time() + wait_s - lost_at > self._options.reconnect_s:
                raise ConnectionLost(f"the connection was lost: {reason}")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _RETRY_MOST_S)

    def _opening(self) -> str:
        """Return the first message of a connection: the start, or a resume."""
        if self._started is None:
            return self._start
        return protocol.encode(
            "session.resume",
            session_id=self._started.session_id,
            resume_token=self._started.resume_token,
            after_chunk=self._last_chunk,
        )

    async def _events(self, socket: ClientConnection) -> AsyncIterator[protocol.ServerEvent]:
        decoder = protocol.Decoder()
        async for raw in socket:
            event = decoder.text(raw) if isinstance(raw, str) else decoder.binary(raw)
            if event is not None:
                yield event

    async def _take_up(self, socket: ClientConnection, started: protocol.Started) -> None:
        self._socket = socket
        async with self._changed:
            if self._started is not None:
                self.reconnects += 1
            self._started = started
            self.queue_position = None
            self._changed.notify_all()
        # The server never said that it has these; it may or may not have got them.
        for change in list(self._changes.values()):
            if not change._queued.done():
                await socket.send(change._message)

    async def _take(self, event: protocol.ServerEvent) -> bool:
        """Take one message; True when the stream has ended."""
        match event:
            case Chunk():
                await self._take_chunk(event)
            case protocol.Queued():
                self.queue_position = event.position
            case protocol.ChangeQueued(event_id):
                self._resolve(event_id)
            case Applied():
                self._resolve(event.event_id, event)
            case protocol.Superseded(event_id):
                change = self._changes.pop(event_id, None)
                if change is not None:
                    self._resolve_queued(change)
                    change._fail(ChangeSuperseded("a later prompt change came first"))
            case protocol.Refused(error, event_id):
                change = self._changes.pop(event_id or "", None)
                if change is not None:
                    change._fail(error)
                elif error.fatal or self._socket is None:
                    # The same stream can be taken up again, perhaps through another gateway.
                    if error.retryable and self._started is not None:
                        raise _Lost(error.message)
                    raise error
            case Done():
                self.done = event
                return True
        return False

    async def _take_chunk(self, chunk: Chunk) -> None:
        if chunk.first_frame < self._next_frame:
            # A resume begins at a key chunk, which may lie before what is here already.
            return
        self._last_chunk = chunk.index
        self._next_frame = chunk.first_frame + chunk.num_frames
        async with self._changed:
            self._chunks.append(chunk)
            self._changed.notify_all()
            # Reading stops for a slow reader, but never while somebody waits for a receipt that
            # can only be read behind these chunks.
            await self._changed.wait_for(
                lambda: (
                    len(self._chunks) < self._options.buffer_chunks
                    or bool(self._changes)
                    or self._stopping
                )
            )

    def _resolve(self, event_id: str, applied: Applied | None = None) -> None:
        change = self._changes.get(event_id)
        if change is None:
            return
        self._resolve_queued(change)
        if applied is not None:
            del self._changes[event_id]
            if not change._applied.done():
                change._applied.set_result(applied)

    def _resolve_queued(self, change: PromptChange) -> None:
        if not change._queued.done():
            change._queued.set_result(None)

    def _fail_changes(self) -> None:
        for change in self._changes.values():
            change._fail(self._failure or ConnectionLost("the stream ended before the change"))
        self._changes.clear()


def _refused_handshake(error: InvalidStatus) -> ApiError:
    """Return the server's own words for a handshake it did not accept."""
    response = error.response
    try:
        told = json.loads(response.body or b"")["error"]
        return ApiError(response.status_code, told["code"], told["message"], told.get("param"))
    except (ValueError, KeyError, TypeError):
        message = "the server did not accept the connection"
        return ApiError(response.status_code, "handshake_refused", message)
