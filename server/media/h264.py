"""H.264 byte streams: NAL units, the sequence parameter set, and the ``avcC`` record.

Knows the bit stream of ITU-T H.264 (sections 7.3 and Annex B, E) and ISO/IEC 14496-15's decoder
configuration record. It does not decode pictures and knows no container.
"""

from collections.abc import Iterator
from dataclasses import dataclass

NAL_SPS = 7
NAL_PPS = 8
NAL_AUD = 9

_PROFILES_WITH_CHROMA = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_PROFILES_WITH_AVCC_TAIL = frozenset({100, 110, 122, 144, 244})


@dataclass(frozen=True, slots=True)
class SequenceParameterSet:
    """The fields of a sequence parameter set that a player depends on.

    Attributes:
        profile_idc: 66 baseline, 77 main, 100 high.
        constraint_flags: The byte that follows ``profile_idc``.
        level_idc: Ten times the level.
        chroma_format_idc: 1 for 4:2:0.
        width: Displayed width in pixels, cropping applied.
        height: Displayed height in pixels, cropping applied.
        pic_order_cnt_type: 2 means output order is decoding order.
        matrix_coefficients: VUI value, 1 for BT.709; None when not signalled.
        full_range: VUI ``video_full_range_flag``; None when not signalled.
        max_num_reorder_frames: VUI value; None when not signalled.
    """

    profile_idc: int
    constraint_flags: int
    level_idc: int
    chroma_format_idc: int
    width: int
    height: int
    pic_order_cnt_type: int
    matrix_coefficients: int | None
    full_range: bool | None
    max_num_reorder_frames: int | None

    @property
    def codec_string(self) -> str:
        """RFC 6381 name, e.g. ``avc1.42c01e``."""
        return f"avc1.{self.profile_idc:02x}{self.constraint_flags:02x}{self.level_idc:02x}"


def split_annexb(stream: bytes) -> Iterator[bytes]:
    """Yield the NAL units of a start-code delimited ``stream``, start codes removed."""
    start = stream.find(b"\x00\x00\x01")
    while start >= 0:
        begin = start + 3
        start = stream.find(b"\x00\x00\x01", begin)
        unit = stream[begin:start] if start >= 0 else stream[begin:]
        # A four-byte start code and trailing_zero_8bits leave zeros that are no part of a NAL.
        unit = unit.rstrip(b"\x00")
        if unit:
            yield unit


def nal_type(unit: bytes) -> int:
    """Return ``nal_unit_type`` of a NAL unit."""
    return unit[0] & 0x1F


def annexb_to_avcc(stream: bytes) -> bytes:
    """Rewrite one access unit with 4-byte lengths, without parameter sets and delimiters."""
    return b"".join(
        len(unit).to_bytes(4, "big") + unit
        for unit in split_annexb(stream)
        if nal_type(unit) not in (NAL_SPS, NAL_PPS, NAL_AUD)
    )


def avcc_record(sps: bytes, pps: bytes) -> bytes:
    """Build an ``AVCDecoderConfigurationRecord`` with 4-byte lengths.

    Args:
        sps: Sequence parameter set, NAL header included.
        pps: Picture parameter set, NAL header included.
    """
    record = bytes([1, sps[1], sps[2], sps[3], 0xFF, 0xE1])
    record += len(sps).to_bytes(2, "big") + sps
    record += b"\x01" + len(pps).to_bytes(2, "big") + pps
    if sps[1] in _PROFILES_WITH_AVCC_TAIL:
        # Chroma format, both bit depths minus 8, no SPS extension; we only ever write 8-bit.
        record += bytes([0xFC | parse_sps(sps).chroma_format_idc, 0xF8, 0xF8, 0])
    return record


