"""Requests of ``python -m engine generate``: one clip each, from flags or lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.types import PromptPart, Prompts, StreamSpec, TimedPrompt
from models.entry import ModelEntry


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """One clip to make.

    Attributes:
        name: Stem of the output's file name.
        prompt: What it shows at first.
        seconds: Its length; rounded to whole frames.
        seed: Of the noise.
        steps: Denoising steps; None is the model's number.
        switches: Later prompts, each with its time in seconds.
        size: (width, height); None is the model's first size.
        image: Start image, scaled to the size.
    """

    name: str
    prompt: str
    seconds: float
    seed: int = 0
    steps: int | None = None
    switches: tuple[tuple[float, str], ...] = ()
    size: tuple[int, int] | None = None
    image: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def spec(self, entry: ModelEntry) -> StreamSpec:
        """Put the request in the engine's terms for the model of ``entry``."""
        width, height = self.size or entry.sizes[0]
        fps = float(entry.fps)
        timed = [TimedPrompt(round(at * fps), _parts(text)) for at, text in sorted(self.switches)]
        picture = None
        if self.image is not None:
            with Image.open(self.image) as opened:
                picture = np.asarray(opened.convert("RGB").resize((width, height)))
        return StreamSpec(
            session_id=self.name,
            prompts=_parts(self.prompt),
            seed=self.seed,
            width=width,
            height=height,
            fps=fps,
            num_frames=max(1, round(self.seconds * fps)),
            num_steps=self.steps,
            kind="job",
            pacing="asap",
            timed_prompts=tuple(timed),
            start_image=picture,
        )


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
    ``steps``, ``switches`` as a list of [seconds, prompt], ``width`` with ``height``, ``image``.
    Others are copied to the clip's metadata.

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
    image = raw.pop("image", None)
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
        extra=raw,
    )


def _parts(text: str) -> Prompts:
    return (PromptPart(text),)
