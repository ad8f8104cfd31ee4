"""Video jobs: create, follow, download. The REST side of the server."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from longtake_client.errors import ApiError, ConnectionLost
from longtake_client.protocol import Prompt, prompt_fields

ENDED = ("completed", "failed", "cancelled")
_RETRIES = 6
_IMAGE_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


@dataclass(frozen=True, slots=True)
class Video:
    """A job as it stands.

    Attributes:
        status: ``queued``, ``in_progress``, ``completed``, ``failed``, ``cancelled``.
        progress: Percent; 100 once the file is there.
        error: ``(code, message)`` of a failed job.
        raw: Everything the server said.
    """

    id: str
    model: str
    status: str
    progress: int
    prompt: str
    seconds: str
    size: str
    num_frames: int
    frames_done: int
    error: tuple[str, str] | None
    raw: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ENDED

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Video":
        """Build a video from the server's object."""
        error = value.get("error")
        return cls(
            id=value["id"],
            model=value["model"],
            status=value["status"],
            progress=value["progress"],
            prompt=value.get("prompt") or "",
            seconds=value["seconds"],
            size=value["size"],
            num_frames=value.get("num_frames", 0),
            frames_done=value.get("frames_done", 0),
            error=(error["code"], error["message"]) if error else None,
            raw=value,
        )


@dataclass(frozen=True, slots=True)
class VideoEvent:
    """Something that happened to a job; ``video`` is None once it has been deleted."""

    sequence: int
    kind: str
    video: Video | None


