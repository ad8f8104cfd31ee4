"""The command: flags, clients side by side, one line of JSON last on stdout."""

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from server.bench.client import BenchClient, Plan, Seen
from server.bench.report import report
from server.config import VARIABLE_PREFIX

PROMPTS = (
    "a red ball rolling over green hills under a blue sky",
    "a yellow cube drifting over the sea at night",
    "a white bird flying over the desert at sunset",
)
LOCAL_START_S = 300.0
DEFAULT_URL = "http://127.0.0.1:8000"


class BenchError(Exception):
    """The measurement could not be made; the message says why."""


def main(words: Sequence[str]) -> int:
    """Measure a server; return the exit status."""
    options = _parser().parse_args(words)
    try:
        result = asyncio.run(_measure(options))
    except BenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    errors: list[str] = result["errors"]
    line = json.dumps(result)
    if options.json:
        sys.stdout.write(line + "\n")
    else:
        for key, value in result.items():
            sys.stdout.write(f"{key:22} {value}\n")
    for seen in dict.fromkeys(errors):
        sys.stderr.write(f"error: {seen}\n")
    return 0 if not errors else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server bench",
        description="Open streams as viewers do and report what they see.",
        epilog="With --local every other flag of `python -m server` may follow after `--`.",
    )
    add = parser.add_argument
    add("--url", help=f"the server's address (default: {DEFAULT_URL})")
    add("--local", action="store_true", help="start a private server, measure it, stop it")
    add("--sessions", type=int, default=1, help="streams at the same time")
    add("--seconds", type=float, default=30.0, help="how long to watch each, from its first chunk")
    add("--pacing", choices=("realtime", "asap"), default="realtime")
    add("--change-every", type=float, default=5.0, help="seconds between prompt changes; 0 never")
    add("--prompt", action="append", help="prompts to cycle through; may be repeated")
    add("--warmup-chunks", type=int, default=6, help="chunks left out at the beginning")
    add("--format", choices=("avcc", "m4s", "jpeg"), default="avcc")
    add("--model", help="the server's default when absent")
    add("--api-key", default=os.environ.get("LONGTAKE_API_KEY") or None)
    add("--json", action="store_true", help="end with exactly one line of JSON")
    add("server_flags", nargs="*", help=argparse.SUPPRESS)
    return parser


async def _measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.sessions < 1 or options.seconds <= 0:
        raise BenchError("at least one session and more than 0 seconds are needed")
    if options.local and options.url is not None:
        raise BenchError("--local starts a server of its own; leave --url out, or --local")
    if not options.local and options.server_flags:
        seen = " ".join(options.server_flags)
        raise BenchError(f"{seen}: flags of a server; they are only for one started with --local")
    if not options.local:
        return await _run(options, options.url or DEFAULT_URL)
    async with _local_server(options) as url:
        return await _run(options, url)


async def _run(options: argparse.Namespace, url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BenchError(f"--url {url}; an address such as http://127.0.0.1:8000 is needed")
    scheme = "wss" if parts.scheme == "https" else "ws"
    plan = Plan(
        url=f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/v1/realtime/video",
        seconds=options.seconds,
        prompts=tuple(options.prompt or PROMPTS),
        change_every_s=options.change_every,
        pacing=options.pacing,
        warmup_chunks=options.warmup_chunks,
        model=options.model,
        api_key=options.api_key,
        wire_format=options.format,
    )
    clients = [BenchClient(plan, seed) for seed in range(options.sessions)]
    streams: list[Seen] = list(await asyncio.gather(*(client.run() for client in clients)))
    return report(
        streams,
        pacing=plan.pacing,
        seconds=plan.seconds,
        change_every_s=plan.change_every_s,
        warmup_chunks=plan.warmup_chunks,
        format=plan.wire_format,
    )


def private_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a server of our own inherits: no setting, above all no shared Redis."""
    return {k: v for k, v in environment.items() if not k.startswith(VARIABLE_PREFIX)}


@contextlib.asynccontextmanager
async def _local_server(options: argparse.Namespace) -> AsyncIterator[str]:
    """Run ``python -m server`` on a free port with data of its own."""
    with tempfile.TemporaryDirectory(prefix="longtake-bench-") as data:
        words = ["-m", "server", "--port", "0", "--data-dir", data, *options.server_flags]
        if options.model is not None:
            words += ["--model", options.model]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            stdout=asyncio.subprocess.PIPE,
            env=private_environment(os.environ),
            start_new_session=True,
        )
        assert process.stdout is not None
        rest: asyncio.Task[bytes] | None = None
        try:
            async with asyncio.timeout(LOCAL_START_S):
                url = await _announced(process.stdout)
            # Nobody reads further lines, and a full pipe would stop the server.
            rest = asyncio.create_task(process.stdout.read())
            yield url
        except TimeoutError:
            raise BenchError(f"the server was not ready in {LOCAL_START_S:g} s") from None
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()
            if rest is not None:
                await rest


async def _announced(lines: asyncio.StreamReader) -> str:
    """Return the address in the server's last start-up line, passing the others on."""
    while line := (await lines.readline()).decode():
        sys.stderr.write(line)
        if found := re.search(r"ready: (http://\S+)", line):
            return found[1]
    raise BenchError("the server ended before it was ready; its message is above")
