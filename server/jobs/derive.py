"""New jobs from old ones: the same with another prompt, or the same and longer.

A causal video goes on from where it stopped: an extension is the old request with a longer
duration and one more timed prompt, whose first segments exist already. Pure; knows no HTTP
and no storage.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server.jobs.errors import refuse, shown
from server.jobs.fields import check_known, checked_text, plain_number, read_number
from server.jobs.forms import Upload, as_mapping
from server.jobs.record import JobRecord
from server.jobs.request import JobLimits, JobRequest, PromptText, TimedPrompt


def remixed(source: JobRecord, body: Mapping[str, Any], limits: JobLimits) -> JobRequest:
    """Return the request of ``source`` under one other prompt: same seed, size and length.

    Raises:
        RequestRefused: A field is unknown, missing or wrong.
    """
    check_known(body, ("prompt",), "")
    text = checked_text(body.get("prompt"), "prompt", limits)
    prompts = (TimedPrompt(0.0, (PromptText(text),)),)
    return replace(source.request, prompts=prompts, remixed_from=source.id, extends=None)


def extended(source: JobRecord, body: Mapping[str, Any], limits: JobLimits) -> JobRequest:
    """Return the request of ``source`` made longer by ``seconds`` under ``prompt``.

    Without a prompt the last one goes on. ``seconds`` of the result counts both parts.

    Raises:
        RequestRefused: A field is unknown or wrong, or the whole would be too long.
    """
    check_known(body, ("prompt", "seconds", "video"), "")
    old = source.request
    value = body.get("seconds", "4")
    seconds = read_number(value)
    room_s = limits.max_seconds - old.num_frames / old.fps
    added = 0 if seconds is None or seconds > room_s else round(seconds * old.fps)
    if added < 1:
        raise refuse(
            f"seconds {shown(value)} cannot be added; allowed are {plain_number(1 / old.fps)} to "
            f"{plain_number(max(0.0, room_s))} seconds.",
            param="seconds",
        )
    prompts = old.prompts
    if body.get("prompt") is not None:
        text = checked_text(body["prompt"], "prompt", limits)
        prompts = (*prompts, TimedPrompt(old.num_frames / old.fps, (PromptText(text),)))
    total = old.num_frames + added
    return replace(
        old,
        prompts=prompts,
        num_frames=total,
        seconds=plain_number(total / old.fps),
        remixed_from=None,
        extends=source.id,
    )


def source_id(body: Mapping[str, Any]) -> str:
    """Return the id in ``video``: ``{"id": …}``, its JSON text, or the id itself.

    Raises:
        RequestRefused: There is none, or a file was sent.
    """
    video = body.get("video")
    if isinstance(video, Upload):
        raise refuse(
            "video is a file; only videos made here can be extended, send their id.",
            param="video",
            code="not_supported",
        )
    if isinstance(video, str) and not video.lstrip().startswith("{"):
        return video
    if video is None:
        raise refuse(
            "video is missing; send the id of the video to extend.",
            param="video",
            code="missing_required_parameter",
        )
    found = as_mapping(video, "video").get("id")
    if not isinstance(found, str):
        raise refuse(f"video.id is {shown(found)}; the id of a video is needed.", param="video")
    return found
