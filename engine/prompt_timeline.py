"""What one stream shall show, chunk by chunk: the first prompt, timed ones and changes.

A change waits here until a chunk is about to start, so the chunk it is applied to is by
construction one that had not started when the change was queued. A transition is a blend whose
weights move over several chunks. Texts stay texts: their embeddings are mixed elsewhere, by the
weights given here.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

from engine.asked import PromptPart, Prompts, PromptUpdate, TimedPrompt


@dataclass(frozen=True, slots=True)
class ChunkPrompt:
    """What one chunk shows.

    Attributes:
        mix: Texts with weights that sum to 1, heaviest first.
        rev: Counts the prompts applied so far, the first one not included.
        changed: Whether ``mix`` differs from the previous chunk's.
        recache: Whether the model's policy may rebuild the window under ``mix`` now.
        applied: Event ids that take effect with this chunk.
        superseded: Timed prompts that never will, and by which event.
    """

    mix: Prompts
    rev: int
    changed: bool
    recache: bool
    applied: tuple[str, ...]
    superseded: tuple[tuple[str, str], ...] = ()


def blend(old: Prompts, new: Prompts, share: float) -> Prompts:
    """Mix two blends, ``share`` of the weight to ``new``; equal texts are joined."""
    weights: dict[str, float] = {}
    for prompts, part in ((old, 1.0 - share), (new, share)):
        total = sum(prompt.weight for prompt in prompts)
        assert total > 0, f"weights of {prompts} sum to {total}"
        for prompt in prompts:
            weight = part * prompt.weight / total
            weights[prompt.text] = weights.get(prompt.text, 0.0) + weight
    kept = [PromptPart(text, weight) for text, weight in weights.items() if weight > 0]
    return tuple(sorted(kept, key=lambda prompt: (-prompt.weight, prompt.text)))


def problem_with(prompts: Sequence[PromptPart]) -> str | None:
    """Say why ``prompts`` cannot be shown; None when they can."""
    if not prompts:
        return "no prompt was given; at least one is needed; send a text"
    for prompt in prompts:
        if not 0 <= prompt.weight < float("inf"):
            return f"a prompt's weight is {prompt.weight}; weights are finite and not negative"
    if not any(prompt.weight > 0 for prompt in prompts):
        return "every prompt's weight is 0; at least one must be above 0"
    return None


def update_state(update: PromptUpdate | None) -> dict[str, Any] | None:
    """Return a change as plain JSON values, for ``restored_update``."""
    return None if update is None else asdict(update)


def restored_update(state: dict[str, Any] | None) -> PromptUpdate | None:
    """Rebuild a change from ``update_state``, which may have been through JSON."""
    if state is None:
        return None
    return PromptUpdate(**{**state, "prompts": _prompts(state["prompts"])})


class PromptTimeline:
    """One stream's prompts.

    Args:
        prompts: The first ones.
        timed: Prompts that come by themselves, in ascending frame order.
    """

    def __init__(self, prompts: Prompts, timed: Sequence[TimedPrompt] = ()) -> None:
        self._from: Prompts = blend(prompts, prompts, 1.0)
        self._to: Prompts = self._from
        self._done, self._of = 1, 1  # chunks of the transition gone by, and its length
        self._recache = True
        self._timed = list(timed)
        self._pending: PromptUpdate | None = None
        self._rev = 0

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text that may be needed, soonest first; for embedding them ahead of time."""
        prompts = [*self._from, *self._to]
        if self._pending is not None:
            prompts.extend(self._pending.prompts)
        for timed in self._timed:
            prompts.extend(timed.prompts)
        return tuple(dict.fromkeys(prompt.text for prompt in prompts))

    def queue(self, update: PromptUpdate) -> str | None:
        """Take a change; return the event id of one that it replaces before it took effect."""
        replaced = self._pending
        self._pending = update
        return None if replaced is None else replaced.event_id

    def timed_is_due(self, first_frame: int) -> bool:
        """Whether the chunk that starts at ``first_frame`` changes by itself."""
        return bool(self._timed) and self._timed[0].frame <= first_frame

    def next_mix(self, first_frame: int) -> Prompts:
        """Return what ``start_chunk`` would show; nothing changes."""
        twin = copy(self)
        twin._timed = list(self._timed)
        return twin.start_chunk(first_frame).mix

    def start_chunk(self, first_frame: int) -> ChunkPrompt:
        """Decide what the chunk that starts at ``first_frame`` shows; once a chunk, in order."""
        before = self._mix()
        events: list[str] = []
        update: PromptUpdate | None = None
        while self.timed_is_due(first_frame):
            timed = self._timed.pop(0)
            update = PromptUpdate(f"timed:{timed.frame}", timed.prompts)
            events.append(update.event_id)
        if self._pending is not None:
            update, self._pending = self._pending, None
            events.append(update.event_id)
        if update is not None:
            self._from, self._to = before, blend(update.prompts, update.prompts, 1.0)
            self._done, self._of = 0, max(1, update.transition_chunks)
            self._recache = update.recache
            self._rev += 1
        last_of_transition = self._done + 1 == self._of
        self._done = min(self._done + 1, self._of)
        mix = self._mix()
        return ChunkPrompt(
            mix=mix,
            rev=self._rev,
            changed=mix != before,
            # The window is rebuilt once, when the new prompt has taken over.
            recache=self._recache and last_of_transition,
            applied=tuple(events[-1:]),
            superseded=tuple((event, events[-1]) for event in events[:-1]),
        )

    def state(self) -> dict[str, Any]:
        """Return everything as plain JSON values, for ``restored``."""
        return {
            "from": self._from,
            "to": self._to,
            "done": self._done,
            "of": self._of,
            "recache": self._recache,
            "rev": self._rev,
            "timed": self._timed,
            "pending": update_state(self._pending),
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> PromptTimeline:
        """Rebuild a timeline from ``state``, which may have been through JSON."""
        timeline = cls(_prompts(state["to"]))
        timeline._from = _prompts(state["from"])
        timeline._to = _prompts(state["to"])
        timeline._done, timeline._of = int(state["done"]), int(state["of"])
        timeline._recache = bool(state["recache"])
        timeline._rev = int(state["rev"])
        timeline._timed = [TimedPrompt(int(at), _prompts(what)) for at, what in state["timed"]]
        timeline._pending = restored_update(state["pending"])
        return timeline

    def _mix(self) -> Prompts:
        return blend(self._from, self._to, self._done / self._of)


def _prompts(raw: Sequence[Sequence[Any]]) -> Prompts:
    return tuple(PromptPart(str(text), float(weight)) for text, weight in raw)
