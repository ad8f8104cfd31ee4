from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media import av1

# SVT-AV1's sequence header for 160x96.
HEADER = bytes.fromhex("0a0d00000003b4fdf00be040404041")


def test_the_codec_string_is_read_from_the_sequence_header():
    assert av1.parse_sequence_header(HEADER).codec_string == "av01.0.00M.08"


def test_the_record_holds_the_header():
    assert av1.av1c_record(HEADER) == bytes([0x81, 0, 0x0C, 0]) + HEADER


def test_a_temporal_delimiter_is_dropped():
    assert av1.without_delimiter(b"\x12\x00" + HEADER) == HEADER
    assert av1.without_delimiter(HEADER) == HEADER


def test_another_unit_is_refused():
    with pytest.raises(ValueError, match="OBU type 1 is expected"):
        av1.parse_sequence_header(b"\x12\x00\x00\x00")


@given(st.binary(max_size=24))
def test_junk_is_refused_or_read_never_anything_else(junk):
    with suppress(ValueError):
        av1.parse_sequence_header(b"\x0a" + junk)
