"""Start images: an upload or a data URL becomes a PNG of exactly the video's size.

Addresses are not fetched: a server that loads what a client names can be made to read
what only the server may reach. Knows no HTTP and no storage.
"""

import base64
import binascii
import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from server.jobs.errors import RequestRefused, refuse, shown
from server.jobs.forms import Upload

FORMATS = ("PNG", "JPEG", "WEBP")
_MAX_PIXELS = 32 * 2**20
_PARAM = "input_reference"
_UNREADABLE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    OSError,
    ValueError,
    SyntaxError,
)
"""What Pillow raises for pictures that are damaged or made to exhaust memory."""


def read_start_image(reference: Any, size: tuple[int, int]) -> bytes:
    """Return the image scaled to cover ``size`` (width, height), centre cropped, as PNG.

    Raises:
        RequestRefused: It is no image, an address, of another format, or far too large.
    """
    data = reference.data if isinstance(reference, Upload) else _from_url(reference)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise refuse(
                    f"{_PARAM} is {picture.width}x{picture.height}; at most {_MAX_PIXELS} pixels "
                    "are allowed.",
                    param=_PARAM,
                )
            turned = ImageOps.exif_transpose(picture).convert("RGB")
    except _UNREADABLE as error:
        raise _not_an_image(f"{len(data)} bytes that cannot be read as a picture") from error
    fitted = ImageOps.fit(turned, size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    fitted.save(out, "PNG")
    return out.getvalue()


def pixels(png: bytes) -> NDArray[np.uint8]:
    """Return a stored start image as RGB ``[H, W, 3]`` uint8."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        return np.array(picture.convert("RGB"))


def _from_url(reference: Any) -> bytes:
    """Return the bytes of a data URL, also inside ``{"image_url": …}`` or its JSON text."""
    url = reference
    if isinstance(url, str) and url.lstrip().startswith("{"):
        try:
            url = json.loads(url)
        except ValueError as error:
            raise _not_an_image(shown(reference)) from error
    if isinstance(url, dict):
        url = url.get("image_url")
    if not isinstance(url, str) or not url.startswith("data:image/") or ";base64," not in url:
        raise _not_an_image(shown(reference))
    try:
        return base64.b64decode(url.partition(";base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _not_an_image("a data URL that is not base64") from error


def _not_an_image(seen: str) -> RequestRefused:
    return refuse(
        f"{_PARAM} is {seen}; send a {', '.join(FORMATS)} file, or a data:image/…;base64 URL "
        "(addresses are not fetched).",
        param=_PARAM,
        code="invalid_image",
    )
