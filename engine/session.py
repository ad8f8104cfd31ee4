"""One stream's life as a state machine without input or output.

It joins the stream's prompts, its viewer's credit and its counters, and says what the next chunk
is. Tensors, pages and the decision whose turn it is live elsewhere; time is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.asked import Pacing, PromptUpdate, StreamSpec
from engine.events import EngineEvent, PromptApplied, PromptSuperseded, SessionPaused
from engine.playout import Playout, StepGovernor
from engine.prompt_timeline import ChunkPrompt, PromptTimeline


@dataclass(frozen=True, slots=True)
class ChunkShape:
    """How a stream is cut into chunks.

    Attributes:
        chunk_latents: Latent frames of a regular chunk.
        chunk_frames: Pixel frames it decodes to.
        first_latents: Latent frames of chunk 0, which may be a given start image or clip.
        first_frames: Pixel frames delivered for it.
    """

    chunk_latents: int
    chunk_frames: int
    first_latents: int
    first_frames: int

    def latents(self, chunk_index: int) -> int:
        """Return the latent frames of a chunk."""
        return self.first_latents if chunk_index == 0 else self.chunk_latents

    def frames(self, chunk_index: int) -> int:
        """Return the pixel frames of a chunk."""
        return self.first_frames if chunk_index == 0 else self.chunk_frames

    def latents_for(self, frames: int) -> int:
        """Return the latent frames of a stream of at least ``frames`` pixel frames."""
        more = max(0, frames - self.first_frames)
        return self.first_latents + -(-more // self.chunk_frames) * self.chunk_latents


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """A chunk that is being started.

    Attributes:
        index: From 0.
        first_frame: Number of its first pixel frame.
        latents: Its latent frames.
        frames: Its pixel frames that are delivered.
        prompt: What it shows.
        steps: Denoising steps; those of a first chunk may be others than were asked for.
        last: No chunk follows.
        ready_since: When it could have been started.
        opens: It is the stream's first one here, after a restore too: a viewer waits for a picture.
    """

    index: int
    first_frame: int
    latents: int
    frames: int
    prompt: ChunkPrompt
    steps: int
    last: bool
    ready_since: float
    opens: bool


class Session:
    """One stream.

    Args:
        spec: As admitted.
        shape: How its stream is cut into chunks.
        steps: Denoising steps when there is time.
        first_steps: Those of the stream's first chunk.
        pinned: Never use fewer.
        expected_s: Time one chunk is expected to take.
        now: When it was admitted.
    """

    def __init__(
        self,
        spec: StreamSpec,
        shape: ChunkShape,
        steps: int,
        first_steps: int,
        pinned: bool,
        expected_s: float,
        now: float,
    ) -> None:
        self.spec = spec
        self.shape = shape
        self.prompts = PromptTimeline(spec.prompts, spec.timed_prompts)
        self.pacing: Pacing = "asap" if spec.kind == "job" else spec.pacing
        self.playout = Playout(self.pacing, spec.fps, shape.chunk_frames, expected_s)
        self.governor = StepGovernor(steps, pinned or self.pacing != "realtime")
        self._first_steps = first_steps
        self.most_steps = max(steps, first_steps)  # of any of its chunks
        self.chunk_index = 0
        self._being_made = 0  # chunks
        self.last_run = float("-inf")
        self._last_end = float("-inf")
        self._ready_floor = now  # the wait for credit ends no earlier than this

    @property
    def next_frame(self) -> int:
        """Number of the first pixel frame that is neither made nor being made."""
        return self.playout.generated

    @property
    def next_steps(self) -> int:
        """Denoising steps of the next chunk."""
        return self._first_steps if self.chunk_index == 0 else self.governor.steps

    @property
    def made(self) -> tuple[int, int]:
        """Chunks and frames that are made."""
        return self.chunk_index - self._being_made, self.playout.ready_frames

    @property
    def complete(self) -> bool:
        """Whether all frames that were asked for are made or being made."""
        wanted = self.spec.num_frames
        return wanted is not None and self.next_frame >= wanted

    def runnable_at(self) -> float | None:
        """Return since or from when the next chunk may be started; None while it must wait."""
        if self.complete:
            return None
        due = self.playout.runnable_at(self.shape.frames(self.chunk_index))
        return None if due is None else max(due, self._ready_floor)

    def state(self) -> dict[str, Any]:
        """Return what is not in the spec as plain JSON values, for ``restore``."""
        return {
            "chunk_index": self.chunk_index,
            "frames": self.next_frame,
            "steps": self.governor.steps,
            "prompts": self.prompts.state(),
        }

    def restore(self, state: dict[str, Any], expected_s: float) -> None:
        """Go on where the session that gave ``state`` was; its viewer has had all frames."""
        self.chunk_index = int(state["chunk_index"])
        self.governor.restore(int(state["steps"]))
        self.prompts = PromptTimeline.restored(state["prompts"])
        self.playout = Playout(
            self.pacing,
            self.spec.fps,
            self.shape.chunk_frames,
            expected_s,
            generated=int(state["frames"]),
        )

    def start_chunk(self, now: float) -> ChunkPlan:
        """Fix what the next chunk is; changes that come later wait for the one after it."""
        ready_since = self.runnable_at()
        assert ready_since is not None, f"{self.spec.session_id} may not run"
        frames = self.shape.frames(self.chunk_index)
        left = frames
        if self.spec.num_frames is not None:
            left = self.spec.num_frames - self.next_frame
        opens, self.last_run = self.last_run == float("-inf"), now
        plan = ChunkPlan(
            index=self.chunk_index,
            first_frame=self.next_frame,
            latents=self.shape.latents(self.chunk_index),
            frames=min(frames, left),
            prompt=self.prompts.start_chunk(self.next_frame),
            steps=self.next_steps,
            last=self.spec.num_frames is not None and left <= frames,
            ready_since=min(ready_since, now),
            opens=opens,
        )
        self.playout.start(plan.frames)
        self.chunk_index += 1
        self._being_made += 1
        self._ready_floor = max(self._ready_floor, now)
        return plan

    def finish_chunk(self, plan: ChunkPlan, now: float, cost_s: float) -> float | None:
        """Count a finished chunk; return the viewer's slack, see ``Playout.made``.

        A chunk that was started behind another one counts from that one's end.
        """
        since = max(plan.ready_since, self._last_end)
        slack_s = self.playout.made(plan.frames, now, now - since)
        self.governor.observe(slack_s, cost_s)
        self._being_made -= 1
        self._last_end = now
        self._ready_floor = max(self._ready_floor, now)
        return slack_s

    def receipts(self, plan: ChunkPlan) -> tuple[EngineEvent, ...]:
        """Return what is to be said immediately before the chunk's frames."""
        session_id = self.spec.session_id
        gone = [PromptSuperseded(session_id, old, by) for old, by in plan.prompt.superseded]
        applied = [
            PromptApplied(session_id, event, plan.index, plan.first_frame)
            for event in plan.prompt.applied
        ]
        return (*gone, *applied)

    def update_prompt(self, update: PromptUpdate) -> tuple[EngineEvent, ...]:
        """Take a prompt change for the next chunk that starts; report what it replaces."""
        replaced = self.prompts.queue(update)
        if replaced is None:
            return ()
        return (PromptSuperseded(self.spec.session_id, replaced, update.event_id),)

    def pause(self, now: float) -> tuple[EngineEvent, ...]:
        """Start no further chunk."""
        if self.playout.paused:
            return ()
        self.playout.pause(now)
        return (SessionPaused(self.spec.session_id, self.next_frame),)

    def play(self, now: float) -> None:
        """Go on after a pause."""
        if self.playout.paused:
            self.playout.play(now)
            self._ready_floor = now
