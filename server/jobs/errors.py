"""What a job route refuses, in OpenAI's error envelope.

One exception carries everything a client needs: the sentence, the machine-readable
code, the field at fault and the HTTP status. It knows nothing of FastAPI.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was not carried out.

    Attributes:
        message: What was seen; what is allowed; what to do.
        code: Stable machine-readable name, such as ``invalid_value``.
        param: The request field at fault, if one is.
        status: HTTP status.
        kind: OpenAI's ``type``: ``invalid_request_error``, ``rate_limit_error`` …
        headers: Extra response headers, such as ``Retry-After``.
    """

    message: str
    code: str = "invalid_value"
    param: str | None = None
    status: int = 400
    kind: str = "invalid_request_error"
    headers: Mapping[str, str] = field(default_factory=dict)

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """Return the body: ``{"error": {message, type, param, code}}``."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


class RequestRefused(Exception):
    """A request the caller can correct; ``refusal`` says how."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def refuse(
    message: str, *, param: str | None = None, code: str = "invalid_value"
) -> RequestRefused:
    """Return the exception for a field with a wrong value (HTTP 400)."""
    return RequestRefused(Refusal(message, code=code, param=param))


def not_found(job_id: str) -> RequestRefused:
    """Return the exception for a job that does not exist (HTTP 404)."""
    return RequestRefused(
        Refusal(
            f"No video with id {shown(job_id)}; it was never created or has been deleted; "
            "GET /v1/videos lists what there is.",
            code="not_found",
            param="video_id",
            status=404,
        )
    )


def shown(value: object, limit: int = 60) -> str:
    """Return ``value`` as it may be quoted in an error: its repr, cut to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}… ({len(text)} characters)"
