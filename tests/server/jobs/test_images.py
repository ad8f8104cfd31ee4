"""How a job's start image arrives: uploads and data URLs are read, addresses are not fetched."""

import base64
import io

import pytest
from PIL import Image

from server.images import fitted_png
from server.jobs.errors import RequestRefused
from server.jobs.forms import Upload
from server.jobs.images import read_start_image

SIZE = (160, 96)


def a_picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (200, 40), (200, 0, 0)).save(out, "PNG")
    return out.getvalue()


def test_an_upload_becomes_a_png_of_the_video_s_size() -> None:
    assert read_start_image(Upload("a.png", a_picture()), SIZE) == fitted_png(a_picture(), SIZE)


def test_a_data_url_may_come_plain_in_an_object_or_as_its_text() -> None:
    url = "data:image/png;base64," + base64.b64encode(a_picture()).decode()
    plain = read_start_image(url, SIZE)
    assert read_start_image({"image_url": url}, SIZE) == plain
    assert read_start_image(f'{{"image_url": "{url}"}}', SIZE) == plain


def test_an_upload_that_is_no_picture_is_refused_with_what_was_seen() -> None:
    with pytest.raises(RequestRefused) as caught:
        read_start_image(Upload("a.png", b"GIF89a" + bytes(50)), SIZE)
    refusal = caught.value.refusal
    assert (refusal.code, refusal.param) == ("invalid_image", "input_reference")
    assert "input_reference is 56 bytes" in refusal.message


@pytest.mark.parametrize(
    "reference",
    [None, 5, [], {}, {"image_url": 3}, {"file_id": "x"}, "", "{", "file:///etc/passwd",
     "http://169.254.169.254/", "data:text/html;base64,AAAA", "data:image/png,AAAA"],
)  # fmt: skip
def test_addresses_and_other_things_are_refused_and_never_fetched(reference: object) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_start_image(reference, SIZE)
    assert caught.value.refusal.code == "invalid_image"
