"""Starting from an image through every door, with a real engine; and the list of models."""

import asyncio
import base64
import dataclasses
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine.thread import EngineThread
from models.registry import names
from models.text_host import TextEncoderHost
from server.catalogue import ModelCard
from server.config import Settings
from server.fabric.connection import Connection
from server.fabric.workers import announce_model
from server.jobs.parts import JobParts
from server.jobs.routes import jobs_router
from server.jobs.runner import JobRunner, RunnerParts
from server.jobs.store import JobStore
from server.worker.bridge import EngineBridge
from server.worker.build import Built, build
from server.worker.host import HostSettings, WorkerHost
from server.worker.parts import LiveParts
from server.worker.stats import WorkerStats
from tests.conftest import RedisServer
from tests.server.harness import Served, gateway, until
from tests.server.small_model import write_small_model

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PLAIN = "cannot-start-from-images"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("models")
    settings = Settings(
        model=str(write_small_model(folder / "small")),
        device="cpu",
        dtype="float32",
        data_dir=folder / "data",
    )
    return build(settings, lambda line: None)


@pytest.fixture
async def served(
    built: Built, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[tuple[Served, Built]]:
    """A gateway, and a worker with the real engine of a small model."""
    redis = Connection(redis_server.url, retries=3)
    # A second model on offer, of a worker elsewhere, that was not made for images.
    plain = dataclasses.replace(built.card, name=PLAIN, start_image=False)
    await announce_model(redis, PLAIN, plain.to_json())
    store = JobStore(redis, lambda: 0.0)
    executor = ThreadPoolExecutor(1)
    bridge = EngineBridge(lambda sink: EngineThread(built.engine, sink))
    parts = LiveParts(redis, bridge, executor, WorkerStats(), 30.0)
    jobs = JobRunner(RunnerParts(store, bridge, tmp_path, executor, built.fingerprint))
    settings = HostSettings("w1", built.device)
    host = WorkerHost(settings, built.card, parts, jobs, built.list_models)
    running = asyncio.create_task(host.run())
    cards: list[Callable[[], Awaitable[dict[str, ModelCard]]]] = []

    async def offered() -> Sequence[ModelCard]:
        return list((await cards[0]()).values())

    routes = jobs_router(JobParts(store, offered, tmp_path, lambda: 5))
    try:
        async with gateway(redis_server.url, routers=[routes]) as site:
            cards.append(site.context.cards)
            await until(lambda: _has(site, built.card.name))
            yield site, built
    finally:
        host.drain()
        await asyncio.gather(running, return_exceptions=True)
        await bridge.close()
        executor.shutdown()
        await redis.close()


async def _has(site: Served, name: str) -> bool:
    return name in await site.context.cards()


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (320, 100)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


RED, BLUE = picture((220, 20, 20)), picture((20, 20, 220))


async def first_picture(site: Served, **fields: object) -> tuple[dict[str, object], bytes]:
    async with site.viewer() as viewer:
        await viewer.start(format="jpeg", seed=1, num_frames=13, pacing="asap", **fields)
        first, second = await viewer.chunk(), await viewer.chunk()
        assert (await viewer.message("session.done"))["frames"] == 13
    assert second.metadata["steps"] == 4
    assert second.metadata["num_frames"] == 12
    return first.metadata, first.binary


async def test_a_live_stream_begins_with_its_image(served: tuple[Served, Built]) -> None:
    site, _ = served
    pictures = []
    for image in (RED, RED, BLUE):
        metadata, jpeg = await first_picture(site, image=base64.b64encode(image).decode())
        assert (metadata["num_frames"], metadata["steps"]) == (1, 0)
        with Image.open(io.BytesIO(jpeg)) as opened:
            assert opened.size == (160, 96)
        pictures.append(jpeg)
    assert pictures[0] == pictures[1] != pictures[2]


async def test_a_model_that_cannot_start_from_an_image_says_so_at_the_start(
    served: tuple[Served, Built],
) -> None:
    site, _ = served
    image = base64.b64encode(RED).decode()
    async with site.viewer() as viewer:
        await viewer.say("session.start", prompt="a", model=PLAIN, image=image)
        error = await viewer.error()
    assert (error["code"], error["param"]) == ("not_supported", "image")
    assert f"{PLAIN} cannot begin from a picture, leave image out" in error["message"]
    async with httpx.AsyncClient(base_url=site.http) as http:
        body = {"prompt": "a", "model": PLAIN, "input_reference": f"data:image/png;base64,{image}"}
        answer = await http.post("/v1/videos", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "not_supported"
    assert "cannot start from an image" in answer.json()["error"]["message"]


async def film(http: httpx.AsyncClient, **request: object) -> NDArray[np.uint8]:
    """Make a job, wait for it and return its frames."""
    made = await http.post("/v1/videos", **request)  # type: ignore[arg-type]
    assert made.status_code == 200, made.text
    path = f"/v1/videos/{made.json()['id']}"

    async def over() -> bool:
        status = (await http.get(path)).json()
        assert status["status"] != "failed", status
        return bool(status["status"] == "completed")

    await until(over)
    content = (await http.get(f"{path}/content")).content
    with av.open(io.BytesIO(content)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


async def test_a_job_begins_with_its_image_as_a_file_or_as_a_data_url(
    served: tuple[Served, Built],
) -> None:
    site, _ = served
    fields = {"prompt": "a", "seed": "3", "num_frames": "13", "model": "longtake-tiny"}
    url = "data:image/png;base64," + base64.b64encode(RED).decode()
    async with httpx.AsyncClient(base_url=site.http, timeout=60) as http:
        # One after the other: where batching pays on a machine, neighbours round differently.
        from_file, from_url, other = [
            await film(http, **asked)
            for asked in (
                {"data": fields, "files": {"input_reference": ("a.png", RED, "image/png")}},
                {"json": {**fields, "seed": 3, "num_frames": 13, "input_reference": url}},
                {"data": fields, "files": {"input_reference": ("b.png", BLUE, "image/png")}},
            )
        ]
    assert from_file.shape == (13, 96, 160, 3)
    assert np.array_equal(from_file, from_url)
    assert not np.array_equal(from_file[0], other[0])


async def test_viewers_with_the_same_words_share_one_embedding(
    served: tuple[Served, Built], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, built = served
    host = built.engine.model.text
    assert isinstance(host, TextEncoderHost)
    embedded: list[str] = []
    encode = host.encoder.encode
    monkeypatch.setattr(
        host.encoder, "encode", lambda texts: (embedded.extend(texts), encode(texts))[1]
    )
    for words in (
        "words never seen before",
        "words  never seen before ",
        "words never seen before",
    ):
        async with site.viewer() as viewer:
            await viewer.start(words, format="jpeg", num_frames=1)
            await viewer.message("session.done", ack=True)
    assert embedded == ["words never seen before"]


async def test_every_model_is_listed_with_its_needs_and_the_served_one_first(
    served: tuple[Served, Built],
) -> None:
    site, built = served
    async with httpx.AsyncClient(base_url=site.http) as http:

        async def listed() -> list[dict[str, object]]:
            found: list[dict[str, object]] = (await http.get("/v1/models")).json()["data"]
            return found if len(found) > 2 else []

        own, *rest = await until(listed)
        one = (await http.get("/v1/models/krea-realtime-14b")).json()
    assert (own["id"], own["serving"], own["present"]) == ("longtake-tiny", True, True)
    assert (own["sizes"], own["chunk_frames"], own["start_image"]) == (["160x96"], 12, True)
    fit = built.engine.capacity().streams_fit
    assert own["needs"]["streams_that_fit"] == fit
    assert {model["id"] for model in rest} == {*names(), PLAIN} - {"longtake-tiny"}
    assert one in rest
    assert (one["serving"], one["present"], one["continuation"]) == (False, False, True)
    assert one["needs"]["disk_bytes"] > 28 * 10**9
    assert one["needs"]["kv_bytes_per_session"] > 10**9
    assert one["needs"]["decoder_state_bytes_per_session"] > 10**6
    assert any("krea-realtime-video" in name for name in one["missing_files"])
    assert one["licence"].startswith("CC-BY-NC-SA")
