"""``/v1/videos`` over a real socket, with the unmodified ``openai`` SDK and with bare HTTP."""

import asyncio
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import av
import httpx
import openai
import pytest
from PIL import Image

from server.fabric.keys import record as record_key
from tests.server.jobs.conftest import Site
from tests.server.jobs.making import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.redis,
    # The SDK marks its whole videos API as deprecated.
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),
]


async def finished(site: Site, **fields: Any) -> str:
    """Create a job over JSON and wait until it has ended; return its id."""
    async with site.http() as http:
        made = await http.post("/v1/videos", json={"prompt": "a red ball", **fields})
        assert made.status_code == 200, made.text
        job_id: str = made.json()["id"]
        await ended(site, job_id)
        return job_id


async def ended(site: Site, job_id: str) -> None:
    async def over() -> bool:
        job = await site.store.get(job_id)
        return job is None or job.ended

    await until(over)


def ffprobe(path: Path) -> dict[str, Any]:
    words = ["ffprobe", "-v", "error", "-show_streams", "-count_frames", "-of", "json", str(path)]
    told = subprocess.run(words, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(told.stdout)["streams"][0]
    return found


def png(color: tuple[int, int, int] = (200, 10, 20), size: tuple[int, int] = (320, 192)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


async def test_the_openai_sdk_creates_polls_and_downloads(site: Site, tmp_path: Path) -> None:
    client = site.openai()
    video = await client.videos.create_and_poll(
        model="tiny",
        prompt="a red ball",
        seconds="8",
        size="160x96",  # type: ignore[arg-type]
    )
    assert (video.status, video.progress, video.seconds, video.size) == (
        "completed", 100, "8", "160x96",
    )  # fmt: skip
    assert video.completed_at is not None
    content = await client.videos.download_content(video.id)
    path = tmp_path / "out.mp4"
    path.write_bytes(content.content)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, str(stream.average_rate)) == (160, 96, "16")
        assert sum(1 for _ in container.decode(stream)) == 128
    if shutil.which("ffprobe") is not None:  # another program's opinion, where there is one
        told = await asyncio.to_thread(ffprobe, path)
        assert (told["nb_frames"], told["nb_read_frames"]) == ("128", "128")
        assert float(told["duration"]) == 8.0
    # The index comes before the pictures, so a player starts before the download has ended.
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    thumbnail = await client.videos.download_content(video.id, variant="thumbnail")
    assert Image.open(io.BytesIO(thumbnail.content)).size == (160, 96)
    await client.close()


async def test_the_openai_sdk_lists_every_page_and_deletes_while_listing(site: Site) -> None:
    client = site.openai()
    site.engine.hold_at = 0
    made = [(await client.videos.create(prompt=f"ball {n}")).id for n in range(3)]
    listed = [video.id async for video in client.videos.list(limit=2)]
    assert listed == made[::-1]
    assert [video.id async for video in client.videos.list(limit=2, order="asc")] == made
    async for video in client.videos.list(limit=2):
        gone = await client.videos.delete(video.id)
        assert (gone.id, gone.deleted, gone.object) == (video.id, True, "video.deleted")
    assert [video.id async for video in client.videos.list()] == []
    with pytest.raises(openai.NotFoundError) as caught:
        await client.videos.retrieve(made[0])
    assert caught.value.code == "not_found"
    await client.close()


async def test_a_record_that_cannot_be_read_or_shown_hides_no_other(site: Site) -> None:
    site.engine.hold_at = 0
    async with site.http() as http:
        ids = [(await http.post("/v1/videos", json={"prompt": "x"})).json()["id"] for _ in range(3)]
        await site.redis.do("HSET", record_key("job", ids[0]), "request", "{")
        request = json.loads(await site.redis.do("HGET", record_key("job", ids[1]), "request"))
        request["prompts"][0]["parts"] = [["half \ud800", 1.0]]
        await site.redis.do("HSET", record_key("job", ids[1]), "request", json.dumps(request))
        listed = await http.get("/v1/videos")
        assert listed.status_code == 200, listed.text
        assert [v["id"] for v in listed.json()["data"]] == [ids[2], ids[1]]
        assert listed.json()["data"][1]["prompt"] == "half ?"
        assert (await http.delete(f"/v1/videos/{ids[0]}")).status_code == 200


async def test_content_before_the_end_says_not_ready_and_when_to_come_back(site: Site) -> None:
    site.engine.hold_at = 21
    async with site.http() as http:
        made = (await http.post("/v1/videos", json={"prompt": "x"})).json()
        early = await http.get(f"/v1/videos/{made['id']}/content")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "video_not_ready")
        assert int(early.headers["retry-after"]) >= 1
        shown = await http.get(f"/v1/videos/{made['id']}")
        assert int(shown.headers["openai-poll-after-ms"]) > 0


