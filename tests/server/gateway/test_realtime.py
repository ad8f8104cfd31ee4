import base64
import dataclasses
import io
import json
import threading

import av
import pytest
from PIL import Image

from server import live
from server.gateway import owner, silence
from server.images import fitted_png
from server.wire.limits import Limits
from tests.conftest import RedisServer
from tests.server.fakes import CHUNK, FIRST, FakeEngine, colour
from tests.server.harness import CARD, Chunk, gateway, serving, until, worker

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_a_stream_begins_runs_and_stops(redis_server: RedisServer) -> None:
    engine = FakeEngine()
    async with serving(redis_server.url, engine) as served, served.viewer() as viewer:
        start = await viewer.start(seed=7, format="avcc")
        assert start["format"] == "avcc"
        config = start["config"]
        assert (config["width"], config["height"], config["fps"]) == (160, 96, 16)
        assert (config["seed"], config["codec"], config["chunk_frames"]) == (7, "h264", CHUNK)
        assert config["mime"].startswith("avc1.")
        chunks = [await viewer.chunk() for _ in range(6)]
        assert [chunk.index for chunk in chunks] == list(range(6))
        assert [c.metadata["first_frame"] for c in chunks] == [0, 9, 21, 33, 45, 57]
        assert chunks[1].metadata["pts"] == pytest.approx(FIRST / 16)
        assert chunks[1].metadata["duration"] == pytest.approx(CHUNK / 16)
        for chunk in chunks:
            units = chunk.metadata["units"]
            assert sum(unit["size"] for unit in units) == len(chunk.binary)
            assert chunk.metadata["bytes"] == len(chunk.binary)
            assert len(units) == chunk.metadata["num_frames"]
        keys = [chunk.metadata["units"][0]["keyframe"] for chunk in chunks]
        assert keys == [True, False, True, False, True, False]
        await viewer.say("session.stop")
        done = await viewer.message("session.done")
        assert done["reason"] == "stopped"
        assert done["frames"] >= 69
        await until(lambda: not engine.sessions)


