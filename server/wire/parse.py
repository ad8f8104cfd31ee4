"""Bytes from a client to one typed message or one error message.

Any input gives an answer: this module raises nothing. It does not know what was sent before;
``server.wire.conversation`` does.
"""

import json

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from server.wire.limits import Limits
from server.wire.messages_in import CLIENT_TYPES, ClientMessage
from server.wire.messages_out import ErrorMessage

_SHOWN_CHARS = 80
_INTEGER, _TEXT = "a whole number is needed", "a text is needed"
_OBJECT, _LIST = "an object is needed", "a list is needed"
_ALLOWED = {
    "int_type": _INTEGER,
    "int_from_float": _INTEGER,
    "int_parsing_size": "a smaller number is needed",
    "float_type": "a number is needed",
    "finite_number": "a finite number is needed",
    "bool_type": "true or false is needed",
    "string_type": _TEXT,
    "string_too_short": "at least {min_length} character is needed",
    "string_too_long": "at most {max_length} characters are allowed",
    "string_pattern_mismatch": "only letters, digits, _ and - are allowed",
    "literal_error": "allowed are {expected}",
    "greater_than": "a number above {gt:g} is needed",
    "greater_than_equal": "the least allowed is {ge}",
    "less_than_equal": "the most allowed is {le}",
    "tuple_type": _LIST,
    "too_short": "at least {min_length} is needed",
    "too_long": "at most {max_length} are allowed",
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
}
"""What to say for each kind of error of a field, filled with its bounds."""


def _shown(value: object) -> str:
    """Return a short, printable form of something a client sent."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    if len(text) <= _SHOWN_CHARS:
        return text
    size = f" ({len(value)} characters)" if isinstance(value, str) else ""
    return f"{text[:_SHOWN_CHARS]}...{size}"


def _event_id(data: dict[str, object], limits: Limits) -> str | None:
    """Find the client's event id, so that an error can name the event it answers."""
    inner = data.get("interaction")
    found = inner.get("event_id") if isinstance(inner, dict) else data.get("event_id")
    if isinstance(found, str) and 0 < len(found) <= limits.event_id_chars:
        return found
    return None


def _sentence(error: ErrorDetails) -> tuple[str | None, str]:
    """Return the field and the sentence for one validation error."""
    param = ".".join(str(part) for part in error["loc"]) or None
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return param, f"{param} is missing; it is required"
    if error["type"] == "value_error":
        return param, message
    seen = _shown(error["input"]) if not isinstance(error["input"], dict) else "an object"
    allowed = _ALLOWED.get(error["type"])
    words = allowed.format(**error.get("ctx", {})) if allowed else message[:1].lower() + message[1:]
    return param, f"{param or 'message'} is {seen}; {words}"


def parse(raw: str | bytes, limits: Limits) -> ClientMessage | ErrorMessage:
    """Read one message.

    Args:
        raw: A text message, or the bytes of a binary one.
        limits: What is allowed.

    Returns:
        The typed message, or an ``error`` to send back; the connection can go on either way.
    """
    if isinstance(raw, bytes):
        return ErrorMessage(
            code="binary_not_allowed",
            message=f"a binary message of {len(raw)} bytes; only JSON text messages are allowed",
        )
    if len(raw) > limits.message_bytes:
        return ErrorMessage(
            code="message_too_large",
            message=f"a message of {len(raw)} characters; at most {limits.message_bytes} are allowed",
        )
    try:
        data = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        return ErrorMessage(
            code="invalid_json",
            message=f"not JSON ({error}); a message is a JSON object with a type",
        )
    if not isinstance(data, dict):
        return ErrorMessage(
            code="invalid_json",
            message=f"JSON that is {_shown(data)}; a message is a JSON object with a type",
        )
    kind = data.get("type")
    known = CLIENT_TYPES.get(kind) if isinstance(kind, str) else None
    if known is None:
        seen = f"type {_shown(kind)}" if "type" in data else "no type"
        return ErrorMessage(
            code="unknown_type",
            message=f"{seen}; allowed types are {', '.join(CLIENT_TYPES)}",
            param="type",
            event_id=_event_id(data, limits),
        )
    try:
        return known.model_validate(data)
    except ValidationError as error:
        param, sentence = _sentence(error.errors(include_url=False)[0])
        return ErrorMessage(
            code="invalid_value",
            message=sentence,
            param=param,
            event_id=_event_id(data, limits),
        )
