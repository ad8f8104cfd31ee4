"""From a stream's record to what the engine is asked, also after a takeover.

A taken-over stream goes on behind the last published chunk, under the newest prompt: from a kept state
of the engine where there is one, else its picture begins anew. Pure: reads a record that was
fetched, writes nothing.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.asked import PromptPart, StreamSpec
from server.images import pixels
from server.live import LiveSpec
from server.worker.kept import KeptState
from server.worker.output import Offset


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a worker begins (or goes on with) a stream.

    Attributes:
        live: What the client asked for.
        spec: What the engine is asked for, counted from ``offset``.
        offset: Where the engine's count of chunks and frames begins.
        published: What viewers have; equal to ``offset`` but where a kept state is older.
        kept: The engine's state to go on from.
        changed: Whether the prompt changed since that state.
        control_after: Control entries up to this id were obeyed before.
        pending: Events whose receipt is still owed.
        paused: Whether its viewer had paused it.
        prompts_text: The record's newest prompts (JSON), empty when never changed.
    """

    live: LiveSpec
    spec: StreamSpec
    offset: Offset
    published: Offset
    kept: bytes | None
    changed: bool
    control_after: str
    pending: tuple[str, ...]
    paused: bool
    prompts_text: str

    @property
    def goes_on(self) -> bool:
        """Whether viewers have seen chunks of this stream before."""
        return self.published.chunks > 0


def engine_id(session_id: str, epoch: int) -> str:
    """Return the engine's name of a stream, which no other claim of it uses."""
    return f"{session_id}.{epoch}"


def beginning(
    record: Mapping[str, str],
    session_id: str,
    epoch: int,
    kept: KeptState | None = None,
    image: str | None = None,
) -> Beginning:
    """Read a record.

    Args:
        record: The session's hash.
        session_id: Whose.
        epoch: Of the claim.
        kept: The newest state of the engine, if one is there.
        image: The start image, if the client gave one; base64 of a PNG of the stream's size.
    """
    live = LiveSpec.from_text(record["spec"], image)
    published = Offset(
        int(record.get("next_chunk", 0)),
        int(record.get("next_frame", 0)),
        int(record.get("prompt_rev", 0)),
    )
    prompts = live.prompts
    if "prompts" in record:
        prompts = tuple((text, weight) for text, weight in json.loads(record["prompts"]))
    pending = tuple(json.loads(record.get("pending", "[]")))
    if pending:
        published = replace(published, prompt_rev=published.prompt_rev + 1)
    if published.chunks == 0:
        kept = None
    offset = published if kept is None else kept.offset
    left = None if live.num_frames is None else max(1, live.num_frames - offset.frames)
    if offset.chunks > 0:
        image = None
    spec = StreamSpec(
        session_id=engine_id(session_id, epoch),
        prompts=tuple(PromptPart(text, weight) for text, weight in prompts),
        seed=live.seed,
        width=live.width,
        height=live.height,
        fps=live.fps,
        num_frames=left,
        num_steps=live.num_steps,
        kind="live",
        pacing=live.pacing,
        start_image=None if image is None else pixels(base64.b64decode(image)),
    )
    return Beginning(
        live=live,
        spec=spec,
        offset=offset,
        published=published,
        kept=None if kept is None else kept.data,
        changed=kept is not None and kept.prompts != record.get("prompts", ""),
        control_after=record.get("control_at", "0"),
        pending=pending,
        paused=record.get("paused") == "1",
        prompts_text=record.get("prompts", ""),
    )
