"""What ``/openapi.json`` says beyond what FastAPI can see in the routes.

Answers that are no JSON, parameters that handlers read themselves, the error envelope in place of
FastAPI's 422, and the API key. A table by address and method; knows no handler.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

Operation = tuple[str, str]

_VIDEO, _STREAM = "/v1/videos/{video_id}", "/v1/streams/{session_id}"
_ANSWERS: dict[Operation, tuple[str, ...]] = {
    (f"{_VIDEO}/content", "get"): ("video/mp4", "image/jpeg"),
    (f"{_VIDEO}/events", "get"): ("text/event-stream",),
    (f"{_VIDEO}/live.m3u8", "get"): ("application/vnd.apple.mpegurl",),
    (f"{_VIDEO}/segments/{{name}}", "get"): ("video/mp4",),
    (f"{_STREAM}/live.mp4", "get"): ("video/mp4",),
    ("/metrics", "get"): ("text/plain",),
}
"""Media types of answers that are no JSON."""


def _parameter(
    name: str, text: str, schema: dict[str, Any], place: str = "query"
) -> dict[str, Any]:
    return {"name": name, "in": place, "required": False, "description": text, "schema": schema}


_ONCE = _parameter(
    "Idempotency-Key",
    "A request sent again under this key gets the first one's video, for a day.",
    {"type": "string", "minLength": 1, "maxLength": 255},
    "header",
)
_SEQUENCE = {"type": "string", "pattern": r"^\d{1,15}$"}
_PARAMETERS: dict[Operation, tuple[dict[str, Any], ...]] = {
    ("/v1/videos", "get"): (
        _parameter("order", "By creation.", {"enum": ["asc", "desc"], "default": "desc"}),
        _parameter(
            "limit",
            "Most to return.",
            {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
        ),
        _parameter("after", "Return those behind the video of this id.", {"type": "string"}),
    ),
    ("/v1/videos", "post"): (_ONCE,),
    ("/v1/videos/extensions", "post"): (_ONCE,),
    (f"{_VIDEO}/remix", "post"): (_ONCE,),
    (f"{_VIDEO}/content", "get"): (
        _parameter(
            "variant",
            "The file, or a JPEG of its first picture.",
            {"enum": ["video", "thumbnail"], "default": "video"},
        ),
    ),
    (f"{_VIDEO}/events", "get"): (
        _parameter("Last-Event-ID", "Go on behind this event.", _SEQUENCE, "header"),
        _parameter("last_event_id", "The same where headers cannot be set.", _SEQUENCE),
    ),
}
_TEXT_OR_NULL = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT_OR_NULL,
                "code": {"type": "string"},
            },
        }
    },
}
_REFUSED = {
    "description": "Refused or failed; `code` says why.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, if any are set."},
    "key": {"type": "apiKey", "in": "query", "name": "key", "description": "The same in the URL."},
}


def describe(app: FastAPI) -> None:
    """Let ``app`` answer ``/openapi.json`` with all of it; called once its routes are there."""
    plain = app.openapi

    def whole() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain())
        assert app.openapi_schema is not None, "FastAPI keeps what it made"
        return app.openapi_schema

    app.openapi = whole  # type: ignore[method-assign]


def _complete(schema: dict[str, Any]) -> None:
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = _ERROR
    components["securitySchemes"] = _KEYS
    for path, method, operation in _operations(schema):
        answers = operation["responses"]
        answers.pop("422", None)
        answers["default"] = _REFUSED
        if path.startswith("/v1/") or path == "/metrics":
            operation["security"] = [{name: []} for name in _KEYS]
        if kinds := _ANSWERS.get((path, method)):
            answers["200"]["content"] = {kind: {"schema": {"type": "string"}} for kind in kinds}
        if own := _PARAMETERS.get((path, method)):
            operation["parameters"] = [*operation.get("parameters", ()), *own]


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation
