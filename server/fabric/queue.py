"""Work queues: one Redis Stream with a consumer group for each (model, kind).

An entry is only a ticket that names a subject (a session or job). Entries are never trimmed: an
entry leaves when its work is done, by ``XACK`` and ``XDEL`` in one script (``server.fabric.claim``).
Knows nothing of what the work is.
"""

from dataclasses import dataclass

from redis.exceptions import ResponseError

from server.fabric import keys
from server.fabric.connection import Connection, Script

TAKEOVER_MS = 10_000
"""Silence after which another worker takes a ticket over."""

# Not XAUTOCLAIM: that gives up after ten pending entries for each one asked for, so the tickets of
# healthy owners would hide those of silent ones.
_TAKE_OVER = Script(
    """
    local queue, group, consumer, silent_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
    local taken = {}
    local silent = redis.call('XPENDING', queue, group, 'IDLE', silent_ms, '-', '+', ARGV[4])
    for _, pending in ipairs(silent) do
      local entry = redis.call('XCLAIM', queue, group, consumer, silent_ms, pending[1])[1]
      if entry then
        taken[#taken + 1] = entry
      else
        -- It was deleted while pending: there is no work behind it.
        redis.call('XACK', queue, group, pending[1])
      end
    end
    return taken
    """
)


@dataclass(frozen=True, slots=True)
class Ticket:
    """One entry taken from a queue.

    Attributes:
        queue: Redis key of the queue.
        kind: ``live`` or ``job``.
        model: Whose queue it is.
        entry_id: The stream entry.
        subject: Session or job id.
        taken_over: Whether another worker had it before and fell silent.
    """

    queue: str
    kind: keys.Kind
    model: str
    entry_id: str
    subject: str
    taken_over: bool


class WorkQueue:
    """The queue of one (model, kind)."""

    def __init__(self, redis: Connection, model: str, kind: keys.Kind) -> None:
        self.model = model
        self.kind = kind
        self.key = keys.work(model, kind)
        self._redis = redis

    async def ensure(self) -> None:
        """Create the queue's consumer group when it is not there yet."""
        try:
            await self._redis.do("XGROUP", "CREATE", self.key, keys.GROUP, "0", "MKSTREAM")
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def put(self, subject: str) -> str:
        """Add a ticket at the end and return its entry id."""
        await self.ensure()
        entry: bytes = await self._redis.do("XADD", self.key, "*", "id", subject)
        return entry.decode()

    async def take(self, consumer: str, block_ms: int) -> Ticket | None:
        """Take the next ticket nobody had yet, waiting for one at most ``block_ms``."""
        words = ["XREADGROUP", "GROUP", keys.GROUP, consumer, "COUNT", "1"]
        if block_ms > 0:
            words += ["BLOCK", str(block_ms)]
        try:
            reply = await self._redis.do(*words, "STREAMS", self.key, ">")
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.ensure()
            return None
        for _, entries in reply or ():
            for entry, fields in entries:
                return self._ticket(entry, fields, taken_over=False)
        return None

    async def take_over(
        self, consumer: str, silent_ms: int = TAKEOVER_MS, count: int = 1
    ) -> list[Ticket]:
        """Take up to ``count`` tickets whose owners have not renewed for ``silent_ms``."""
        args = (keys.GROUP, consumer, silent_ms, count)
        try:
            reply = await self._redis.run(_TAKE_OVER, (self.key,), args)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.ensure()
            return []
        return [self._ticket(entry, fields, taken_over=True) for entry, fields in reply]

    async def position(self, entry_id: str) -> int:
        """Return how many tickets, this one included, wait up to this one; 0 when it was taken."""
        last = await self._last_delivered()
        if order(entry_id) <= order(last):
            return 0
        return len(await self._redis.do("XRANGE", self.key, f"({last}", entry_id))

    async def depth(self) -> int:
        """Return how many tickets no worker has taken yet."""
        last = await self._last_delivered()
        return len(await self._redis.do("XRANGE", self.key, f"({last}", "+"))

    async def withdraw(self, entry_id: str) -> bool:
        """Remove a ticket nobody has taken; False when it was taken or is gone."""
        if await self.position(entry_id) == 0:
            return False
        return bool(await self._redis.do("XDEL", self.key, entry_id))

    async def _last_delivered(self) -> str:
        try:
            groups = await self._redis.do("XINFO", "GROUPS", self.key)
        except ResponseError:
            return "0-0"
        for group in groups:
            fields = _pairs(group)
            if fields.get(b"name") == keys.GROUP.encode():
                last: bytes = fields[b"last-delivered-id"]
                return last.decode()
        return "0-0"

    def _ticket(
        self, entry: bytes, fields: dict[bytes, bytes] | list[bytes], *, taken_over: bool
    ) -> Ticket:
        subject = (fields if isinstance(fields, dict) else _pairs(fields))[b"id"].decode()
        return Ticket(self.key, self.kind, self.model, entry.decode(), subject, taken_over)


def _pairs(reply: object) -> dict[bytes, bytes]:
    """Return a flat reply ``[name, value, …]`` (or a dict) as a dict with bytes names."""
    if isinstance(reply, dict):
        return {k if isinstance(k, bytes) else str(k).encode(): v for k, v in reply.items()}
    assert isinstance(reply, list), reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def order(entry_id: str) -> tuple[int, int]:
    """Return a stream entry's id as numbers that compare as Redis does."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)
