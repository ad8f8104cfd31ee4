"""The Python client against the real gateway and worker; only the pictures are drawn."""

import ast
import asyncio
import io
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import av
import numpy as np
import pytest

from longtake_client import (
    ApiError,
    ChangeSuperseded,
    Chunk,
    Client,
    ConnectionLost,
    StreamError,
    WeightedPrompt,
)
from longtake_client.cli import main
from longtake_client.live import FragmentFile
from longtake_client.progress import Bar, render
from server.gateway.auth import Gate
from tests.clients.client_site import Site, client_site
from tests.conftest import RedisServer
from tests.server.fakes import FakeEngine, colour
from tests.server.harness import gateway, until

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def site(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Site]:
    async with client_site(redis_server.url, tmp_path / "data", FakeEngine()) as running:
        yield running


@pytest.fixture
async def slow_site(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Site]:
    async with client_site(redis_server.url, tmp_path / "data", FakeEngine(chunk_s=0.1)) as running:
        yield running


def pictures(data: bytes) -> list[tuple[int, ...]]:
    """Return the colour that fills each picture of a film."""
    with av.open(io.BytesIO(data), "r") as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    return [tuple(int(v) for v in np.median(frame, axis=(0, 1))) for frame in frames]


def near(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 30


def join(chunks: list[Chunk]) -> bytes:
    out = bytearray()
    sink = FragmentFile(out.extend)
    for chunk in chunks:
        sink.add(chunk)
    return bytes(out)


async def test_a_finite_stream_is_iterated_to_its_end_and_plays(site: Site) -> None:
    async with (
        Client(site.url) as client,
        client.stream("a red ball", num_frames=45, pacing="asap", seed=7) as stream,
    ):
        config = await stream.config()
        assert (config.width, config.height, config.fps, config.seed) == (160, 96, 16, 7)
        chunks = [chunk async for chunk in stream]
        assert [(c.index, c.first_frame, c.num_frames) for c in chunks] == [
            (0, 0, 9), (1, 9, 12), (2, 21, 12), (3, 33, 12),
        ]  # fmt: skip
        assert stream.done is not None
        assert (stream.done.reason, stream.done.frames) == ("complete", 45)
        assert len(pictures(b"".join(chunk.data for chunk in chunks))) == 45


@pytest.mark.parametrize("wire_format", ["avcc", "jpeg"])
async def test_chunks_hold_their_access_units(site: Site, wire_format: str) -> None:
    async with (
        Client(site.url) as client,
        client.stream("x", num_frames=21, format=wire_format, pacing="asap") as stream,
    ):
        config = await stream.config()
        units = [unit async for chunk in stream for unit in chunk.access_units()]
        assert len(units) == 21
        assert bool(config.init) == (wire_format == "avcc")
        if wire_format == "jpeg":
            assert all(unit.startswith(b"\xff\xd8\xff") for unit in units)


async def test_a_prompt_change_returns_its_receipts_and_shows_where_they_say(site: Site) -> None:
    async with Client(site.url) as client, client.stream("first") as stream:
        chunks = [await anext(stream)]
        change = await stream.prompt([WeightedPrompt("second", 2.0)])
        while chunks[-1].prompt_rev == 0:
            await stream.ack(chunks[-1].last_frame)
            chunks.append(await anext(stream))
        receipt = await change.applied()
        shown = next(chunk for chunk in chunks if chunk.prompt_rev == 1)
        assert (receipt.chunk_index, receipt.first_frame) == (shown.index, shown.first_frame)
        assert receipt.pts_s == shown.pts_s
        colours = pictures(join(chunks))
        assert near(colours[shown.first_frame - 1], colour("first"))
        assert near(colours[shown.first_frame], colour("second"))


async def test_a_receipt_comes_even_while_nobody_takes_chunks(site: Site) -> None:
    async with (
        Client(site.url) as client,
        client.stream("first", pacing="asap", buffer_chunks=2) as stream,
    ):
        await anext(stream)
        change = await stream.prompt("second")
        async with asyncio.timeout(20):
            receipt = await change.applied()
        async for chunk in stream:
            if chunk.index == receipt.chunk_index:
                assert chunk.prompt_rev == 1
                break


async def test_a_superseded_change_says_so(slow_site: Site) -> None:
    async with Client(slow_site.url) as client, client.stream("first") as stream:
        await anext(stream)
        one = await stream.prompt("second")
        two = await stream.prompt("third")
        results = []
        for change in (one, two):
            try:
                results.append((await change.applied()).event_id)
            except ChangeSuperseded:
                results.append("superseded")
        # Whether both fell between the same two chunks is the engine's pace, not ours.
        assert results in (["superseded", two.event_id], [one.event_id, two.event_id])


async def test_leaving_the_block_frees_the_stream_at_once(site: Site) -> None:
    async with Client(site.url) as client:
        async with client.stream("x") as stream:
            await anext(stream)
        await until(lambda: not site.engine.sessions)


async def test_stop_lets_the_rest_be_read(site: Site) -> None:
    async with Client(site.url) as client, client.stream("x") as stream:
        await anext(stream)
        await stream.stop()
        rest = [chunk async for chunk in stream]
        assert stream.done is not None
        assert stream.done.reason == "stopped"
        assert stream.done.chunks >= len(rest) + 1


async def test_pause_stands_still_and_play_goes_on(site: Site) -> None:
    async with Client(site.url) as client, client.stream("x") as stream:
        first = await anext(stream)
        await stream.pause()
        await until(lambda: all(s.paused for s in site.engine.sessions.values()))
        await stream.play()
        await stream.ack(first.last_frame)
        assert (await anext(stream)).index == 1


async def test_a_cut_connection_is_taken_up_without_losing_a_frame(slow_site: Site) -> None:
    site = slow_site
    async with (
        Client(site.wired_url) as client,
        client.stream("x", num_frames=105, pacing="asap") as stream,
    ):
        chunks: list[Chunk] = []
        async for chunk in stream:
            chunks.append(chunk)
            if chunk.index in (2, 5):
                site.wire.cut()
        assert stream.reconnects == 2
        assert [c.first_frame for c in chunks] == [0, 9, 21, 33, 45, 57, 69, 81, 93]
        assert len(pictures(join(chunks))) == 105


async def test_a_change_cut_off_on_its_way_is_sent_again(slow_site: Site) -> None:
    site = slow_site
    async with (
        Client(site.wired_url) as client,
        client.stream("first", num_frames=153, pacing="asap") as stream,
    ):
        await anext(stream)
        site.wire.cut()
        change = await stream.prompt("second")
        revs = [chunk.prompt_rev async for chunk in stream]
        assert (await change.applied()).event_id == change.event_id
        assert revs[-1] == 1


async def test_a_server_that_stays_away_ends_the_stream_in_words(site: Site) -> None:
    async with (
        Client(site.wired_url) as client,
        client.stream("x", reconnect_s=0.3) as stream,
    ):
        await anext(stream)
        site.wire.closed = True
        site.wire.cut()
        with pytest.raises(ConnectionLost):
            async for _ in stream:
                pass
        with pytest.raises(ConnectionLost):
            await stream.prompt("too late")


async def test_a_refused_start_is_an_exception_with_the_servers_words(site: Site) -> None:
    async with Client(site.url) as client:
        async with client.stream("x", fps=99) as stream:
            with pytest.raises(StreamError, match="99") as caught:
                await stream.config()
            assert (caught.value.code, caught.value.param) == ("unsupported_fps", "fps")
            with pytest.raises(StreamError):
                await anext(stream)
        async with client.stream("x") as stream:
            with pytest.raises(StreamError) as caught:
                await stream.prompt("   ")
            assert caught.value.code == "invalid_value"
            # The stream itself goes on.
            assert (await anext(stream)).index == 0


async def test_nobody_listening_is_told_at_once(site: Site) -> None:
    site.wire.closed = True
    async with Client(site.wired_url) as client:
        with pytest.raises(ConnectionLost):
            await client.models()
        async with client.stream("x") as stream:
            with pytest.raises(ConnectionLost):
                await anext(stream)


async def test_a_handshake_without_a_key_shows_the_servers_words(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, gate=Gate(api_keys=("secret-key",))) as served:
        async with Client(served.http) as client, client.stream("x") as stream:
            with pytest.raises(ApiError, match="Authorization") as caught:
                await anext(stream)
            assert (caught.value.status, caught.value.code) == (401, "unauthorized")
            with pytest.raises(ApiError):
                await client.models()
        async with Client(served.http, api_key="secret-key") as client:
            assert await client.models() == []


async def test_a_job_is_created_followed_and_downloaded(site: Site, tmp_path: Path) -> None:
    async with Client(site.url) as client:
        video = await client.jobs.create("first", seconds=3, seed=5, later=[(1.5, "second")])
        assert (video.status, video.num_frames) == ("queued", 48)
        shown: list[int] = []
        done = await client.jobs.wait(video.id, lambda v: shown.append(v.progress))
        assert (done.status, done.progress, shown[-1]) == ("completed", 100, 100)
        assert shown == sorted(shown)
        told: list[tuple[int, int]] = []
        path = tmp_path / "film.mp4"
        await client.jobs.download(video.id, path, lambda a, b: told.append((a, b)))
        assert told[-1] == (path.stat().st_size,) * 2
        assert len(pictures(path.read_bytes())) == 48
        assert [v.id async for v in client.jobs.list()] == [video.id]
        await client.jobs.delete(video.id)
        with pytest.raises(ApiError) as caught:
            await client.jobs.get(video.id)
        assert (caught.value.status, caught.value.code) == (404, "not_found")


async def test_a_video_is_extended_and_remixed(site: Site) -> None:
    async with Client(site.url) as client:
        video = await client.jobs.create("first", seconds=1, seed=5)
        await client.jobs.wait(video.id)
        longer = await client.jobs.extend(video.id, seconds=2, prompt="second")
        assert (longer.seconds, longer.num_frames) == ("3", 48)
        assert (await client.jobs.wait(longer.id)).status == "completed"
        remix = await client.jobs.remix(video.id, "third")
        assert (remix.raw["remixed_from_video_id"], remix.raw["seed"]) == (video.id, 5)


def test_the_code_in_the_readme_compiles() -> None:
    text = (ROOT / "clients/python/README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def test_events_go_on_over_a_cut_connection(slow_site: Site) -> None:
    site = slow_site
    async with Client(site.wired_url) as client:
        video = await client.jobs.create("x", seconds=8)
        numbers = []
        async for event in client.jobs.events(video.id, after=0):
            numbers.append(event.sequence)
            if len(numbers) in (3, 6):
                site.wire.cut()
        assert numbers == list(range(1, numbers[-1] + 1))


async def test_downloading_too_early_says_when_to_come_back(
    slow_site: Site, tmp_path: Path
) -> None:
    async with Client(slow_site.url) as client:
        video = await client.jobs.create("x", seconds=60)
        with pytest.raises(ApiError) as caught:
            await client.jobs.download(video.id, tmp_path / "film.mp4")
        assert (caught.value.code, caught.value.retry_after_s) == ("video_not_ready", 2.0)
        assert not [name for name in os.listdir(tmp_path) if name.startswith("film")]  # noqa: PTH208
        cancelled = await client.jobs.cancel(video.id)
        assert cancelled.status == "cancelled"


async def test_an_image_that_is_none_is_refused_before_it_is_sent(site: Site) -> None:
    async with Client(site.url) as client:
        with pytest.raises(ValueError, match="PNG"):
            await client.jobs.create("x", image=b"GIF89a")


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:8000"):
        Client("localhost:8000")


async def run_cli(site: Site, *words: str) -> tuple[int, bytes, str]:
    """Run the program as a user does: another process."""

    def run() -> "subprocess.CompletedProcess[bytes]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "clients/python")}
        command = [sys.executable, "-m", "longtake_client", "--url", site.url, *words]
        return subprocess.run(
            command, capture_output=True, env=environment, timeout=60, stdin=subprocess.DEVNULL
        )

    done = await asyncio.to_thread(run)
    return done.returncode, done.stdout, done.stderr.decode()


async def test_generate_writes_a_file_and_tells_its_progress(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    status, _, told = await run_cli(
        site, "generate", "first", "--seconds", "6", "--at", "3=second", "--out", str(path)
    )
    assert status == 0, told
    assert "100 %" in told
    assert "second" in told
    colours = pictures(path.read_bytes())
    assert len(colours) == 96
    assert near(colours[0], colour("first"))
    assert near(colours[-1], colour("second"))


async def test_watch_writes_what_plays_to_standard_output(site: Site) -> None:
    status, film, told = await run_cli(site, "watch", "x", "--seconds", "1", "--out", "-")
    assert status == 0, told
    assert len(pictures(film)) >= 16


async def test_job_commands_create_show_list_download_delete(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def job(*words: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(main, ["--url", site.url, "job", *words])
        told = capsys.readouterr()
        return status, told.out, told.err

    path = tmp_path / "job.mp4"
    status, out, told = await job("create", "x", "--seconds", "2", "--out", str(path))
    assert status == 0, told
    video_id = out.strip()
    assert len(pictures(path.read_bytes())) == 32
    longer = await job("extend", video_id, "--seconds", "1", "--out", str(path))
    assert longer[0] == 0
    assert len(pictures(path.read_bytes())) == 48
    for verb in ("show", "wait"):
        status, out, _ = await job(verb, video_id)
        assert (status, "completed" in out) == (0, True)
    assert video_id in (await job("list"))[1]
    assert (await job("download", video_id, "--out", str(path)))[0] == 0
    assert (await job("delete", video_id))[0] == 0
    status, _, told = await job("show", video_id)
    assert status == 1
    assert "not_found" in told


def test_wrong_words_are_answered_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for words, hint in (
        (["generate", "x", "--at", "soon", "--out", "a.mp4"], "seconds=prompt"),
        (["generate", "x", "--size", "big", "--out", "a.mp4"], "width x height"),
        (["--url", "nowhere", "job", "list"], "http://127.0.0.1:8000"),
        (["--url", "http://127.0.0.1:9", "job", "list"], "cannot be reached"),
        (["job", "list", "--url", "nowhere"], "http://127.0.0.1:8000"),
        (["watch", "x", "--url", "nowhere", "--out", "-"], "http://127.0.0.1:8000"),
        (["generate", "x", "--at", "99=y", "--seconds", "3", "--out", "a.mp4"], "ends at 3 s"),
        (["job", "create", "x", "--at", "8=y"], "ends at 8 s"),
        (["generate", "x", "--seconds", "0", "--out", "a.mp4"], "--seconds 0; give a length above"),
        (["job", "extend", "video", "--seconds", "-1"], "--seconds -1; give a length above"),
        (["job", "create", "x", "--out", "/nonexist/x.mp4"], "no folder /nonexist; make it first"),
        (["generate", "x", "--out", "/nonexist/x.mp4"], "no folder /nonexist; make it first"),
    ):
        assert main(words) == 1
        assert hint in capsys.readouterr().err


def test_a_bar_fits_its_line_and_is_plain_elsewhere() -> None:
    assert render("x", 5, 10, "", 30) == "x [#########..........]  50 %"
    assert len(render("generating", 1, 3, "n" * 99, 40)) == 40
    assert render("x", 3, None, "frames", 30) == "x  3  frames"
    out = io.StringIO()
    bar = Bar(out, "x")
    for done in range(11):
        bar.show(done, 20)
    bar.close()
    assert out.getvalue().splitlines() == [f"x: {n} %" for n in (0, 10, 20, 30, 40, 50)]
