import io
from fractions import Fraction

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media import mp4
from server.media.boxes import iter_boxes
from server.media.encoder import ChunkEncoder
from server.media.types import CodecConfig
from tests.server.media.pictures import moving, psnr, rgb, whole_file

CONFIG = CodecConfig("h264", "avc1.42c01e", bytes.fromhex("0142c01effe1"), 160, 96)


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_a_whole_file_plays_and_seeks(codec):
    frames = moving(48, 160, 96)
    with ChunkEncoder(codec, 160, 96, 16) as encoder:
        units = [
            unit
            for k in range(4)
            for unit in encoder.encode(frames[12 * k : 12 * k + 12], key=True).units
        ]
        config = encoder.config
    with av.open(io.BytesIO(whole_file(config, 160, 96, units))) as container:
        video = container.streams.video[0]
        assert (video.frames, video.duration * video.time_base) == (48, 3)
        decoded = list(container.decode(video))
        assert [f.pts * f.time_base for f in decoded] == [Fraction(k, 16) for k in range(48)]
        assert psnr(frames[-1], rgb(decoded[-1])) > 30
        container.seek(int(Fraction(30, 16) / video.time_base), stream=video)
        assert next(container.decode(video)).time == 24 / 16


@given(st.lists(st.tuples(st.integers(1, 10**9), st.booleans()), max_size=50))
def test_the_header_counts_the_bytes_that_follow(samples):
    head = mp4.header(CONFIG, 160, 96, 16, samples)
    # More than 4 GiB of pictures still fit: the size of mdat is written with 64 bits.
    mdat = head.index(b"mdat", len(head) - 16)
    assert mdat == len(head) - 12
    assert int.from_bytes(head[-8:], "big") == 16 + sum(size for size, _ in samples)
    boxes = [kind for kind, _, _ in iter_boxes(head[:-16])]
    assert boxes == ["ftyp", "moov"]
