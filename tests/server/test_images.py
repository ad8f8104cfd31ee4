"""Start images: whatever arrives becomes a PNG of the video's size, or is refused in words."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from server.images import UnusableImage, fitted_png, pixels

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
    image = pixels(fitted_png(encoded(halves(*size), kind), SIZE))
    assert image.shape == (96, 160, 3)
    top, bottom = image[5].mean(axis=0), image[-5].mean(axis=0)
    assert top[0] > 180
    assert bottom[2] > 180


def test_a_camera_picture_is_turned_as_its_orientation_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    data = encoded(halves(*SIZE), "JPEG", exif=exif)
    image = pixels(fitted_png(data, SIZE))
    assert image[5].mean(axis=0)[2] > 180


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    data = encoded(halves(*SIZE).convert(mode), kind)
    assert pixels(fitted_png(data, SIZE)).shape == (96, 160, 3)


def test_grey_of_16_bits_is_scaled_to_8() -> None:
    ramp = np.linspace(0, 65535, SIZE[0]).astype(np.uint16)
    data = encoded(Image.fromarray(np.tile(ramp, (SIZE[1], 1))))
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode.startswith("I")
    image = pixels(fitted_png(data, SIZE)).astype(int)
    assert abs(image - (ramp // 256)[None, :, None]).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_shows_white_behind_it_and_not_the_colour_under_it(mode: str) -> None:
    picture = halves(*SIZE).quantize(2) if mode == "P" else halves(*SIZE).convert(mode)
    if mode in ("RGBA", "LA"):
        alpha = Image.new("L", SIZE, 255)
        alpha.paste(0, (0, SIZE[1] // 2, *SIZE))
        picture.putalpha(alpha)
        data = encoded(picture)
    else:
        data = encoded(picture, transparency=picture.getpixel((0, SIZE[1] - 1)))
    image = pixels(fitted_png(data, SIZE))
    top, bottom = image[5].mean(axis=0), image[-5].mean(axis=0)
    assert bottom.tolist() == [255, 255, 255]
    assert top.max() < 230


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
    with pytest.raises(UnusableImage, match="allowed"):
        fitted_png(data, SIZE)


def camera_note() -> bytes:
    """A camera's note that the picture lies on its side, and what it shows, in words."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    return exif.tobytes()


# The second is read, and Pillow fails when it turns the picture and writes the note again.
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize(
    "note",
    [b"Exif\0\0no TIFF header at all", camera_note().replace(b"\x01\x0e", b"\x01\x19")],
    ids=["unreadable", "words where a number belongs"],
)
def test_a_picture_whose_camera_note_is_damaged_is_refused(kind: str, note: bytes) -> None:
    assert fitted_png(encoded(halves(*SIZE), kind, exif=camera_note()), SIZE)
    with pytest.raises(UnusableImage, match="cannot be read"):
        fitted_png(encoded(halves(*SIZE), kind, exif=note), SIZE)
