"""Reads without media, as one connection sees them: its client is told what it waits for.

Knows no sockets; it sends through the callable it is given.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from server.entries import end_notices
from server.fabric.connection import Connection
from server.fabric.queue import WorkQueue
from server.fabric.record import read_record
from server.fabric.workers import is_alive
from server.gateway.notices import told_by
from server.gateway.opening import Opened
from server.gateway.outage import CannotGoOn
from server.wire.messages_out import ErrorMessage, ServerMessage, SessionQueued

SILENT_READS = 12
"""Reads without media after which the stream's record and its worker's health are looked at (3 s)."""
LOOK_READS = 4
"""Reads between two looks: a dead worker's last report lives longer than the first one (1 s)."""
TAKEN_READS = 6
"""Reads after which a stream that a worker has taken still counts as queued (1.5 s)."""


class Silence:
    """How long nothing has come for one connection, and what its client was told of that."""

    def __init__(
        self,
        redis: Connection,
        opened: Opened,
        send: Callable[[ServerMessage, None], Awaitable[None]],
    ) -> None:
        self._redis = redis
        self._opened = opened
        self._send = send
        self._reads = 0
        self._position = -1
        self._told_lost = False
        self._end: tuple[dict[str, Any], ...] = ()

    def over(self) -> None:
        """Note that media came, or that Redis was away and nothing could."""
        self._reads = 0

    async def go_on(self, waits: bool) -> bool:
        """Note one more read without media and say why nothing comes.

        Args:
            waits: Whether the stream has not begun yet: then its place in the queue is told, and
                no worker is missed.

        Returns:
            True when the stream has ended, which nobody was left to say.

        Raises:
            CannotGoOn: Redis has lost the stream.
        """
        self._reads += 1
        for notice in self._end:
            if (told := told_by(notice)) is not None:
                await self._send(told, None)
        if self._end:
            return True
        if self._reads < SILENT_READS:
            self._told_lost = False
        elif self._reads % LOOK_READS == 0:
            await self._look(waits)
        if waits and not self._end:
            await self._say_position()
        return False

    async def _look(self, waits: bool) -> None:
        """Look for an end that nobody told and, once the stream has begun, for a lost worker."""
        record = await read_record(self._redis, "live", self._opened.session_id)
        if not record:
            message = "the stream's record is gone, Redis has lost it; start a new stream"
            error = ErrorMessage(code="stream_failed", message=message, fatal=True)
            await self._send(error, None)
            raise CannotGoOn
        # Told after one more read: what was published meanwhile comes first.
        self._end = end_notices(record)
        if waits or self._end or self._told_lost or "worker" not in record:
            return
        if not await is_alive(self._redis, record["worker"]):
            self._told_lost = True
            message = "the worker of this stream does not answer; another one takes it over"
            error = ErrorMessage(code="worker_lost", message=message, retryable=True)
            await self._send(error, None)

    async def _say_position(self) -> None:
        opened = self._opened
        position = await WorkQueue(self._redis, opened.spec.model, "live").position(opened.ticket)
        # A ticket that was taken is usually about to start; only a wait is worth a word.
        if position == 0 and self._reads < TAKEN_READS:
            return
        if (shown := max(1, position)) != self._position:
            self._position = shown
            await self._send(SessionQueued(position=shown), None)