async def test_the_concatenated_m4s_binaries_play(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.start("a blue cube", num_frames=45)
        chunks = [await viewer.chunk() for _ in range(4)]
        done = await viewer.message("session.done")
        assert (done["reason"], done["chunks"], done["frames"]) == ("complete", 4, 45)
    film = b"".join(chunk.binary for chunk in chunks)
    with av.open(io.BytesIO(film)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 45
    corner = frames[20][5, 155].astype(int)
    assert abs(corner - colour("a blue cube")).max() < 30


async def test_jpeg_binaries_hold_whole_pictures(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        start = await viewer.start(format="jpeg", width=64, height=48, fps=8)
        assert start["config"]["mime"] == "image/jpeg"
        chunk = await viewer.chunk()
        size = chunk.metadata["units"][0]["size"]
        assert chunk.binary[:2] == b"\xff\xd8"
        assert chunk.binary[size : size + 2] == b"\xff\xd8"
        assert all(unit["keyframe"] for unit in chunk.metadata["units"])


async def test_a_prompt_change_has_both_receipts_right_before_its_chunk(
    redis_server: RedisServer,
) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.start(format="jpeg")
        before = await viewer.chunk()
        await viewer.change("a green hill", "e1")
        queued = await viewer.message("session.interaction.queued", ack=True)
        assert queued["event_id"] == "e1"
        applied = await viewer.message("session.interaction.applied", ack=True)
        chunk = await viewer.next()
        assert isinstance(chunk, Chunk)
        assert applied["chunk_index"] == chunk.index > before.index
        assert applied["pts"] == chunk.metadata["pts"]
        assert applied["first_frame"] == chunk.metadata["first_frame"]
        assert chunk.metadata["prompt_rev"] == 1
        revisions = [c.metadata["prompt_rev"] for c in viewer.seen if isinstance(c, Chunk)]
        assert revisions == [0] * (len(revisions) - 1) + [1]


async def test_a_change_replaced_before_it_showed_is_superseded(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.start(format="jpeg")
        # Without acknowledgements the lead is used up, so that no chunk can start.
        await viewer.say("playback.ack", frame=-1)
        for _ in range(3):
            await viewer.chunk(ack=False)
        await viewer.change("one", "e1")
        await viewer.change("two", "e2")
        gone = await viewer.message("session.interaction.superseded")
        assert gone["event_id"] == "e1"
        await viewer.ack(20)
        applied = await viewer.message("session.interaction.applied")
        assert applied["event_id"] == "e2"


async def test_generation_stands_still_without_credit_and_goes_on_with_it(
    redis_server: RedisServer,
) -> None:
    engine = FakeEngine()
    async with serving(redis_server.url, engine) as served, served.viewer() as viewer:
        await viewer.start()
        await viewer.ack(-1)
        first = [await viewer.chunk(ack=False) for _ in range(3)]
        # A ping's answer shows that nothing else was on its way.
        await viewer.say("session.ping")
        assert await viewer.next() == {"type": "session.pong"}
        assert list(engine.made.values()) == [first[-1].last_frame + 1]
        await viewer.ack(20)
        assert (await viewer.chunk(ack=False)).index == 3


async def test_an_ack_of_frames_that_were_not_sent_is_refused_and_gives_no_credit(
    redis_server: RedisServer,
) -> None:
    engine = FakeEngine()
    async with serving(redis_server.url, engine) as served, served.viewer() as viewer:
        await viewer.start()
        await viewer.ack(-1)
        for _ in range(3):
            await viewer.chunk(ack=False)
        await viewer.ack(10**9)
        error = await viewer.error()
        assert (error["code"], error["param"]) == ("invalid_value", "frame")
        assert not error["fatal"]
        (session,) = engine.sessions.values()
        # By the time a viewer beside it that says nothing has played as much, it would have, too.
        async with served.viewer() as clock:
            await clock.start()
            while (await clock.chunk(ack=False)).index < 5:
                pass
        assert session.played == -1
        await viewer.ack(32)
        assert (await viewer.chunk(ack=False)).index == 3


async def test_a_client_that_never_acks_is_credited_by_the_clock(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.start(fps=16)
        indices = [(await viewer.chunk(ack=False)).index for _ in range(6)]
        assert indices == list(range(6))


async def test_asap_runs_as_fast_as_the_socket_takes_it(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.start(pacing="asap", num_frames=9 + 40 * 12)
        while not isinstance(found := await viewer.next(), dict):
            assert found.index < 41
        assert found["reason"] == "complete"


async def test_pause_and_play(redis_server: RedisServer) -> None:
    engine = FakeEngine()
    async with serving(redis_server.url, engine) as served, served.viewer() as viewer:
        await viewer.start()
        await viewer.chunk()
        await viewer.say("session.pause")
        await viewer.message("session.paused", ack=True)
        (session,) = engine.sessions.values()
        assert session.paused
        await viewer.say("session.play")
        await viewer.ack(session.frames - 1)
        await viewer.chunk()


async def test_a_worker_whose_last_report_outlives_the_first_look_is_missed_all_the_same(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([True, True, False])

    async def alive(redis: object, worker_id: str) -> bool:
        return next(looks)  # once told, nobody looks again

    monkeypatch.setattr(silence, "is_alive", alive)
    monkeypatch.setattr(owner, "READ_MS", 20)
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.start()
        await viewer.chunk()
        await viewer.say("session.pause")
        await viewer.message("session.paused", ack=True)
        error = await viewer.error()
        assert (error["code"], error["retryable"], error["fatal"]) == ("worker_lost", True, False)
        await viewer.say("session.play")
        await viewer.chunk()


@pytest.mark.parametrize(
    ("start", "code", "words"),
    [
        ({"width": 999, "height": 96}, "unsupported_size", "160x96, 64x48"),
        ({"fps": 240}, "unsupported_fps", "16, 8"),
        ({"model": "sora"}, "model_not_found", "fake"),
        ({"codec": "vp8"}, "unsupported_codec", "h264, av1"),
        ({"format": "jpeg", "codec": "h264"}, "unsupported_codec", "jpeg"),
        ({"num_inference_steps": 50}, "invalid_value", "1 to 4"),
        ({"image": "aaaa"}, "not_supported", "leave image out"),
        ({"prompt": "x" * 1_000_000}, "invalid_value", "4096"),
    ],
)
async def test_a_start_the_model_cannot_do_is_refused_and_may_be_tried_again(
    redis_server: RedisServer, start: dict[str, object], code: str, words: str
) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.say("session.start", **{"prompt": "a ball", **start})
        error = await viewer.error()
        assert error["code"] == code
        assert words in error["message"]
        assert not error["fatal"]
        await viewer.start()
        await viewer.chunk()


async def test_a_start_image_is_read_beside_the_event_loop_that_others_need(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def fitted(data: bytes, size: tuple[int, int]) -> bytes:
        threads.append(threading.current_thread())
        return fitted_png(data, size)

    monkeypatch.setattr(live, "fitted_png", fitted)
    card = dataclasses.replace(CARD, start_image=True)
    out = io.BytesIO()
    Image.new("RGB", (20, 10)).save(out, "PNG")
    image = base64.b64encode(out.getvalue()).decode()
    async with serving(redis_server.url, card=card) as served, served.viewer() as viewer:
        await viewer.say("session.start", prompt="a ball", image=image)
        assert (await viewer.error())["message"] == "no start image here"  # the engine's word
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_garbage_is_answered_and_the_stream_goes_on(redis_server: RedisServer) -> None:
    async with (
        serving(redis_server.url) as served,
        served.viewer() as other,
        served.viewer() as viewer,
    ):
        await other.start(pacing="asap")
        await viewer.start()
        for raw in ("{", b"\x00", '{"type":"nonsense"}', '{"type":"session.start"}', ""):
            await viewer.socket.send(raw)
            assert (await viewer.error())["code"] in (
                "invalid_json",
                "binary_not_allowed",
                "unknown_type",
                "invalid_value",
                "wrong_order",
            )
        await viewer.chunk()
        for _ in range(5):
            await other.chunk()


async def test_a_failing_stream_says_why_and_leaves_others_alone(redis_server: RedisServer) -> None:
    async with (
        serving(redis_server.url) as served,
        served.viewer() as other,
        served.viewer() as viewer,
    ):
        await other.start(pacing="asap")
        await viewer.start(pacing="asap")
        await viewer.change("fail now", "e1")
        error = await viewer.error()
        assert error["code"] == "stream_failed"
        assert "the prompt said so" in error["message"]
        done = await viewer.message("session.done")
        assert done["reason"] == "error"
        for _ in range(5):
            await other.chunk()


async def test_a_full_worker_queues_and_says_the_position(redis_server: RedisServer) -> None:
    async with (
        serving(redis_server.url, FakeEngine(fit=1)) as served,
        served.viewer() as first,
        served.viewer() as second,
    ):
        await first.start()
        async with served.viewer() as third:
            await second.say("session.start", prompt="a")
            assert (await second.message("session.queued"))["position"] == 1
            await third.say("session.start", prompt="b")
            assert (await third.message("session.queued"))["position"] == 2
            await second.say("session.stop")
            assert (await second.message("session.done"))["chunks"] == 0
            assert (await third.message("session.queued"))["position"] == 1
            await first.say("session.stop")
            await third.message("video.start")
            await third.chunk()


async def test_a_queued_client_that_leaves_is_forgotten(redis_server: RedisServer) -> None:
    engine = FakeEngine(fit=1)
    async with serving(redis_server.url, engine) as served, served.viewer() as first:
        await first.start("first")
        async with served.viewer() as second:
            await second.say("session.start", prompt="second")
            await second.message("session.queued")
        async with served.viewer() as third:
            await third.say("session.start", prompt="third")
            await until(lambda: _position_is_one(third))
            await first.say("session.stop")
            await third.message("video.start")
            assert [session.text for session in engine.sessions.values()] == ["third"]


async def _position_is_one(viewer: object) -> bool:
    return (await viewer.message("session.queued"))["position"] == 1  # type: ignore[attr-defined]


async def test_a_full_queue_is_refused_with_the_number(redis_server: RedisServer) -> None:
    limits = Limits(queued_streams=1)
    async with (
        worker(redis_server.url, FakeEngine(fit=1)),
        gateway(redis_server.url, limits=limits) as served,
        served.viewer() as first,
        served.viewer() as second,
        served.viewer() as third,
    ):
        await until(served.context.cards)
        await first.start()
        await second.say("session.start", prompt="b")
        await second.message("session.queued")
        await third.say("session.start", prompt="c")
        error = await third.error()
        assert (error["code"], error["retryable"]) == ("capacity", True)
        assert "1 streams wait" in error["message"]


async def test_no_worker_at_all_is_said_at_once(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as served, served.viewer() as viewer:
        await viewer.say("session.start", prompt="a")
        error = await viewer.error()
        assert (error["code"], error["retryable"]) == ("model_not_found", True)


async def test_a_silent_connection_is_closed_with_a_reason(redis_server: RedisServer) -> None:
    limits = Limits(start_timeout_s=0.05)
    async with gateway(redis_server.url, limits=limits) as served, served.viewer() as viewer:
        error = await viewer.error()
        assert (error["code"], error["fatal"]) == ("start_timeout", True)
        await viewer.socket.wait_closed()
        assert viewer.socket.close_code == 4408


async def test_the_metadata_is_valid_json_in_the_documented_shape(
    redis_server: RedisServer,
) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.start(format="m4s")
        chunk = await viewer.chunk()
        assert set(json.loads(json.dumps(chunk.metadata))) == {
            "type",
            "epoch",
            "chunk_index",
            "first_frame",
            "num_frames",
            "pts",
            "duration",
            "bytes",
            "steps",
            "prompt_rev",
            "timings",
        }
        assert set(chunk.metadata["timings"]) == {
            "queue_ms",
            "denoise_ms",
            "decode_ms",
            "encode_ms",
        }
