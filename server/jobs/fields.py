"""One field of a request: read as what it should be, or refused by name."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from server.jobs.errors import refuse, shown
from server.jobs.request import JobLimits


def check_known(fields: Mapping[str, Any], allowed: Sequence[str], prefix: str) -> None:
    """Refuse fields that are not ``allowed``; ``prefix`` is put before their names."""
    for name in fields:
        if name not in allowed:
            raise refuse(
                f"Unknown field {shown(prefix + name)}; allowed are {', '.join(allowed)}.",
                param=prefix + name,
                code="unknown_parameter",
            )


def listed(value: Any, param: str, most: int) -> Sequence[Any]:
    """Return a list of at most ``most`` entries, an empty one for a field not given, or refuse."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > most:
        seen = f"a list of {len(value)}" if isinstance(value, list) else shown(value)
        raise refuse(f"{param} is {seen}; allowed is a list of at most {most}.", param=param)
    return value


def checked_text(value: Any, param: str, limits: JobLimits) -> str:
    """Return a prompt's text, or refuse what is empty, too long or no text."""
    if not isinstance(value, str) or not value.strip():
        raise refuse(f"{param} is {shown(value)}; a text that is not empty is needed.", param=param)
    if len(value) > limits.max_prompt_chars:
        raise refuse(
            f"{param} has {len(value)} characters; allowed are {limits.max_prompt_chars}.",
            param=param,
        )
    return value


def integer(value: Any, param: str, least: int, most: int) -> int | None:
    """Return a whole number, also from its text as forms send it, ``None`` for a field not given.

    Raises:
        RequestRefused: It is no whole number, or not in ``least`` to ``most``.
    """
    if value is None:
        return None
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,20}\s*", value):
        number = int(value)
    if number is None or not least <= number <= most:
        raise refuse(
            f"{param} is {shown(value)}; allowed are whole numbers from {least} to {most}.",
            param=param,
        )
    return number


def read_number(value: Any) -> float | None:
    """Return a finite number, also from its decimal text as forms send it, else None."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,9}(\.\d{1,9})?\s*", value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A huge integer does not fit a float.
        return float(value) if abs(value) < 1e12 and math.isfinite(value) else None
    return None


def plain_number(number: float) -> str:
    """Return a number as people write it: 2.5, not 2.500000."""
    return f"{number:.6f}".rstrip("0").rstrip(".")
