from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media.boxes import box, find_box, full_box, iter_boxes, u16, u32, u64

kinds = st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=4)
flat_boxes = st.lists(st.tuples(kinds, st.binary(max_size=50)), max_size=8)


@given(flat_boxes)
def test_boxes_are_found_again(contents):
    data = b"".join(box(kind, payload) for kind, payload in contents)
    assert [(k, data[a:b]) for k, a, b in iter_boxes(data)] == contents


@given(flat_boxes, st.integers(1, 7))
def test_cut_data_is_refused(contents, lost):
    data = b"".join(box(kind, payload) for kind, payload in contents)
    if len(data) >= 8:
        with pytest.raises(ValueError, match="cut short"):
            list(iter_boxes(data[:-lost]))


@given(st.binary(max_size=64))
def test_junk_ends_in_a_value_error_or_not_at_all(junk):
    with suppress(ValueError):
        for _, start, end in iter_boxes(junk):
            assert 0 <= start <= end <= len(junk)


def test_a_large_box_has_a_64_bit_size():
    data = u32(1) + b"mdat" + u64(20) + b"abcd"
    assert list(iter_boxes(data)) == [("mdat", 16, 20)]


def test_a_path_is_followed_and_a_missing_box_is_named():
    data = box("moov", box("trak", box("tkhd", b"x")))
    start, end = find_box(data, "moov", "trak", "tkhd")
    assert data[start:end] == b"x"
    with pytest.raises(ValueError, match=r"no 'mdia' box on the way moov/trak/mdia"):
        find_box(data, "moov", "trak", "mdia")


def test_numbers_are_big_endian_and_versions_share_a_word_with_flags():
    assert u16(1, 2) + u32(3) + u64(4) == bytes([0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4])
    assert full_box("tfhd", 1, 0x020008)[8:] == bytes([1, 2, 0, 8])
