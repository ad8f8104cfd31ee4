"""What the command line does with a live stream: watch it, or make a clip of it."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from longtake_client.client import Client
from longtake_client.errors import LongtakeError, StreamError
from longtake_client.progress import Bar
from longtake_client.protocol import Chunk
from longtake_client.stream import PromptChange, Stream

Later = Sequence[tuple[float, str]]
Write = Callable[[bytes], object]


class WatchSinkError(Exception):
    """There is nowhere to show the stream; the message says what to do."""


class FragmentFile:
    """Joins ``m4s`` chunks into bytes that play: one init segment, no frame twice."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._init = b""
        self.frames = 0

    def add(self, chunk: Chunk) -> None:
        """Write one chunk; an init segment equal to the last one is left out."""
        init, fragment = chunk.split_init()
        if init and init != self._init:
            self._init = init
            self._write(init)
        self._write(fragment)
        self.frames += chunk.num_frames


async def generate(
    client: Client,
    prompt: str,
    choices: Mapping[str, Any],
    later: Later,
    seconds: float,
    path: Path,
) -> None:
    """Write a clip of ``seconds`` to ``path``, which appears once it is whole.

    A change at T seconds is sent about two chunks before T; it shows from the next chunk not
    yet started, which the receipt names; with changes the server makes the clip no faster than it
    plays. For exact times use a job.
    """
    model = await _model(client, choices.get("model"))
    fps = int(model["fps"][0])
    total = max(1, round(seconds * fps))
    part = path.with_name(path.name + ".part")
    bar = Bar(sys.stderr, "generating")
    try:
        with part.open("wb") as file, contextlib.closing(bar):
            sink = FragmentFile(file.write)
            # With changes to come the server may not run ahead of what has been acknowledged.
            pacing = "realtime" if later else "asap"
            stream = client.stream(prompt, num_frames=total, pacing=pacing, **choices)
            async with stream:
                async for chunk in _with_changes(stream, later, bar.say):
                    sink.add(chunk)
                    if later:
                        await stream.ack(chunk.last_frame)
                    bar.show(sink.frames, total, f"{sink.frames}/{total} frames")
            if sink.frames != total:
                raise LongtakeError(f"the stream ended after {sink.frames} of {total} frames")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


async def watch(
    client: Client,
    prompt: str,
    choices: Mapping[str, Any],
    later: Later,
    seconds: float | None,
    out: str | None,
) -> None:
    """Show a live stream; lines typed meanwhile become prompts.

    Raises:
        WatchSinkError: No file was named and there is no ffplay.
    """
    bar = Bar(sys.stderr, "watching")
    async with _sink(out) as write:
        with contextlib.closing(bar):
            async with client.stream(prompt, **choices) as stream:
                config = await stream.config()
                bar.say(f"{config.model}, {config.width}x{config.height}, {config.fps} frames/s, "
                        f"seed {config.seed}")  # fmt: skip
                typing = asyncio.create_task(_type_prompts(stream, bar))
                try:
                    sink = FragmentFile(write)
                    async for chunk in _with_changes(stream, later, bar.say):
                        await asyncio.to_thread(sink.add, chunk)
                        end_s = chunk.pts_s + chunk.duration_s
                        bar.show(sink.frames, None, f"frames  {end_s:.1f} s")
                        if seconds is not None and end_s >= seconds:
                            break
                except BrokenPipeError:
                    bar.say("the player was closed")
                finally:
                    typing.cancel()


async def _with_changes(
    stream: Stream, later: Later, say: Callable[[str], None]
) -> AsyncIterator[Chunk]:
    """Yield chunks, changing the prompt where ``later`` says; receipts are told to ``say``."""
    waiting = list(later)
    telling: set[asyncio.Task[None]] = set()
    try:
        async for chunk in stream:
            while waiting and chunk.pts_s + 2 * chunk.duration_s > waiting[0][0]:
                prompt = waiting.pop(0)[1]
                try:
                    change = await stream.prompt(prompt)
                except StreamError as error:
                    say(f"not changed to {prompt!r}: {error}")
                    continue
                task = asyncio.create_task(_tell(change, prompt, say))
                telling.add(task)
                task.add_done_callback(telling.discard)
            yield chunk
    finally:
        for task in telling:
            task.cancel()


async def _tell(change: PromptChange, prompt: str, say: Callable[[str], None]) -> None:
    """Say where a change shows, once it is known."""
    try:
        applied = await change.applied()
        say(f"{applied.pts_s:7.2f} s  {prompt}")
    except LongtakeError as error:
        say(f"not changed to {prompt!r}: {error}")


async def _type_prompts(stream: Stream, bar: Bar) -> None:
    """Send each line of standard input as a prompt, where a person types there."""
    if not sys.stdin.isatty():
        return
    bar.say("type a new prompt and press Enter; Ctrl-C ends")
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        prompt = line.decode(errors="replace").strip()
        if prompt:
            try:
                await _tell(await stream.prompt(prompt), prompt, bar.say)
            except StreamError as error:
                bar.say(f"not changed to {prompt!r}: {error}")


@contextlib.asynccontextmanager
async def _sink(out: str | None) -> AsyncIterator[Write]:
    """Yield where the video goes: a file, standard output, or a player."""
    if out == "-":
        yield lambda data: _write_all(sys.stdout.fileno(), data)
    elif out is not None:
        file = await asyncio.to_thread(Path(out).open, "wb")
        with file:
            yield file.write
    else:
        player = shutil.which("ffplay")
        if player is None:
            raise WatchSinkError("there is no ffplay here; give --out FILE, or --out - | a player")
        words = [player, "-loglevel", "error", "-fflags", "nobuffer", "-i", "-"]
        shown = await asyncio.to_thread(subprocess.Popen, words, stdin=subprocess.PIPE, bufsize=0)
        assert shown.stdin is not None
        descriptor = shown.stdin.fileno()
        try:
            yield lambda data: _write_all(descriptor, data)
        finally:
            shown.terminate()
            shown.stdin.close()
            await asyncio.to_thread(shown.wait)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


async def _model(client: Client, name: str | None) -> Mapping[str, Any]:
    # A server also lists models that it could serve after a restart.
    models = [model for model in await client.models() if model.get("serving", True)]
    for model in models:
        if name is None or model["id"] == name:
            return model
    served = ", ".join(model["id"] for model in models) or "none"
    raise LongtakeError(f"model {name or 'default'}; served: {served}")
