import io
from typing import Any

import av
import pytest

from tests.conftest import RedisServer
from tests.server.fakes import FakeEngine
from tests.server.harness import Viewer, serving, until

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def _resume(viewer: Viewer, start: dict[str, Any], after: int, **fields: Any) -> None:
    await viewer.say(
        "session.resume",
        session_id=start["session_id"],
        resume_token=start["resume_token"],
        after_chunk=after,
        **fields,
    )


async def test_a_dropped_viewer_resumes_without_losing_a_frame(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served:
        async with served.viewer() as viewer:
            start = await viewer.start(format="avcc")
            for _ in range(4):
                last = await viewer.chunk()
        async with served.viewer() as viewer:
            await _resume(viewer, start, last.index)
            again = await viewer.message("video.start")
            assert again["session_id"] == start["session_id"]
            assert again["resume_token"] != start["resume_token"]
            assert again["config"] == start["config"]
            chunks = [await viewer.chunk() for _ in range(4)]
            assert chunks[0].metadata["units"][0]["keyframe"]
            assert chunks[0].index <= last.index + 1
            assert [chunk.index for chunk in chunks] == [chunks[0].index + n for n in range(4)]


async def test_the_binaries_after_a_resume_play_on_their_own(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served:
        async with served.viewer() as viewer:
            start = await viewer.start(format="m4s")
            for _ in range(3):
                last = await viewer.chunk()
        async with served.viewer() as viewer:
            await _resume(viewer, start, last.index)
            film = b"".join([(await viewer.chunk()).binary for _ in range(3)])
    with av.open(io.BytesIO(film)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 36


async def test_a_lost_connection_pauses_and_a_resume_plays_on(redis_server: RedisServer) -> None:
    engine = FakeEngine()
    async with serving(redis_server.url, engine) as served:
        async with served.viewer() as viewer:
            start = await viewer.start()
            last = await viewer.chunk()
        await until(lambda: [s.paused for s in engine.sessions.values()] == [True])
        async with served.viewer() as viewer:
            await _resume(viewer, start, last.index)
            while (await viewer.chunk()).index < last.index + 4:
                pass
            assert [session.paused for session in engine.sessions.values()] == [False]


async def test_a_token_is_valid_once_and_only_the_newest(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served, served.viewer() as first:
        start = await first.start()
        async with served.viewer() as second:
            await _resume(second, start, -1)
            newer = await second.message("video.start")
            async with served.viewer() as third:
                await _resume(third, start, -1)
                assert (await third.error())["code"] == "invalid_token"
                await _resume(third, newer, -1)
                await third.message("video.start")
                await third.chunk()
            error = await second.error()
            assert (error["code"], error["fatal"]) == ("taken_over", True)
        error = await first.error()
        assert error["code"] == "taken_over"
        await first.socket.wait_closed()
        assert first.socket.close_code == 4409


@pytest.mark.parametrize(
    ("session_id", "token", "code"),
    [("ses_none", "x", "session_not_found"), ("../x", "x", "invalid_value")],
)
async def test_a_resume_of_nothing_is_refused(
    redis_server: RedisServer, session_id: str, token: str, code: str
) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.say("session.resume", session_id=session_id, resume_token=token)
        assert (await viewer.error())["code"] == code
        await viewer.start()


async def test_an_ended_stream_cannot_be_resumed(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served:
        async with served.viewer() as viewer:
            start = await viewer.start(num_frames=9)
            await viewer.message("session.done", ack=True)
        async with served.viewer() as viewer:
            await _resume(viewer, start, 0)
            assert (await viewer.error())["code"] == "session_not_found"


async def test_a_resume_may_ask_for_a_format_of_another_codec(redis_server: RedisServer) -> None:
    async with serving(redis_server.url) as served:
        async with served.viewer() as viewer:
            start = await viewer.start(format="avcc")
            await viewer.ack(-1)
            # The lead is used up, so that only the credit of skipped frames lets it go on.
            for _ in range(3):
                last = await viewer.chunk(ack=False)
        async with served.viewer() as viewer:
            await _resume(viewer, start, last.index, format="jpeg")
            again = await viewer.message("video.start")
            assert (again["format"], again["config"]["codec"]) == ("jpeg", "jpeg")
            chunk = await viewer.chunk()
            assert chunk.binary[:2] == b"\xff\xd8"
            assert chunk.index > last.index


async def test_a_lost_decoder_begins_again_at_the_newest_key_chunk(
    redis_server: RedisServer,
) -> None:
    async with serving(redis_server.url) as served, served.viewer() as viewer:
        await viewer.start(format="avcc")
        await viewer.ack(-1)
        chunks = [await viewer.chunk(ack=False) for _ in range(3)]
        assert chunks[-1].index == 2
        await viewer.say("session.keyframe")
        again = await viewer.chunk()
        assert again.index == 2
        assert again.metadata["units"][0]["keyframe"]
        assert (await viewer.chunk()).index == 3
