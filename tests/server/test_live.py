"""A start is checked against what its model can do, its picture too."""

import base64
import io

import pytest
from PIL import Image

from server.catalogue import ModelCard
from server.images import pixels
from server.live import LiveSpec, choose
from server.wire.messages_in import SessionStart
from server.wire.messages_out import ErrorMessage
from tests.server.test_images import encoded, halves

CARD = ModelCard("m", ((160, 96), (64, 48)), (16,), 4, 12, start_image=True)


def start(image: bytes | str) -> SessionStart:
    """A start from a picture, or from a text that should be one."""
    text = image if isinstance(image, str) else base64.b64encode(image).decode()
    return SessionStart(type="session.start", prompt="a ball", width=64, height=48, image=text)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_of_any_size_is_kept_as_a_png_of_the_stream_s(kind: str) -> None:
    spec = choose(start(encoded(halves(3000, 2000), kind)), CARD, lambda: 1)
    assert isinstance(spec, LiveSpec)
    assert spec.image is not None
    png = base64.b64decode(spec.image)
    assert len(png) < 64 * 48
    with Image.open(io.BytesIO(png)) as picture:
        assert (picture.format, picture.size) == ("PNG", (64, 48))
    assert pixels(png)[5, 5, 0] > 180


def test_a_camera_picture_is_turned_before_it_is_scaled() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    spec = choose(start(encoded(halves(64, 48), "PNG", exif=exif)), CARD, lambda: 1)
    assert isinstance(spec, LiveSpec)
    assert spec.image is not None
    assert pixels(base64.b64decode(spec.image))[5, 5, 2] > 180


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (encoded(halves(64, 48), exif=b"Exif\0\0no TIFF header"), "cannot be read as a picture"),
        (b"GIF89a" + bytes(50), "56 bytes"),
        ("no base64!", "base64 of a picture is allowed"),
        ("\u00e9\u00e9\u00e9\u00e9", "base64 of a picture is allowed"),
    ],
    ids=["damaged camera note", "another kind", "no base64", "not ASCII"],
)
def test_what_is_no_usable_picture_is_refused_with_what_was_seen(
    image: bytes | str, words: str
) -> None:
    refusal = choose(start(image), CARD, lambda: 1)
    assert isinstance(refusal, ErrorMessage)
    assert (refusal.code, refusal.param) == ("invalid_image", "image")
    assert words in refusal.message
