"""How a worker begins a stream: what of the record reaches the engine."""

import base64
import io
import json

import numpy as np
from PIL import Image

from server.images import fitted_png
from server.live import LiveSpec
from server.worker.start import Beginning, beginning


def begun(picture: Image.Image, epoch: int, **more: str) -> Beginning:
    """How a stream begins that starts from ``picture``."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    image = base64.b64encode(fitted_png(out.getvalue(), (64, 32))).decode()
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
    )
    return beginning({"spec": spec.to_text(), **more}, "s", epoch, image=image)


def test_a_start_image_reaches_the_engine_as_its_pixels() -> None:
    halves = Image.new("RGB", (64, 32), (200, 0, 0))
    halves.paste((0, 0, 200), (0, 0, 32, 32))
    image = begun(halves, 1).spec.start_image
    assert image is not None
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.asarray(halves))


def test_a_stream_that_goes_on_after_its_first_chunk_does_not_start_again_from_the_image() -> None:
    red = Image.new("RGB", (64, 32), (200, 0, 0))
    later = begun(red, 2, next_chunk="3", next_frame="25", prompts=json.dumps([["b", 1.0]]))
    assert later.spec.start_image is None
    assert later.goes_on
