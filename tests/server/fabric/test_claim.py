import pytest

from server.fabric import keys
from server.fabric.claim import MAX_TAKEOVERS, Claim, Dead, Dropped, claim
from server.fabric.connection import Connection
from server.fabric.queue import WorkQueue
from server.fabric.record import create_record, read_record, swap_field, write_record
from server.fabric.streams import all_entries, read_entries, send_control

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def _queued(redis: Connection, subject: str = "s1") -> WorkQueue:
    queue = WorkQueue(redis, "tiny", "live")
    assert await create_record(redis, "live", subject, {"state": "queued"})
    await queue.put(subject)
    return queue


async def _claimed(redis: Connection, worker: str = "w1") -> tuple[WorkQueue, Claim]:
    queue = await _queued(redis)
    ticket = await queue.take(worker, block_ms=1000)
    assert ticket is not None
    held = await claim(redis, ticket, worker)
    assert isinstance(held, Claim)
    return queue, held


async def test_first_claim_has_epoch_zero_and_names_its_worker(each_fabric: Connection) -> None:
    _, held = await _claimed(each_fabric)
    record = await read_record(each_fabric, "live", "s1")
    assert held.epoch == 0
    assert (record["worker"], record["epoch"], record["id"]) == ("w1", "0", "s1")


async def test_finish_removes_the_ticket_and_writes_the_last_state(each_fabric: Connection) -> None:
    queue, held = await _claimed(each_fabric)
    assert await held.finish({"state": "done"})
    assert await each_fabric.do("XLEN", queue.key) == 0
    assert await queue.take_over("w2", silent_ms=0) == []
    assert (await read_record(each_fabric, "live", "s1"))["state"] == "done"


async def _listed(redis: Connection, subject: str = "s1") -> bool:
    """Return whether a session is on the list, for as long as its record stays."""
    score = await redis.do("ZSCORE", keys.SESSIONS, subject)
    for_ever = await redis.do("PTTL", keys.record("live", subject)) == -1
    assert (score is not None) == for_ever
    return for_ever


@pytest.mark.parametrize("ending", ["finish", "release", "dead"])
async def test_a_session_that_ends_is_forgotten_in_the_same_step(
    each_fabric: Connection, ending: str
) -> None:
    queue, held = await _claimed(each_fabric)
    await each_fabric.do("ZADD", keys.SESSIONS, 1, "s1")
    await send_control(each_fabric, "s1", {"type": "stop"})
    await each_fabric.do("SET", keys.image("s1"), "a picture")
    if ending == "dead":
        await each_fabric.do("HSET", held.record, "takeovers", MAX_TAKEOVERS)
        (ticket,) = await queue.take_over("w2", silent_ms=0)
        assert isinstance(await claim(each_fabric, ticket, "w2"), Dead)
    else:
        assert await getattr(held, ending)({"state": "done"})
    assert await _listed(each_fabric) == (ending == "release")
    places = (keys.control("s1"), keys.image("s1"))
    assert await each_fabric.do("EXISTS", *places) == 2 * (ending == "release")


async def test_a_dead_job_is_not_forgotten(each_fabric: Connection) -> None:
    queue = WorkQueue(each_fabric, "tiny", "job")
    await create_record(each_fabric, "job", "j1", {"state": "queued", "takeovers": MAX_TAKEOVERS})
    await queue.put("j1")
    await queue.take("w1", block_ms=0)
    (ticket,) = await queue.take_over("w2", silent_ms=0)
    assert isinstance(await claim(each_fabric, ticket, "w2"), Dead)
    assert await each_fabric.do("PTTL", keys.record("job", "j1")) == -1


async def test_a_renewed_claim_is_not_taken_over(each_fabric: Connection) -> None:
    queue, held = await _claimed(each_fabric)
    assert await held.renew()
    assert await queue.take_over("w2", silent_ms=5_000) == []


