"""The FastAPI application of one gateway: routes, the gate before them, the page.

Stateless: everything it knows about streams and jobs is in the fabric.
"""

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from prometheus_client import Counter
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.gateway import realtime, status, streams
from server.gateway.context import Gateway
from server.gateway.envelope import envelope, install
from server.gateway.openapi import describe

WEB = Path(__file__).resolve().parents[2] / "clients" / "web"
"""The page and player."""


class GateMiddleware:
    """Checks the host's name, keys for all but the page, and origins for what changes something.

    WebSocket handshakes are checked by their own route, which can answer them.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gate = gateway.gate
        self._errors = gateway.metrics.errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        if scope["type"] == "http":
            request = Request(scope)
            path = request.url.path
            refusal = self._gate.check_host(request.headers)
            if path.startswith("/v1/") or path == "/metrics":
                key = self._gate.check_key(request.headers, request.query_params)
                refusal = refusal or key
            if request.method not in ("GET", "HEAD", "OPTIONS"):
                refusal = refusal or self._gate.check_origin(request.headers)
            send = counted_errors(send, self._errors)
            if refusal is not None:
                answer = envelope(refusal.status, refusal.code, refusal.message)
                await answer(scope, receive, send)
                return
        try:
            await self._app(scope, receive, send)
        except Exception:
            # Its answer is made outside of here.
            self._errors.labels("internal_error").inc()
            raise


def counted_errors(send: Send, errors: Counter) -> Send:
    """Return a ``send`` that counts the code in the envelope of every error that goes out."""
    failed = False

    async def counting(message: Message) -> None:
        nonlocal failed
        if message["type"] == "http.response.start":
            failed = message["status"] >= 400
        elif failed and message.get("body"):
            failed = False
            with contextlib.suppress(ValueError, LookupError, TypeError):
                errors.labels(json.loads(message["body"])["error"]["code"]).inc()
        await send(message)

    return counting


def create_app(
    gateway: Gateway,
    routers: Sequence[APIRouter] = (),
    web: Path | None = WEB,
) -> FastAPI:
    """Build the application.

    Args:
        gateway: What the routes share; its connection is closed with the application.
        routers: More routes, such as those of jobs.
        web: Folder of the page, mounted at ``/``; None for none.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await gateway.redis.close()

    app = FastAPI(
        title="Longtake",
        summary="Live streams and jobs of causal video models.",
        lifespan=lifespan,
    )
    install(app)
    describe(app)
    own = (realtime.router(gateway), streams.router(gateway), status.router(gateway))
    for routes in (*own, *routers, realtime.elsewhere(gateway)):
        answer_head(routes)
        app.include_router(routes)
    app.add_middleware(GateMiddleware, gateway=gateway)
    if gateway.gate.origins:
        # Outside of the gate: a browser asks first, and without the key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=gateway.gate.origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=("openai-poll-after-ms", "Retry-After", "Content-Range"),
        )
    if web is not None and web.is_dir():
        app.mount("/", StaticFiles(directory=web, html=True), name="page")
    return app


def answer_head(router: APIRouter) -> None:
    """Answer HEAD wherever GET is answered; what would stream says its headers alone."""
    for route in [route for route in router.routes if isinstance(route, APIRoute)]:
        if "GET" in (route.methods or ()):
            endpoint = _not_streaming(route.endpoint)
            # Apart, since one operation of two methods has one id in /docs and makes it warn.
            router.routes.append(
                type(route)(route.path, endpoint, methods=["HEAD"], include_in_schema=False)
            )


def _not_streaming(endpoint: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(endpoint)
    async def answer(*args: Any, **kwargs: Any) -> Any:
        made = await endpoint(*args, **kwargs)
        if isinstance(made, StreamingResponse):
            bare = Response(status_code=made.status_code, headers=made.headers)
            # Nobody knows how long it would be; 0 would be a lie.
            del bare.headers["content-length"]
            return bare
        return made

    return answer
