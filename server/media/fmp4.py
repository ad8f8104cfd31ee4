"""Fragmented MP4 without lag: an init segment, then one fragment per chunk (or per picture).

FFmpeg's muxer keeps a packet back until the next one comes, which for a live stream is a whole
chunk, so the boxes are written here. The concatenation of an init segment and fragments is a
valid file, an MSE byte stream, and with the fragments apart an HLS rendition.

Knows ISO/IEC 14496-12, -15 and "AV1 in ISOBMFF"; knows no encoder, no clock, no socket. Every
picture lasts equally long and is shown in the order it was coded.
"""

from collections.abc import Sequence
from fractions import Fraction

from server.media.boxes import box, find_box, full_box, u16, u32, u64
from server.media.types import AccessUnit, CodecConfig

_SAMPLE_ENTRIES = {"h264": ("avc1", "avcC"), "av1": ("av01", "av1C")}
_BRANDS = {"h264": b"avc1", "av1": b"av01"}
_UNITY_MATRIX = u32(0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
# sample_depends_on and sample_is_non_sync_sample (ISO/IEC 14496-12 section 8.8.3.1).
_KEY_FLAGS = 0x02000000
_DELTA_FLAGS = 0x01010000

_BASE_IS_MOOF = 0x020000
_HAS_DURATION = 0x000008
_TRUN_OFFSET_SIZES_FLAGS = 0x000001 | 0x000200 | 0x000400


def timing(fps: int | Fraction) -> tuple[int, int]:
    """Return ``(timescale, sample_duration)``: ticks a second and ticks a picture, both exact."""
    exact = Fraction(fps)
    return exact.numerator * 1000, exact.denominator * 1000


def mime_type(config: CodecConfig) -> str:
    """Return what ``MediaSource.isTypeSupported`` is asked, e.g. ``video/mp4; codecs="…"``."""
    _require_mp4(config)
    return f'video/mp4; codecs="{config.mime}"'


def init_segment(config: CodecConfig, width: int, height: int, timescale: int) -> bytes:
    """Build ``ftyp`` and ``moov``.

    Args:
        config: The stream's codec, H.264 or AV1.
        width: Displayed width in pixels.
        height: Displayed height in pixels.
        timescale: Ticks a second, see :func:`timing`.

    Raises:
        ValueError: The codec has no place in an MP4 file that players agree on.
    """
    _require_mp4(config)
    empty_tables = (
        full_box("stts", 0, 0, u32(0)),
        full_box("stsc", 0, 0, u32(0)),
        full_box("stsz", 0, 0, u32(0, 0)),
        full_box("stco", 0, 0, u32(0)),
    )
    extends = box("mvex", full_box("trex", 0, 0, u32(1, 1, 0, 0, 0)))
    moov = movie(config, width, height, timescale, 0, empty_tables, extends)
    return file_type(config) + moov


def fragment(
    units: Sequence[AccessUnit], sequence: int, base_decode_time: int, sample_duration: int
) -> bytes:
    """Build ``moof`` and ``mdat`` for pictures that follow each other.

    Args:
        units: At least one picture.
        sequence: Number of the fragment, from 1, rising.
        base_decode_time: When the first picture is shown, in ticks.
        sample_duration: Ticks a picture.
    """
    assert units, "a fragment needs a picture"
    samples = b"".join(
        u32(len(unit.data), _KEY_FLAGS if unit.keyframe else _DELTA_FLAGS) for unit in units
    )

    def moof(data_offset: int) -> bytes:
        return box(
            "moof",
            full_box("mfhd", 0, 0, u32(sequence)),
            box(
                "traf",
                full_box("tfhd", 0, _BASE_IS_MOOF | _HAS_DURATION, u32(1, sample_duration)),
                full_box("tfdt", 1, 0, u64(base_decode_time)),
                full_box(
                    "trun", 0, _TRUN_OFFSET_SIZES_FLAGS, u32(len(units), data_offset), samples
                ),
            ),
        )

    # The offset counts from the start of moof to the first byte inside mdat.
    return moof(len(moof(0)) + 8) + box("mdat", *(unit.data for unit in units))


def read_fragment(data: bytes) -> tuple[int, tuple[AccessUnit, ...]]:
    """Return the base decode time and the pictures of a fragment written by :func:`fragment`.

    Raises:
        ValueError: The data is cut short, or is no such fragment.
    """
    start, _ = find_box(data, "moof", "traf", "tfdt")
    base_decode_time = int.from_bytes(data[start + 4 : start + 12], "big")
    start, end = find_box(data, "moof", "traf", "trun")
    if int.from_bytes(data[start : start + 4], "big") != _TRUN_OFFSET_SIZES_FLAGS:
        raise ValueError(
            "trun with other fields than ours; only our own fragments can be read back"
        )
    at, mdat_end = find_box(data, "mdat")
    units = []
    for entry in range(start + 12, end, 8):
        size = int.from_bytes(data[entry : entry + 4], "big")
        flags = int.from_bytes(data[entry + 4 : entry + 8], "big")
        units.append(AccessUnit(data[at : at + size], flags == _KEY_FLAGS))
        at += size
    if at != mdat_end:
        raise ValueError(f"samples end at {at} but mdat at {mdat_end}; the fragment is damaged")
    return base_decode_time, tuple(units)


def file_type(config: CodecConfig) -> bytes:
    """Build ``ftyp``."""
    return box("ftyp", b"iso6", u32(0x200), b"iso6", b"mp41", _BRANDS[config.codec])


def movie(
    config: CodecConfig,
    width: int,
    height: int,
    timescale: int,
    duration: int,
    sample_tables: Sequence[bytes],
    *extensions: bytes,
) -> bytes:
    """Build ``moov`` for one video track.

    Args:
        config: The stream's codec.
        width: Displayed width in pixels.
        height: Displayed height in pixels.
        timescale: Ticks a second, of the movie and of the track.
        duration: Ticks in all; 0 when it is not known.
        sample_tables: Boxes that follow ``stsd`` inside ``stbl``.
        extensions: Boxes at the end of ``moov``.
    """
    # A 32-bit duration would overflow after 74 hours at 16 fps, so version 1 (64 bit) throughout.
    track_header = full_box(
        "tkhd",
        1,
        3,
        u64(0, 0),
        u32(1, 0),
        u64(duration),
        bytes(16),
        _UNITY_MATRIX,
        u32(width << 16, height << 16),
    )
    media = box(
        "mdia",
        full_box("mdhd", 1, 0, u64(0, 0), u32(timescale), u64(duration), u16(0x55C4, 0)),
        full_box("hdlr", 0, 0, u32(0), b"vide", bytes(12), b"longtake\0"),
        box(
            "minf",
            full_box("vmhd", 0, 1, bytes(8)),
            box("dinf", full_box("dref", 0, 0, u32(1), full_box("url ", 0, 1))),
            box(
                "stbl",
                full_box("stsd", 0, 0, u32(1), _sample_entry(config)),
                *sample_tables,
            ),
        ),
    )
    header = full_box(
        "mvhd",
        1,
        0,
        u64(0, 0),
        u32(timescale),
        u64(duration),
        u32(0x10000),
        u16(0x100),
        bytes(10),
        _UNITY_MATRIX,
        bytes(24),
        u32(2),
    )
    return box("moov", header, box("trak", track_header, media), *extensions)


def _sample_entry(config: CodecConfig) -> bytes:
    entry, record = _SAMPLE_ENTRIES[config.codec]
    return box(
        entry,
        bytes(6),
        u16(1),
        bytes(16),
        u16(config.width, config.height),
        u32(0x480000, 0x480000, 0),
        u16(1),
        bytes(32),
        u16(24, 0xFFFF),
        box(record, config.description),
        # BT.709 primaries, transfer and matrix, limited range.
        box("colr", b"nclx", u16(1, 1, 1), b"\0"),
        box("pasp", u32(1, 1)),
    )


def _require_mp4(config: CodecConfig) -> None:
    if config.codec not in _SAMPLE_ENTRIES:
        allowed = " and ".join(_SAMPLE_ENTRIES)
        raise ValueError(f"{config.codec} in MP4; {allowed} are allowed; use avcc or jpeg instead")
