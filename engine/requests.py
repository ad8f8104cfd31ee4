"""Requests of ``python -m engine generate``: one clip each, from flags or lines of JSON."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.asked import PromptPart, Prompts, StreamSpec, TimedPrompt
from engine.start import start_frames
from models.entry import ModelEntry


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """One clip to make.

    Attributes:
        name: Stem of the output's file name.
        prompt: What it shows at first.
        seconds: Its length; rounded to whole frames.
        seed: Of the noise.
        steps: Denoising steps; None is the model's or the policy's number.
        switches: Later prompts, each with its time in seconds.
        size: (width, height); None is the model's first size.
        image: Start image; scaled to cover the size and cut to it.
        clip: Video to go on from, an ``.npz`` as this command writes it or a folder of pictures;
            ``seconds`` is what is made after it.
    """

    name: str
    prompt: str
    seconds: float
    seed: int = 0
    steps: int | None = None
    switches: tuple[tuple[float, str], ...] = ()
    size: tuple[int, int] | None = None
    image: Path | None = None
    clip: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def spec(self, entry: ModelEntry) -> StreamSpec:
        """Put the request in the engine's terms for the model of ``entry``."""
        width, height = self.size or entry.sizes[0]
        fps = float(entry.fps)
        begins, given = None, 0
        if self.image is not None:
            begins = read_picture(self.image, (width, height))
        elif self.clip is not None:
            begins = read_clip(self.clip, (width, height))
            given = len(start_frames(begins, entry))
        timed = [
            TimedPrompt(given + round(at * fps), _parts(text)) for at, text in sorted(self.switches)
        ]
        return StreamSpec(
            session_id=self.name,
            prompts=_parts(self.prompt),
            seed=self.seed,
            width=width,
            height=height,
            fps=fps,
            num_frames=given + max(1, round(self.seconds * fps)),
            num_steps=self.steps,
            kind="job",
            pacing="asap",
            timed_prompts=tuple(timed),
            start_image=begins,
        )


def read_picture(path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Read a picture as RGB ``[H, W, 3]``, scaled to cover ``size`` (width, height) and cut to it.

    Raises:
        ValueError: It is no picture.
    """
    try:
        with Image.open(path) as opened:
            return np.array(_fitted(opened, size))
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path} is not a picture; give a PNG, JPEG or WebP file") from error


def read_clip(path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Read frames ``[T, H, W, 3]``: an ``.npz`` with ``frames``, or a folder of pictures by name.

    Raises:
        ValueError: It is neither, or has no frames.
    """
    allowed = "give an .npz with frames uint8 [T, H, W, 3], or a folder of pictures"
    if path.is_dir():
        kinds = (".png", ".jpg", ".jpeg", ".webp")
        names = sorted(name for name in path.iterdir() if name.suffix.lower() in kinds)
        if not names:
            raise ValueError(f"{path} holds no pictures; {allowed}")
        return np.stack([read_picture(name, size) for name in names])
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
            frames = opened["frames"]
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a clip; {allowed}") from error
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"{path} has frames {frames.dtype} {list(frames.shape)}; {allowed}")
    return np.stack([np.asarray(_fitted(Image.fromarray(frame), size)) for frame in frames])


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    turned = ImageOps.exif_transpose(picture).convert("RGB")
    return turned if turned.size == size else ImageOps.fit(turned, size, Image.Resampling.LANCZOS)


def parse_switch(text: str) -> tuple[float, str]:
    """Read ``2.0=a new prompt``.

    Raises:
        ValueError: It has not that form.
    """
    at, separator, prompt = text.partition("=")
    try:
        seconds = float(at)
    except ValueError:
        separator = ""
        seconds = 0.0
    if not separator or not prompt.strip() or not 0 <= seconds < 1e9:
        raise ValueError(f"switch {text!r}; it must be SECONDS=PROMPT, for example 2.0=a red kite")
    return seconds, prompt.strip()


def read_requests(path: Path, seconds: float) -> list[ClipRequest]:
    """Read one request from each line of JSON.

    Fields: ``prompt``; optional ``name`` (default clip00000 and so on), ``seconds``, ``seed``,
    ``steps``, ``switches`` as a list of [seconds, prompt], ``width`` with ``height``, ``image``,
    ``continue``. Others are copied to the clip's metadata.

    Raises:
        ValueError: A line cannot be read; the message has its number.
    """
    requests: list[ClipRequest] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            requests.append(_from_json(json.loads(line), f"clip{len(requests):05d}", seconds))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: {error!r}; see --help for its form") from None
    check_names(requests)
    return requests


def check_names(requests: Sequence[ClipRequest]) -> None:
    """Make sure that every clip gets a file of its own.

    Raises:
        ValueError: Two requests have one name, or a name is not a file name.
    """
    seen: set[str] = set()
    for request in requests:
        if request.name in seen or Path(request.name).name != request.name:
            raise ValueError(f"name {request.name!r}; every clip needs a file name of its own")
        seen.add(request.name)


def _from_json(raw: dict[str, Any], name: str, seconds: float) -> ClipRequest:
    raw = dict(raw)
    size = None
    if "width" in raw or "height" in raw:
        size = (int(raw.pop("width")), int(raw.pop("height")))
    image, clip = raw.pop("image", None), raw.pop("continue", None)
    if image is not None and clip is not None:
        raise ValueError("both image and continue; a clip begins with one of them")
    steps = raw.pop("steps", None)
    return ClipRequest(
        prompt=str(raw.pop("prompt")),
        name=str(raw.pop("name", name)),
        seconds=float(raw.pop("seconds", seconds)),
        seed=int(raw.pop("seed", 0)),
        steps=None if steps is None else int(steps),
        switches=tuple((float(at), str(text)) for at, text in raw.pop("switches", ())),
        size=size,
        image=None if image is None else Path(image),
        clip=None if clip is None else Path(clip),
        extra=raw,
    )


def _parts(text: str) -> Prompts:
    return (PromptPart(text),)
