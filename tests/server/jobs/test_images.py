"""Start images: whatever arrives becomes a PNG of the video's size, or is refused in words."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from server.jobs.errors import RequestRefused
from server.jobs.forms import Upload
from server.jobs.images import pixels, read_start_image

SIZE = (160, 96)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def halves(width: int, height: int) -> Image.Image:
    """Red above, blue below."""
    array = np.zeros((height, width, 3), np.uint8)
    array[: height // 2, :, 0] = 220
    array[height // 2 :, :, 2] = 220
    return Image.fromarray(array)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(160, 96), (500, 96), (160, 900), (7, 5)])
def test_any_shape_is_scaled_to_cover_and_cropped_in_the_middle(
    kind: str, size: tuple[int, int]
) -> None:
    image = pixels(read_start_image(Upload("a", encoded(halves(*size), kind)), SIZE))
    assert image.shape == (96, 160, 3)
    top, bottom = image[5].mean(axis=0), image[-5].mean(axis=0)
    assert top[0] > 180
    assert bottom[2] > 180


def test_a_camera_picture_is_turned_as_its_orientation_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    data = encoded(halves(*SIZE), "JPEG", exif=exif)
    image = pixels(read_start_image(Upload("a.jpg", data), SIZE))
    assert image[5].mean(axis=0)[2] > 180


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    data = encoded(halves(*SIZE).convert(mode), kind)
    assert pixels(read_start_image(Upload("a", data), SIZE)).shape == (96, 160, 3)


def test_a_data_url_may_come_plain_in_an_object_or_as_its_text() -> None:
    url = "data:image/png;base64," + base64.b64encode(encoded(halves(*SIZE))).decode()
    plain = read_start_image(url, SIZE)
    assert read_start_image({"image_url": url}, SIZE) == plain
    assert read_start_image(f'{{"image_url": "{url}"}}', SIZE) == plain


def huge_png(side: int) -> bytes:
    """A PNG header that promises ``side`` squared pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a" + bytes(50), b"\x89PNG\r\n\x1a\n", encoded(halves(*SIZE))[:200],
     huge_png(8_000), huge_png(12_000), huge_png(60_000), huge_png(100)],
)  # fmt: skip
def test_what_is_no_picture_damaged_or_a_bomb_is_refused(data: bytes) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_start_image(Upload("a.png", data), SIZE)
    assert caught.value.refusal.param == "input_reference"


@pytest.mark.parametrize(
    "reference",
    [None, 5, [], {}, {"image_url": 3}, {"file_id": "x"}, "", "{", "file:///etc/passwd",
     "http://169.254.169.254/", "data:text/html;base64,AAAA", "data:image/png,AAAA"],
)  # fmt: skip
def test_addresses_and_other_things_are_refused_and_never_fetched(reference: object) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_start_image(reference, SIZE)
    assert caught.value.refusal.code == "invalid_image"