async def test_content_answers_ranges(site: Site) -> None:
    job_id = await finished(site, seconds="1")
    url = f"/v1/videos/{job_id}/content"
    async with site.http() as http:
        whole = await http.get(url, headers={"accept": "application/binary"})
        size = len(whole.content)
        assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
        assert whole.headers["content-type"] == "video/mp4"
        for text, expected in [
            ("bytes=0-99", whole.content[:100]),
            ("bytes=100-", whole.content[100:]),
            ("bytes=-50", whole.content[-50:]),
        ]:
            part = await http.get(url, headers={"range": text})
            assert (part.status_code, part.content) == (206, expected)
            assert part.headers["content-range"].endswith(f"/{size}")
        beyond = await http.get(url, headers={"range": f"bytes={size}-"})
        assert beyond.status_code == 416
        head = await http.head(url)
        assert (head.status_code, head.headers["content-length"]) == (200, str(size))


async def test_head_says_what_get_would_without_the_body(site: Site) -> None:
    job_id = await finished(site, num_frames=1)
    async with site.http() as http:
        for path, status, kind in (
            ("", 200, "application/json"),
            ("/events", 200, "text/event-stream"),
            ("/content", 200, "video/mp4"),
            ("x", 404, "application/json"),
        ):
            answer = await http.head(f"/v1/videos/{job_id}{path}")
            assert answer.status_code == status, path
            assert answer.headers["content-type"].startswith(kind), path
            assert answer.content == b""
        assert (await http.head("/v1/videos")).status_code == 200


async def test_files_that_another_machine_keeps_are_said_to_be_missing_here(site: Site) -> None:
    job_id = await finished(site, num_frames=9)
    (segment,) = await site.store.segments(job_id)
    shutil.rmtree(site.data_dir / "jobs" / job_id)
    async with site.http() as http:
        for method, path, body in (
            ("GET", f"/v1/videos/{job_id}/content", None),
            ("GET", f"/v1/videos/{job_id}/content?variant=thumbnail", None),
            ("GET", f"/v1/videos/{job_id}/segments/{segment.name}", None),
            ("POST", "/v1/videos/extensions", {"video": job_id, "seconds": 1}),
        ):
            answer = await http.request(method, path, json=body)
            assert answer.status_code == 500, (path, answer.text)
            error = answer.json()["error"]
            assert error["code"] == "storage_failed"
            assert (
                f"data folder, {site.data_dir}; gateways and workers must share" in error["message"]
            )
        other = await http.get(f"/v1/videos/{job_id}/segments/seg-00000099-e0.m4s")
        assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found")


async def test_deleting_a_running_job_stops_it_and_removes_its_files(site: Site) -> None:
    site.engine.hold_at = 100
    async with site.http() as http:
        made = (await http.post("/v1/videos", json={"prompt": "x", "seconds": "60"})).json()
        folder = site.data_dir / "jobs" / made["id"]
        await until(lambda: site.store.segments(made["id"]))
        assert folder.exists()
        assert (await http.delete(f"/v1/videos/{made['id']}")).json()["deleted"] is True

        async def stopped() -> bool:
            return not site.engine.sessions and not folder.exists()

        await until(stopped)
        for path in ("", "/content", "/events", "/live.m3u8"):
            gone = await http.get(f"/v1/videos/{made['id']}{path}")
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
        assert (await http.delete(f"/v1/videos/{made['id']}")).status_code == 404
    # The worker is free for the next job.
    site.engine.go()
    await finished(site, seconds="1")


async def test_a_cancelled_job_keeps_its_record_and_what_was_made(site: Site) -> None:
    site.engine.hold_at = 100
    async with site.http() as http:
        made = (await http.post("/v1/videos", json={"prompt": "x", "seconds": "60"})).json()
        await until(lambda: site.store.segments(made["id"]))
        cancelled = (await http.post(f"/v1/videos/{made['id']}/cancel")).json()
        assert cancelled["status"] == "cancelled"
        again = (await http.post(f"/v1/videos/{made['id']}/cancel")).json()
        assert again["completed_at"] == cancelled["completed_at"]
        content = await http.get(f"/v1/videos/{made['id']}/content")
        assert content.json()["error"]["code"] == "video_has_no_content"
        playlist = await http.get(f"/v1/videos/{made['id']}/live.m3u8")
        assert playlist.text.endswith("#EXT-X-ENDLIST\n")