class Jobs:
    """``/v1/videos`` of one server."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def create(
        self,
        prompt: str,
        *,
        seconds: float | str | None = None,
        model: str | None = None,
        size: str | None = None,
        fps: int | None = None,
        seed: int | None = None,
        num_inference_steps: int | None = None,
        later: Sequence[tuple[float, Prompt]] = (),
        image: bytes | None = None,
        idempotency_key: str | None = None,
    ) -> Video:
        """Queue a job.

        Args:
            prompt: What it shows at first.
            seconds: Duration.
            model: Name; None is the server's default, here and below.
            size: ``160x96``.
            fps: Frames a second.
            seed: Same seed, same video.
            num_inference_steps: Denoising steps.
            later: ``(time in seconds, prompt)`` of the changes that follow.
            image: A PNG, JPEG or WebP file to start from.
            idempotency_key: Sending the same request again under it makes no second job.

        Raises:
            ApiError: The server refused.
            ConnectionLost: It cannot be reached.
        """
        fields = {
            "prompt": prompt,
            "seconds": None if seconds is None else str(seconds),
            "model": model,
            "size": size,
            "fps": fps,
            "seed": seed,
            "num_inference_steps": num_inference_steps,
            "prompts": [{"t": at_s, **prompt_fields(text)} for at_s, text in later] or None,
            "input_reference": None if image is None else _data_url(image),
        }
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        body = {name: value for name, value in fields.items() if value is not None}
        answer = await checked(self._http, "POST", "/v1/videos", json=body, headers=headers)
        return Video.from_json(answer.json())

    async def get(self, video_id: str) -> Video:
        """Return a job as it stands."""
        answer = await checked(self._http, "GET", f"/v1/videos/{video_id}")
        return Video.from_json(answer.json())

    async def list(self, *, newest_first: bool = True) -> AsyncIterator[Video]:
        """Yield every job, page by page."""
        after: str | None = None
        while True:
            query = {"limit": "100", "order": "desc" if newest_first else "asc"}
            if after is not None:
                query["after"] = after
            page = (await checked(self._http, "GET", "/v1/videos", params=query)).json()
            for value in page["data"]:
                yield Video.from_json(value)
            after = page["last_id"]
            if not page["has_more"]:
                return

    async def remix(self, video_id: str, prompt: str) -> Video:
        """Queue the same video under another prompt: same seed, size and length."""
        url = f"/v1/videos/{video_id}/remix"
        answer = await checked(self._http, "POST", url, json={"prompt": prompt})
        return Video.from_json(answer.json())

    async def extend(self, video_id: str, *, seconds: float, prompt: str | None = None) -> Video:
        """Queue a video that begins with a finished one's very pictures and goes on.

        Args:
            video_id: A completed job.
            seconds: How much is added.
            prompt: What the new part shows; None goes on with the last prompt.
        """
        body: dict[str, Any] = {"video": {"id": video_id}, "seconds": f"{seconds:g}"}
        if prompt is not None:
            body["prompt"] = prompt
        answer = await checked(self._http, "POST", "/v1/videos/extensions", json=body)
        return Video.from_json(answer.json())

    async def cancel(self, video_id: str) -> Video:
        """Stop work on a job and keep its record."""
        answer = await checked(self._http, "POST", f"/v1/videos/{video_id}/cancel")
        return Video.from_json(answer.json())

    async def delete(self, video_id: str) -> None:
        """Delete a job with its files; work on it stops."""
        await checked(self._http, "DELETE", f"/v1/videos/{video_id}")

    async def events(self, video_id: str, *, after: int | None = None) -> AsyncIterator[VideoEvent]:
        """Yield what happens to a job until it has ended, over lost connections too.

        Args:
            video_id: Which job.
            after: Sequence number of the last event known; None begins with the present state.
        """
        failures = 0
        while True:
            headers = {} if after is None else {"Last-Event-ID": str(after)}
            try:
                async for event in self._events_once(video_id, headers):
                    failures, after = 0, event.sequence
                    yield event
                    if event.video is None or event.video.ended:
                        return
            except httpx.TransportError as error:
                failures += 1
                if failures > _RETRIES:
                    raise ConnectionLost(f"the events of {video_id} stopped: {error}") from error
            await asyncio.sleep(min(0.25 * 2**failures, 5.0))

    async def _events_once(
        self, video_id: str, headers: Mapping[str, str]
    ) -> AsyncIterator[VideoEvent]:
        url = f"/v1/videos/{video_id}/events"
        # The server sends at least a comment every 15 s.
        timeout = httpx.Timeout(10.0, read=40.0)
        async with self._http.stream("GET", url, headers=headers, timeout=timeout) as answer:
            await _raise_for(answer)
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    value = json.loads(line[6:])
                    video = value["video"]
                    gone = video.get("deleted", False)
                    yield VideoEvent(
                        value["sequence_number"],
                        value["type"],
                        None if gone else Video.from_json(video),
                    )

    async def wait(
        self, video_id: str, on_progress: Callable[[Video], None] | None = None
    ) -> Video:
        """Wait until a job has ended and return it; look at ``status`` for how.

        Raises:
            ApiError: It was deleted, or never was.
        """
        async for event in self.events(video_id):
            if event.video is None:
                break
            if on_progress is not None:
                on_progress(event.video)
        return await self.get(video_id)

    async def download(
        self,
        video_id: str,
        path: Path,
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write the finished video to ``path``, which appears once it is whole.

        An interrupted transfer goes on where it stopped.

        Args:
            video_id: A completed job.
            path: Where to.
            on_bytes: Called with bytes so far and bytes in all.

        Raises:
            ApiError: The video is not ready, or has no content.
            ConnectionLost: The transfer broke off again and again.
        """
        part = path.with_name(path.name + ".part")
        try:
            await self._fetch(f"/v1/videos/{video_id}/content", part, on_bytes)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    async def _fetch(
        self, url: str, part: Path, on_bytes: Callable[[int, int], None] | None
    ) -> None:
        failures = done = 0
        total: int | None = None
        with part.open("wb") as file:
            while total is None or done < total:
                headers = {"Range": f"bytes={done}-"} if done else {}
                try:
                    async with self._http.stream("GET", url, headers=headers) as answer:
                        await _raise_for(answer)
                        if done and answer.status_code != 206:
                            file.seek(0)
                            file.truncate()
                            done = 0
                        total = done + int(answer.headers["content-length"])
                        async for data in answer.aiter_bytes():
                            file.write(data)
                            done += len(data)
                            if on_bytes is not None:
                                on_bytes(done, total)
                except httpx.TransportError as error:
                    failures += 1
                    if failures > _RETRIES:
                        raise ConnectionLost(f"the download broke off: {error}") from error
                    await asyncio.sleep(min(0.25 * 2**failures, 5.0))


async def checked(http: httpx.AsyncClient, method: str, url: str, **more: Any) -> httpx.Response:
    """Make a request and return its good answer.

    Raises:
        ApiError: The server refused.
        ConnectionLost: It cannot be reached.
    """
    try:
        answer = await http.request(method, url, **more)
    except httpx.TransportError as error:
        where = http.base_url
        raise ConnectionLost(
            f"{where} cannot be reached: {error or type(error).__name__}"
        ) from error
    await _raise_for(answer)
    return answer


async def _raise_for(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    text = (await answer.aread()).decode(errors="replace")
    after = answer.headers.get("retry-after", "")
    retry_after_s = float(after) if after.replace(".", "", 1).isdigit() else None
    try:
        error = json.loads(text)["error"]
        code, message, param = error["code"], error["message"], error.get("param")
    except (ValueError, KeyError, TypeError):
        code, message, param = "http_error", text[:200] or answer.reason_phrase, None
    raise ApiError(answer.status_code, code, message, param, retry_after_s)


def _data_url(image: bytes) -> str:
    kind = next((kind for magic, kind in _IMAGE_KINDS.items() if image.startswith(magic)), None)
    if kind is None:
        raise ValueError("an image that is neither PNG, JPEG nor WebP; convert it to one of these")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
