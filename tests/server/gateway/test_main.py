"""A whole gateway process's life, in the test's own loop."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from server.config import Settings
from server.gateway.main import bind, run_gateway
from tests.conftest import RedisServer
from tests.server.harness import until

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_a_websocket_that_is_refused_is_no_error_in_the_log(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(redis_url=redis_server.url, data_dir=tmp_path, api_keys=("an api key",))
    log = logging.getLogger("uvicorn.error")
    said: list[str] = []
    with bind("127.0.0.1", 0) as listener:
        running = asyncio.create_task(run_gateway(settings, listener, said.append))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        # The kernel keeps the connection until the gateway takes it.
        listener.listen()
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://{address}/healthz", timeout=20)).status_code == 200
        log.addHandler(caplog.handler)  # starting has set up the log
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://{address}/v1/realtime/video"):
                pass
        assert refused.value.response.status_code == 401
        os.kill(os.getpid(), signal.SIGTERM)
        await running
        log.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
    assert said == []


async def test_a_gateway_without_its_redis_says_so_and_is_not_ready(tmp_path: Path) -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1", data_dir=tmp_path)
    said: list[str] = []
    with bind("127.0.0.1", 0) as listener:
        running = asyncio.create_task(run_gateway(settings, listener, said.append))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            await http.get("/healthz")
            answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "Redis does not answer")
        await until(lambda: said)
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    assert said[0].startswith(
        "the gateway's Redis at redis://127.0.0.1:1 does not answer; start it"
    )
