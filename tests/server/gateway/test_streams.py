import asyncio
import io
import itertools
import json

import av
import httpx
import pytest

from server.fabric import keys
from server.fabric.queue import WorkQueue
from server.fabric.record import create_record
from server.gateway.auth import Gate
from tests.conftest import RedisServer
from tests.server.fakes import FakeEngine
from tests.server.harness import Viewer, gateway, serving, until, worker

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def _keep_acknowledging(viewer: Viewer) -> None:
    while True:
        await viewer.chunk()


async def test_streams_are_listed_shown_and_stopped(redis_server: RedisServer) -> None:
    engine = FakeEngine()
    async with (
        serving(redis_server.url, engine) as served,
        served.viewer() as viewer,
        httpx.AsyncClient(base_url=served.http) as http,
    ):
        start = await viewer.start(seed=5)
        await viewer.chunk()
        listed = (await http.get("/v1/streams")).json()
        (stream,) = listed["data"]
        assert listed["object"] == "list"
        assert (stream["id"], stream["status"], stream["seed"]) == (
            start["session_id"],
            "running",
            5,
        )
        assert "token" not in stream
        path = f"/v1/streams/{start['session_id']}"
        assert (await http.get(path)).json()["id"] == start["session_id"]
        stopped = await http.delete(path)
        assert stopped.status_code == 200
        assert stopped.json() == {
            "id": start["session_id"],
            "object": "stream.deleted",
            "deleted": True,
        }
        done = await viewer.message("session.done", ack=True)
        assert done["reason"] == "deleted"
        assert engine.sessions == {}
        assert (await http.get("/v1/streams")).json()["data"] == []


async def test_a_stream_that_cannot_be_read_hides_no_other(redis_server: RedisServer) -> None:
    async with (
        serving(redis_server.url) as served,
        served.viewer() as viewer,
        httpx.AsyncClient(base_url=served.http) as http,
    ):
        start = await viewer.start()
        redis, record = served.context.redis, keys.record("live", start["session_id"])
        spec = json.loads(await redis.do("HGET", record, "spec"))
        newer = {"id": "ses_newer", "state": "running", "model": "fake", "created_at": 1}
        newer["spec"] = json.dumps({**spec, "of_another_release": 1})
        await create_record(redis, "live", "ses_newer", newer)
        await redis.do("ZADD", keys.SESSIONS, 1, "ses_newer")
        answer = await http.get("/v1/streams")
        assert answer.status_code == 200
        assert [stream["id"] for stream in answer.json()["data"]] == [start["session_id"]]


async def test_a_queued_stream_is_stopped_before_it_begins(redis_server: RedisServer) -> None:
    async with (
        serving(redis_server.url, FakeEngine(fit=1)) as served,
        served.viewer() as first,
        served.viewer() as second,
        httpx.AsyncClient(base_url=served.http) as http,
    ):
        start = await first.start()
        await second.say("session.start", prompt="b")
        await second.message("session.queued")
        ids = [stream["id"] for stream in (await http.get("/v1/streams")).json()["data"]]
        (queued,) = set(ids) - {start["session_id"]}
        assert (await http.delete(f"/v1/streams/{queued}")).json()["deleted"] is True
        assert (await second.message("session.done"))["chunks"] == 0