async def test_the_playlist_grows_and_ends_and_its_files_play(site: Site, tmp_path: Path) -> None:
    site.engine.hold_at = 100
    async with site.http() as http:
        made = (await http.post("/v1/videos", json={"prompt": "x", "seconds": "9"})).json()
        url = f"/v1/videos/{made['id']}/live.m3u8"
        early = await http.get(url)
        assert early.headers["content-type"].startswith("application/vnd.apple.mpegurl")
        assert "#EXT-X-PLAYLIST-TYPE:EVENT" in early.text
        assert "#EXT-X-ENDLIST" not in early.text
        site.engine.go()
        await ended(site, made["id"])
        late = await http.get(url)
        assert late.text.startswith(early.text)
        assert late.text.endswith("#EXT-X-ENDLIST\n")
        names = [line for line in late.text.splitlines() if not line.startswith("#")]
        [init] = [
            line.split('"')[1] for line in late.text.splitlines() if line.startswith("#EXT-X-MAP")
        ]
        base = f"/v1/videos/{made['id']}/"
        files = [await http.get(base + name) for name in (init, *names)]
        assert {file.status_code for file in files} == {200}
        assert "immutable" in files[0].headers["cache-control"]
        path = tmp_path / "hls.mp4"
        path.write_bytes(b"".join(file.content for file in files))
        with av.open(str(path)) as video:
            assert sum(1 for _ in video.decode(video=0)) == 144
        for name in ("video.mp4", "input.png", "%2e%2e", "seg-1.m4s", "seg-00000000-e99.m4s"):
            assert (await http.get(f"{base}segments/{name}")).status_code == 404


async def test_a_player_without_headers_keeps_its_key_in_every_address(site: Site) -> None:
    job_id = await finished(site, seconds="1")
    async with site.http() as http:
        text = (await http.get(f"/v1/videos/{job_id}/live.m3u8?key=abc")).text
    assert text.count("?key=abc") == 2


async def read_events(http: httpx.AsyncClient, url: str, **headers: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    async with http.stream("GET", url, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        number = kind = ""
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                number = value
            elif name == "event":
                kind = value
            elif name == "data":
                event = json.loads(value)
                assert (event["type"], str(event["sequence_number"])) == (kind, number)
                events.append(event)
    return events


async def test_events_tell_the_progress_and_resume_where_the_client_was(site: Site) -> None:
    site.engine.hold_at = 33
    async with site.http() as http:
        made = (await http.post("/v1/videos", json={"prompt": "x"})).json()
        url = f"/v1/videos/{made['id']}/events"
        reading = asyncio.create_task(read_events(http, url, **{"last-event-id": "0"}))

        async def begun() -> bool:
            return bool(site.engine.sessions)

        await until(begun)
        site.engine.go()
        events = await reading
        assert events[0]["type"] == "video.queued"
        assert events[-1]["type"] == "video.completed"
        numbers = [event["sequence_number"] for event in events]
        assert numbers == list(range(1, len(events) + 1))
        percents = [event["video"]["progress"] for event in events]
        assert percents == sorted(percents)
        assert (percents[-1], percents[-2]) == (100, 99)
        assert [e["frames_done"] for e in events if e["frames_done"]][:3] == [9, 21, 33]
        rest = await read_events(http, url, **{"last-event-id": str(numbers[-3])})
        assert [e["sequence_number"] for e in rest] == numbers[-2:]
        late = await read_events(http, url)
        assert [e["type"] for e in late] == ["video.completed"]


async def test_events_of_a_deleted_job_say_so_and_end(site: Site) -> None:
    site.engine.hold_at = 0
    async with site.http() as http:
        made = (await http.post("/v1/videos", json={"prompt": "x"})).json()
        async with http.stream("GET", f"/v1/videos/{made['id']}/events") as answer:
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("id: ")
            await http.delete(f"/v1/videos/{made['id']}")
            kinds = [line async for line in lines if line.startswith("event: ")]
    assert kinds[-1] == "event: video.deleted"


async def test_wrong_list_parameters_are_refused(site: Site) -> None:
    async with site.http() as http:
        for query in ("limit=0", "limit=101", "limit=x", "order=up", "after=nobody"):
            answer = await http.get(f"/v1/videos?{query}")
            assert answer.status_code == 400, query
            assert answer.json()["error"]["param"] == query.partition("=")[0]


async def test_a_failed_job_shows_its_error(site: Site) -> None:
    site.engine.error_at = 21
    job_id = await finished(site)
    client = site.openai()
    video = await client.videos.retrieve(job_id)
    assert video.status == "failed"
    assert video.error is not None
    assert video.error.code == "generation_failed"
    await client.close()


@pytest.mark.parametrize("file", ["content", "content?variant=thumbnail", "segment"])
async def test_a_file_that_is_deleted_right_before_it_is_sent_is_not_found(
    site: Site, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    job_id = await finished(site)
    if file == "segment":
        file = f"segments/{(await site.store.segments(job_id))[0].name}"
    is_file = Path.is_file

    def seen_and_deleted(path: Path) -> bool:
        there = is_file(path)
        if there and job_id in path.parts:
            path.unlink()
        return there

    monkeypatch.setattr(Path, "is_file", seen_and_deleted)
    async with site.http() as http:
        answer = await http.get(f"/v1/videos/{job_id}/{file}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert "cache-control" not in answer.headers
