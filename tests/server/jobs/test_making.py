"""Making a job over a real socket: what is taken, what is refused, and that a refusal leaves nothing."""

import base64
import json
from typing import Any

import httpx
import pytest

from server.fabric.connection import FabricError
from server.jobs.segments import JobFolder
from server.jobs.store import Created, JobStore, NotCreated
from tests.server.jobs.conftest import Site
from tests.server.jobs.test_routes import ended, finished, png

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.redis,
    # The SDK marks its whole videos API as deprecated.
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),
]

RED_URL = "data:image/png;base64," + base64.b64encode(png()).decode()


async def test_timed_prompts_come_through_the_sdk_as_text_and_as_objects(site: Site) -> None:
    client = site.openai()
    prompts = [{"t": 0, "prompt": "day"}, {"t": 2.5, "prompt": "night"}]
    for extra in ({"prompts": prompts, "fps": 8}, json.dumps({"prompts": prompts, "fps": 8})):
        made = await client.videos.create(
            prompt="unused", extra_body={"extra_params": extra, "seed": 5}
        )
        job = await site.store.get(made.id)
        assert job is not None
        assert (job.request.fps, job.request.seed) == (8, 5)
        assert [(p.at_s, p.parts[0].text) for p in job.request.prompts] == [
            (0.0, "day"), (2.5, "night"),
        ]  # fmt: skip
        await ended(site, made.id)
    assert [t.frame for t in site.engine.specs[0].timed_prompts] == [20]
    await client.close()


async def test_a_start_image_is_fitted_whether_uploaded_or_in_a_data_url(site: Site) -> None:
    client = site.openai()
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    uploaded = await client.videos.create(
        prompt="x",
        seconds="1",  # type: ignore[arg-type]
        input_reference=("a.png", png(), "image/png"),
    )
    ids = [uploaded.id]
    async with site.http() as http:
        for reference in (url, {"image_url": url}):
            made = await http.post(
                "/v1/videos", json={"prompt": "x", "seconds": 1, "input_reference": reference}
            )
            ids.append(made.json()["id"])
    for job_id in ids:
        await ended(site, job_id)
    assert len(site.engine.specs) == 3
    for spec in site.engine.specs:
        assert spec.start_image is not None
        assert spec.start_image.shape == (96, 160, 3)
        assert spec.start_image[50, 80].tolist() == [200, 10, 20]
    await client.close()


BAD = [
    ({}, "prompt", "missing_required_parameter"),
    ({"prompt": ""}, "prompt", "invalid_value"),
    ({"prompt": "   "}, "prompt", "invalid_value"),
    ({"prompt": 5}, "prompt", "invalid_value"),
    ({"prompt": "x" * 4001}, "prompt", "invalid_value"),
    ({"prompt": "x", "model": "sora-2"}, "model", "model_not_found"),
    ({"prompt": "x", "model": ["tiny"]}, "model", "model_not_found"),
    ({"prompt": "x", "seconds": "0"}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": "-4"}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": "1e9"}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": "nan"}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": 1e308}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": 10**400}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": True}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": "0.01"}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": "4", "num_frames": 3}, "num_frames", "invalid_value"),
    ({"prompt": "x", "num_frames": -1}, "num_frames", "invalid_value"),
    ({"prompt": "x", "size": "1280x720"}, "size", "invalid_value"),
    ({"prompt": "x", "size": "-160x96"}, "size", "invalid_value"),
    ({"prompt": "x", "size": 160}, "size", "invalid_value"),
    ({"prompt": "x", "width": -1}, "width", "invalid_value"),
    ({"prompt": "x", "width": 64}, "width", "invalid_value"),
    ({"prompt": "x", "fps": 1e12}, "fps", "invalid_value"),
    ({"prompt": "x", "fps": "fast"}, "fps", "invalid_value"),
    ({"prompt": "x", "seed": -1}, "seed", "invalid_value"),
    ({"prompt": "x", "seed": 2**53}, "seed", "invalid_value"),
    ({"prompt": "x", "seed": 1.5}, "seed", "invalid_value"),
    ({"prompt": "x", "num_inference_steps": 99}, "num_inference_steps", "invalid_value"),
    ({"prompt": "x", "guidance": 3}, "guidance", "unknown_parameter"),
    ({"prompt": "x", "extra_params": "{"}, "extra_params", "invalid_json"),
    ({"prompt": "x", "extra_params": []}, "extra_params", "invalid_value"),
    ({"prompt": "x", "extra_params": {"lora": 1}}, "extra_params.lora", "unknown_parameter"),
    ({"prompt": "x", "prompts": "day"}, "prompts", "invalid_value"),
    ({"prompt": "x", "prompts": [5]}, "prompts[0]", "invalid_value"),
    ({"prompt": "x", "prompts": [{"t": 9, "prompt": "y"}]}, "prompts[0].t", "invalid_value"),
    ({"prompt": "x", "prompts": [{"t": -1, "prompt": "y"}]}, "prompts[0].t", "invalid_value"),
    ({"prompts": [{"t": 1, "prompt": "y"}]}, "prompt", "missing_required_parameter"),
    ({"prompts": [{"t": 0}]}, "prompts[0].prompt", "missing_required_parameter"),
    (
        {"prompt": "x", "prompts": [{"t": 1, "prompt": "y"}, {"t": 1, "prompt": "z"}]},
        "prompts[1].t",
        "invalid_value",
    ),
    (
        {"prompt": "x", "prompts": [{"t": 1, "prompts": [{"text": "y", "weight": 0}]}]},
        "prompts[0].prompts[0].weight",
        "invalid_value",
    ),
    ({"prompt": "x", "input_reference": "http://127.0.0.1/a.png"}, "input_reference", "invalid_image"),
    ({"prompt": "x", "input_reference": "data:image/png;base64,zz"}, "input_reference", "invalid_image"),
    ({"prompt": "x", "input_reference": "data:image/png;base64,AAAA"}, "input_reference", "invalid_image"),
]  # fmt: skip


