"""Start images: an encoded picture becomes a PNG of exactly the video's size.

Gateways do this before anything is queued, so records and folders hold small pictures that can be
read. Knows neither requests nor storage; it works for up to a second, so not on an event loop.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")
_MAX_PIXELS = 32 * 2**20


class UnusableImage(Exception):
    """The data is no picture that can be used; the text says what was seen and what is allowed."""


def fitted_png(data: bytes, size: tuple[int, int]) -> bytes:
    """Return a picture turned as its camera says, scaled to cover ``size`` and cut to it, as PNG.

    What is transparent shows white behind it; values of 16 bits become such of 8.

    Args:
        data: A PNG, JPEG or WebP file.
        size: ``(width, height)`` in pixels.

    Raises:
        UnusableImage: It is of another kind, damaged, or far too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise UnusableImage(
                    f"{picture.width}x{picture.height}; at most {_MAX_PIXELS} pixels are allowed"
                )
            turned = _rgb(ImageOps.exif_transpose(picture))
    except UnusableImage:
        raise
    except Exception as error:
        # Pillow has no error of its own: damaged files make it raise whatever their reading met,
        # SyntaxError, struct.error and TypeError among them.
        raise UnusableImage(
            f"{len(data)} bytes that cannot be read as a picture; a {', '.join(FORMATS)} file is "
            "allowed"
        ) from error
    out = io.BytesIO()
    ImageOps.fit(turned, size, Image.Resampling.LANCZOS).save(out, "PNG")
    return out.getvalue()


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # Grey of 16 bits, which Pillow would cut off at 255 instead of scaling it.
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.has_transparency_data:
        # Under what is transparent lies any colour, often black.
        seen = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return picture.convert("RGB")


def pixels(png: bytes) -> NDArray[np.uint8]:
    """Return a picture that ``fitted_png`` made as RGB ``[H, W, 3]`` uint8."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        return np.array(picture.convert("RGB"))
