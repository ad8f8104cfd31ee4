from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media import h264
from tests.server.media.pictures import split_avcc

# x264 high profile 160x96, BT.709 tagged, as FFmpeg gives it; and a baseline 1920x1080 set with
# cropping, written out by hand from section 7.3.2.1.1.
HIGH = bytes.fromhex("6764000aacb4146d3501010140000003004000000823c489a8")


class Writer:
    """Writes bits and Exp-Golomb codes: the reader's opposite."""

    def __init__(self):
        self.text = ""

    def u(self, value, count):
        self.text += format(value, f"0{count}b")

    def ue(self, value):
        code = f"{value + 1:b}"
        self.text += "0" * (len(code) - 1) + code

    def done(self):
        padded = self.text + "1"
        padded += "0" * (-len(padded) % 8)
        return int(padded, 2).to_bytes(len(padded) // 8, "big")


def with_emulation_prevention(payload):
    out = bytearray()
    zeros = 0
    for value in payload:
        if zeros >= 2 and value <= 3:
            out.append(3)
            zeros = 0
        out.append(value)
        zeros = zeros + 1 if value == 0 else 0
    return bytes(out)


def baseline_sps(width_blocks, height_blocks, crop):
    bits = Writer()
    bits.u(66, 8)
    bits.u(0xC0, 8)
    bits.u(30, 8)
    for value in (0, 0, 2, 1):
        bits.ue(value)
    bits.u(0, 1)
    bits.ue(width_blocks - 1)
    bits.ue(height_blocks - 1)
    bits.u(0b11, 2)
    bits.u(1, 1)
    for value in crop:
        bits.ue(value)
    bits.u(0, 1)
    return b"\x67" + with_emulation_prevention(bits.done())


def test_a_high_profile_set_is_read():
    sps = h264.parse_sps(HIGH)
    assert (sps.width, sps.height, sps.codec_string) == (160, 96, "avc1.64000a")
    assert (sps.matrix_coefficients, sps.full_range, sps.max_num_reorder_frames) == (1, False, 0)


def test_cropping_is_applied():
    sps = h264.parse_sps(baseline_sps(120, 68, (0, 0, 0, 4)))
    assert (sps.width, sps.height, sps.codec_string) == (1920, 1080, "avc1.42c01e")
    assert sps.matrix_coefficients is None


@given(
    width=st.integers(1, 600),
    height=st.integers(1, 600),
    crop=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_every_size_is_read_back(width, height, crop):
    sps = h264.parse_sps(baseline_sps(width, height, crop))
    left, right, top, bottom = crop
    assert (sps.width, sps.height) == (
        16 * width - 2 * (left + right),
        16 * height - 2 * (top + bottom),
    )


@given(st.binary(max_size=64))
def test_junk_is_refused_or_read_never_anything_else(junk):
    with suppress(ValueError):
        h264.parse_sps(b"\x67" + junk)


@pytest.mark.parametrize("cut", range(4, 12))
def test_a_set_cut_short_is_refused(cut):
    with pytest.raises(ValueError, match="cut short"):
        h264.parse_sps(HIGH[:cut])


def test_another_unit_is_refused():
    with pytest.raises(ValueError, match="NAL type 7 is expected"):
        h264.parse_sps(b"\x68\xce\x3c\x80")


nals = st.lists(
    st.binary(min_size=2, max_size=40)
    .map(lambda body: b"\x65" + with_emulation_prevention(body) + b"\x80")
    .filter(lambda nal: b"\x00\x00\x01" not in nal),
    min_size=1,
    max_size=5,
)


@given(nals, st.booleans())
def test_start_codes_become_lengths(units, long_codes):
    code = b"\x00\x00\x00\x01" if long_codes else b"\x00\x00\x01"
    stream = b"".join(code + unit for unit in units)
    assert list(h264.split_annexb(stream)) == units
    assert list(split_avcc(h264.annexb_to_avcc(stream))) == units


def test_parameter_sets_and_delimiters_are_left_out():
    stream = b"".join(
        b"\x00\x00\x00\x01" + nal for nal in (b"\x09\xf0", HIGH, b"\x68\xee", b"\x65a")
    )
    assert h264.annexb_to_avcc(stream) == b"\x00\x00\x00\x02\x65a"


def test_the_record_is_the_golden_one():
    record = h264.avcc_record(HIGH, bytes.fromhex("68ef06f2c0"))
    assert record.hex() == ("0164000affe10019" + HIGH.hex() + "01000568ef06f2c0" + "fdf8f800")


def test_a_baseline_record_has_no_tail():
    sps = baseline_sps(10, 6, (0, 0, 0, 0))
    record = h264.avcc_record(sps, b"\x68\xce")
    assert record.endswith(b"\x01\x00\x02\x68\xce")
