"""One server, seen from Python: streams over WebSocket, jobs and models over HTTP."""

from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx

from longtake_client.jobs import Jobs, checked
from longtake_client.protocol import Prompt
from longtake_client.stream import Stream, StreamOptions


class Client:
    """Talks to one Longtake server."""

    def __init__(self, url: str = "http://127.0.0.1:8000", *, api_key: str | None = None) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            url: Address of the server, without a path.
            api_key: Sent as a bearer token, where the server asks for one.

        Raises:
            ValueError: The address is not HTTP.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(
                f"server address {url!r}; something like http://127.0.0.1:8000 is needed"
            )
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        scheme = "wss" if parts.scheme == "https" else "ws"
        self._stream_url = urlunsplit((scheme, parts.netloc, "/v1/realtime/video", "", ""))
        self._http = httpx.AsyncClient(
            base_url=urlunsplit((parts.scheme, parts.netloc, "", "", "")),
            headers=self._headers,
            timeout=httpx.Timeout(30.0),
        )
        self.jobs = Jobs(self._http)

    def stream(
        self, prompt: Prompt, options: StreamOptions | None = None, **choices: Any
    ) -> Stream:
        """Return a live stream to be entered with ``async with``.

        Args:
            prompt: A text or a weighted blend.
            options: What to generate.
            **choices: Its fields by name, instead.
        """
        if options is not None and choices:
            raise TypeError("options and their fields by name are both given; give one")
        return Stream(self._stream_url, self._headers, prompt, options or StreamOptions(**choices))

    async def models(self) -> list[dict[str, Any]]:
        """Return the models on offer, the default first, as the server describes them.

        Raises:
            ApiError: The server refused.
            ConnectionLost: It cannot be reached.
        """
        answer = await checked(self._http, "GET", "/v1/models")
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the HTTP connections."""
        await self._http.aclose()
