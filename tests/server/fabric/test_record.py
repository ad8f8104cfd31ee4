import pytest

from server.fabric import keys
from server.fabric.connection import Connection
from server.fabric.record import create_record, forget_session, read_record
from server.fabric.streams import send_control, send_notice

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.mark.parametrize("after_ms", [60_000, 0])
async def test_nothing_of_a_forgotten_session_stays_for_ever(
    each_fabric: Connection, after_ms: int
) -> None:
    for name in ("s1", "s2"):
        await create_record(each_fabric, "live", name, {"state": "dead"})
        await each_fabric.do("ZADD", keys.SESSIONS, 1, name)
        await send_control(each_fabric, name, {"type": "stop"})
        await each_fabric.do("SET", keys.image(name), "a picture")
        await send_notice(each_fabric, name, {"t": "done"})
    await forget_session(each_fabric, "s1", after_ms)
    assert await each_fabric.do("ZRANGE", keys.SESSIONS, 0, -1) == [b"s2"]
    assert await each_fabric.do("EXISTS", keys.control("s1"), keys.image("s1")) == 0
    for key in (keys.record("live", "s1"), keys.media("s1")):
        left = await each_fabric.do("PTTL", key)
        assert 0 < left <= after_ms if after_ms else left == -2
    assert (await read_record(each_fabric, "live", "s2"))["state"] == "dead"
    assert await each_fabric.do("PTTL", keys.record("live", "s2")) == -1
    left_alone = (keys.control("s2"), keys.image("s2"), keys.media("s2"))
    assert await each_fabric.do("EXISTS", *left_alone) == 3