async def test_silent_tickets_behind_many_healthy_ones_are_taken_over(
    each_fabric: Connection,
) -> None:
    queue = WorkQueue(each_fabric, "tiny", "live")
    for number in range(40):
        await queue.put(f"healthy{number}")
    silent = [await queue.put(f"silent{n}") for n in range(3)]
    while await queue.take("w1", block_ms=0):
        pass
    for entry in silent:
        await each_fabric.do("XCLAIM", queue.key, keys.GROUP, "w1", 0, entry, "IDLE", 20_000)
    found = [await queue.take_over("w2") for _ in range(4)]
    assert [[ticket.subject for ticket in taken] for taken in found] == [
        ["silent0"], ["silent1"], ["silent2"], [],
    ]  # fmt: skip
    assert all(ticket.taken_over for taken in found for ticket in taken)
    owners = (await each_fabric.do("XPENDING", queue.key, keys.GROUP))["consumers"]
    assert owners == [{"name": b"w1", "pending": 40}, {"name": b"w2", "pending": 3}]


async def test_a_silent_ticket_that_was_deleted_hides_no_other(each_fabric: Connection) -> None:
    queue = WorkQueue(each_fabric, "tiny", "live")
    gone = await queue.put("gone")
    await queue.put("here")
    while await queue.take("w1", block_ms=0):
        pass
    await each_fabric.do("XDEL", queue.key, gone)
    assert await queue.take_over("w2", silent_ms=0) == []
    (ticket,) = await queue.take_over("w2", silent_ms=0)
    assert ticket.subject == "here"
    assert (await each_fabric.do("XPENDING", queue.key, keys.GROUP))["pending"] == 1


async def test_the_old_owner_is_fenced_after_a_takeover(each_fabric: Connection) -> None:
    queue, old = await _claimed(each_fabric)
    (ticket,) = await queue.take_over("w2", silent_ms=0)
    assert ticket.taken_over
    new = await claim(each_fabric, ticket, "w2")
    assert isinstance(new, Claim)
    assert new.epoch == 1
    media = keys.media("s1")
    assert not await old.renew()
    assert not await old.update({"state": "running"})
    assert not await old.finish({"state": "done"})
    assert (
        await old.publish(media, {"m": "{}"}, fields={"next": 1}, maxlen=4, expire_ms=9999) is None
    )
    assert await all_entries(each_fabric, media) == []
    assert await new.renew()
    assert await new.publish(media, {"m": "{}"}, fields={"next": 1}, maxlen=4, expire_ms=9999)


async def test_a_fenced_renewal_does_not_steal_the_ticket_back(each_fabric: Connection) -> None:
    queue, old = await _claimed(each_fabric)
    (ticket,) = await queue.take_over("w2", silent_ms=0)
    await claim(each_fabric, ticket, "w2")
    await old.renew()
    (consumer,) = (await each_fabric.do("XPENDING", queue.key, keys.GROUP))["consumers"]
    assert consumer["name"] == b"w2"


async def test_takeovers_without_progress_end_in_a_dead_letter(each_fabric: Connection) -> None:
    queue, _ = await _claimed(each_fabric)
    outcomes = []
    for number in range(MAX_TAKEOVERS + 1):
        (ticket,) = await queue.take_over(f"w{number + 2}", silent_ms=0)
        outcomes.append(await claim(each_fabric, ticket, f"w{number + 2}"))
    assert [type(outcome) for outcome in outcomes] == [Claim] * MAX_TAKEOVERS + [Dead]
    record = await read_record(each_fabric, "live", "s1")
    assert record["state"] == "dead"
    assert "none made progress" in record["error"]
    assert await each_fabric.do("XLEN", queue.key) == 0
    assert await each_fabric.do("XLEN", keys.DEAD) == 1
    assert not await outcomes[-2].renew()


async def test_progress_between_takeovers_keeps_the_work_alive(each_fabric: Connection) -> None:
    queue, _ = await _claimed(each_fabric)
    for number in range(3 * MAX_TAKEOVERS):
        (ticket,) = await queue.take_over(f"w{number}", silent_ms=0)
        held = await claim(each_fabric, ticket, f"w{number}")
        assert isinstance(held, Claim)
        assert await held.update({"done": number}, progress=True)