def parse_sps(unit: bytes) -> SequenceParameterSet:
    """Read a sequence parameter set (NAL header included).

    Raises:
        ValueError: It is another kind of NAL unit, or ends too early.
    """
    if len(unit) < 4 or nal_type(unit) != NAL_SPS:
        raise ValueError(f"not a sequence parameter set: {unit[:8].hex()}; NAL type 7 is expected")
    bits = _Bits(_without_emulation(unit[1:]))
    profile, constraints, level = bits.u(8), bits.u(8), bits.u(8)
    bits.ue()  # seq_parameter_set_id
    chroma = 1
    if profile in _PROFILES_WITH_CHROMA:
        chroma = bits.ue()
        if chroma == 3:
            bits.u(1)
        bits.ue()
        bits.ue()
        bits.u(1)
        if bits.u(1):
            _skip_scaling_lists(bits, 12 if chroma == 3 else 8)
    bits.ue()  # log2_max_frame_num_minus4
    order_type = bits.ue()
    if order_type == 0:
        bits.ue()
    elif order_type == 1:
        bits.u(1)
        bits.se()
        bits.se()
        for _ in range(bits.ue()):
            bits.se()
    bits.ue()  # max_num_ref_frames
    bits.u(1)
    width = 16 * (bits.ue() + 1)
    map_units = bits.ue() + 1
    frames_only = bits.u(1)
    height = 16 * map_units * (2 - frames_only)
    if not frames_only:
        bits.u(1)
    bits.u(1)  # direct_8x8_inference_flag
    if bits.u(1):
        unit_x = 1 if chroma in (0, 3) else 2
        unit_y = (2 if chroma == 1 else 1) * (2 - frames_only)
        left, right, top, bottom = bits.ue(), bits.ue(), bits.ue(), bits.ue()
        width -= unit_x * (left + right)
        height -= unit_y * (top + bottom)
    vui = _read_vui(bits) if bits.u(1) else (None, None, None)
    return SequenceParameterSet(
        profile, constraints, level, chroma, width, height, order_type, *vui
    )


def _read_vui(bits: "_Bits") -> tuple[int | None, bool | None, int | None]:
    """Read Annex E's fields; return (matrix_coefficients, full_range, max_num_reorder_frames)."""
    matrix: int | None = None
    full_range: bool | None = None
    reorder: int | None = None
    if bits.u(1) and bits.u(8) == 255:  # aspect_ratio_idc Extended_SAR
        bits.u(32)
    if bits.u(1):
        bits.u(1)
    if bits.u(1):
        bits.u(3)
        full_range = bool(bits.u(1))
        if bits.u(1):
            bits.u(16)
            matrix = bits.u(8)
    if bits.u(1):
        bits.ue()
        bits.ue()
    if bits.u(1):
        bits.u(65)
    nal_hrd = bits.u(1)
    if nal_hrd:
        _skip_hrd(bits)
    vcl_hrd = bits.u(1)
    if vcl_hrd:
        _skip_hrd(bits)
    if nal_hrd or vcl_hrd:
        bits.u(1)
    bits.u(1)
    if bits.u(1):
        bits.u(1)
        for _ in range(4):
            bits.ue()
        reorder = bits.ue()
        bits.ue()
    return matrix, full_range, reorder


def _skip_hrd(bits: "_Bits") -> None:
    count = bits.ue() + 1
    bits.u(8)
    for _ in range(count):
        bits.ue()
        bits.ue()
        bits.u(1)
    bits.u(20)


def _skip_scaling_lists(bits: "_Bits", count: int) -> None:
    for index in range(count):
        if not bits.u(1):
            continue
        last = following = 8
        for _ in range(16 if index < 6 else 64):
            if following:
                following = (last + bits.se()) % 256
            last = following or last


def _without_emulation(payload: bytes) -> bytes:
    """Drop each emulation prevention byte (00 00 03 -> 00 00)."""
    return payload.replace(b"\x00\x00\x03", b"\x00\x00")


class _Bits:
    """Reads big-endian bits and Exp-Golomb codes."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def u(self, count: int) -> int:
        if count > self._left:
            raise ValueError(f"{count} bits wanted, {self._left} left; the unit is cut short")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)
