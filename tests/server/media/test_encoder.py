from fractions import Fraction

import numpy as np
import pytest

from server.media import h264
from server.media.encoder import ChunkEncoder, EncoderSettings
from server.media.types import CODEC_NAMES, CodecName
from tests.server.media.pictures import (
    decode,
    flat,
    moving,
    parameter_sets,
    psnr,
    rgb,
    split_avcc,
)

NAL_IDR = 5
VIDEO: tuple[CodecName, ...] = ("h264", "vp8", "av1")

codecs = pytest.mark.parametrize("codec", CODEC_NAMES)
video = pytest.mark.parametrize("codec", VIDEO)


@codecs
def test_every_picture_comes_back_in_order_and_looks_like_itself(codec):
    frames = moving(24, 160, 96)
    with ChunkEncoder(codec, 160, 96, 16) as encoder:
        chunks = [encoder.encode(frames[:9], key=False), encoder.encode(frames[9:], key=False)]
    units = [unit for chunk in chunks for unit in chunk.units]
    decoded = decode(chunks[0].config, units)
    assert [frame.pts for frame in decoded] == list(range(24))
    for source, frame in zip(frames, decoded, strict=True):
        assert psnr(source, rgb(frame, jpeg=codec == "jpeg")) > 30


@video
def test_nothing_is_held_back_a_chunk_of_one_picture_gives_one_unit(codec):
    with ChunkEncoder(codec, 64, 64, 16) as encoder:
        for t in range(5):
            assert len(encoder.encode(moving(1, 64, 64) + np.uint8(t), key=False).units) == 1


@video
def test_keyframes_are_made_where_asked_and_nowhere_else(codec):
    # A cut between unrelated pictures is where an encoder would insert one by itself.
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    with ChunkEncoder(codec, 64, 64, 16) as encoder:
        chunks = [
            encoder.encode(flat((20, 20, 20), 4), key=False),
            encoder.encode(noise, key=False),
            encoder.encode(flat((200, 90, 10), 4), key=True),
            encoder.encode(moving(4, 64, 64), key=False),
        ]
    keys = [[unit.keyframe for unit in chunk.units] for chunk in chunks]
    assert keys == [[True] + [False] * 3, [False] * 8, [True] + [False] * 3, [False] * 4]


@video
def test_a_decoder_can_start_at_a_later_keyframe(codec):
    frames = moving(16, 96, 64)
    with ChunkEncoder(codec, 96, 64, 16) as encoder:
        encoder.encode(frames[:8], key=False)
        late = encoder.encode(frames[8:], key=True)
    decoded = decode(late.config, late.units)
    assert len(decoded) == 8
    assert psnr(frames[-1], rgb(decoded[-1])) > 30


@codecs
@pytest.mark.parametrize(("width", "height"), [(161, 97), (33, 64), (64, 35), (16, 17)])
def test_odd_sizes_are_padded_by_at_most_one_line(codec, width, height):
    frames = moving(3, width, height)
    with ChunkEncoder(codec, width, height, 16) as encoder:
        chunk = encoder.encode(frames, key=True)
    decoded = decode(chunk.config, chunk.units)
    assert (decoded[0].width, decoded[0].height) == (chunk.config.width, chunk.config.height)
    assert 0 <= chunk.config.width - width <= 1
    assert 0 <= chunk.config.height - height <= 1
    picture = rgb(decoded[-1], jpeg=codec == "jpeg")[:height, :width]
    assert psnr(frames[-1], picture) > 22


@codecs
@pytest.mark.parametrize(
    "colour",
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 80, 40), (128, 128, 128), (0, 0, 0), (255,) * 3],
)
def test_colours_survive_within_the_measured_error(codec, colour):
    # Saturated colours are clipped by limited-range chroma. BT.601 by mistake would be off by 39.
    with ChunkEncoder(codec, 64, 64, 16) as encoder:
        chunk = encoder.encode(flat(colour), key=True)
    picture = rgb(decode(chunk.config, chunk.units)[-1], jpeg=codec == "jpeg")
    error = np.abs(picture[8:-8, 8:-8].astype(int) - np.array(colour))
    assert error.max() <= (3 if len(set(colour)) == 1 else 12)


def test_h264_says_in_its_parameter_set_what_players_need():
    with ChunkEncoder("h264", 832, 480, 16) as encoder:
        config = encoder.config
    sps = h264.parse_sps(parameter_sets(config.description)[0])
    assert (sps.width, sps.height) == (832, 480)
    assert config.mime == sps.codec_string
    assert (sps.matrix_coefficients, sps.full_range) == (1, False)
    assert (sps.pic_order_cnt_type, sps.max_num_reorder_frames) == (2, 0)


def test_h264_units_carry_no_parameter_sets():
    with ChunkEncoder("h264", 64, 64, 16) as encoder:
        chunk = encoder.encode(moving(4, 64, 64), key=True)
        for unit in chunk.units:
            kinds = {h264.nal_type(nal) for nal in split_avcc(unit.data)}
            assert not kinds & {h264.NAL_SPS, h264.NAL_PPS}
            assert (NAL_IDR in kinds) == unit.keyframe


@codecs
def test_the_same_pictures_give_the_same_bytes(codec):
    frames = moving(6, 64, 64)

    def run():
        with ChunkEncoder(codec, 64, 64, 16) as encoder:
            return [encoder.encode(frames[:3], False).units, encoder.encode(frames[3:], True).units]

    assert run() == run()


def test_the_configuration_is_known_before_the_first_picture():
    with ChunkEncoder("h264", 64, 64, 16) as encoder:
        before = encoder.config
        assert encoder.encode(moving(1, 64, 64), key=False).config == before
        assert before.description


def test_fractional_rates_are_accepted():
    with ChunkEncoder("h264", 64, 64, Fraction(24000, 1001)) as encoder:
        assert len(encoder.encode(moving(3, 64, 64), key=False).units) == 3


def test_a_lower_crf_costs_more_bytes():
    frames = moving(6, 160, 96)
    sizes = []
    for crf in (35, 15):
        with ChunkEncoder("h264", 160, 96, 16, EncoderSettings(h264_crf=crf)) as encoder:
            sizes.append(sum(len(unit.data) for unit in encoder.encode(frames, True).units))
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((0, 64, 64, 3), np.uint8), "pictures of shape"),
        (np.zeros((2, 64, 32, 3), np.uint8), "pictures of shape"),
        (np.zeros((64, 64, 3), np.uint8), "pictures of shape"),
        (np.zeros((2, 64, 64, 3), np.float32), "uint8 is needed"),
    ],
)
def test_other_pictures_are_refused_with_what_was_seen(frames, message):
    with ChunkEncoder("h264", 64, 64, 16) as encoder, pytest.raises(ValueError, match=message):
        encoder.encode(frames, key=False)


def test_an_unknown_codec_is_refused_with_the_allowed_names():
    with pytest.raises(ValueError, match="h264, vp8, av1, jpeg"):
        ChunkEncoder("theora", 64, 64, 16)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "fps"), [((8, 64), 16), ((64, -1), 16), ((64, 64), 0)])
def test_absurd_sizes_and_rates_are_refused_with_the_limits(size, fps):
    with pytest.raises(ValueError, match="at least 16x16 above 0 fps"):
        ChunkEncoder("h264", *size, fps)


def test_closing_twice_is_harmless():
    encoder = ChunkEncoder("av1", 64, 64, 16)
    encoder.encode(moving(2, 64, 64), key=False)
    encoder.close()
    encoder.close()
