"""Still pictures for viewers that can decode nothing else.

Every picture stands alone, so joining and resuming need no keyframe. Uses Pillow only: it works
with a PyAV that has no video encoders. JFIF means BT.601 at full range, which every browser
assumes for a JPEG file.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server.media.types import AccessUnit, CodecConfig


class JpegCodec:
    """Encodes each picture by itself."""

    def __init__(self, width: int, height: int, quality: int = 88) -> None:
        self.config = CodecConfig("jpeg", "image/jpeg", b"", width, height)
        # Halving chroma costs a visible amount of sharpness when 160 pixels fill a window, and
        # saves little there; on large pictures it is the other way round.
        self._options: dict[str, Any] = {
            "quality": quality,
            "subsampling": 0 if width * height <= 320 * 240 else 2,
        }

    def encode(self, frames: NDArray[np.uint8], key: bool) -> list[AccessUnit]:
        """Return one JPEG file per picture of ``frames`` ``[T, H, W, 3]``; ``key`` is moot."""
        del key
        units = []
        for frame in frames:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "JPEG", **self._options)
            units.append(AccessUnit(buffer.getvalue(), keyframe=True))
        return units

    def close(self) -> None:
        """Nothing is held."""
