"""How a stream begins: from nothing, from an image, or from a clip that it continues."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.asked import StreamSpec
from engine.events import Refused
from engine.session import ChunkShape
from models.entry import ModelEntry
from models.interface import VideoCodec


def chunk_shape(spec: StreamSpec, entry: ModelEntry, codec: VideoCodec) -> ChunkShape:
    """Return how the stream is cut; its chunk 0 is the given image or clip if there is one."""
    size = entry.cache.chunk_frames
    frames = codec.frames_for(size, False)
    if spec.start_image is None:
        first = entry.cache.chunk_size(0)
        return ChunkShape(size, frames, first, codec.frames_for(first, True))
    given = len(start_frames(spec.start_image, entry))
    latents = 1 + (given - 1) // 4
    # An image that stands for several frames is shown once.
    shown = 1 if spec.start_image.ndim == 3 else codec.frames_for(latents, True)
    return ChunkShape(size, frames, latents, shown)


def start_frames(image: npt.NDArray[np.uint8], entry: ModelEntry) -> npt.NDArray[np.uint8]:
    """Return the frames to encode, ``[T, H, W, 3]`` with T one more than a multiple of four.

    An image is repeated as often as the model's chunks want; of a clip, the newest frames count.
    """
    if image.ndim == 3:
        return np.repeat(image[None], entry.start_image_frames or 1, axis=0)
    return image[(len(image) - 1) % 4 :]


def problem_with_start(spec: StreamSpec, entry: ModelEntry) -> Refused | None:
    """Say why the stream cannot begin with what it was given; None when it can."""
    image = spec.start_image
    if image is None:
        return None
    if image.ndim not in (3, 4) or image.shape[-3:] != (spec.height, spec.width, 3):
        return Refused(
            "invalid_image",
            f"the start image has shape {tuple(image.shape)}; it must be RGB of "
            f"{spec.width}x{spec.height}; scale it first",
            "image",
        )
    if image.ndim == 3 and not entry.image_to_video:
        return Refused(
            "not_supported",
            f"{entry.name} cannot start from an image; send a prompt alone or choose a model that "
            "can",
            "image",
        )
    if image.ndim == 4 and (not entry.continues_video or len(image) == 0):
        return Refused(
            "not_supported",
            f"{entry.name} cannot continue a video of {len(image)} frames; send a prompt alone",
            "image",
        )
    return None
