"""The fields of ``POST /v1/videos`` become a checked request.

``parse_request`` returns a frozen ``JobRequest`` or refuses with the field, what was seen
and what is allowed. It knows models by their cards; it knows no HTTP, Redis or engine.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.catalogue import ModelCard
from server.jobs.errors import Refusal, RequestRefused, refuse, shown
from server.jobs.fields import check_known, checked_text, integer, listed, plain_number, read_number
from server.jobs.forms import as_mapping
from server.jobs.request import JobLimits, JobRequest, PromptText, TimedPrompt

MAX_SEED = 2**53 - 1
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")

CREATE_FIELDS = (
    "model", "prompt", "prompts", "seconds", "size", "width", "height", "fps", "seed",
    "num_inference_steps", "num_frames", "input_reference", "extra_params",
)  # fmt: skip
EXTRA_FIELDS = ("prompts", "fps", "seed", "num_inference_steps", "num_frames", "width", "height")


@dataclass(frozen=True, slots=True)
class ParsedJob:
    """A checked request and the start image as a PNG of the video's size, if one was sent."""

    request: JobRequest
    image: bytes | None


def parse_request(
    body: Mapping[str, Any],
    cards: Sequence[ModelCard],
    limits: JobLimits,
    draw_seed: Callable[[], int],
    read_image: Callable[[Any, tuple[int, int]], bytes],
) -> ParsedJob:
    """Check the fields of ``POST /v1/videos``.

    Args:
        body: Fields from JSON or a form; form values are strings.
        cards: Models being served; the first is the default.
        limits: Bounds.
        draw_seed: Gives the seed of a request that names none.
        read_image: Turns ``input_reference`` (an upload, a data URL, ``{"image_url": …}``)
            into a PNG of the given size, raising ``RequestRefused``.

    Raises:
        RequestRefused: A field is unknown, missing or wrong.
    """
    check_known(body, CREATE_FIELDS, "")
    extra = as_mapping(body["extra_params"], "extra_params") if "extra_params" in body else {}
    check_known(extra, EXTRA_FIELDS, "extra_params.")
    fields = {**body, **extra}

    card = _model(fields.get("model"), cards)
    width, height = _size(fields, card)
    fps = _fps(fields.get("fps"), card)
    seconds, num_frames = _duration(fields, fps, limits)
    seed = integer(fields.get("seed"), "seed", 0, MAX_SEED)
    reference = fields.get("input_reference")
    if reference is not None and not card.start_image:
        raise refuse(
            f"Model {card.name} cannot start from an image; leave input_reference out.",
            param="input_reference",
            code="not_supported",
        )
    request = JobRequest(
        model=card.name,
        prompts=_prompts(fields, num_frames / fps, limits),
        seconds=seconds,
        width=width,
        height=height,
        fps=fps,
        num_frames=num_frames,
        seed=draw_seed() if seed is None else seed,
        steps=integer(fields.get("num_inference_steps"), "num_inference_steps", 1, card.max_steps),
        has_image=reference is not None,
    )
    return ParsedJob(request, None if reference is None else read_image(reference, (width, height)))


def _model(name: Any, cards: Sequence[ModelCard]) -> ModelCard:
    if not cards:
        raise RequestRefused(
            Refusal(
                "No worker is serving a model right now; start one, or try again.",
                code="no_worker",
                status=503,
                kind="server_error",
                headers={"Retry-After": "2"},
            )
        )
    if name is None:
        return cards[0]
    for card in cards:
        if card.name == name:
            return card
    served = ", ".join(card.name for card in cards)
    raise refuse(
        f"Model {shown(name)} is not served here; served are {served}.",
        param="model",
        code="model_not_found",
    )


def _size(fields: Mapping[str, Any], card: ModelCard) -> tuple[int, int]:
    allowed = ", ".join(f"{width}x{height}" for width, height in card.sizes)
    width = integer(fields.get("width"), "width", 1, 99999)
    height = integer(fields.get("height"), "height", 1, 99999)
    param, seen, size = "size", fields.get("size"), card.sizes[0]
    if seen is not None:
        match = _SIZE.fullmatch(seen) if isinstance(seen, str) else None
        size = (int(match[1]), int(match[2])) if match else (0, 0)
    elif width is not None or height is not None:
        size = (width or size[0], height or size[1])
        param, seen = "width" if width is not None else "height", f"{size[0]}x{size[1]}"
    if size not in card.sizes:
        raise refuse(f"size {shown(seen)} is not offered by {card.name}; allowed are {allowed}.",
                     param=param)  # fmt: skip
    return size