async def test_errors_have_openais_envelope(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as served, httpx.AsyncClient() as http:
        for method, path, status, code in (
            ("GET", "/v1/streams/none", 404, "not_found"),
            ("DELETE", "/v1/streams/none", 404, "not_found"),
            ("GET", "/v1/nothing", 404, "not_found"),
            ("PUT", "/v1/streams", 405, "method_not_allowed"),
            ("GET", "/v1/models/none", 404, "model_not_found"),
        ):
            answer = await http.request(method, served.http + path)
            assert answer.status_code == status
            error = answer.json()["error"]
            assert (error["code"], error["type"]) == (code, "invalid_request_error")
            assert error["message"]


@pytest.mark.parametrize("own_format", ["m4s", "jpeg"])
async def test_a_second_viewer_watches_as_mp4_that_decodes_from_time_zero(
    redis_server: RedisServer, own_format: str
) -> None:
    async with (
        serving(redis_server.url) as served,
        served.viewer() as owner,
        httpx.AsyncClient(base_url=served.http) as http,
    ):
        start = await owner.start(format=own_format)
        for _ in range(5):
            await owner.chunk()
        playing = asyncio.create_task(_keep_acknowledging(owner))
        film = b""
        path = f"/v1/streams/{start['session_id']}/live.mp4"
        async with http.stream("GET", path) as answer:
            assert answer.headers["content-type"] == "video/mp4"
            async for data in answer.aiter_bytes():
                film += data
                if film.count(b"moof") >= 4:
                    break
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    with av.open(io.BytesIO(film)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) >= 36
    assert frames[0].time == 0.0


async def test_ffmpegs_http_client_plays_a_live_stream(redis_server: RedisServer) -> None:
    def watch(url: str) -> int:
        with av.open(url, timeout=20) as container:
            return sum(1 for _ in itertools.islice(container.decode(video=0), 40))

    async with serving(redis_server.url) as served, served.viewer() as owner:
        start = await owner.start()
        playing = asyncio.create_task(_keep_acknowledging(owner))
        url = f"{served.http}/v1/streams/{start['session_id']}/live.mp4"
        assert await asyncio.to_thread(watch, url) == 40
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


async def test_a_spectator_gives_no_credit(redis_server: RedisServer) -> None:
    engine = FakeEngine()
    async with (
        serving(redis_server.url, engine) as served,
        served.viewer() as owner,
        httpx.AsyncClient(base_url=served.http) as http,
    ):
        start = await owner.start()
        await owner.ack(-1)
        for _ in range(3):
            last = await owner.chunk(ack=False)
        async with http.stream("GET", f"/v1/streams/{start['session_id']}/live.mp4") as answer:
            async for _ in answer.aiter_bytes():
                break
        await owner.say("session.ping")
        assert await owner.next() == {"type": "session.pong"}
        assert list(engine.made.values()) == [last.last_frame + 1]


async def test_an_ended_stream_cannot_be_watched(redis_server: RedisServer) -> None:
    async with (
        serving(redis_server.url) as served,
        served.viewer() as owner,
        httpx.AsyncClient(base_url=served.http) as http,
    ):
        start = await owner.start(num_frames=9)
        await owner.message("session.done", ack=True)
        answer = await http.get(f"/v1/streams/{start['session_id']}/live.mp4")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found")


async def test_health_readiness_models_and_metrics(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as served, httpx.AsyncClient() as http:
        assert (await http.get(f"{served.http}/healthz")).status_code == 200
        assert (await http.get(f"{served.http}/readyz")).status_code == 503
        async with worker(redis_server.url, FakeEngine()):
            await until(served.context.cards)
            ready = await http.get(f"{served.http}/readyz")
            assert ready.status_code == 200
            (model,) = (await http.get(f"{served.http}/v1/models")).json()["data"]
            assert (model["id"], model["sizes"], model["fps"]) == (
                "fake",
                ["160x96", "64x48"],
                [16, 8],
            )
            one = await http.get(f"{served.http}/v1/models/fake")
            assert one.json()["id"] == "fake"
            async with served.viewer() as viewer:
                await viewer.start()
                await viewer.chunk()
                await viewer.change("b", "e1")
                await viewer.message("session.interaction.applied", ack=True)
                await viewer.chunk()

                async def shown() -> str | None:
                    text = (await http.get(f"{served.http}/metrics")).text
                    return text if 'kind="live",worker="w1"} 1.0' in text else None

                text = await until(shown)
        for name in (
            'longtake_kv_pages_in_use{worker="w1"} 10.0',
            'longtake_kv_pages_total{worker="w1"} 40.0',
            'longtake_frames_total{kind="live",worker="w1"}',
            'longtake_chunk_seconds_bucket{kind="live",le="+Inf",worker="w1"}',
            'longtake_stall_seconds_total{worker="w1"}',
            "longtake_ttfc_seconds_count 1.0",
            "longtake_interaction_applied_seconds_count 1.0",
        ):
            assert name in text, name


async def test_what_waits_and_what_clients_were_refused_is_shown(redis_server: RedisServer) -> None:
    async with (
        serving(redis_server.url, FakeEngine(fit=1)) as served,
        httpx.AsyncClient() as http,
        served.viewer() as first,
        served.viewer() as second,
    ):
        await first.start()
        await second.say("session.start", prompt="a ball")
        await second.message("session.queued")
        await WorkQueue(served.context.redis, "fake", "job").put("video_x")
        await http.get(f"{served.http}/v1/streams/nothing")
        await http.get(f"{served.http}/v1/nothing")
        for method in ("GET", "HEAD"):
            await http.request(
                method, f"{served.http}/v1/nothing", headers={"Host": "evil.example"}
            )
        text = (await http.get(f"{served.http}/metrics")).text
    for line in (
        'longtake_waiting_streams{model="fake"} 1.0',
        'longtake_waiting_jobs{model="fake"} 1.0',
        'longtake_client_errors_total{code="not_found"} 2.0',
        'longtake_client_errors_total{code="forbidden_host"} 2.0',
    ):
        assert line in text, (line, text)


async def test_a_foreign_origin_and_a_missing_key_are_refused_at_the_handshake(
    redis_server: RedisServer,
) -> None:
    from websockets.exceptions import InvalidStatus

    keyed = Gate(("an api key",))
    async with gateway(redis_server.url, gate=keyed) as served:
        for headers, status, code in (
            ({"Origin": "http://evil.example"}, 403, "forbidden_origin"),
            ({}, 401, "unauthorized"),
            ({"Authorization": "Bearer nonsense"}, 401, "unauthorized"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                async with served.viewer(additional_headers=headers):
                    pass
            assert refused.value.response.status_code == status
            assert code.encode() in refused.value.response.body
        async with served.viewer(
            additional_headers={"Authorization": "Bearer an api key"}
        ) as viewer:
            await viewer.say("session.ping")
            assert await viewer.next() == {"type": "session.pong"}


async def test_rest_asks_for_the_key_and_refuses_foreign_writes(redis_server: RedisServer) -> None:
    keyed = Gate(("an api key",))
    own = {"Authorization": "Bearer an api key"}
    async with gateway(redis_server.url, gate=keyed) as served, httpx.AsyncClient() as http:
        for path in ("/v1/streams", "/v1/models", "/metrics"):
            assert (await http.get(served.http + path)).status_code == 401
            assert (await http.get(served.http + path, headers=own)).status_code == 200
            assert (await http.get(f"{served.http}{path}?key=an%20api%20key")).status_code == 200
        named = {"Host": "evil.example"}
        assert (await http.get(f"{served.http}/healthz", headers=named)).status_code == 200
        for path in ("/healthz", "/docs"):
            assert (await http.get(served.http + path)).status_code == 200
        foreign = {**own, "Origin": "http://evil.example"}
        answer = await http.delete(f"{served.http}/v1/streams/x", headers=foreign)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")


async def test_an_ended_stream_leaves_nothing_in_redis_for_long(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served:
        redis = served.context.redis
        async with served.viewer() as viewer:
            start = await viewer.start(num_frames=9)
            await viewer.message("session.done", ack=True)
        session_id = start["session_id"]
        await until(lambda: _gone(redis, keys.control(session_id)))
        assert 0 < await redis.do("PTTL", keys.media(session_id)) <= 60_000
        assert 0 < await redis.do("PTTL", keys.record("live", session_id)) <= 60_000
        assert await redis.do("XLEN", keys.work("fake", "live")) == 0


async def _gone(redis: object, key: str) -> bool:
    return not await redis.do("EXISTS", key)  # type: ignore[attr-defined]
