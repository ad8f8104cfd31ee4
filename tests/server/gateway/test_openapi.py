"""The description at ``/openapi.json``, read as a generator of clients reads it."""

from pathlib import Path
from typing import Any

import pytest

from server.gateway.app import create_app
from server.gateway.context import Gateway
from server.jobs.parts import JobParts
from server.jobs.routes import jobs_router


@pytest.fixture(scope="module")
def paths() -> dict[str, Any]:
    parts = JobParts(None, None, Path(), lambda: 0)  # type: ignore[arg-type]
    app = create_app(Gateway(None), [jobs_router(parts)], web=None)  # type: ignore[arg-type]
    schema = app.openapi()
    assert app.openapi() is schema
    assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    found: dict[str, Any] = schema["paths"]
    return found


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ("/v1/videos/{video_id}/content", {"video/mp4", "image/jpeg"}),
        ("/v1/videos/{video_id}/events", {"text/event-stream"}),
        ("/v1/videos/{video_id}/live.m3u8", {"application/vnd.apple.mpegurl"}),
        ("/v1/videos/{video_id}/segments/{name}", {"video/mp4"}),
        ("/v1/streams/{session_id}/live.mp4", {"video/mp4"}),
        ("/metrics", {"text/plain"}),
        ("/v1/videos/{video_id}", {"application/json"}),
    ],
)
def test_an_answer_has_the_type_it_is_sent_with(
    paths: dict[str, Any], path: str, kinds: set[str]
) -> None:
    assert set(paths[path]["get"]["responses"]["200"]["content"]) == kinds


def test_every_operation_tells_of_the_error_envelope_and_none_of_422(paths: dict[str, Any]) -> None:
    for path, methods in paths.items():
        for operation in methods.values():
            assert "422" not in operation["responses"], path
            (content,) = operation["responses"]["default"]["content"].values()
            assert content["schema"] == {"$ref": "#/components/schemas/Error"}
            assert ("security" in operation) == (path.startswith("/v1/") or path == "/metrics")


@pytest.mark.parametrize(
    ("method", "path", "names"),
    [
        ("get", "/v1/videos", {"order", "limit", "after"}),
        ("post", "/v1/videos", {"Idempotency-Key"}),
        ("post", "/v1/videos/extensions", {"Idempotency-Key"}),
        ("post", "/v1/videos/{video_id}/remix", {"video_id", "Idempotency-Key"}),
        ("get", "/v1/videos/{video_id}/content", {"video_id", "variant"}),
        ("get", "/v1/videos/{video_id}/events", {"video_id", "Last-Event-ID", "last_event_id"}),
    ],
)
def test_what_a_handler_reads_is_declared(
    paths: dict[str, Any], method: str, path: str, names: set[str]
) -> None:
    assert {parameter["name"] for parameter in paths[path][method]["parameters"]} == names
