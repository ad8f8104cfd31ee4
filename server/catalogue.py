"""What a model can do, as far as gateways must know it to check a request.

Workers announce a card for the model they hold; gateways read the cards from the fabric and load
no weights. Knows neither torch nor HTTP.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model on offer.

    Attributes:
        name: Id as clients write it.
        sizes: Allowed ``(width, height)`` in pixels; the first is the default.
        fps: Allowed frame rates; the first is the default.
        max_steps: Most denoising steps a request may pin.
        chunk_frames: Pixel frames of a regular chunk.
        start_image: Whether a stream can begin from a picture.
        licence: Name of the licence of the weights.
        notes: One or two sentences for people.
        example_prompts: Prompts the model is known to follow.
        created: Unix seconds of the announcement.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    fps: tuple[int, ...]
    max_steps: int
    chunk_frames: int
    start_image: bool = False
    licence: str = ""
    notes: str = ""
    example_prompts: tuple[str, ...] = ()
    created: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that ``from_json`` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ModelCard":
        """Rebuild a card from what ``to_json`` gave."""
        return cls(
            **{
                **value,
                "sizes": tuple((int(w), int(h)) for w, h in value["sizes"]),
                "fps": tuple(value["fps"]),
                "example_prompts": tuple(value["example_prompts"]),
            }
        )

    def sizes_text(self) -> str:
        """Return the sizes for an error message, as ``160x96, 320x192``."""
        return ", ".join(f"{width}x{height}" for width, height in self.sizes)