def _fps(value: Any, card: ModelCard) -> int:
    if value is None:
        return card.fps[0]
    seen = read_number(value)
    if seen is None or seen not in card.fps:
        allowed = ", ".join(str(fps) for fps in card.fps)
        raise refuse(
            f"fps {shown(value)} is not offered by {card.name}; allowed are {allowed}.",
            param="fps",
        )
    return int(seen)


def _duration(fields: Mapping[str, Any], fps: int, limits: JobLimits) -> tuple[str, int]:
    """Return the duration as a string and in frames; ``num_frames`` is the other spelling."""
    most = math.floor(limits.max_seconds * fps)
    if fields.get("seconds") is None:
        frames = integer(fields.get("num_frames"), "num_frames", 1, most)
        if frames is not None:
            return plain_number(frames / fps), frames
        return "4", 4 * fps
    value = fields["seconds"]
    if fields.get("num_frames") is not None:
        raise refuse("seconds and num_frames are both given; give one.", param="num_frames")
    seconds = read_number(value)
    frames = 0 if seconds is None or seconds > limits.max_seconds else round(seconds * fps)
    if seconds is None or frames < 1:
        raise refuse(
            f"seconds {shown(value)} is not a duration; allowed are {plain_number(1 / fps)} to "
            f"{plain_number(limits.max_seconds)} seconds.",
            param="seconds",
        )
    return value.strip() if isinstance(value, str) else plain_number(seconds), frames


def _prompts(
    fields: Mapping[str, Any], seconds: float, limits: JobLimits
) -> tuple[TimedPrompt, ...]:
    """Return the prompt timeline; an entry of ``prompts`` at 0 s replaces ``prompt``."""
    timeline: dict[float, TimedPrompt] = {}
    if fields.get("prompt") is not None:
        timeline[0.0] = TimedPrompt(
            0.0, (PromptText(checked_text(fields["prompt"], "prompt", limits)),)
        )
    entries = listed(fields.get("prompts"), "prompts", limits.max_timed_prompts)
    seen: set[float] = set()
    for index, raw in enumerate(entries):
        where = f"prompts[{index}]"
        entry = as_mapping(raw, where)
        check_known(entry, ("t", "prompt", "prompts"), f"{where}.")
        at_s = read_number(entry.get("t", 0))
        if at_s is None or not 0 <= at_s < seconds:
            raise refuse(
                f"{where}.t is {shown(entry.get('t'))}; allowed are seconds from 0 to below the "
                f"duration, {plain_number(seconds)}.",
                param=f"{where}.t",
            )
        if at_s in seen:
            raise refuse(f"{where}.t is {plain_number(at_s)} as in another entry; give each time once.",
                         param=f"{where}.t")  # fmt: skip
        seen.add(at_s)
        timeline[at_s] = TimedPrompt(at_s, _blend(entry, where, limits))
    if 0.0 not in timeline:
        raise refuse(
            "The prompt is missing; send prompt, or an entry of prompts with t = 0.",
            param="prompt",
            code="missing_required_parameter",
        )
    return tuple(timeline[at_s] for at_s in sorted(timeline))


def _blend(entry: Mapping[str, Any], where: str, limits: JobLimits) -> tuple[PromptText, ...]:
    if entry.get("prompt") is not None:
        return (PromptText(checked_text(entry["prompt"], f"{where}.prompt", limits)),)
    parts = []
    for index, raw in enumerate(listed(entry.get("prompts"), f"{where}.prompts", limits.max_blend)):
        name = f"{where}.prompts[{index}]"
        part = as_mapping(raw, name)
        check_known(part, ("text", "weight"), f"{name}.")
        weight = read_number(part.get("weight", 1.0))
        if weight is None or not 0 < weight <= 100:
            raise refuse(
                f"{name}.weight is {shown(part.get('weight'))}; allowed are numbers above 0 up "
                "to 100.",
                param=f"{name}.weight",
            )
        parts.append(PromptText(checked_text(part.get("text"), f"{name}.text", limits), weight))
    if not parts:
        raise refuse(f"{where} has no prompt; send prompt or prompts.", param=f"{where}.prompt",
                     code="missing_required_parameter")  # fmt: skip
    return tuple(parts)
