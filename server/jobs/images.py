"""How a job's start image arrives: an upload or a data URL.

Addresses are not fetched: a server that loads what a client names can be made to read
what only the server may reach. Knows no HTTP and no storage.
"""

import base64
import binascii
import json
from typing import Any

from server.images import FORMATS, UnusableImage, fitted_png
from server.jobs.errors import RequestRefused, refuse, shown
from server.jobs.forms import Upload

_PARAM = "input_reference"


def read_start_image(reference: Any, size: tuple[int, int]) -> bytes:
    """Return the image scaled to cover ``size`` (width, height), centre cropped, as PNG.

    Raises:
        RequestRefused: It is no image, an address, of another format, or far too large.
    """
    data = reference.data if isinstance(reference, Upload) else _from_url(reference)
    try:
        return fitted_png(data, size)
    except UnusableImage as error:
        raise refuse(f"{_PARAM} is {error}.", param=_PARAM, code="invalid_image") from error


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
