"""A small server that speaks the live protocol with synthetic pictures, for the page's tests.

It can be told to misbehave, which the real one cannot: to cut a connection, to be slow, to refuse.
The pictures are of one colour per prompt with a moving bar, so that a test can tell prompts apart
and see movement.
"""

import asyncio
import base64
import hashlib
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from server.media import fmp4
from server.media.encoder import ChunkEncoder

WEB = Path(__file__).resolve().parents[2] / "clients" / "web"
WIDTH, HEIGHT, FPS, CHUNK = 160, 96, 16, 12
LEAD = 26
EXAMPLES = [
    "a red circle drifting over a green meadow under a blue sky",
    "a yellow star rising over a snowy plain at night",
    "two white squares crossing a desert at sunset",
    "a blue triangle falling over the sea in fog",
]


@dataclass
class Orders:
    """How the server shall behave, and what it saw; tests read and write it."""

    generate_s: float = 0.1
    refuse: dict | None = None
    queue_position: int | None = None
    room: threading.Event = field(default_factory=threading.Event)
    api_key: str | None = None
    serving: bool = True
    forget_sessions: bool = False
    received: list = field(default_factory=list)
    sockets: list = field(default_factory=list)
    streams: list = field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None
    url: str = ""

    def seen(self, kind):
        return [message for message in self.received if message["type"] == kind]

    def cut(self):
        """Drop every connection without a word, as a network does."""
        for socket in self.sockets:
            asyncio.run_coroutine_threadsafe(socket.close(1011), self.loop).result(5)


def colour(prompt):
    digest = hashlib.sha256(prompt.encode()).digest()
    for number, name in enumerate(("red", "green", "blue")):
        if name in prompt.lower():
            base = [30, 30, 30]
            base[number] = 200
            return base
    return [60 + digest[0] % 120, 60 + digest[1] % 120, 60 + digest[2] % 120]


