"""A stream is opened whole or not at all."""

import base64
from dataclasses import replace

import numpy as np
import pytest

from engine.asked import StreamSpec
from engine.events import Admission
from engine.snapshot import Snapshot
from server.fabric import keys
from server.fabric.connection import Connection, FabricError
from server.fabric.queue import WorkQueue
from server.fabric.record import read_record
from server.images import pixels
from tests.conftest import RedisServer
from tests.server.fakes import FakeEngine
from tests.server.harness import CARD, serving, until
from tests.server.test_images import encoded, halves

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_a_start_image_reaches_the_engine_and_is_read_by_no_list(
    redis_server: RedisServer,
) -> None:
    seen = []

    class FromPictures(FakeEngine):
        def admit(
            self, spec: StreamSpec, now: float, snapshot: Snapshot | None = None
        ) -> Admission:
            seen.append(spec.start_image)
            return super().admit(replace(spec, start_image=None), now, snapshot)

    card = replace(CARD, start_image=True)
    picture = base64.b64encode(encoded(halves(160, 96))).decode()
    async with (
        serving(redis_server.url, FromPictures(), card=card) as served,
        served.viewer() as viewer,
    ):
        session_id = (await viewer.start(image=picture))["session_id"]
        redis = served.context.redis
        kept = (await redis.do("GET", keys.image(session_id))).decode()
        assert kept[:200] not in str(await read_record(redis, "live", session_id))
        await viewer.say("session.stop")
        await viewer.message("session.done", ack=True)
        await until(lambda: _gone(redis, keys.image(session_id)))
    (image,) = seen
    assert image is not None
    assert np.array_equal(image, pixels(base64.b64decode(kept)))
    assert image[5, 5].tolist() == [220, 0, 0]


async def _gone(redis: Connection, key: str) -> bool:
    return not await redis.do("EXISTS", key)


async def test_a_start_that_redis_breaks_off_leaves_nothing_behind(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken_off(queue: WorkQueue, subject: str) -> str:
        raise FabricError("Connection closed by server.")

    async with serving(redis_server.url) as served, served.viewer() as viewer:
        with monkeypatch.context() as patch:
            patch.setattr(WorkQueue, "put", broken_off)
            await viewer.say("session.start", prompt="a ball")
            assert (await viewer.error())["code"] == "fabric_unavailable"
        redis = served.context.redis
        for pattern in ("lt1:session*", "lt1:control:*", "lt1:image:*", "lt1:media:*"):
            assert await redis.do("KEYS", pattern) == []
        await viewer.start()
        await viewer.chunk()
