"""Request bodies: JSON and multipart forms become one dictionary.

The OpenAI SDK sends a form even without a file and flattens nested values into
bracketed names, grouped by name: ``prompts[][t]=0``, ``prompts[][t]=4``,
``prompts[][prompt]=…``. The n-th value of such a name belongs to the n-th element.
This module undoes that. It knows nothing of what the fields mean.
"""

import json
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from server.jobs.errors import Refusal, RequestRefused, refuse, shown

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_MAX_DEPTH = 6
_MAX_FIELDS = 2000
_MAX_NESTED = 32


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a multipart form, whole in memory (the body is already capped)."""

    filename: str
    data: bytes


async def read_body(request: Request, max_bytes: int) -> dict[str, Any]:
    """Read a JSON or multipart body as one dictionary; files become ``Upload``.

    Raises:
        RequestRefused: Too large, not JSON, not a form, not an object, or not Unicode text.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await _read_capped(request, max_bytes)
    if kind == "multipart/form-data":
        fields = await _parse_multipart(request.headers, body)
        check_text(fields)
        return fields
    if kind in ("application/json", "") or kind.endswith("+json"):
        return _parse_json(body)
    raise RequestRefused(
        Refusal(
            f"Content-Type {shown(kind)} is not understood; allowed are application/json and "
            "multipart/form-data.",
            code="unsupported_media_type",
            status=415,
        )
    )


async def _read_capped(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise RequestRefused(
                Refusal(
                    f"The body is larger than {max_bytes} bytes; send a smaller image or fewer "
                    "prompts.",
                    code="body_too_large",
                    status=413,
                )
            )
    return bytes(body)


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise refuse(f"The body is not valid JSON ({error}).", code="invalid_json") from error
    if not isinstance(value, dict):
        raise refuse(
            f"The body is a JSON {type(value).__name__}; an object is needed.", code="invalid_json"
        )
    check_text(value)
    return value


async def _parse_multipart(headers: Headers, body: bytes) -> dict[str, Any]:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(
        headers, once(), max_files=4, max_fields=_MAX_FIELDS, max_part_size=len(body) + 1
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        message = getattr(error, "message", None) or "the boundary is missing"
        raise refuse(
            f"The multipart form cannot be read: {message}.", code="invalid_form"
        ) from error
    try:
        items: list[tuple[str, str | Upload]] = []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                items.append((name, Upload(value.filename or "", await value.read())))
            else:
                items.append((name, value))
    finally:
        await form.close()
    return nest(items)


def nest(items: Iterable[tuple[str, str | Upload]]) -> dict[str, Any]:
    """Turn bracketed form names into nested dictionaries and lists.

    Raises:
        RequestRefused: A name is malformed, too deep, or used both as value and container.
    """
    root: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for name, value in items:
        count = seen[name] = seen.get(name, -1) + 1
        path = _split(name)
        if count and "" not in path[1:]:
            raise refuse(f"The form field {shown(name)} is given twice; give it once.", param=name)
        _put(root, path, count, value, name)
    return root


def _split(name: str) -> list[str]:
    head, bracket, _ = name.partition("[")
    rest = name[len(head) :]
    keys = _BRACKETS.findall(rest)
    if not head or "".join(f"[{key}]" for key in keys) != rest or len(keys) > _MAX_DEPTH:
        raise refuse(
            f"The form field name {shown(name)} is malformed; write name[key] or name[][key], "
            f"at most {_MAX_DEPTH} levels.",
            param=name,
        )
    return [head, *keys] if bracket else [head]


def _put(root: dict[str, Any], path: list[str], count: int, value: Any, name: str) -> None:
    clash = refuse(
        f"The form field {shown(name)} is used both as a value and as a container.", param=name
    )
    here: Any = root
    for at, key in enumerate(path):
        last = at == len(path) - 1
        fresh: Any = value if last else ([] if path[at + 1] == "" else {})
        if key == "" and at > 0:
            if not isinstance(here, list):
                raise clash
            # Only the first list of a name counts its repetitions; an inner list starts new.
            index = min(count, len(here))
            count = 0
            if index == len(here):
                here.append(fresh)
            elif last or not isinstance(here[index], type(fresh)):
                raise clash
            here = here[index]
        else:
            if not isinstance(here, dict):
                raise clash
            if key not in here:
                here[key] = fresh
            elif last or not isinstance(here[key], type(fresh)):
                raise clash
            here = here[key]


def check_text(value: Any, where: str = "") -> None:
    """Refuse what no answer could show: half a surrogate pair in a text or a field name.

    Raises:
        RequestRefused: It names the place; also where values lie too deep inside one another.
    """
    waiting = [(where, value, 0)]
    while waiting:
        where, value, depth = waiting.pop()
        if depth > _MAX_NESTED:
            message = f"Values lie more than {_MAX_NESTED} levels deep; send a flatter body."
            raise refuse(message, code="invalid_json")
        if isinstance(value, str):
            _check_halves(value, where)
        elif isinstance(value, dict):
            for name, inner in value.items():
                _check_halves(name, where)
                waiting.append((f"{where}.{name}" if where else name, inner, depth + 1))
        elif isinstance(value, list):
            waiting += [(f"{where}[{at}]", inner, depth + 1) for at, inner in enumerate(value)]


def _check_halves(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        seen = f"\\u{ord(text[error.start]):04x} at character {error.start}"
        raise refuse(
            f"{where or 'A field name'} has half a surrogate pair, {seen}; send both halves, or "
            "the character itself as UTF-8.",
            param=where or None,
        ) from error


def as_mapping(value: Any, param: str) -> Mapping[str, Any]:
    """Return ``value`` as a mapping, parsing it when it is a JSON string.

    Raises:
        RequestRefused: It is neither an object nor the text of one.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise refuse(
                f"{param} is not valid JSON ({error}); send an object or its JSON text.",
                param=param,
                code="invalid_json",
            ) from error
    if not isinstance(value, dict):
        raise refuse(
            f"{param} is {shown(value)}; an object or its JSON text is needed.", param=param
        )
    check_text(value, param)
    return value
