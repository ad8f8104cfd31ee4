import io

import numpy as np
from PIL import Image

from server.media.jpeg import JpegCodec
from tests.server.media.pictures import moving, psnr


def test_every_picture_is_a_file_of_its_own():
    frames = moving(3, 161, 97)
    units = JpegCodec(161, 97).encode(frames, key=False)
    assert all(unit.keyframe for unit in units)
    for source, unit in zip(frames, units, strict=True):
        image = Image.open(io.BytesIO(unit.data))
        assert image.format == "JPEG"
        assert psnr(source, np.asarray(image)) > 32


def test_quality_buys_bytes():
    frames = moving(1, 160, 96)
    low, high = (len(JpegCodec(160, 96, q).encode(frames, True)[0].data) for q in (50, 95))
    assert low < high
