"""ARCHITECTURE.md says what the code does: messages, fields, errors, keys, routes."""

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from server.catalogue import ModelCard
from server.fabric import keys
from server.fabric.claim import MAX_TAKEOVERS, RENEW_S
from server.fabric.connection import Connection
from server.fabric.queue import TAKEOVER_MS
from server.fabric.streams import CONTROL_MAXLEN, MEDIA_MAXLEN
from server.gateway.app import create_app
from server.gateway.context import Gateway
from server.jobs import keys as job_keys
from server.jobs.parse import CREATE_FIELDS, EXTRA_FIELDS
from server.jobs.parts import JobParts
from server.jobs.request import JobLimits
from server.jobs.routes import jobs_router
from server.jobs.store import JobStore
from server.wire import messages_in, messages_out
from server.wire.codes import ERROR_CODES
from server.wire.limits import Limits
from server.wire.messages_in import CLIENT_TYPES
from server.worker.encoders import KEY_EVERY_S
from server.worker.presence import SILENCE_S
from tests.documents import ROOT, read

DOCUMENT = read("ARCHITECTURE.md")


def section(title: str) -> str:
    """Return what stands under a heading, up to the next one of its rank or above."""
    lines = iter(DOCUMENT.text.splitlines())
    for line in lines:
        marks, _, name = line.partition(" ")
        if name == title and marks.strip("#") == "":
            break
    else:
        raise AssertionError(f"there is no section {title!r}")
    ends = tuple("#" * rank + " " for rank in range(1, len(marks) + 1))
    return "\n".join(takewhile(lambda line: not line.startswith(ends), lines))


def words(title: str) -> str:
    """Return a section in one line, wherever its lines were broken."""
    return " ".join(section(title).split())


def table(title: str) -> dict[str, str]:
    """Return the rows of the table under a heading: first cell to the rest."""
    rows = re.findall(r"^\| `([^|`]+)` \|(.*)\|$", section(title), re.MULTILINE)
    assert rows, f"no table under {title!r}"
    return dict(rows)


def fields_of(model: type[BaseModel]) -> set[str]:
    """Return the field names of a message, those of nested values included."""
    found: set[str] = set()
    for name, info in model.model_fields.items():
        if name == "type":
            continue
        found.add(name)
        for kind in _kinds(info.annotation):
            found |= fields_of(kind)
    return found


def _kinds(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _kinds(part)]


def named(text: str) -> set[str]:
    """Return every word inside backticks."""
    return set(re.findall(r"[a-z0-9_]+", " ".join(re.findall(r"`([^`]+)`", text))))


@pytest.mark.parametrize("kind", CLIENT_TYPES)
def test_every_client_message_is_described_with_its_fields(kind: str) -> None:
    told = named(table("From the client")[kind])
    assert fields_of(CLIENT_TYPES[kind]) - {"text", "weight"} <= told


def test_no_client_message_is_described_that_is_none() -> None:
    assert set(table("From the client")) == set(CLIENT_TYPES)


def server_messages() -> dict[str, type[BaseModel]]:
    found = {}
    for value in vars(messages_out).values():
        if (
            isinstance(value, type)
            and issubclass(value, BaseModel)
            and "type" in value.model_fields
        ):
            found[value.model_fields["type"].default] = value
    return found


def test_every_server_message_is_described_with_its_fields() -> None:
    told = table("From the server")
    known = server_messages()
    assert set(told) == set(known)
    for kind, model in known.items():
        assert fields_of(model) <= named(told[kind]), kind


def test_every_choice_of_a_start_is_named() -> None:
    told = table("From the client")["session.start"]
    for name in ("format", "codec", "pacing"):
        schema = messages_in.SessionStart.model_json_schema()["properties"][name]
        choices = schema.get("enum") or next(p["enum"] for p in schema["anyOf"] if "enum" in p)
        assert set(choices) <= named(told), name


def test_every_error_code_is_listed_with_its_meaning() -> None:
    told = {code: text.strip() for code, text in table("Error codes").items()}
    assert told == ERROR_CODES


def test_limits_are_those_of_the_code() -> None:
    limits = Limits()
    text = words("The realtime protocol")
    assert limits.message_bytes == 8 * 2**20
    assert "a message of 8 MiB" in text
    assert f"a prompt of {limits.prompt_chars} characters" in text
    assert f"an `event_id` of {limits.event_id_chars}" in text
    assert (
        f"{limits.messages_per_s:g} messages a second after a burst of {limits.messages_burst}"
        in text
    )
    assert f"within {limits.start_timeout_s:g} s" in text
    assert f"0 to {limits.transition_chunks}" in text
    assert f"up to {limits.prompt_parts} " in text


def test_times_of_the_fabric_are_those_of_the_code() -> None:
    claims = words("Redis: keys and records")
    assert f"renews every {RENEW_S:g} s" in claims
    assert f"After {TAKEOVER_MS / 1000:g} s of silence" in claims
    assert MAX_TAKEOVERS == 3
    assert "Three takeovers without progress" in claims
    assert f"stream, {CONTROL_MAXLEN} entries" in claims
    assert f"stream, {MEDIA_MAXLEN} entries" in claims
    assert f"{SILENCE_S:g} s of silence" in words("Who owns which state")
    assert KEY_EVERY_S == 2
    assert "at least every two seconds" in words("The life of one chunk")


def test_every_redis_key_is_listed() -> None:
    told = section("Redis: keys and records")
    made = [
        keys.work("MODEL", "live"), keys.work("MODEL", "job"), keys.record("live", "ID"),
        keys.record("job", "ID"), keys.control("ID"), keys.media("ID"), keys.worker("ID"),
        keys.model("NAME"), keys.WORKERS, keys.MODELS, keys.SESSIONS, keys.DEAD, job_keys.INDEX,
        job_keys.NUMBER, job_keys.segments("ID"), job_keys.events("ID"), job_keys.idempotency("KEY"),
    ]  # fmt: skip
    for key in made:
        assert f"`{key}`" in told, key
    # Keys that are made somewhere in the code and were forgotten above.
    source = "".join(path.read_text() for path in (ROOT / "server").rglob("keys.py"))
    kinds = {"session", "job"} | set(re.findall(r"\{PREFIX\}:([a-z-]+)", source))
    assert kinds == set(re.findall(rf"`{keys.PREFIX}:([a-z-]+)", told))


def test_every_route_is_listed() -> None:
    gateway = Gateway(Connection("redis://127.0.0.1:1"))

    async def cards() -> list[ModelCard]:
        return []

    store = JobStore(gateway.redis, lambda: 0.0)
    jobs = jobs_router(JobParts(store, cards, Path("data"), lambda: 0))
    schema = create_app(gateway, [jobs], web=None).openapi()
    told = section("REST")
    for path, methods in schema["paths"].items():
        for method in methods:
            if method in ("get", "post", "delete"):
                assert f"`{method.upper()} {path}`" in told, f"{method} {path}"
    listed = set(re.findall(r"`(?:GET|POST|DELETE) (/[^`]*)`", told))
    assert listed - {"/v1/videos/edits"} == set(schema["paths"])


def test_every_field_of_a_job_is_named() -> None:
    told = words("REST")
    assert {*CREATE_FIELDS, *EXTRA_FIELDS} <= named(told)
    assert f"At most {JobLimits().max_queued} jobs" in told
    assert JobLimits().max_seconds == 3600
    assert "at most an hour" in told
