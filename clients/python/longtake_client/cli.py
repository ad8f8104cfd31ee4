"""The command line: ``python -m longtake_client watch | generate | job …``."""

import argparse
import asyncio
import contextlib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from longtake_client.client import Client
from longtake_client.errors import LongtakeError
from longtake_client.jobs import Video
from longtake_client.live import WatchSinkError, generate, watch
from longtake_client.progress import Bar


class UsageError(Exception):
    """What was asked cannot be; the message says what to write instead."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(prog="longtake", description="Client of a Longtake server.")
    top.add_argument("--url", default=os.environ.get("LONGTAKE_URL", "http://127.0.0.1:8000"))
    top.add_argument(
        "--api-key",
        default=os.environ.get("LONGTAKE_API_KEY"),
        help="better given as the variable LONGTAKE_API_KEY",
    )
    # The same behind the command; there only what is given counts.
    server = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    server.add_argument("--url")
    server.add_argument("--api-key")
    again = [server]
    commands = top.add_subparsers(dest="command", required=True)

    live = commands.add_parser(
        "watch",
        help="watch a live stream; each line you type becomes the new prompt",
        parents=again,
    )
    _generation(live)
    live.add_argument("--seconds", type=float, help="stop after this much video")
    live.add_argument("--out", help="file to write, or - for standard output; else ffplay opens")

    clip = commands.add_parser(
        "generate",
        help="generate a clip as fast as it goes, with --at as fast as it plays",
        parents=again,
    )
    _generation(clip)
    clip.add_argument("--seconds", type=float, default=8.0)
    clip.add_argument("--out", required=True, help="MP4 file to write")

    job = commands.add_parser("job", help="video jobs that go on without you")
    verbs = job.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create", help="queue a job", parents=again)
    _generation(create)
    create.add_argument("--seconds", type=float, default=8.0)
    create.add_argument("--image", help="PNG, JPEG or WebP file to start from")
    create.add_argument("--out", help="wait and download to this file")
    longer = verbs.add_parser(
        "extend", help="queue a longer version of a finished video", parents=again
    )
    longer.add_argument("id")
    longer.add_argument("--seconds", type=float, default=4.0, help="how much is added")
    longer.add_argument("--prompt", help="what the new part shows; else the last prompt goes on")
    longer.add_argument("--out", help="wait and download to this file")
    verbs.add_parser("list", help="list jobs, newest first", parents=again)
    for verb, what in (
        ("show", "print a job's state"),
        ("wait", "wait until a job has ended"),
        ("cancel", "stop a job, keep its record"),
        ("delete", "delete a job and its files"),
        ("download", "download a finished video"),
    ):
        one = verbs.add_parser(verb, help=what, parents=again)
        one.add_argument("id")
        if verb == "download":
            one.add_argument("--out", required=True)
    return top


def _generation(command: argparse.ArgumentParser) -> None:
    command.add_argument("prompt")
    command.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="T=PROMPT",
        help="change the prompt T seconds into the video; may be repeated",
    )
    command.add_argument("--model")
    command.add_argument("--size", help="such as 160x96")
    command.add_argument("--seed", type=int)
    command.add_argument("--steps", type=int, help="denoising steps")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    asked = parser().parse_args(words)
    try:
        return asyncio.run(_run(asked))
    except (LongtakeError, UsageError, WatchSinkError, ValueError) as error:
        sys.stderr.write(f"longtake: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"longtake: {error.filename or 'output'}: {error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


async def _run(asked: argparse.Namespace) -> int:
    _check(asked)
    async with Client(asked.url, api_key=asked.api_key) as client:
        if asked.command == "job":
            return await _JOB_VERBS[asked.verb](client, asked)
        choices = {
            "model": asked.model,
            "seed": asked.seed,
            "num_inference_steps": asked.steps,
            **_size(asked.size),
        }
        later = _later(asked.at)
        if asked.command == "watch":
            await watch(client, asked.prompt, choices, later, asked.seconds, asked.out)
        else:
            await generate(client, asked.prompt, choices, later, asked.seconds, Path(asked.out))
        return 0


def _check(asked: argparse.Namespace) -> None:
    """Refuse what can never be, before anything is asked of the server."""
    seconds: float | None = getattr(asked, "seconds", None)
    if seconds is not None and not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g}; give a length above 0")
    for at_s, prompt in _later(getattr(asked, "at", ())):
        if seconds is not None and at_s >= seconds:
            raise UsageError(
                f"--at {at_s:g}={prompt}: the video ends at {seconds:g} s; give an earlier time or "
                "more --seconds"
            )
    out: str | None = getattr(asked, "out", None)
    if out is not None and out != "-" and not (folder := Path(out).absolute().parent).is_dir():
        raise UsageError(f"--out {out}: there is no folder {folder}; make it first")


async def _create(client: Client, asked: argparse.Namespace) -> int:
    video = await client.jobs.create(
        asked.prompt,
        seconds=f"{asked.seconds:g}",
        model=asked.model,
        size=asked.size,
        seed=asked.seed,
        num_inference_steps=asked.steps,
        later=_later(asked.at),
        image=Path(asked.image).read_bytes() if asked.image else None,  # noqa: ASYNC240
    )
    return await _queued(client, video, asked.out)


async def _extend(client: Client, asked: argparse.Namespace) -> int:
    video = await client.jobs.extend(asked.id, seconds=asked.seconds, prompt=asked.prompt)
    return await _queued(client, video, asked.out)


async def _queued(client: Client, video: Video, out: str | None) -> int:
    """Print a new job's id; with a file to write, wait and download."""
    print(video.id, flush=True)  # noqa: T201
    if out is None:
        return 0
    video = await _follow(client, video.id)
    if video.status != "completed":
        return _ended_badly(video)
    return await _download_to(client, video.id, Path(out))


