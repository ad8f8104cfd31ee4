"""What every route has in common: other pages' origins, HEAD, addresses that do not exist."""

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from server.gateway.auth import Gate
from tests.conftest import RedisServer
from tests.server.harness import gateway, serving

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PAGE = "https://page.example"
ASKS = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}


async def test_a_named_origin_may_call_and_read_with_a_key_that_it_is_asked_for_after(
    redis_server: RedisServer,
) -> None:
    own = {"Authorization": "Bearer an api key", "Origin": PAGE}
    async with (
        gateway(redis_server.url, gate=Gate(("an api key",), (PAGE,))) as served,
        httpx.AsyncClient(base_url=served.http) as http,
    ):
        headers = {**ASKS, "Access-Control-Request-Headers": "authorization, x-stainless-os"}
        asked = await http.options("/v1/streams", headers=headers)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()
        for headers, status in ((own, 200), ({"Origin": PAGE}, 401)):
            answer = await http.get("/v1/streams", headers=headers)
            assert answer.status_code == status
            # A refusal is read by the page as well.
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("named", [(), (PAGE,)])
async def test_no_other_origin_is_told_that_it_may_read(
    redis_server: RedisServer, named: tuple[str, ...]
) -> None:
    async with (
        gateway(redis_server.url, gate=Gate((), named)) as served,
        httpx.AsyncClient(base_url=served.http) as http,
    ):
        for origin in ("https://evil.example", "http://page.example", "https://page.example.org"):
            asked = await http.options("/v1/streams", headers={**ASKS, "Origin": origin})
            assert asked.status_code >= 400
            answer = await http.get("/v1/streams", headers={"Origin": origin})
            for headers in (asked.headers, answer.headers):
                assert "access-control-allow-origin" not in headers


async def test_head_is_answered_wherever_get_is(redis_server: RedisServer) -> None:
    async with (
        serving(redis_server.url) as served,
        served.viewer() as viewer,
        httpx.AsyncClient(base_url=served.http, timeout=5) as http,
    ):
        stream = (await viewer.start())["session_id"]
        for path, status, kind in (
            ("/healthz", 200, "application/json"),
            ("/readyz", 200, "application/json"),
            ("/metrics", 200, "text/plain"),
            ("/v1/models", 200, "application/json"),
            (f"/v1/streams/{stream}", 200, "application/json"),
            (f"/v1/streams/{stream}/live.mp4", 200, "video/mp4"),
            ("/v1/streams/nothing", 404, "application/json"),
        ):
            answer = await http.head(path)
            assert answer.status_code == status, path
            assert answer.headers["content-type"].startswith(kind), path
            assert answer.content == b""
            assert ("content-length" in answer.headers) == (kind != "video/mp4"), path


async def test_a_wrong_address_of_the_realtime_protocol_says_the_right_one(
    redis_server: RedisServer,
) -> None:
    async with gateway(redis_server.url) as served:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://127.0.0.1:{served.port}/v1/realtime/vidoe"):
                pass
        assert refused.value.response.status_code == 404
        assert b"the realtime protocol is at /v1/realtime/video" in refused.value.response.body
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"{served.http}/v1/realtime/video")
        assert (answer.status_code, answer.json()["error"]["code"]) == (426, "upgrade_required")
        assert "ws://" in answer.json()["error"]["message"]
