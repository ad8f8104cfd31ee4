"""Chunks that have been asked of the device and are not yet in the viewer's hands.

On a CUDA device asking takes no time and the frames come later; meanwhile the next chunks can be
asked for, so that one's decoding runs beside the other's denoising. On a CPU a chunk is there when
asking returns. What becomes of a chunk is the engine's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.events import ChunkReady
from engine.frame_copy import Mark, PendingFrames
from engine.held import Held
from engine.session import ChunkPlan

__all__ = ["Flight", "FlyingChunk"]


@dataclass(frozen=True, slots=True)
class FlyingChunk:
    """One stream's chunk.

    Attributes:
        held: The stream.
        plan: What the chunk is.
        frames: On their way, or why they cannot be decoded.
        decoding: Where its decoding began.
        decoded: Where it ended.
    """

    held: Held
    plan: ChunkPlan
    frames: PendingFrames | Exception
    decoding: Mark
    decoded: Mark

    def ready(self) -> bool:
        """Whether the frames are there, or never will be."""
        return isinstance(self.frames, Exception) or self.frames.ready()

    def report(self, now: float, launched: float, denoise_s: float) -> ChunkReady:
        """Wait for the frames and return what is said of them; the session counts them before.

        Args:
            now: When they were ready.
            launched: When they were asked for.
            denoise_s: Seconds that their tick denoised.

        Raises:
            Exception: They cannot be decoded.
        """
        if isinstance(self.frames, Exception):
            raise self.frames
        session, plan, held = self.held.session, self.plan, self.held
        frames = held.delivered(self.frames.result(), plan)
        slack_s = session.finish_chunk(plan, now, held.demand.chunk_s)
        return ChunkReady(
            session_id=session.spec.session_id,
            epoch=session.spec.epoch,
            chunk_index=plan.index,
            first_frame=plan.first_frame,
            num_frames=plan.frames,
            frames=frames,
            prompt_rev=plan.prompt.rev,
            steps=0 if held.starts_from_given(plan.index) else plan.steps,
            queue_ms=1000 * (launched - plan.ready_since),
            denoise_ms=1000 * denoise_s,
            decode_ms=1000 * self.decoding.until(self.decoded),
            slack_s=slack_s,
        )


@dataclass(frozen=True, slots=True)
class Flight:
    """The chunks of one tick.

    Attributes:
        chunks: One for each stream of the batch.
        now: The engine's time when they were asked for.
        clock_s: The clock's at that moment.
        begun: Where their denoising began.
        denoised: Where it ended.
    """

    chunks: tuple[FlyingChunk, ...]
    now: float
    clock_s: float
    begun: Mark
    denoised: Mark

    def ready(self) -> bool:
        """Whether all frames are there."""
        return all(chunk.ready() for chunk in self.chunks)

    def time_at(self, clock_s: float) -> float:
        """The engine's time when the clock shows ``clock_s``."""
        return self.now + clock_s - self.clock_s

    def opens(self) -> bool:
        """Whether some viewer waits for a first picture."""
        return any(chunk.plan.opens for chunk in self.chunks)