async def _list(client: Client, asked: argparse.Namespace) -> int:
    async for video in client.jobs.list():
        print(_line(video))  # noqa: T201
    return 0


async def _show(client: Client, asked: argparse.Namespace) -> int:
    print(_line(await client.jobs.get(asked.id)))  # noqa: T201
    return 0


async def _wait(client: Client, asked: argparse.Namespace) -> int:
    video = await _follow(client, asked.id)
    print(_line(video))  # noqa: T201
    return 0 if video.status == "completed" else _ended_badly(video)


async def _cancel(client: Client, asked: argparse.Namespace) -> int:
    print(_line(await client.jobs.cancel(asked.id)))  # noqa: T201
    return 0


async def _delete(client: Client, asked: argparse.Namespace) -> int:
    await client.jobs.delete(asked.id)
    return 0


async def _download(client: Client, asked: argparse.Namespace) -> int:
    return await _download_to(client, asked.id, Path(asked.out))


_JOB_VERBS = {
    "create": _create,
    "extend": _extend,
    "list": _list,
    "show": _show,
    "wait": _wait,
    "cancel": _cancel,
    "delete": _delete,
    "download": _download,
}


async def _follow(client: Client, video_id: str) -> Video:
    with contextlib.closing(Bar(sys.stderr, "generating")) as bar:
        return await client.jobs.wait(
            video_id,
            lambda video: bar.show(video.frames_done, video.num_frames, video.status),
        )


async def _download_to(client: Client, video_id: str, path: Path) -> int:
    with contextlib.closing(Bar(sys.stderr, "downloading")) as bar:
        await client.jobs.download(video_id, path, bar.show)
    return 0


def _ended_badly(video: Video) -> int:
    why = f": {video.error[1]}" if video.error else ""
    sys.stderr.write(f"longtake: {video.id} {video.status}{why}\n")
    return 1


def _line(video: Video) -> str:
    return (
        f"{video.id}  {video.status:<11} {video.progress:3d} %  {video.seconds} s  {video.prompt}"
    )


def _later(entries: Sequence[str]) -> list[tuple[float, str]]:
    """Return ``T=PROMPT`` entries as times and prompts, earliest first."""
    found = []
    for entry in entries:
        at, equals, prompt = entry.partition("=")
        try:
            at_s = float(at)
        except ValueError:
            at_s = -1.0
        if not equals or not prompt.strip() or not 0 <= at_s < 1e9:
            raise UsageError(f"--at {entry!r}; write seconds=prompt, such as --at '4=a blue ball'")
        found.append((at_s, prompt.strip()))
    return sorted(found)


def _size(text: str | None) -> dict[str, int | None]:
    if text is None:
        return {}
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size {text!r}; write width x height in pixels, such as 160x96")
    return {"width": int(width), "height": int(height)}