def pictures(prompt, first, count):
    out = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    out[:] = colour(prompt)
    out[:, HEIGHT * 2 // 3 :] = out[:, HEIGHT * 2 // 3 :] // 2
    for t in range(count):
        x = (5 * (first + t)) % (WIDTH - 20)
        out[t, 20:60, x : x + 20] = 235
    return out


class Stream:
    """One session: makes chunks while it has credit, keeps them for whoever comes back."""

    def __init__(self, start, orders):
        self.start = start
        self.orders = orders
        self.id = f"sess_{len(orders.seen('session.start'))}"
        self.format = start.get("format", "m4s")
        self.prompt = start["prompt"]
        self.revision = 0
        self.pending = None
        self.played = 0
        self.token = 0
        self.paused = False
        self.hidden = False
        self.stopped = False
        self.chunks = []
        codec = "jpeg" if self.format == "jpeg" else start.get("codec") or "h264"
        self.encoder = ChunkEncoder(codec, WIDTH, HEIGHT, FPS)
        self.frames = 0
        self.sent = 0
        self.socket = None

    def video_start(self):
        self.token += 1
        config = self.encoder.config
        init = config.description
        mime = config.mime
        if self.format == "m4s":
            init = fmp4.init_segment(config, WIDTH, HEIGHT, fmp4.timing(FPS)[0])
            mime = fmp4.mime_type(config)
        return {
            "type": "video.start",
            "request_id": "req_1",
            "session_id": self.id,
            "resume_token": f"token_{self.token}",
            "format": self.format,
            "config": {
                "model": "synthetic",
                "width": WIDTH,
                "height": HEIGHT,
                "fps": FPS,
                "seed": self.start.get("seed", 7),
                "chunk_frames": CHUNK,
                "codec": config.codec,
                "mime": mime,
                **({"init": base64.b64encode(init).decode()} if init else {}),
            },
        }

    def make(self):
        """Make the next chunk; returns the receipts that go before it, its metadata and bytes."""
        began = time.perf_counter()
        index = len(self.chunks)
        receipts = []
        if self.pending:
            event_id, self.prompt = self.pending
            self.pending = None
            self.revision += 1
            receipts.append(
                {
                    "type": "session.interaction.applied",
                    "event_id": event_id,
                    "chunk_index": index,
                    "first_frame": self.frames,
                    "pts": self.frames / FPS,
                }
            )
        count = 9 if index == 0 else CHUNK
        units = self.encoder.encode(pictures(self.prompt, self.frames, count), index % 2 == 0).units
        spent = (time.perf_counter() - began) * 1000
        metadata = {
            "type": "video.chunk_metadata",
            "epoch": 0,
            "chunk_index": index,
            "first_frame": self.frames,
            "num_frames": count,
            "pts": self.frames / FPS,
            "duration": count / FPS,
            "steps": 4,
            "units": [{"size": len(u.data), "keyframe": u.keyframe} for u in units],
            "prompt_rev": self.revision,
            "timings": {
                "queue_ms": 1.0,
                "denoise_ms": self.orders.generate_s * 1000,
                "decode_ms": 20.0,
                "encode_ms": spent,
            },
        }
        self.chunks.append((receipts, metadata, units))
        self.frames += count

    def wire(self, entry, first_binary):
        receipts, metadata, units = entry
        if self.format == "m4s":
            timescale, duration = fmp4.timing(FPS)
            number = metadata["chunk_index"] + 1
            data = fmp4.fragment(units, number, metadata["first_frame"] * duration, duration)
            if first_binary:
                data = fmp4.init_segment(self.encoder.config, WIDTH, HEIGHT, timescale) + data
            metadata = {k: v for k, v in metadata.items() if k != "units"}
        else:
            data = b"".join(unit.data for unit in units)
        return [json.dumps(r) for r in receipts], json.dumps({**metadata, "bytes": len(data)}), data

    async def run(self, socket):
        first_binary = True
        while not self.stopped:
            if self.sent < len(self.chunks):
                receipts, metadata, data = self.wire(self.chunks[self.sent], first_binary)
                for text in receipts:
                    await socket.send_text(text)
                await socket.send_text(metadata)
                await socket.send_bytes(data)
                first_binary = False
                self.sent += 1
            elif self.start.get("num_frames") and self.frames >= self.start["num_frames"]:
                done = {"reason": "complete", "chunks": len(self.chunks), "frames": self.frames}
                await socket.send_text(json.dumps({"type": "session.done", **done}))
                return
            elif self.paused or self.hidden or self.frames + CHUNK - self.played > LEAD:
                await asyncio.sleep(0.01)
            else:
                await asyncio.sleep(self.orders.generate_s)
                await asyncio.to_thread(self.make)


def key_chunk_at_or_before(stream, index):
    while index > 0 and not stream.chunks[index][2][0].keyframe:
        index -= 1
    return index


def build(orders):
    app = FastAPI()
    streams = {}

    @app.get("/v1/models")
    async def models(request: Request):
        if orders.api_key and request.headers.get("authorization") != f"Bearer {orders.api_key}":
            return JSONResponse({"error": {"code": "unauthorized"}}, 401)
        entry = {
            "id": "synthetic",
            "object": "model",
            "serving": orders.serving,
            "sizes": [f"{WIDTH}x{HEIGHT}"],
            "fps": [FPS],
            "max_steps": 8,
            "chunk_frames": CHUNK,
            "example_prompts": EXAMPLES,
        }
        absent = {**entry, "id": "not-served", "serving": False}
        return {"object": "list", "data": [entry, absent]}

    @app.websocket("/v1/realtime/video")
    async def live(socket: WebSocket):
        if orders.api_key and socket.query_params.get("key") != orders.api_key:
            await socket.close()
            return
        await socket.accept()
        orders.sockets.append(socket)
        producer = None
        stream = None
        try:
            while True:
                message = json.loads(await socket.receive_text())
                orders.received.append(message)
                kind = message["type"]
                if kind == "session.start":
                    if orders.refuse:
                        await socket.send_text(json.dumps({"type": "error", **orders.refuse}))
                        continue
                    if orders.queue_position:
                        queued = {"type": "session.queued", "position": orders.queue_position}
                        await socket.send_text(json.dumps(queued))
                        await asyncio.to_thread(orders.room.wait)
                    stream = Stream(message, orders)
                    streams[stream.id] = stream
                    orders.streams.append(stream)
                elif kind == "session.resume":
                    stream = streams.get(message["session_id"])
                    if orders.forget_sessions or stream is None:
                        gone = {"code": "session_not_found", "message": "it has ended"}
                        gone |= {"type": "error", "fatal": True, "retryable": False}
                        await socket.send_text(json.dumps(gone))
                        continue
                    assert message["resume_token"] == f"token_{stream.token}"
                    wanted = message.get("format", stream.format)
                    if (wanted == "jpeg") != (stream.format == "jpeg"):
                        cannot = {"code": "unsupported_codec", "message": "h264 with jpeg"}
                        await socket.send_text(json.dumps({"type": "error", **cannot}))
                        continue
                    stream.format = wanted
                    stream.sent = min(message["after_chunk"] + 1, len(stream.chunks))
                    stream.hidden = False
                elif kind == "session.interaction":
                    interaction = message["interaction"]
                    stream.pending = (interaction["event_id"], interaction["event"]["prompt"])
                    receipt = {
                        "type": "session.interaction.queued",
                        "event_id": interaction["event_id"],
                    }
                    await socket.send_text(json.dumps(receipt))
                elif kind == "playback.ack":
                    stream.played = max(stream.played, message["frame"])
                    stream.hidden = message.get("hidden", False)
                elif kind == "session.pause":
                    stream.paused = True
                    await socket.send_text(json.dumps({"type": "session.paused"}))
                elif kind == "session.play":
                    stream.paused = False
                elif kind == "session.keyframe":
                    stream.sent = key_chunk_at_or_before(stream, len(stream.chunks) - 1)
                elif kind == "session.ping":
                    await socket.send_text(json.dumps({"type": "session.pong"}))
                elif kind == "session.stop":
                    stream.stopped = True
                if kind in ("session.start", "session.resume"):
                    await socket.send_text(json.dumps(stream.video_start()))
                    producer = asyncio.create_task(stream.run(socket))
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            if producer:
                producer.cancel()
            orders.sockets.remove(socket)

    app.mount("/", StaticFiles(directory=WEB, html=True))
    return app


@contextmanager
def fake_server(orders=None, port=0):
    """Run the server in a thread; yields its `Orders`, with `url` filled in."""
    orders = orders or Orders()
    config = uvicorn.Config(
        build(orders),
        host="127.0.0.1",
        port=port,
        log_level="error",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    sockets = [config.bind_socket()]

    async def serve():
        orders.loop = asyncio.get_running_loop()
        await server.serve(sockets)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    orders.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/"
    while not server.started:
        time.sleep(0.005)
    try:
        yield orders
    finally:
        orders.room.set()
        server.should_exit = True
        thread.join(10)
        for stream in orders.streams:
            stream.encoder.close()


if __name__ == "__main__":
    with fake_server(port=8123) as running:
        print(running.url)
        threading.Event().wait()
