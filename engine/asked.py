"""What the engine is asked for: streams, prompt changes and other commands.

Frozen and free of torch, as ``engine.events`` is, so that a server may import the two alone. Frame
numbers are pixel frames from 0 at the start of the stream. Nothing here knows sockets, codecs or
models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Kind = Literal["live", "job"]
Pacing = Literal["realtime", "asap"]


class PromptPart(NamedTuple):
    """One text of a weighted blend; weights are normalised to sum to 1 before use."""

    text: str
    weight: float = 1.0


Prompts = tuple[PromptPart, ...]


class TimedPrompt(NamedTuple):
    """A prompt that takes effect at the first chunk starting at or after ``frame``."""

    frame: int
    prompts: Prompts


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream to generate.

    Attributes:
        session_id: Unique among the engine's sessions.
        prompts: At least one part.
        seed: 0 to 2**53 - 1. Noise is a function of seed, chunk and step only.
        width: Pixels; one of the model's sizes.
        height: Pixels.
        fps: Rate at which the viewer plays; paces ``realtime`` sessions.
        num_frames: Pixel frames to deliver exactly; None is endless.
        num_steps: Pinned denoising steps; None is the model's or the policy's number,
            which the engine may lower while it is overloaded.
        kind: ``job`` sessions take what ``live`` ones leave.
        pacing: ``realtime`` runs at most its lead ahead of the viewer; ``asap`` at most two chunks
            ahead of the last credit. Jobs are gated like ``asap``: whoever consumes the chunks
            must call credit.
        timed_prompts: In ascending frame order.
        start_image: uint8 RGB ``[H, W, 3]`` of exactly the stream's size that the video starts
            from, or a clip ``[T, H, W, 3]`` that it continues.
        epoch: Repeated in every chunk.
    """

    session_id: str
    prompts: Prompts
    seed: int
    width: int
    height: int
    fps: float
    num_frames: int | None = None
    num_steps: int | None = None
    kind: Kind = "live"
    pacing: Pacing = "realtime"
    timed_prompts: tuple[TimedPrompt, ...] = ()
    start_image: npt.NDArray[np.uint8] | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class PromptUpdate:
    """A prompt change that takes effect at the next chunk not yet started.

    Attributes:
        event_id: Names the change in its receipts.
        prompts: What the stream shall show.
        transition_chunks: Blend from the old prompt over this many chunks; 0 switches at once.
        recache: Let the model's policy rebuild the window's keys and values under the new prompt;
            False changes cross-attention only.
    """

    event_id: str
    prompts: Prompts
    transition_chunks: int = 0
    recache: bool = True


@dataclass(frozen=True, slots=True)
class UpdatePrompt:
    """Change a stream's prompt; answered by ``PromptQueued`` unless the session is gone."""

    session_id: str
    update: PromptUpdate


@dataclass(frozen=True, slots=True)
class Credit:
    """The viewer has presented (``asap``: the socket or the file has taken) all up to ``frame``.

    ``frame`` is the number of that frame, so 8 after a first chunk of 9. Lower or repeated values
    are ignored.
    """

    session_id: str
    frame: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Start no further chunk until ``Play``."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Play:
    """Go on after ``Pause``."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End a stream and free its pages; answered by ``SessionEnded``."""

    session_id: str


Command = UpdatePrompt | Credit | Pause | Play | Stop