async def test_each_wrong_field_is_refused_by_name_and_makes_no_job(site: Site) -> None:
    async with site.http() as http:
        for body, param, code in BAD:
            answer = await http.post("/v1/videos", json=body)
            assert answer.status_code == 400, (body, answer.text)
            error = answer.json()["error"]
            assert (error["param"], error["code"]) == (param, code), (body, error)
            assert error["type"] == "invalid_request_error"
            assert len(error["message"]) < 400, error
    assert (await site.store.page(after=None, limit=9, newest_first=True)).jobs == ()


HALVES = [
    ("/v1/videos", {"prompt": "\ud800", "num_frames": 1}, "prompt"),
    ("/v1/videos", {"prompt": "x", "prompts": [{"t": 1, "prompt": "\udfff"}]}, "prompts[0].prompt"),
    (
        "/v1/videos",
        {"prompt": "x", "prompts": [{"t": 1, "prompts": [{"text": "a\ud83d"}]}]},
        "prompts[0].prompts[0].text",
    ),
    ("/v1/videos", {"prompt": "x", "\ud800": 1}, None),
    ("/v1/videos", {"prompt": "x", "extra_params": {"\ud800": 1}}, "extra_params"),
    (
        "/v1/videos",
        {"prompt": "x", "extra_params": '{"prompts": "\\ud800"}'},
        "extra_params.prompts",
    ),
    ("/v1/videos", {"prompt": "x", "input_reference": "\ud800"}, "input_reference"),
    ("/v1/videos/ID/remix", {"prompt": "\ud800"}, "prompt"),
    ("/v1/videos/extensions", {"video": "ID", "seconds": 1, "prompt": "\ud800"}, "prompt"),
]


async def test_half_a_surrogate_pair_anywhere_is_refused_and_makes_no_job(site: Site) -> None:
    source = await finished(site, num_frames=1)
    async with site.http() as http:
        for path, body, param in HALVES:
            text = json.dumps(body).replace("ID", source)
            headers = {"content-type": "application/json"}
            answer = await http.post(path.replace("ID", source), content=text, headers=headers)
            assert answer.status_code == 400, (body, answer.text)
            error = answer.json()["error"]
            assert (error["param"], error["code"]) == (param, "invalid_value"), (body, error)
            assert "surrogate" in error["message"]
        listed = await http.get("/v1/videos")
    assert [video["id"] for video in listed.json()["data"]] == [source]


