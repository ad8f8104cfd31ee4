"""``WS /v1/realtime/video``: one connection from accept to close.

Moves messages between the socket, the ``Conversation`` that says what is allowed and the ``Owner``
that serves the stream. Nothing a client sends ends anything but its own connection.
"""

import asyncio
import contextlib
import logging

from fastapi import APIRouter, WebSocket
from fastapi.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect

from server.fabric.connection import FabricError
from server.gateway.auth import Refusal
from server.gateway.context import Gateway
from server.gateway.envelope import RestError, envelope
from server.gateway.opening import open_again, open_new
from server.gateway.outage import CannotGoOn
from server.gateway.owner import Owner, TakenOver
from server.tasks import end_tasks
from server.wire.conversation import Conversation, Phase
from server.wire.messages_in import ClientMessage, SessionPing, SessionResume, SessionStart
from server.wire.messages_out import ErrorMessage, ServerMessage, SessionPong

log = logging.getLogger(__name__)

REALTIME = "/v1/realtime/video"
CLOSE_NORMAL, CLOSE_RESTART, CLOSE_TIMEOUT, CLOSE_LOST = 1000, 1012, 4408, 4409


class Connection:
    """One client's WebSocket."""

    def __init__(self, gateway: Gateway, socket: WebSocket) -> None:
        self._gateway = gateway
        self._socket = socket
        self._talk = Conversation(gateway.limits, gateway.clock())
        self._sending = asyncio.Lock()
        self._owner: Owner | None = None
        self._serving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until either side ends it."""
        with self._gateway.metrics.connections.track_inprogress():
            drain = asyncio.create_task(self._drain())
            try:
                code = await self._converse()
                with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                    await self._socket.close(code)
            except WebSocketDisconnect:
                pass
            finally:
                drain.cancel()
                await self._let_go()

    async def send(self, message: ServerMessage, binary: bytes | None = None) -> None:
        """Send a message and, right behind it, the binary that belongs to it.

        Raises:
            WebSocketDisconnect: The client has gone.
        """
        if isinstance(message, ErrorMessage):
            self._gateway.metrics.errors.labels(message.code).inc()
        async with self._sending:
            self._talk.sent(message)
            try:
                await self._socket.send_text(message.encode())
                if binary is not None:
                    await self._socket.send_bytes(binary)
            except RuntimeError as error:
                # Starlette's word for sending after the close.
                raise WebSocketDisconnect(1006) from error

    async def _converse(self) -> int:
        """Take messages until the conversation ends; return the close code."""
        while True:
            raw = await self._next()
            if isinstance(raw, int):
                return raw
            answer = self._talk.receive(raw, self._gateway.clock())
            if isinstance(answer, ErrorMessage):
                await self.send(answer)
                continue
            try:
                await self._obey(answer)
            except FabricError as error:
                log.warning("Redis does not answer: %s", error)
                await self.send(
                    ErrorMessage(
                        code="fabric_unavailable",
                        message="the server cannot reach Redis at the moment; try again",
                        retryable=True,
                    )
                )

    async def _next(self) -> str | bytes | int:
        """Return the next message, or the code to close with."""
        receive = asyncio.ensure_future(self._socket.receive())
        waiting: set[asyncio.Future[object]] = {receive}  # type: ignore[arg-type]
        timeout = None
        if self._serving is not None:
            waiting.add(self._serving)  # type: ignore[arg-type]
        else:
            timeout = self._gateway.limits.start_timeout_s
        try:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if self._serving is not None and self._serving.done():
                return await self._served(self._serving)
            if not receive.done():
                await self.send(
                    ErrorMessage(
                        code="start_timeout",
                        message=f"no session.start within {timeout:g} s; connect again and send one",
                        retryable=True,
                        fatal=True,
                    )
                )
                return CLOSE_TIMEOUT
        finally:
            if not receive.done():
                receive.cancel()
        event = receive.result()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1006))
        text = event.get("text")
        return text if text is not None else event.get("bytes") or b""

    async def _served(self, serving: asyncio.Task[None]) -> int:
        """Return the close code for a stream that is over."""
        try:
            serving.result()
        except TakenOver:
            self._owner = None
            if self._talk.phase is not Phase.ENDED:
                await self.send(
                    ErrorMessage(
                        code="taken_over",
                        message="another connection resumed this stream; this one is closed",
                        fatal=True,
                    )
                )
            return CLOSE_LOST
        except CannotGoOn:
            self._owner = None
            return CLOSE_LOST
        except WebSocketDisconnect:
            raise
        except Exception:
            log.exception("a stream's connection ended by a fault")
            message = "a fault of the server ended this connection; connect again and resume"
            await self.send(
                ErrorMessage(code="internal_error", message=message, retryable=True, fatal=True)
            )
            return 1011
        self._owner = None
        return CLOSE_NORMAL

    async def _obey(self, message: ClientMessage) -> None:
        if isinstance(message, SessionPing):
            await self.send(SessionPong())
        elif isinstance(message, SessionStart | SessionResume):
            await self._open(message)
        else:
            assert self._owner is not None, "the conversation lets nothing else through before"
            await self._owner.obey(message)

    async def _open(self, message: SessionStart | SessionResume) -> None:
        began = self._gateway.clock()
        if isinstance(message, SessionStart):
            opened = await open_new(self._gateway, message)
        else:
            opened = await open_again(self._gateway, message)
        if isinstance(opened, ErrorMessage):
            await self.send(opened)
            return
        self._talk.opened()
        self._owner = Owner(self._gateway, opened, self.send, began)
        self._serving = asyncio.create_task(self._owner.run())

    async def _drain(self) -> None:
        await self._gateway.draining.wait()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self.send(
                ErrorMessage(
                    code="shutting_down",
                    message="this gateway is stopping; connect again and resume",
                    retryable=True,
                    fatal=True,
                )
            )
            await self._socket.close(CLOSE_RESTART)

    async def _let_go(self) -> None:
        if self._serving is not None:
            await end_tasks(self._serving)
        if self._owner is not None:
            await self._owner.lost()


def refused(refusal: Refusal) -> JSONResponse:
    """Return the HTTP answer to a handshake that is not accepted."""
    return envelope(refusal.status, refusal.code, refusal.message)


def router(gateway: Gateway) -> APIRouter:
    """Return the routes of the realtime protocol."""
    routes = APIRouter()

    @routes.websocket(REALTIME)
    async def realtime(socket: WebSocket) -> None:
        gate = gateway.gate
        refusal = gate.check_origin(socket.headers) or gate.check_key(
            socket.headers, socket.query_params
        )
        if refusal is not None:
            gateway.metrics.errors.labels(refusal.code).inc()
            await socket.send_denial_response(refused(refusal))
            return
        await socket.accept()
        await Connection(gateway, socket).run()

    @routes.get(REALTIME, include_in_schema=False)
    async def not_upgraded() -> None:
        """Say that this address is a WebSocket."""
        message = f"{REALTIME} is a WebSocket; connect to it with ws:// or wss://"
        raise RestError(426, "upgrade_required", message)

    return routes


def elsewhere(gateway: Gateway) -> APIRouter:
    """Return the answer to WebSockets of any other address; to be asked last."""
    routes = APIRouter()

    @routes.websocket("/{path:path}")
    async def nothing(socket: WebSocket, path: str) -> None:
        gateway.metrics.errors.labels("not_found").inc()
        message = f"no WebSocket at /{path[:80]}; the realtime protocol is at {REALTIME}"
        await socket.send_denial_response(envelope(404, "not_found", message))

    return routes
