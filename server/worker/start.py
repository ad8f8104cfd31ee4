"""From a stream's record to what the engine is asked, also after a takeover.

A taken-over stream goes on where the last published chunk ended, under the newest prompt, and its
picture begins anew. Pure: reads a record that was fetched, writes nothing.
"""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.types import PromptPart, StreamSpec
from server.live import LiveSpec
from server.worker.output import Offset


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a worker begins (or goes on with) a stream.

    Attributes:
        live: What the client asked for.
        spec: What the engine is asked for, counted from ``offset``.
        offset: What was published before.
        control_after: Control entries up to this id were obeyed before.
        pending: Events whose receipt is still owed.
        paused: Whether its viewer had paused it.
    """

    live: LiveSpec
    spec: StreamSpec
    offset: Offset
    control_after: str
    pending: tuple[str, ...]
    paused: bool

    @property
    def goes_on(self) -> bool:
        """Whether viewers have seen chunks of this stream before."""
        return self.offset.chunks > 0


def beginning(record: Mapping[str, str], session_id: str, epoch: int) -> Beginning:
    """Read a record.

    Args:
        record: The session's hash.
        session_id: Whose.
        epoch: Of the claim; keeps the engine's name of the session unique on this worker.
    """
    live = LiveSpec.from_text(record["spec"])
    offset = Offset(
        int(record.get("next_chunk", 0)),
        int(record.get("next_frame", 0)),
        int(record.get("prompt_rev", 0)),
    )
    prompts = live.prompts
    if "prompts" in record:
        prompts = tuple((text, weight) for text, weight in json.loads(record["prompts"]))
    pending = tuple(json.loads(record.get("pending", "[]")))
    if pending:
        offset = Offset(offset.chunks, offset.frames, offset.prompt_rev + 1)
    left = None if live.num_frames is None else max(1, live.num_frames - offset.frames)
    image = live.image if offset.chunks == 0 else None
    spec = StreamSpec(
        session_id=f"{session_id}.{epoch}",
        prompts=tuple(PromptPart(text, weight) for text, weight in prompts),
        seed=live.seed,
        width=live.width,
        height=live.height,
        fps=live.fps,
        num_frames=left,
        num_steps=live.num_steps,
        kind="live",
        pacing=live.pacing,
        start_image=None if image is None else _picture(image, (live.width, live.height)),
    )
    return Beginning(
        live, spec, offset, record.get("control_at", "0"), pending, record.get("paused") == "1"
    )


def _picture(image: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a base64 picture cropped and scaled to ``size`` as RGB ``[H, W, 3]``."""
    with Image.open(io.BytesIO(base64.b64decode(image))) as picture:
        return np.asarray(ImageOps.fit(picture.convert("RGB"), size), dtype=np.uint8)
