"""A session together with its device state, as the engine holds it."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.admission import Demand
from engine.asked import PromptUpdate
from engine.events import EngineEvent, PromptQueued, PromptRejected, PromptSuperseded
from engine.prompt_timeline import problem_with, restored_update, update_state
from engine.prompts import PromptStore
from engine.scheduler import Candidate
from engine.session import ChunkPlan, Session
from engine.stream import Stream


@dataclass(slots=True)
class Held:
    """One admitted stream.

    Attributes:
        session: Its state machine.
        stream: Its pages and tensors.
        demand: What it was counted for at the door.
        arriving: A prompt change whose texts are being embedded.
    """

    session: Session
    stream: Stream
    demand: Demand
    arriving: PromptUpdate | None = None

    @property
    def awaited_texts(self) -> tuple[str, ...]:
        """Texts that may still be with the encoder and without which its next chunk cannot start.

        Those of its first chunk here, after a restore too, and of a timed prompt.
        """
        session = self.session
        frame = session.next_frame
        if session.last_run > -math.inf and not session.prompts.timed_is_due(frame):
            return ()
        return tuple(part.text for part in session.prompts.next_mix(frame))

    def state(self) -> dict[str, Any]:
        """Return what is in no spec and no tensor as plain JSON values, for ``restore``."""
        return {**self.session.state(), "arriving": update_state(self.arriving)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where the stream that gave ``state`` was."""
        self.session.restore(state, self.demand.chunk_s)
        self.arriving = restored_update(state["arriving"])

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text that may be needed, soonest first."""
        arriving = () if self.arriving is None else self.arriving.prompts
        return *self.session.prompts.texts, *(part.text for part in arriving)

    def update_prompt(self, update: PromptUpdate, prompts: PromptStore) -> tuple[EngineEvent, ...]:
        """Take a prompt change, for the session at once or when its texts have been embedded."""
        session_id, problem = self.session.spec.session_id, problem_with(update.prompts)
        if problem is not None:
            return (PromptRejected(session_id, update.event_id, problem),)
        prompts.request([part.text for part in update.prompts])
        replaced, self.arriving = self.arriving, update
        events: list[EngineEvent] = [
            PromptQueued(session_id, update.event_id, self.session.chunk_index)
        ]
        if replaced is not None:
            events.append(PromptSuperseded(session_id, replaced.event_id, update.event_id))
        return (*events, *self.take_arrived(prompts))

    def take_arrived(self, prompts: PromptStore) -> tuple[EngineEvent, ...]:
        """Give the change that arrives to the session if its texts are embedded; report it."""
        update = self.arriving
        if update is None or not prompts.ready([part.text for part in update.prompts]):
            return ()
        self.arriving = None
        return self.session.update_prompt(update)

    def candidate(self, own_first_schedule: bool, now: float) -> Candidate | None:
        """Describe it to the scheduler; None while it may not run.

        Args:
            own_first_schedule: The model's first chunk has other steps than the rest.
            now: Current time.
        """
        session = self.session
        ready = session.runnable_at()
        if ready is None or ready > now:
            return None
        return Candidate(
            session.spec.session_id,
            session.spec.kind,
            session.pacing,
            session.playout.deadline(),
            ready,
            session.last_run,
            session.next_steps,
            session.governor.steps,
            self._group(own_first_schedule),
            session.shape.frames(session.chunk_index) / session.spec.fps,
        )

    def starts_from_given(self, chunk_index: int) -> bool:
        """Whether a chunk is the image or clip that the stream starts from."""
        return chunk_index == 0 and self.session.spec.start_image is not None

    def delivered(self, frames: Tensor, plan: ChunkPlan) -> Tensor:
        """Cut decoded frames to what the chunk delivers: a start's newest, an end's oldest."""
        if self.starts_from_given(plan.index):
            frames = frames[frames.shape[0] - self.session.shape.first_frames :]
        return frames[: plan.frames]

    def _group(self, own_first_schedule: bool) -> Hashable:
        """Sessions of one group can share a batch."""
        index = self.session.chunk_index
        if self.starts_from_given(index):
            return self.session.spec.session_id
        first = index == 0 and own_first_schedule
        return self.stream.latent_hw, self.session.shape.latents(index), first
