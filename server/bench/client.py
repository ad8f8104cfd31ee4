"""One stream of a measurement: starts it, plays it with a simulated viewer, changes its prompt.

Speaks the public protocol only, so it measures any server of it. Times are the client's.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.bench.viewer import SimulatedViewer

ACK_S = 0.25
QUIET_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What every stream of a measurement does.

    Attributes:
        url: Address of the endpoint, ``ws://…``.
        seconds: How long to watch from the first chunk on.
        prompts: Shown one after the other.
        change_every_s: Time between prompt changes; 0 never changes.
        pacing: ``realtime`` or ``asap``.
        warmup_chunks: Chunks left out at the beginning, until the model's window is full.
        model: None for the server's default.
        api_key: Sent as a bearer token.
        wire_format: Format asked for.
    """

    url: str
    seconds: float
    prompts: Sequence[str]
    change_every_s: float
    pacing: Literal["realtime", "asap"]
    warmup_chunks: int
    model: str | None = None
    api_key: str | None = None
    wire_format: str = "avcc"


@dataclass(slots=True)
class Seen:
    """What one stream showed; chunk lists leave the warm-up out."""

    fps: int = 0
    ttfc_s: float | None = None
    arrivals: list[float] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    generate_s: list[float] = field(default_factory=list)
    in_time: list[bool] = field(default_factory=list)
    applied_s: list[float] = field(default_factory=list)
    played_s: float = 0.0
    stalled_s: float = 0.0
    bytes: int = 0
    error: str | None = None


class BenchClient:
    """Runs one stream."""

    def __init__(self, plan: Plan, seed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan = plan
        self._seed = seed
        self._clock = clock
        self._viewer: SimulatedViewer | None = None
        self._changed_at: dict[str, float] = {}
        self._chunks = 0
        self._began = 0.0
        self.seen = Seen()

    async def run(self) -> Seen:
        """Watch one stream for the planned time."""
        plan = self._plan
        headers = {"Authorization": f"Bearer {plan.api_key}"} if plan.api_key else None
        try:
            async with connect(
                plan.url, compression=None, max_size=None, additional_headers=headers
            ) as socket:
                await self._watch(socket)
        except InvalidStatus as refused:
            self.seen.error = _why(refused)
        except TimeoutError:
            self._note(f"nothing came for {QUIET_S:g} s")
        except (OSError, ConnectionClosed) as error:
            # What the server said before it closed is the better reason.
            self._note(f"the connection ended: {error}")
        if not self.seen.in_time:
            self._note(
                f"no chunk of {self._chunks} lies behind the warm-up of {plan.warmup_chunks}; watch "
                "longer with --seconds, or lower --warmup-chunks"
            )
        return self.seen

    def _note(self, error: str) -> None:
        self.seen.error = self.seen.error or error

    async def _watch(self, socket: ClientConnection) -> None:
        plan = self._plan
        start: dict[str, Any] = {
            "type": "session.start",
            "prompt": plan.prompts[0],
            "seed": self._seed,
            "format": plan.wire_format,
            "pacing": plan.pacing,
        }
        if plan.model is not None:
            start["model"] = plan.model
        self._began = self._clock()
        await socket.send(json.dumps(start))
        helpers = [asyncio.create_task(self._acknowledge(socket))]
        if plan.change_every_s > 0:
            helpers.append(asyncio.create_task(self._change_prompts(socket)))
        try:
            await self._receive(socket)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        with contextlib.suppress(ConnectionClosed):
            await socket.send('{"type":"session.stop"}')

    async def _receive(self, socket: ClientConnection) -> None:
        until: float | None = None
        while until is None or self._clock() < until:
            left = QUIET_S if until is None else max(0.01, until - self._clock())
            try:
                message = json.loads(await asyncio.wait_for(socket.recv(), left))
            except TimeoutError:
                if until is None:
                    raise
                break
            kind = message["type"]
            if kind == "video.chunk_metadata":
                binary = await socket.recv()
                self._chunk(message, len(binary), self._clock())
                until = until or self._clock() + self._plan.seconds
            elif kind == "video.start":
                self.seen.fps = message["config"]["fps"]
                self._viewer = SimulatedViewer(self.seen.fps)
            elif kind == "session.interaction.applied":
                at = self._changed_at.pop(message["event_id"], None)
                if at is not None:
                    self.seen.applied_s.append(self._clock() - at)
            elif kind == "error":
                self.seen.error = f"{message['code']}: {message['message']}"
                if self._viewer is None and not message["retryable"]:
                    # The server would wait for a better start.
                    break
            elif kind == "session.done":
                break
        if self._viewer is not None:
            self._viewer.advance(self._clock())
            self.seen.played_s = self._viewer.played_s
            self.seen.stalled_s = self._viewer.stalled_s

    def _chunk(self, metadata: dict[str, Any], size: int, now: float) -> None:
        assert self._viewer is not None, "video.start comes first"
        seen = self.seen
        if seen.ttfc_s is None:
            seen.ttfc_s = now - self._began
        in_time = self._viewer.arrived(metadata["num_frames"], now)
        self._chunks += 1
        seen.bytes += size
        if self._chunks <= self._plan.warmup_chunks:
            if self._chunks == self._plan.warmup_chunks:
                self._viewer.forget()
                seen.arrivals.append(now)
            return
        timings = metadata["timings"]
        seen.arrivals.append(now)
        seen.frames.append(metadata["num_frames"])
        seen.in_time.append(in_time)
        seen.generate_s.append(
            (timings["denoise_ms"] + timings["decode_ms"] + timings["encode_ms"]) / 1000
        )

    async def _acknowledge(self, socket: ClientConnection) -> None:
        last = -1
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(ACK_S)
                if self._viewer is None:
                    continue
                self._viewer.advance(self._clock())
                frame = self._viewer.frame
                if frame > last:
                    last = frame
                    await socket.send(json.dumps({"type": "playback.ack", "frame": frame}))

    async def _change_prompts(self, socket: ClientConnection) -> None:
        number = 0
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(self._plan.change_every_s)
                if self._viewer is None:
                    continue
                number += 1
                event_id = f"bench-{number}"
                prompt = self._plan.prompts[number % len(self._plan.prompts)]
                self._changed_at[event_id] = self._clock()
                event = {"event_id": event_id, "event": {"prompt": prompt}}
                message = {"type": "session.interaction", "interaction": event}
                await socket.send(json.dumps(message))


def _why(refused: InvalidStatus) -> str:
    """Return the status of a handshake that was not accepted, and the server's sentence if any."""
    response = refused.response
    try:
        error = json.loads(response.body)["error"]
        return f"{response.status_code} {error['code']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return f"the server answered {response.status_code} {response.reason_phrase}"
