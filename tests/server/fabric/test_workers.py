import pytest

from server.fabric import keys, workers
from server.fabric.connection import Connection, FabricError
from tests.conftest import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_a_snapshot_is_seen_until_it_expires_or_is_withdrawn(fabric: Connection) -> None:
    await workers.report(fabric, "w1", {"sessions": 2})
    await workers.report(fabric, "w2", {"sessions": 0})
    assert await workers.snapshots(fabric) == {"w1": {"sessions": 2}, "w2": {"sessions": 0}}
    assert 0 < await fabric.do("PTTL", keys.worker("w1")) <= workers.SNAPSHOT_LIVES_MS
    await workers.withdraw(fabric, "w1")
    await fabric.do("DEL", keys.worker("w2"))
    assert not await workers.is_alive(fabric, "w1")
    assert await workers.snapshots(fabric) == {}
    assert await fabric.do("SCARD", keys.WORKERS) == 0


async def test_a_model_card_outlives_its_worker(fabric: Connection) -> None:
    await workers.announce_model(fabric, "tiny", {"fps": [16]})
    await workers.withdraw(fabric, "w1")
    assert await workers.model_cards(fabric) == {"tiny": {"fps": [16]}}


async def test_commands_survive_a_restart_of_redis(own_redis_server: RedisServer) -> None:
    connection = Connection(own_redis_server.url)
    await connection.do("SET", "a", "1")
    own_redis_server.kill()
    own_redis_server.start()
    assert await connection.do("GET", "a") is None
    await connection.close()


async def test_a_lost_redis_is_reported_after_the_retries(own_redis_server: RedisServer) -> None:
    connection = Connection(own_redis_server.url, retries=2)
    own_redis_server.kill()
    assert not await connection.ping()
    with pytest.raises(FabricError):
        await connection.do("GET", "a")
    await connection.close()
