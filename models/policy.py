"""How a model's KV cache behaves over a stream, as one frozen value.

The policy says which frames a chunk attends to and when the cache is rebuilt. It holds no
tensors and knows nothing of pages: the engine and the training views both follow it.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["CachePolicy", "Recache", "RopeMode"]

PLANNED_WITHOUT_WINDOW = 21
"""Latent frames planned for a stream of a model that attends to everything."""

RopeMode = Literal["absolute", "window"]
Recache = Literal["bidirectional", "block_causal", "every_chunk", "none"]


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What a chunk attends to and how a prompt change reaches the past.

    Attributes:
        window_frames: latent frames attended at most, sink and the chunk itself included
            (upstream's ``local_attn_size``); None attends to the whole stream.
        sink_frames: frames at the start of the stream that are never evicted.
        rope: "absolute" stores rotated keys at their frame's index in the stream; "window"
            stores them unrotated and numbers the attended frames from 0 at every pass.
        chunk_frames: latent frames denoised together.
        context_timestep: timestep of the clean pass, 0 to 1000; the latent is not noised.
        recache: what a new prompt does to the cache. "bidirectional" rebuilds the window in
            one pass where all its frames see each other (LongLive), "block_causal" rebuilds it
            chunk after chunk, "every_chunk" rebuilds a short context before every chunk
            whether or not the prompt changed (Krea), "none" changes cross-attention only.
        keep_sink_on_recache: leave the sink's keys as they are once the stream is longer than
            the window.
        independent_first_frame: the first chunk is a single frame.
        past_weight: factor on the attention that past frames receive, other than frame 0 of
            the cache and the chunk itself; 1 is plain attention.
    """

    window_frames: int | None = None
    sink_frames: int = 0
    rope: RopeMode = "absolute"
    chunk_frames: int = 3
    context_timestep: float = 0.0
    recache: Recache = "bidirectional"
    keep_sink_on_recache: bool = True
    independent_first_frame: bool = False
    past_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.chunk_frames < 1 or self.sink_frames < 0:
            raise ValueError(
                f"chunk_frames {self.chunk_frames}, sink_frames {self.sink_frames}; a chunk has at "
                "least one frame and a sink at least none"
            )
        if self.window_frames is None:
            if self.rope == "window":
                raise ValueError(
                    'rope "window" without window_frames; window-relative positions need a window; '
                    "set window_frames"
                )
        elif self.window_frames < self.sink_frames + self.chunk_frames:
            raise ValueError(
                f"window_frames {self.window_frames} with sink_frames {self.sink_frames} and "
                f"chunk_frames {self.chunk_frames}; the window must hold both; enlarge it"
            )
        if not 0 <= self.context_timestep <= 1000:
            raise ValueError(
                f"context_timestep {self.context_timestep}; timesteps run from 0 to 1000"
            )
        if not 0 < self.past_weight <= 1:
            raise ValueError(
                f"past_weight {self.past_weight}; it is a factor above 0 and at most 1"
            )

    @property
    def planned_window(self) -> int:
        """Latent frames to plan a stream for: its window, or what is assumed of one without end."""
        return self.window_frames or PLANNED_WITHOUT_WINDOW

    def chunk_size(self, chunk_index: int) -> int:
        """Latent frames of a chunk of a stream that started without frames of its own."""
        return 1 if self.independent_first_frame and chunk_index == 0 else self.chunk_frames

    def attended(self, end_frame: int) -> tuple[int, ...]:
        """Frames that the chunk ending before ``end_frame`` attends to, itself included.

        They are indices in the stream in ascending order: the sink and the most recent
        frames. The place of a frame in this tuple is its position when ``rope`` is "window".
        """
        if self.window_frames is None or end_frame <= self.window_frames:
            return tuple(range(end_frame))
        recent = end_frame - (self.window_frames - self.sink_frames)
        return (*range(self.sink_frames), *range(recent, end_frame))
