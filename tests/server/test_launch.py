"""``python -m server`` as a user runs it: real processes, drawn weights."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from server.config import Settings
from server.fabric.connection import Connection
from server.fabric.workers import new_worker_id, report
from server.gateway.auth import Gate
from server.gateway.context import Gateway
from server.launch import Supervisor
from server.processes import Child
from server.tasks import end_tasks
from tests.conftest import RedisServer
from tests.server.harness import Served, until
from tests.server.small_model import write_small_model

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.redis,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

READY = re.compile(
    r"==> ready: http://127\.0\.0\.1:(\d+) · model (\S+) · device (.+) · room for (\d+) stream"
)


@dataclass
class Run:
    """One run of the command and everything it printed."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    at: int = 0

    async def line(self, pattern: str) -> "re.Match[str]":
        """Wait for a printed line after the one that was waited for last."""
        assert self.process.stdout is not None
        while True:
            while self.at < len(self.lines):
                self.at += 1
                if found := re.search(pattern, self.lines[self.at - 1]):
                    return found
            text = (await self.process.stdout.readline()).decode()
            assert text, f"ended before {pattern!r}: {self.lines}"
            self.lines.append(text.rstrip())

    def family(self) -> list[int]:
        """The processes it started."""
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.asynccontextmanager
async def _run(*words: str, **variables: str) -> AsyncIterator[Run]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        start_new_session=True,
    )
    try:
        yield Run(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        # Its children hold the pipe too; it ends when the last of them has.
        assert process.stdout is not None
        async with asyncio.timeout(30):
            await process.stdout.read()


@pytest.mark.slow
async def test_it_starts_serves_restarts_a_dead_worker_and_stops_all_it_started(
    tmp_path: Path,
) -> None:
    model = write_small_model(tmp_path / "model")
    words = ("--port", "0", "--data-dir", str(tmp_path / "data"), "--model", str(model))
    async with _run(*words, LONGTAKE_DTYPE="float32") as run:
        ready = await run.line(READY.pattern)
        port = int(ready[1])
        assert (ready[2], ready[3]) == ("longtake-tiny", "cpu float32")
        assert int(ready[4]) >= 1
        started = run.family()
        assert len(started) == 3
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            assert (await http.get("/readyz")).json()["status"] == "ready"
            assert (await http.get("/v1/models")).json()["data"][0]["id"] == "longtake-tiny"
            assert (await http.get("/v1/videos")).json()["object"] == "list"
        served = Served(port, Gateway(None, gate=Gate()))  # type: ignore[arg-type]
        async with served.viewer() as viewer:
            await viewer.start(num_frames=9)
            chunk = await viewer.chunk()
            assert chunk.metadata["num_frames"] == 9
            await viewer.message("session.done", ack=True)

        (worker,) = [p for p in started if _role(p) == "worker"]
        os.kill(worker, signal.SIGKILL)
        await run.line("the worker was ended by SIGKILL; starting it again")
        await run.line("worker .* serves longtake-tiny")

        started = run.family()
        async with served.viewer() as viewer:
            await viewer.start()
            await viewer.chunk()
            run.process.send_signal(signal.SIGTERM)
            done = await viewer.message("session.done", ack=True)
            assert done["reason"] == "shutdown"
        assert await run.process.wait() == 0
        await until(lambda: not any(_alive(process) for process in started))


def _role(pid: int) -> str | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    roles = [v.partition(b"=")[2].decode() for v in variables if v.startswith(b"LONGTAKE_ROLE=")]
    return roles[0] if roles else None


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--host", "0.0.0.0"), "host 0.0.0.0 without an API key"),
        (("--role", "worker"), "role worker without --redis-url"),
        (("--port", "99999"), "--port 99999"),
    ],
)
async def test_what_cannot_be_is_one_sentence_and_status_2(
    words: tuple[str, ...], sentence: str
) -> None:
    async with _run(*words) as run:
        await run.line(f"error: .*{sentence}")
        assert await run.process.wait() == 2


async def test_a_port_in_use_is_said_before_anything_is_started(tmp_path: Path) -> None:
    listener = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with _run("--port", str(port), "--data-dir", str(tmp_path)) as run:
        await run.line(rf"error: 127\.0\.0\.1 port {port} cannot be used .*--port")
        assert await run.process.wait() == 2
    assert not (tmp_path / "redis").exists()
    listener.close()
    await listener.wait_closed()


async def test_an_unknown_model_ends_everything_with_the_reason(tmp_path: Path) -> None:
    words = ("--port", "0", "--data-dir", str(tmp_path), "--model", "no-such-model")
    async with _run(*words) as run:
        await run.line("no-such-model")
        await run.line("error: the worker cannot run")
        assert await run.process.wait() == 2


async def test_ready_names_the_worker_started_here_and_no_other_of_a_shared_redis(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answers(host: str, port: int) -> bool:
        return True

    monkeypatch.setattr("server.launch._answers", answers)
    said: list[str] = []
    supervisor = Supervisor(Settings(redis_url=redis_server.url), said.append)
    child = Child("worker", ("sleep", "60"), {})
    await child.start()
    assert child.pid is not None
    supervisor._children["worker"] = child
    redis = Connection(redis_server.url)
    announcing = asyncio.create_task(supervisor._announce(redis_server.url, 8000))
    try:
        shown = {"model": "elsewhere", "device": "cuda", "streams_fit": 9}
        for other in (new_worker_id(child.pid + 1), f"another-{child.pid}-0"):
            await report(redis, other, shown)
        assert await supervisor._own_worker(redis) is None
        await report(redis, new_worker_id(child.pid), {**shown, "model": "here", "streams_fit": 1})
        await until(lambda: said)
        assert said == [
            "ready: http://127.0.0.1:8000 · model here · device cuda · room for 1 stream"
        ]
    finally:
        await end_tasks(announcing)
        await child.stop(5)
        await redis.close()


async def test_the_supervisors_death_ends_its_processes(tmp_path: Path) -> None:
    words = ("--port", "0", "--data-dir", str(tmp_path), "--random-weights")
    async with _run(*words) as run:
        await run.line("starting the worker and the gateway")
        started = await until(lambda: found if len(found := run.family()) == 3 else None)
        run.process.kill()
        await run.process.wait()
        await until(lambda: not any(_alive(process) for process in started))
