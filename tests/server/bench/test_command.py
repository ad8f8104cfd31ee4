import asyncio
import json
import os
import sys

import pytest

from server.bench.client import QUIET_S
from server.bench.command import private_environment
from server.fabric.connection import Connection
from server.gateway.auth import Gate
from tests.conftest import RedisServer
from tests.server.fakes import FakeEngine
from tests.server.harness import gateway, serving, until, worker

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def _bench(*words: str, **variables: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server",
        "bench",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **variables},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_it_ends_with_one_line_of_json_of_what_viewers_saw(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served:
        status, out, err = await _bench(
            *("--url", served.http, "--sessions", "2", "--seconds", "2.5", "--json"),
            *("--warmup-chunks", "1", "--change-every", "0.5"),
        )
    assert status == 0, err
    (line,) = out.splitlines()
    result = json.loads(line)
    assert result["sessions"] == 2
    assert result["errors"] == []
    assert result["ttfc_s"] > 0
    assert result["chunks"] >= 2
    assert result["stall_seconds"] == 0
    assert (result["cpr"], result["deadline_attainment"]) == (1.0, 1.0)
    assert result["applied_p50_s"] is not None
    assert len(result["session_fps"]) == 2
    assert result["chunk_p50_s"] <= result["chunk_p95_s"] <= result["chunk_p99_s"]


async def test_asap_measures_frames_as_fast_as_they_come(redis_server: RedisServer) -> None:
    async with serving(redis_server.url, FakeEngine(chunk_s=0.02)) as served:
        status, out, err = await _bench(
            *("--url", served.http, "--seconds", "1", "--json", "--pacing", "asap"),
            *("--warmup-chunks", "2", "--format", "jpeg"),
        )
    assert status == 0, err
    result = json.loads(out)
    assert result["fps"] > 16
    assert result["pacing"] == "asap"


async def test_a_refused_measurement_says_why_and_fails(redis_server: RedisServer) -> None:
    async with (
        worker(redis_server.url, FakeEngine()),
        gateway(redis_server.url, gate=Gate(("an api key",))) as served,
    ):
        await until(served.context.cards)
        status, out, _ = await _bench("--url", served.http, "--seconds", "1", "--json")
        assert status == 1
        assert json.loads(out)["errors"][0].startswith("401 unauthorized: no API key; send Auth")
        words = ("--url", served.http, "--seconds", "0.5", "--api-key", "an api key", "--json")
        status, out, err = await _bench(*words, "--warmup-chunks", "0")
        assert (status, json.loads(out)["errors"]) == (0, []), err


def test_a_local_server_inherits_no_setting_of_the_environment() -> None:
    told = {"PATH": "/bin", "LONGTAKE_REDIS_URL": "redis://shared", "LONGTAKE_ROLE": "worker"}
    assert private_environment(told) == {"PATH": "/bin"}


async def test_a_local_measurement_touches_no_shared_redis(redis_server: RedisServer) -> None:
    status, out, err = await _bench(
        *(
            "--local",
            "--seconds",
            "0.1",
            "--warmup-chunks",
            "0",
            "--json",
            "--",
            "--random-weights",
        ),
        LONGTAKE_REDIS_URL=redis_server.url,
    )
    assert status == 0, (out, err)
    assert "starting a private" in err
    redis = Connection(redis_server.url)
    assert await redis.do("DBSIZE") == 0
    await redis.close()


async def test_what_the_server_says_of_a_start_is_what_is_said(redis_server: RedisServer) -> None:
    # Sooner than a bench gives up that goes on listening.
    async with serving(redis_server.url) as served, asyncio.timeout(QUIET_S):
        status, out, err = await _bench("--url", served.http, "--model", "nope", "--json")
    assert status == 1
    (error,) = json.loads(out)["errors"]
    assert error.startswith("model_not_found: ")
    assert err.endswith(f"error: {error}\n")


async def test_a_measurement_within_the_warm_up_fails_in_words(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served:
        status, out, err = await _bench("--url", served.http, "--seconds", "0.2", "--json")
    assert status == 1
    assert "behind the warm-up of 6" in json.loads(out)["errors"][0]
    assert "--warmup-chunks" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--local", "--url", "http://x"), "--local starts a server of its own"),
        (("--url", "http://x", "--", "--device", "cpu"), "--device cpu: flags of a server"),
    ],
)
async def test_flags_that_contradict_each_other_are_refused(
    words: tuple[str, ...], sentence: str
) -> None:
    status, _, err = await _bench(*words)
    assert status == 2
    assert err.startswith(f"error: {sentence}")


async def test_a_wrong_address_is_one_sentence() -> None:
    status, _, err = await _bench("--url", "localhost:8000")
    assert status == 2
    assert "http://127.0.0.1:8000" in err
