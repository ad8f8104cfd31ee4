"""A live stream as its record holds it: what was asked, checked against the model.

``LiveSpec`` is the checked request, ``choose`` makes it from a ``session.start`` and a model's
card or says why not. Knows neither Redis nor the engine.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, cast

from server.catalogue import ModelCard
from server.images import UnusableImage, fitted_png
from server.media.types import CodecName
from server.wire.messages_in import InteractionEvent, SessionStart
from server.wire.messages_out import ErrorMessage

WireFormat = Literal["m4s", "avcc", "jpeg"]
_MP4_CODECS = ("h264", "av1")


@dataclass(frozen=True, slots=True)
class LiveSpec:
    """A checked request for a live stream.

    ``prompts`` are ``(text, weight)``; ``image`` is base64 of a PNG of the stream's size.
    """

    model: str
    prompts: tuple[tuple[str, float], ...]
    seed: int
    width: int
    height: int
    fps: int
    num_frames: int | None
    num_steps: int | None
    pacing: Literal["realtime", "asap"]
    codec: CodecName
    image: str | None = None

    def to_text(self) -> str:
        """Return JSON that ``from_text`` reads back; the image, which is large, is kept apart."""
        value = asdict(self)
        del value["image"]
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str, image: str | None = None) -> "LiveSpec":
        """Rebuild a spec from what ``to_text`` gave, and its image where that is wanted."""
        value = json.loads(text)
        prompts = tuple((str(t), float(w)) for t, w in value.pop("prompts"))
        return cls(prompts=prompts, image=image, **value)


def prompt_parts(message: SessionStart | InteractionEvent) -> tuple[tuple[str, float], ...]:
    """Return the blend a message asks for as ``(text, weight)``."""
    if message.prompts is not None:
        return tuple((part.text, part.weight) for part in message.prompts)
    assert message.prompt is not None, "parse lets exactly one of them through"
    return ((message.prompt, 1.0),)


def choose_codec(wire_format: str, codec: str | None) -> CodecName | ErrorMessage:
    """Return the codec a format is encoded with; JPEG pictures go with format jpeg alone."""
    wanted = codec or ("jpeg" if wire_format == "jpeg" else "h264")
    allowed: tuple[str, ...] = ("h264", "vp8", "av1")
    if wire_format == "jpeg":
        allowed = ("jpeg",)
    elif wire_format == "m4s":
        allowed = _MP4_CODECS
    if wanted in allowed:
        return cast(CodecName, wanted)
    return ErrorMessage(
        code="unsupported_codec",
        message=f"codec {wanted} with format {wire_format}; it goes with {', '.join(allowed)}",
        param="codec",
    )


def choose(
    start: SessionStart, card: ModelCard, draw_seed: Callable[[], int]
) -> LiveSpec | ErrorMessage:
    """Check a start against what its model can do.

    A start image is read and scaled here, which is no work for an event loop.

    Args:
        start: As the client sent it.
        card: Of the model it names.
        draw_seed: Gives a seed when the client names none.
    """
    size = card.sizes[0]
    if start.width is not None and start.height is not None:
        size = (start.width, start.height)
    if size not in card.sizes:
        return ErrorMessage(
            code="unsupported_size",
            message=f"size {size[0]}x{size[1]}; {card.name} makes {card.sizes_text()}",
            param="width",
        )
    fps = card.fps[0] if start.fps is None else start.fps
    if fps not in card.fps:
        allowed = ", ".join(str(rate) for rate in card.fps)
        return ErrorMessage(
            code="unsupported_fps", message=f"fps {fps}; {card.name} makes {allowed}", param="fps"
        )
    if start.num_inference_steps is not None and start.num_inference_steps > card.max_steps:
        return ErrorMessage(
            code="invalid_value",
            message=f"num_inference_steps is {start.num_inference_steps}; {card.name} takes 1 to {card.max_steps}",
            param="num_inference_steps",
        )
    codec = choose_codec(start.format, start.codec)
    if isinstance(codec, ErrorMessage):
        return codec
    image = None if start.image is None else _start_image(start.image, card, size)
    if isinstance(image, ErrorMessage):
        return image
    return LiveSpec(
        model=card.name,
        prompts=prompt_parts(start),
        seed=draw_seed() if start.seed is None else start.seed,
        width=size[0],
        height=size[1],
        fps=fps,
        num_frames=start.num_frames,
        num_steps=start.num_inference_steps,
        pacing=start.pacing,
        codec=codec,
        image=image,
    )


def _start_image(image: str, card: ModelCard, size: tuple[int, int]) -> str | ErrorMessage:
    """Return a client's picture as base64 of a PNG of exactly ``size``."""
    if not card.start_image:
        return ErrorMessage(
            code="not_supported",
            message=f"a start image; {card.name} cannot begin from a picture, leave image out",
            param="image",
        )
    try:
        return base64.b64encode(fitted_png(base64.b64decode(image, validate=True), size)).decode()
    except ValueError:
        seen = f"{len(image)} characters that are not base64; base64 of a picture is allowed"
    except UnusableImage as error:
        seen = str(error)
    return ErrorMessage(code="invalid_image", message=f"image is {seen}", param="image")
