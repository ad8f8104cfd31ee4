"""What operators are told when Redis or a worker is not as it should be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from server.fabric import workers
from tests.conftest import RedisServer
from tests.server.harness import gateway

pytestmark = pytest.mark.anyio

PATIENCE_S = 40
"""Well above any deadline of the server's and below what a connection waits for a mute Redis."""


@asynccontextmanager
async def mute_redis() -> AsyncIterator[str]:
    """A Redis that takes connections and answers nothing, as one that was stopped."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_redis_that_does_not_answer_keeps_nobody_waiting() -> None:
    async with (
        mute_redis() as url,
        gateway(url) as served,
        httpx.AsyncClient(base_url=served.http, timeout=PATIENCE_S) as http,
    ):
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "Redis does not answer")
        assert ready.headers["retry-after"] == "2"
        metrics = await http.get("/metrics")
        assert metrics.status_code == 200
        assert "longtake_connections 0.0" in metrics.text


@pytest.mark.redis
async def test_a_worker_that_says_less_of_itself_is_ready_all_the_same(
    redis_server: RedisServer,
) -> None:
    async with (
        gateway(redis_server.url) as served,
        httpx.AsyncClient(base_url=served.http) as http,
    ):
        await workers.report(served.context.redis, "w1", {"model": "fake", "streams_free": 1})
        ready = await http.get("/readyz")
    assert ready.status_code == 200
    (worker,) = ready.json()["workers"].values()
    assert (worker["model"], worker["device"]) == ("fake", None)
