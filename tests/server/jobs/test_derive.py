"""Videos made from videos: remixes and extensions, over a real socket."""

import asyncio
from pathlib import Path

import pytest

from tests.server.jobs.conftest import Site
from tests.server.jobs.making import until
from tests.server.jobs.test_routes import finished, png
from tests.server.jobs.test_runner import shows_each_frame_once

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),
]


async def over(site: Site, job_id: str) -> None:
    async def ended() -> bool:
        job = await site.store.get(job_id)
        return job is not None and job.ended

    await until(ended)


async def test_the_sdk_remixes_with_the_same_seed_and_length(site: Site) -> None:
    source = await finished(site, seconds="1", seed=5, size="96x160")
    client = site.openai()
    video = await client.videos.remix(source, prompt="a blue ball")
    assert video.remixed_from_video_id == source
    await over(site, video.id)
    job = await site.store.get(video.id)
    assert job is not None
    assert (job.status, job.request.prompt) == ("completed", "a blue ball")
    assert (job.request.seed, job.request.num_frames, job.request.width) == (5, 16, 96)
    await client.close()


async def test_a_remix_of_a_video_with_a_start_image_begins_from_it_too(site: Site) -> None:
    client = site.openai()
    source = await client.videos.create(
        prompt="x",
        seconds="1",  # type: ignore[arg-type]
        input_reference=("a.png", png(), "image/png"),
    )
    await over(site, source.id)
    remix = await client.videos.remix(source.id, prompt="y")
    await client.videos.delete(source.id)
    await over(site, remix.id)
    assert site.engine.specs[1].start_image is not None
    await client.close()


async def test_an_extension_begins_with_the_very_pictures_of_its_source(
    site: Site, tmp_path: Path
) -> None:
    source = await finished(site, seconds="4")
    old = await site.store.segments(source)
    site.engine.hold_at = 60
    async with site.http() as http:
        body = {"video": {"id": source}, "prompt": "night", "seconds": "3"}
        made = (await http.post("/v1/videos/extensions", json=body)).json()
        assert (made["seconds"], made["num_frames"], made["frames_done"]) == ("7", 112, 64)
        assert made["extends_video_id"] == source
        # It can be watched up to the old end before anything new is generated.
        text = (await http.get(f"/v1/videos/{made['id']}/live.m3u8")).text
        assert all(segment.name in text for segment in old)
        # The source is not needed any more.
        await http.delete(f"/v1/videos/{source}")
        site.engine.go()
        await over(site, made["id"])
        segments = await site.store.segments(made["id"])
        assert segments[: len(old)] == old
        assert segments[len(old)].first_frame == 64
        path = tmp_path / "long.mp4"
        content = (await http.get(f"/v1/videos/{made['id']}/content")).content
        await asyncio.to_thread(path.write_bytes, content)
    assert shows_each_frame_once(path, 112)
    assert [timed.frame for timed in site.engine.specs[-1].timed_prompts] == [64]


async def test_a_form_names_the_source_in_brackets(site: Site) -> None:
    source = await finished(site, seconds="1")
    async with site.http() as http:
        files = {"prompt": (None, "on"), "seconds": (None, "2"), "video[id]": (None, source)}
        made = await http.post("/v1/videos/extensions", files=files)
        assert made.status_code == 200, made.text
        assert made.json()["num_frames"] == 48


async def test_what_cannot_be_extended_or_remixed_is_refused(site: Site) -> None:
    source = await finished(site, seconds="1")
    site.engine.hold_at = 0
    async with site.http() as http:
        waiting = (await http.post("/v1/videos", json={"prompt": "x"})).json()["id"]
        nobody = source[:-1] + ("0" if source[-1] != "0" else "1")
        for body, status, code in [
            ({"video": {"id": waiting}}, 409, "video_not_ready"),
            ({"video": {"id": nobody}}, 404, "not_found"),
            ({"video": source, "seconds": "0"}, 400, "invalid_value"),
            ({"video": source, "seconds": "1e9"}, 400, "invalid_value"),
            ({"video": source, "seconds": "3600"}, 400, "invalid_value"),
            ({"video": source, "prompt": ""}, 400, "invalid_value"),
            ({"video": source, "size": "1x1"}, 400, "unknown_parameter"),
            ({"video": {"id": 5}}, 400, "invalid_value"),
            ({"prompt": "x"}, 400, "missing_required_parameter"),
        ]:
            answer = await http.post("/v1/videos/extensions", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), body
        upload = await http.post("/v1/videos/extensions", files={"video": ("a.mp4", b"x")})
        assert upload.json()["error"]["code"] == "not_supported"
        empty = await http.post(f"/v1/videos/{source}/remix", json={})
        assert empty.json()["error"]["param"] == "prompt"
        for path in ("edits", "characters"):
            answer = await http.post(f"/v1/videos/{path}", json={})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_supported")
