"""Ownership of one ticket: renewed, fenced, ended.

Every claim takes the next epoch of the record. Each write of the owner goes through a script that
compares that epoch first, so a worker that was only slow finds out and stops instead of writing
twice. Three takeovers without progress between them make the record dead, with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.fabric import keys
from server.fabric.connection import Connection, Script, Word, flat
from server.fabric.queue import Ticket
from server.fabric.record import ENDED_MS, FORGET, session_places

RENEW_S = 2.0
"""How often an owner renews its claim."""
MAX_TAKEOVERS = 3
"""Takeovers without progress after which a record is dead."""
FINAL_STATES = ("done", "completed", "failed", "cancelled", "dead")
"""States of a record in which its ticket is dropped."""

_CLAIM = Script(
    FORGET
    + """
    local record, queue, dead = KEYS[1], KEYS[2], KEYS[3]
    local group, entry, worker = ARGV[1], ARGV[2], ARGV[3]
    local taken_over, limit = ARGV[4] == '1', tonumber(ARGV[5])
    local function drop()
      redis.call('XACK', queue, group, entry)
      redis.call('XDEL', queue, entry)
    end
    local state = redis.call('HGET', record, 'state')
    local final = not state
    for i = 10, #ARGV do final = final or state == ARGV[i] end
    if final then
      drop()
      return {'dropped', state or 'no record'}
    end
    if taken_over then
      local takeovers = redis.call('HINCRBY', record, 'takeovers', 1)
      if takeovers > limit then
        local reason = takeovers - 1 .. ' workers took this over and none made progress; last: '
          .. (redis.call('HGET', record, 'worker') or 'unknown')
        redis.call('HSET', record, 'state', 'dead', 'error', reason,
          'completed_at', redis.call('TIME')[1])
        redis.call('HINCRBY', record, 'epoch', 1)
        redis.call('XADD', dead, 'MAXLEN', '~', 1000, '*', 'kind', ARGV[6], 'id', ARGV[7],
          'model', ARGV[8], 'reason', reason)
        drop()
        if #KEYS > 3 then
          forget(record, KEYS[4], KEYS[5], KEYS[6], KEYS[7], ARGV[7], ARGV[9])
        end
        return {'dead', reason}
      end
    end
    redis.call('HSET', record, 'worker', worker)
    return {'claimed', redis.call('HINCRBY', record, 'epoch', 1)}
    """
)

_RENEW = Script(
    """
    if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
    redis.call('XCLAIM', KEYS[2], ARGV[2], ARGV[3], 0, ARGV[4], 'JUSTID')
    return 1
    """
)

_UPDATE = Script(
    """
    if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
    if ARGV[2] == '1' then redis.call('HSET', KEYS[1], 'takeovers', 0) end
    if #ARGV > 2 then redis.call('HSET', KEYS[1], unpack(ARGV, 3)) end
    return 1
    """
)

_PUBLISH = Script(
    """
    if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return false end
    local words = tonumber(ARGV[4])
    if words > 0 then redis.call('HSET', KEYS[1], unpack(ARGV, 6, 5 + words)) end
    if ARGV[5] == '1' then redis.call('HSET', KEYS[1], 'takeovers', 0) end
    local id = redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', unpack(ARGV, 6 + words))
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
    return id
    """
)

_FINISH = Script(
    FORGET
    + """
    if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
    if #ARGV > 6 then redis.call('HSET', KEYS[1], unpack(ARGV, 7)) end
    redis.call('XACK', KEYS[2], ARGV[2], ARGV[3])
    redis.call('XDEL', KEYS[2], ARGV[3])
    if ARGV[4] == '1' then
      redis.call('HINCRBY', KEYS[1], 'epoch', 1)
      redis.call('XADD', KEYS[2], '*', 'id', redis.call('HGET', KEYS[1], 'id'))
    elseif #KEYS > 2 then
      forget(KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6], ARGV[5], ARGV[6])
    end
    return 1
    """
)


@dataclass(frozen=True, slots=True)
class Dropped:
    """The ticket's record is gone or in a final state; the ticket was removed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """Too many takeovers without progress; the record says so and the ticket was removed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write one record, until another claim takes a higher epoch.

    Attributes:
        ticket: What was taken.
        worker: The owner's id, which is its consumer name.
        epoch: Fencing epoch, from 0.
        record: Key of the record's hash.
    """

    ticket: Ticket
    worker: str
    epoch: int
    record: str
    _redis: Connection = field(repr=False)

    async def renew(self) -> bool:
        """Say that the owner lives; False when another worker owns the record now."""
        ticket = self.ticket
        return bool(
            await self._redis.run(
                _RENEW,
                (self.record, ticket.queue),
                (self.epoch, keys.GROUP, self.worker, ticket.entry_id),
            )
        )

    async def update(self, fields: Mapping[str, Word], *, progress: bool = False) -> bool:
        """Write fields of the record; ``progress`` also forgets earlier takeovers.

        Returns:
            False when another worker owns the record now; nothing was written.
        """
        args: list[Word] = [self.epoch, int(progress), *flat(fields)]
        return bool(await self._redis.run(_UPDATE, (self.record,), args))

    async def publish(
        self,
        stream: str,
        entry: Mapping[str, Word],
        *,
        fields: Mapping[str, Word],
        maxlen: int,
        expire_ms: int,
        progress: bool = True,
    ) -> str | None:
        """Add an entry to a capped stream and write record fields, both or neither.

        Args:
            stream: Key of the stream.
            entry: The entry's fields.
            fields: Fields of the record.
            maxlen: Entries the stream keeps, exactly.
            expire_ms: How long the stream lives after its last entry.
            progress: Whether to forget earlier takeovers.

        Returns:
            The entry's id, or None when another worker owns the record now.
        """
        words = flat(fields)
        head: list[Word] = [self.epoch, maxlen, expire_ms, len(words), int(progress)]
        args = [*head, *words, *flat(entry)]
        found = await self._redis.run(_PUBLISH, (self.record, stream), args)
        return None if found is None else found.decode()

    async def finish(self, fields: Mapping[str, Word]) -> bool:
        """Write the last fields and remove the ticket; False when it is another's.

        A live session is forgotten together with that.
        """
        return await self._end(fields, again=False)

    async def release(self, fields: Mapping[str, Word]) -> bool:
        """Give the work back: a new ticket at the end of the queue, for whoever has room.

        The record must have a field ``id`` that names the subject.
        """
        return await self._end(fields, again=True)

    async def _end(self, fields: Mapping[str, Word], *, again: bool) -> bool:
        ticket = self.ticket
        head: list[Word] = [self.epoch, keys.GROUP, ticket.entry_id, int(again)]
        args = [*head, ticket.subject, ENDED_MS, *flat(fields)]
        places = (self.record, ticket.queue, *_forgotten_with(ticket))
        return bool(await self._redis.run(_FINISH, places, args))


async def claim(redis: Connection, ticket: Ticket, worker: str) -> Claim | Dropped | Dead:
    """Take ownership of a ticket's record under the next epoch.

    A live session that is dead is forgotten.
    """
    record = keys.record(ticket.kind, ticket.subject)
    outcome, value = await redis.run(
        _CLAIM,
        (record, ticket.queue, keys.DEAD, *_forgotten_with(ticket)),
        (
            keys.GROUP,
            ticket.entry_id,
            worker,
            int(ticket.taken_over),
            MAX_TAKEOVERS,
            ticket.kind,
            ticket.subject,
            ticket.model,
            ENDED_MS,
            *FINAL_STATES,
        ),
    )
    if outcome == b"claimed":
        return Claim(ticket, worker, int(value), record, redis)
    return (Dead if outcome == b"dead" else Dropped)(value.decode())


def _forgotten_with(ticket: Ticket) -> tuple[str, ...]:
    """Return where else something of a live session is; a job is there until it is deleted."""
    return session_places(ticket.subject)[1:] if ticket.kind == "live" else ()
