"""A gateway process from settings to its end."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import uvicorn

from server.catalogue import ModelCard
from server.config import Settings
from server.fabric.connection import Connection
from server.gateway.app import create_app
from server.gateway.auth import Gate
from server.gateway.context import Gateway
from server.jobs.expiry import keep_sweeping
from server.jobs.parts import JobParts
from server.jobs.routes import jobs_router
from server.jobs.store import JobStore
from server.redis_watch import watched
from server.tasks import end_tasks
from server.wire.limits import Limits

log = logging.getLogger(__name__)

SEND_BUFFER_BYTES = 256 * 1024
DAY_S = 86_400.0
GOODBYE_S = 0.5
"""How long viewers have to read why the connection closes."""


class CannotListen(Exception):
    """The address cannot be bound; the message says what to change."""


class _Server(uvicorn.Server):
    """A uvicorn server whose signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``run_gateway``."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket's beginning: bound, not yet listening.

    Raises:
        CannotListen: Somebody else has the port, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it. Unbounded, the kernel takes megabytes that nobody reads, and
    # `asap` streams would run half a minute ahead of their viewer.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        another = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise CannotListen(
            f"{host} port {port} cannot be used ({reason}); give another {another}"
        ) from error
    listener.set_inheritable(True)
    return listener


def inherit(variable: str, value: str) -> socket.socket:
    """Return the socket that the supervisor bound and left open as number ``value``.

    Raises:
        CannotListen: There is none.
    """
    try:
        return socket.socket(fileno=int(value))
    except (ValueError, OSError) as error:
        raise CannotListen(
            f"{variable} {value} is no open socket; only the supervisor sets it, unset it"
        ) from error


def build_gateway(settings: Settings) -> Gateway:
    """Return what the routes share."""
    assert settings.redis_url is not None, "read_settings asks for it"
    gate = Gate(settings.api_keys, settings.allow_origins)
    return Gateway(Connection(settings.redis_url), gate=gate)


def job_parts(settings: Settings, gateway: Gateway) -> JobParts:
    """Return what the routes of jobs need."""

    async def cards() -> list[ModelCard]:
        return list((await gateway.cards()).values())

    keep = settings.keep_videos_days
    return JobParts(
        JobStore(
            gateway.redis,
            lambda: datetime.now(UTC).timestamp(),
            keep_s=None if keep is None else keep * DAY_S,
        ),
        cards=cards,
        data_dir=settings.data_dir,
        draw_seed=gateway.draw_seed,
        stopping=gateway.draining.is_set,
    )


async def run_gateway(
    settings: Settings, listener: socket.socket, say: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then tell viewers and close."""
    assert settings.redis_url is not None, "read_settings asks for it"
    async with watched(settings.redis_url, "gateway", say):
        await _serve(settings, listener)


async def _serve(settings: Settings, listener: socket.socket) -> None:
    gateway = build_gateway(settings)
    parts = job_parts(settings, gateway)
    app = create_app(gateway, [jobs_router(parts)])
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_max_size=2 * Limits().message_bytes,
        ws_ping_interval=5.0,
        ws_ping_timeout=10.0,
        # Addresses may carry ?key=, so requests are not logged.
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    logging.getLogger("uvicorn.error").addFilter(not_a_refusal)
    server = _Server(config)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    sweeping: asyncio.Task[None] | None = None
    if settings.keep_videos_days is not None:
        sweeping = asyncio.create_task(keep_sweeping(parts.store, parts.data_dir))
    told = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, told}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        gateway.draining.set()
        await asyncio.sleep(GOODBYE_S)
        server.should_exit = True
    told.cancel()
    if sweeping is not None:
        await end_tasks(sweeping)
    await serving


def not_a_refusal(record: logging.LogRecord) -> bool:
    """Keep out of the log what uvicorn says of a WebSocket that was refused with an answer."""
    return record.msg != "ASGI callable returned without completing handshake."
