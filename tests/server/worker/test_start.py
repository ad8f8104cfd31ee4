"""How a worker begins a stream: what of the record reaches the engine."""

import base64
import io
import json

import numpy as np
from PIL import Image

from server.live import LiveSpec
from server.worker.start import beginning


def record(picture: Image.Image, **more: str) -> dict[str, str]:
    """A session's hash whose stream starts from ``picture``."""
    out = io.BytesIO()
    exif = picture.getexif()
    picture.save(out, "PNG", exif=exif)
    spec = LiveSpec(
        model="m",
        prompts=(("a", 1.0),),
        seed=1,
        width=64,
        height=32,
        fps=16,
        num_frames=None,
        num_steps=None,
        pacing="realtime",
        codec="h264",
        image=base64.b64encode(out.getvalue()).decode(),
    )
    return {"spec": spec.to_text(), **more}


def test_a_start_image_is_scaled_to_cover_the_size_and_cut_to_it() -> None:
    wide = Image.new("RGB", (200, 40), (200, 0, 0))
    wide.paste((0, 0, 200), (0, 0, 50, 40))
    image = beginning(record(wide), "s", 1).spec.start_image
    assert image is not None
    assert image.shape == (32, 64, 3)
    assert (image == (200, 0, 0)).all()


def test_a_camera_s_turn_of_the_picture_is_obeyed() -> None:
    lying = Image.new("RGB", (64, 128), (0, 0, 0))
    lying.paste((255, 255, 255), (0, 0, 64, 64))
    lying.getexif()[0x0112] = 6  # its top is at the right
    image = beginning(record(lying), "s", 1).spec.start_image
    assert image is not None
    assert image[:, :20].mean() < 5
    assert image[:, -20:].mean() > 250


def test_a_picture_with_a_palette_or_transparency_becomes_rgb() -> None:
    for mode in ("P", "RGBA", "LA", "1"):
        image = beginning(record(Image.new(mode, (64, 32))), "s", 1).spec.start_image
        assert image is not None
        assert (image.shape, image.dtype) == ((32, 64, 3), np.uint8)


def test_a_stream_that_goes_on_after_its_first_chunk_does_not_start_again_from_the_image() -> None:
    red = Image.new("RGB", (64, 32), (200, 0, 0))
    gone_on = record(red, next_chunk="3", next_frame="25", prompts=json.dumps([["b", 1.0]]))
    begun = beginning(gone_on, "s", 2)
    assert begun.spec.start_image is None
    assert begun.goes_on
