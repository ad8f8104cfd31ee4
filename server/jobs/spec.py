"""What the engine is asked for a job: its request in the engine's words, in frames, not seconds."""

import math

import numpy as np
from numpy.typing import NDArray

from engine.asked import PromptPart, StreamSpec, TimedPrompt
from server.jobs.request import JobRequest


def stream_spec(
    session_id: str, request: JobRequest, image: NDArray[np.uint8] | None
) -> StreamSpec:
    """Return what the engine is asked for a job; a time becomes the first frame not before it."""
    parts = [
        tuple(PromptPart(part.text, part.weight) for part in prompt.parts)
        for prompt in request.prompts
    ]
    return StreamSpec(
        session_id=session_id,
        prompts=parts[0],
        seed=request.seed,
        width=request.width,
        height=request.height,
        fps=request.fps,
        num_frames=request.num_frames,
        num_steps=request.steps,
        kind="job",
        pacing="asap",
        timed_prompts=tuple(
            TimedPrompt(math.ceil(prompt.at_s * request.fps - 1e-6), blend)
            for prompt, blend in zip(request.prompts[1:], parts[1:], strict=True)
        ),
        start_image=image,
    )