async def test_a_body_of_values_deep_inside_one_another_is_refused(site: Site) -> None:
    async with site.http() as http:
        for depth in (40, 900, 5000):
            text = '{"prompt": ' + "[" * depth + "]" * depth + "}"
            headers = {"content-type": "application/json"}
            answer = await http.post("/v1/videos", content=text, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


async def test_bodies_that_are_no_form_and_no_object_are_refused(site: Site) -> None:
    form = {"content-type": "multipart/form-data; boundary=x"}
    async with site.http() as http:
        for body, headers, status, code in [
            (b"{", {"content-type": "application/json"}, 400, "invalid_json"),
            (b"[1]", {"content-type": "application/json"}, 400, "invalid_json"),
            (b"\xff\xfe", {"content-type": "application/json"}, 400, "invalid_json"),
            (b"[" * 100_000, {"content-type": "application/json"}, 400, "invalid_json"),
            (b"a=b", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
            (b"nonsense", form, 400, "invalid_form"),
            (b"x", {"content-type": "multipart/form-data"}, 400, "invalid_form"),
            (b"x" * (2**20 + 1), {"content-type": "application/json"}, 413, "body_too_large"),
            (_form("a[b", "1"), form, 400, "invalid_value"),
            (
                _form("prompt", "+2AA-"),
                {"content-type": "multipart/form-data; boundary=x; charset=utf-7"},
                400,
                "invalid_value",
            ),
            (_form("prompt", "x") [:-7] + _form("prompt", "y"), form, 400, "invalid_value"),
        ]:  # fmt: skip
            answer = await http.post("/v1/videos", content=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), (
                body[:80],
                answer.text,
            )


def _form(name: str, value: str) -> bytes:
    part = f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n--x--\r\n'
    return part.encode()


async def test_a_data_folder_that_cannot_be_written_is_named(site: Site) -> None:
    (site.data_dir / "jobs").touch()
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    async with site.http() as http:
        answer = await http.post("/v1/videos", json={"prompt": "x", "input_reference": url})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "storage_failed")
        assert f"its data folder, {site.data_dir}: Not a directory" in answer.text
        assert (await http.get("/v1/videos")).json()["data"] == []


async def test_the_same_idempotency_key_gives_the_same_job(site: Site) -> None:
    site.engine.hold_at = 0
    async with site.http() as http:

        async def post(prompt: str) -> httpx.Response:
            return await http.post(
                "/v1/videos", json={"prompt": prompt}, headers={"Idempotency-Key": "once"}
            )

        first, again, other = await post("x"), await post("x"), await post("y")
        assert first.json()["id"] == again.json()["id"]
        assert first.json()["seed"] == again.json()["seed"]
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


async def test_a_full_queue_answers_429_with_a_time_to_come_back(site: Site) -> None:
    site.engine.hold_at = 0
    async with site.http() as http:
        answers = [await http.post("/v1/videos", json={"prompt": "x"}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].headers["retry-after"]
        assert answers[-1].json()["error"]["type"] == "rate_limit_error"


async def test_a_job_whose_files_cannot_be_written_leaves_no_folder(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: JobFolder, name: str, data: bytes) -> None:
        folder.path.mkdir(parents=True)
        (folder.path / "half").write_bytes(data)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JobFolder, "put", full)
    async with site.http() as http:
        made = await http.post("/v1/videos", json={"prompt": "a", "input_reference": RED_URL})
    assert made.status_code == 500
    assert list((site.data_dir / "jobs").iterdir()) == []


@pytest.mark.parametrize("confirmed", [True, False], ids=["there all the same", "not there"])
async def test_a_job_that_redis_did_not_confirm_keeps_its_files_only_where_it_exists(
    site: Site, monkeypatch: pytest.MonkeyPatch, confirmed: bool
) -> None:
    create = JobStore.create

    async def broken_off(store: JobStore, *args: Any, **options: Any) -> Created | NotCreated:
        if confirmed:
            await create(store, *args, **options)
        raise FabricError("Connection closed by server.")

    site.engine.hold_at = 0
    monkeypatch.setattr(JobStore, "create", broken_off)
    async with site.http() as http:
        made = await http.post("/v1/videos", json={"prompt": "a", "input_reference": RED_URL})
        assert made.status_code == 503
        jobs = (await http.get("/v1/videos")).json()["data"]
    folders = [path.name for path in (site.data_dir / "jobs").iterdir()]
    assert folders == [job["id"] for job in jobs]
    assert len(folders) == confirmed
