"""The supervisor: a private Redis, one worker and one gateway on this machine.

It starts them in this order, says what it is doing, ends with one line, restarts what dies, and on
Ctrl-C or SIGTERM stops what it started and nothing else: the worker first, so that viewers are told
through the gateway, Redis last.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from server.config import Settings, without_password
from server.fabric.connection import Connection, FabricError
from server.fabric.workers import is_process, room, snapshots
from server.gateway.main import bind
from server.processes import Child, words_for_exit
from server.redis_process import PrivateRedis, RedisError, find_binary
from server.tasks import end_tasks

Say = Callable[[str], None]

CANNOT = 2
"""Exit status of a child that can never start as asked; it has said why."""
POLL_S = 0.1
STEADY_S = 30.0
"""A process that lived so long may be restarted at once."""
LONGEST_PAUSE_S = 10.0
WORKER_PATIENCE_S, GATEWAY_PATIENCE_S = 20.0, 8.0
LISTENER_FD = "LONGTAKE_LISTENER_FD"


class GivenUp(Exception):
    """The server cannot run; the message says why."""


class Supervisor:
    """Everything that ``python -m server`` starts."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self._settings = settings
        self._say = say
        self._stopping = asyncio.Event()
        self._redis: PrivateRedis | None = None
        self._children: dict[str, Child] = {}
        self._watching: list[asyncio.Task[None]] = []

    def stop(self) -> None:
        """Begin to stop; a second call ends the processes at once."""
        if self._stopping.is_set():
            for child in self._children.values():
                child.kill()
        self._stopping.set()

    async def run(self) -> None:
        """Start everything, wait for the end, stop everything.

        Raises:
            GivenUp: Something cannot run; the rest was stopped.
        """
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self.stop)
        # Bound first: a port in use is said before a model is loaded.
        with bind(self._settings.host, self._settings.port) as listener:
            try:
                url = await self._start_redis()
                await self._start_children(url, listener)
                ready = asyncio.create_task(self._announce(url, listener.getsockname()[1]))
                self._watching.append(ready)
                await self._until_stopped()
            finally:
                await self._stop_everything()

    async def _start_redis(self) -> str:
        settings = self._settings
        if settings.redis_url is not None:
            self._say(f"using the Redis at {without_password(settings.redis_url)}")
            return settings.redis_url
        try:
            binary = find_binary()
            self._say(f"starting a private {binary}, data in {settings.data_dir / 'redis'}")
            self._redis = PrivateRedis(settings.data_dir, binary)
            await self._redis.start()
        except (RedisError, OSError) as error:
            raise GivenUp(str(error)) from error
        self._watching.append(asyncio.create_task(self._keep_redis(self._redis)))
        return self._redis.url

    async def _start_children(self, url: str, listener: socket.socket) -> None:
        variables = self._settings.model_copy(update={"redis_url": url}).environment()
        words = [sys.executable, "-m", "server"]
        self._say("starting the worker and the gateway")
        for role in ("worker", "gateway"):
            own = {**variables, "LONGTAKE_ROLE": role}
            fds: tuple[int, ...] = ()
            if role == "gateway":
                own[LISTENER_FD] = str(listener.fileno())
                fds = (listener.fileno(),)
            child = self._children[role] = Child(role, words, own, fds)
            await child.start()
            self._watching.append(asyncio.create_task(self._keep(child)))

    async def _announce(self, url: str, port: int) -> None:
        """Wait until a stream could start here, then say the one line."""
        redis = Connection(url, retries=0)
        try:
            while True:
                own = await self._own_worker(redis)
                if own is not None and await _answers(self._settings.host, port):
                    break
                await asyncio.sleep(POLL_S)
        finally:
            await redis.close()
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        self._say(
            f"ready: http://{host}:{port} · model {own['model']} · device {own['device']} · "
            f"{room(own['streams_fit'])}"
        )
        # Waits with the others for the end.
        await self._stopping.wait()

    async def _own_worker(self, redis: Connection) -> dict[str, Any] | None:
        """Return what the worker started here reports; a shared Redis knows others as well."""
        pid = self._children["worker"].pid
        if pid is None:
            return None
        alive = await _snapshots(redis)
        return next((found for name, found in alive.items() if is_process(name, pid)), None)

    async def _keep(self, child: Child) -> None:
        """Restart a child that dies; give up when it says that it cannot run."""
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while True:
            began = loop.time()
            status = await child.ended()
            if self._stopping.is_set():
                return
            if status == CANNOT:
                raise GivenUp(f"the {child.name} cannot run; its message is above")
            pause_s = (
                0.0 if loop.time() - began > STEADY_S else min(LONGEST_PAUSE_S, 2 * pause_s + 0.5)
            )
            self._say(f"the {child.name} {words_for_exit(status)}; starting it again")
            await asyncio.sleep(pause_s)
            if not self._stopping.is_set():
                await child.start()

    async def _keep_redis(self, redis: PrivateRedis) -> None:
        while True:
            status = await redis.ended()
            if self._stopping.is_set():
                return
            self._say(f"Redis {words_for_exit(status)}; starting it again")
            try:
                await redis.start()
            except RedisError as error:
                raise GivenUp(str(error)) from error

    async def _until_stopped(self) -> None:
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({stopped, *self._watching}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in self._watching:
            if task.done():
                task.result()

    async def _stop_everything(self) -> None:
        self._stopping.set()
        self._say("stopping: viewers are told, jobs are left for a later start")
        for role, patience_s in (("worker", WORKER_PATIENCE_S), ("gateway", GATEWAY_PATIENCE_S)):
            if role in self._children:
                await self._children[role].stop(patience_s)
        if self._redis is not None:
            await self._redis.stop()
        await end_tasks(*self._watching)
        self._say("stopped")


async def _snapshots(redis: Connection) -> dict[str, dict[str, Any]]:
    try:
        return await snapshots(redis)
    except FabricError:
        return {}


async def _answers(host: str, port: int) -> bool:
    """Return whether the gateway answers ``/readyz`` with 200."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(target, port)
            try:
                writer.write(
                    b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                line = await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in line
