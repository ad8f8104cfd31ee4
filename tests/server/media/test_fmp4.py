import io
import shutil
import subprocess
from fractions import Fraction

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media import fmp4
from server.media.boxes import find_box, iter_boxes
from server.media.encoder import ChunkEncoder
from server.media.types import AccessUnit, CodecConfig
from tests.server.media.pictures import moving, psnr, rgb, whole_file

CONFIG = CodecConfig("h264", "avc1.42c01e", bytes.fromhex("0142c01effe1"), 160, 96)
units = st.lists(
    st.builds(AccessUnit, st.binary(min_size=1, max_size=300), st.booleans()),
    min_size=1,
    max_size=12,
)


def encoded(codec="h264", chunks=4, width=160, height=96):
    with ChunkEncoder(codec, width, height, 16) as encoder:
        out = [encoder.encode(moving(12, width, height), key=k == 2).units for k in range(chunks)]
        return encoder.config, out


def stream(config, chunks, start=0):
    timescale, duration = fmp4.timing(16)
    data = fmp4.init_segment(config, 160, 96, timescale)
    for k, chunk in enumerate(chunks):
        data += fmp4.fragment(chunk, k + 1, (start + 12 * k) * duration, duration)
    return data


def demux(data):
    with av.open(io.BytesIO(data)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        return container.streams.video[0].average_rate, [
            (p.pts * p.time_base, bytes(p), p.is_keyframe) for p in packets
        ]


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_the_concatenation_of_init_and_fragments_is_a_file_ffmpeg_plays(codec):
    config, chunks = encoded(codec)
    with av.open(io.BytesIO(stream(config, chunks))) as container:
        video = container.streams.video[0]
        frames = list(container.decode(video))
        assert (video.width, video.height, video.average_rate) == (160, 96, 16)
        assert video.codec_context.colorspace == 1
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(k, 16) for k in range(48)]
    assert psnr(moving(12, 160, 96)[-1], rgb(frames[-1])) > 30


def test_every_fragment_is_complete_the_last_picture_waits_for_nothing():
    config, chunks = encoded(chunks=1)
    assert len(demux(stream(config, chunks))[1]) == 12


def test_samples_and_keyframes_are_found_again_by_ffmpeg():
    config, chunks = encoded()
    flat = [unit for chunk in chunks for unit in chunk]
    rate, packets = demux(stream(config, chunks))
    assert rate == 16
    assert [(data, key) for _, data, key in packets] == [(u.data, u.keyframe) for u in flat]


def test_a_late_joiner_starts_at_the_time_of_its_first_fragment():
    config, chunks = encoded()
    _, packets = demux(stream(config, chunks[2:], start=16 * 3600 * 100))
    assert packets[0][0] == 3600 * 100
    assert packets[0][2]


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
def test_ffprobe_has_nothing_to_complain_about(tmp_path):
    config, chunks = encoded()
    flat = [unit for chunk in chunks for unit in chunk]
    for name, data in (
        ("fragments.mp4", stream(config, chunks)),
        ("whole.mp4", whole_file(config, 160, 96, flat)),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        command = ["ffprobe", "-v", "warning", "-count_frames", "-of", "csv=p=0"]
        command += ["-show_entries", "stream=nb_read_frames,color_space", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""
        assert done.stdout.strip() == "bt709,48"


@given(units, st.integers(1, 2**32 - 1), st.integers(0, 2**63), st.integers(1, 2**31))
def test_a_fragment_is_well_formed_and_read_back(samples, sequence, decode_time, duration):
    data = fmp4.fragment(samples, sequence, decode_time, duration)
    assert [kind for kind, _, _ in iter_boxes(data)] == ["moof", "mdat"]
    start, end = find_box(data, "moof", "traf")
    assert [kind for kind, _, _ in iter_boxes(data, start, end)] == ["tfhd", "tfdt", "trun"]
    # data_offset counts from the first byte of moof to the first byte of the first sample.
    trun, _ = find_box(data, "moof", "traf", "trun")
    offset = int.from_bytes(data[trun + 8 : trun + 12], "big")
    assert data[offset : offset + len(samples[0].data)] == samples[0].data
    assert fmp4.read_fragment(data) == (decode_time, tuple(samples))


@given(units, st.data())
def test_a_damaged_fragment_is_refused(samples, draw):
    data = fmp4.fragment(samples, 1, 0, 1000)
    cut = draw.draw(st.integers(0, len(data) - 1))
    with pytest.raises(ValueError, match=r"cut short|no '|damaged"):
        fmp4.read_fragment(data[:cut])


def test_the_init_segment_has_every_mandatory_box():
    data = fmp4.init_segment(CONFIG, 160, 96, 16000)
    assert [kind for kind, _, _ in iter_boxes(data)] == ["ftyp", "moov"]
    for path in (
        "moov/mvhd",
        "moov/trak/tkhd",
        "moov/trak/mdia/mdhd",
        "moov/trak/mdia/hdlr",
        "moov/trak/mdia/minf/vmhd",
        "moov/trak/mdia/minf/dinf/dref",
        "moov/trak/mdia/minf/stbl/stsd",
        "moov/trak/mdia/minf/stbl/stco",
        "moov/mvex/trex",
    ):
        find_box(data, *path.split("/"))
    assert CONFIG.description in data


@pytest.mark.parametrize("fps", [1, 16, 24, 25, 30, Fraction(24000, 1001)])
def test_times_are_exact(fps):
    timescale, duration = fmp4.timing(fps)
    assert Fraction(timescale, duration) == fps


def test_codecs_that_players_do_not_expect_in_mp4_are_refused():
    config = CodecConfig("vp8", "vp8", b"", 160, 96)
    with pytest.raises(ValueError, match="vp8 in MP4; h264 and av1 are allowed"):
        fmp4.init_segment(config, 160, 96, 16000)
    with pytest.raises(ValueError, match="vp8 in MP4"):
        fmp4.mime_type(config)
    assert fmp4.mime_type(CONFIG) == 'video/mp4; codecs="avc1.42c01e"'
