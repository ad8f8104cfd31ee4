"""What a video job is asked to make, and how much may be asked.

A ``JobRequest`` is checked and frozen; a job's record keeps it as JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Bounds on what one request, and all waiting jobs together, may take."""

    max_seconds: float = 3600.0
    max_prompt_chars: int = 4000
    max_timed_prompts: int = 256
    max_blend: int = 8
    max_body_bytes: int = 16 * 2**20
    max_queued: int = 1000


@dataclass(frozen=True, slots=True)
class PromptText:
    """A prompt and its weight in a blend."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TimedPrompt:
    """The blend that applies from the first chunk starting at or after ``at_s`` seconds."""

    at_s: float
    parts: tuple[PromptText, ...]


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A checked request. ``prompts`` is sorted by time and its first entry is at 0 s.

    Attributes:
        seconds: Duration as the client wrote it (the OpenAI shape keeps it a string).
        num_frames: Exactly ``round(seconds * fps)``, at least 1.
        steps: Denoising steps, ``None`` for the model's own number.
        has_image: Whether ``input.png`` beside the segments is the start frame.
        remixed_from: The job whose settings this one took with another prompt.
        extends: The job whose video this one begins with.
    """

    model: str
    prompts: tuple[TimedPrompt, ...]
    seconds: str
    width: int
    height: int
    fps: int
    num_frames: int
    seed: int
    steps: int | None = None
    has_image: bool = False
    remixed_from: str | None = None
    extends: str | None = None

    @property
    def prompt(self) -> str:
        """The text shown as the job's prompt: the first one."""
        return " + ".join(part.text for part in self.prompts[0].parts)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that ``from_json`` reads back."""
        return {
            "model": self.model,
            "prompts": [
                {"t": p.at_s, "parts": [[part.text, part.weight] for part in p.parts]}
                for p in self.prompts
            ],
            "seconds": self.seconds,
            "width": self.width,
            "height": self.height,
            "fps": self.fps,
            "num_frames": self.num_frames,
            "seed": self.seed,
            "steps": self.steps,
            "has_image": self.has_image,
            "remixed_from": self.remixed_from,
            "extends": self.extends,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "JobRequest":
        """Rebuild a request from what ``to_json`` wrote."""
        # Records of earlier releases may hold half a surrogate pair, which no answer can show.
        prompts = tuple(
            TimedPrompt(
                p["t"],
                tuple(PromptText(t.encode(errors="replace").decode(), w) for t, w in p["parts"]),
            )
            for p in value["prompts"]
        )
        return cls(**{**value, "prompts": prompts})
