"""Redis away, as one connection sees it: its client is told once, and again when it is too long.

Knows no sockets; it sends through the callable it is given.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from server.wire.messages_out import ErrorMessage

log = logging.getLogger(__name__)

GIVE_UP_S = 30.0
"""How long Redis may stay away before the connection is ended."""
TRY_AGAIN_S = 0.5


class CannotGoOn(Exception):
    """The stream cannot go on for this connection; its client has been told why."""


class Outage:
    """Whether Redis is away for one connection, and since when."""

    def __init__(
        self,
        session_id: str,
        send: Callable[[ErrorMessage, None], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        """Begin with Redis there; ``clock`` counts seconds and never jumps."""
        self._session_id = session_id
        self._send = send
        self._clock = clock
        self._since: float | None = None

    def over(self) -> None:
        """Note that Redis has done all that was asked of it."""
        self._since = None

    async def endure(self, error: Exception) -> None:
        """Wait a little because of ``error``; the first time the client is told instead.

        Raises:
            CannotGoOn: Redis has stayed away too long.
        """
        now = self._clock()
        if self._since is None:
            self._since = now
            log.warning("stream %s: Redis does not answer: %s", self._session_id, error)
            message = "the server cannot reach Redis at the moment; the stream goes on when it can"
            told = ErrorMessage(code="fabric_unavailable", message=message, retryable=True)
            await self._send(told, None)
            return
        if now - self._since > GIVE_UP_S:
            message = "the server could not reach Redis for half a minute; start a new stream"
            told = ErrorMessage(code="fabric_unavailable", message=message, fatal=True)
            await self._send(told, None)
            raise CannotGoOn
        await asyncio.sleep(TRY_AGAIN_S)
