"""REST errors in OpenAI's shape: ``{"error": {message, type, param, code}}``.

Knows FastAPI's exceptions and turns every one of them into that envelope.
"""

import logging

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from server.fabric.connection import FabricError

log = logging.getLogger(__name__)


def envelope(
    status: int, code: str, message: str, param: str | None = None, **headers: str
) -> JSONResponse:
    """Return an error response; header names use ``_`` for ``-``."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(body, status_code=status, headers=names)


class RestError(HTTPException):
    """A refusal with a code; ends up in the envelope."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(status, message)
        self.code = code
        self.param = param


def install(app: FastAPI) -> None:
    """Answer every exception of ``app`` with the envelope."""

    @app.exception_handler(StarletteHTTPException)
    async def http(request: Request, error: StarletteHTTPException) -> JSONResponse:
        if isinstance(error, RestError):
            return envelope(error.status_code, error.code, error.detail, error.param)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        seen = f"{request.method} {request.url.path}: {error.detail}; see /docs for what there is"
        return envelope(error.status_code, code, seen)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        return envelope(400, "invalid_value", f"{param}: {first['msg']}", param)

    @app.exception_handler(FabricError)
    async def away(request: Request, error: FabricError) -> JSONResponse:
        log.warning("%s %s: Redis does not answer: %s", request.method, request.url.path, error)
        sentence = "the server cannot reach Redis at the moment; try again in a few seconds"
        return envelope(503, "fabric_unavailable", sentence, Retry_After="2")

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        return envelope(500, "internal_error", "a fault of the server; its log has more")