@pytest.mark.parametrize("state", ["done", "cancelled", "dead"])
async def test_a_ticket_whose_record_is_final_is_dropped(
    each_fabric: Connection, state: str
) -> None:
    queue = await _queued(each_fabric)
    await write_record(each_fabric, "live", "s1", {"state": state})
    ticket = await queue.take("w1", block_ms=1000)
    assert ticket is not None
    assert await claim(each_fabric, ticket, "w1") == Dropped(state)
    assert await each_fabric.do("XLEN", queue.key) == 0


async def test_a_ticket_without_a_record_is_dropped(each_fabric: Connection) -> None:
    queue = WorkQueue(each_fabric, "tiny", "job")
    await queue.put("gone")
    ticket = await queue.take("w1", block_ms=1000)
    assert ticket is not None
    assert await claim(each_fabric, ticket, "w1") == Dropped("no record")


async def test_released_work_waits_at_the_end_for_another_worker(each_fabric: Connection) -> None:
    queue, held = await _claimed(each_fabric)
    assert await held.release({"state": "queued"})
    assert not await held.renew()
    ticket = await queue.take("w2", block_ms=1000)
    assert ticket is not None
    assert ticket.subject == "s1"
    assert not ticket.taken_over
    assert isinstance(await claim(each_fabric, ticket, "w2"), Claim)


async def test_position_counts_only_tickets_nobody_took(each_fabric: Connection) -> None:
    queue = WorkQueue(each_fabric, "tiny", "live")
    entries = [await queue.put(f"s{number}") for number in range(4)]
    assert [await queue.position(entry) for entry in entries] == [1, 2, 3, 4]
    await queue.take("w1", block_ms=1000)
    assert [await queue.position(entry) for entry in entries] == [0, 1, 2, 3]
    assert await queue.depth() == 3
    assert await queue.withdraw(entries[2])
    assert not await queue.withdraw(entries[0])
    assert [await queue.position(entry) for entry in (entries[1], entries[3])] == [1, 2]


async def test_taking_from_an_empty_queue_gives_nothing(each_fabric: Connection) -> None:
    queue = WorkQueue(each_fabric, "tiny", "live")
    assert await queue.take("w1", block_ms=1) is None
    assert await queue.take("w1", block_ms=0) is None
    assert await queue.take_over("w1") == []


async def test_the_media_stream_keeps_its_newest_entries_only(each_fabric: Connection) -> None:
    _, held = await _claimed(each_fabric)
    media = keys.media("s1")
    for number in range(10):
        entry = {"m": f'{{"n":{number}}}', "d:h264": b"\x00\xff" * number}
        await held.publish(media, entry, fields={"next": number}, maxlen=4, expire_ms=60_000)
    found = await all_entries(each_fabric, media)
    assert [entry.message["n"] for entry in found] == [6, 7, 8, 9]
    assert found[0].data == {"h264": b"\x00\xff" * 6}
    assert (await read_record(each_fabric, "live", "s1"))["next"] == "9"
    assert 0 < await each_fabric.do("PTTL", media) <= 60_000


async def test_control_entries_arrive_in_order_from_any_id(each_fabric: Connection) -> None:
    ids = [await send_control(each_fabric, "s1", {"n": number}) for number in range(3)]
    found = await read_entries(each_fabric, keys.control("s1"), "0")
    assert [entry.message["n"] for entry in found] == [0, 1, 2]
    found = await read_entries(each_fabric, keys.control("s1"), ids[1], block_ms=10)
    assert [entry.message["n"] for entry in found] == [2]
    assert await read_entries(each_fabric, keys.control("s1"), ids[2], block_ms=1) == []


async def test_a_record_is_created_once_and_swapped_only_on_a_match(
    each_fabric: Connection,
) -> None:
    assert await create_record(each_fabric, "job", "j", {"state": "queued", "token": "a"})
    assert not await create_record(each_fabric, "job", "j", {"state": "other"})
    assert not await swap_field(each_fabric, "job", "j", "token", "wrong", {"token": "b"})
    assert await swap_field(each_fabric, "job", "j", "token", "a", {"token": "b"})
    assert (await read_record(each_fabric, "job", "j"))["token"] == "b"
    assert not await write_record(each_fabric, "job", "none", {"state": "x"})
    assert await read_record(each_fabric, "job", "none") == {}
