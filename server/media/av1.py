"""AV1: the codec string and the ``av1C`` record, both read from the sequence header.

Follows section 5.5 of the AV1 bit stream specification and "AV1 in ISOBMFF". Only what our
encoder writes is understood: 8 bits, 4:2:0.
"""

from dataclasses import dataclass

OBU_SEQUENCE_HEADER = 1
OBU_TEMPORAL_DELIMITER = 2


@dataclass(frozen=True, slots=True)
class SequenceHeader:
    """Profile, level and tier of the first operating point."""

    profile: int
    level_index: int
    tier: int

    @property
    def codec_string(self) -> str:
        """RFC 6381 name, e.g. ``av01.0.00M.08``."""
        return f"av01.{self.profile}.{self.level_index:02d}{'MH'[self.tier]}.08"


def parse_sequence_header(obu: bytes) -> SequenceHeader:
    """Read the first fields of a sequence header OBU that carries its size.

    Raises:
        ValueError: It is another kind of OBU, or ends too early.
    """
    if len(obu) < 4 or (obu[0] >> 3) & 15 != OBU_SEQUENCE_HEADER or not obu[0] & 2:
        raise ValueError(f"not a sized sequence header: {obu[:8].hex()}; OBU type 1 is expected")
    # The size is LEB128; a sequence header is far shorter than 128 bytes, so it is one byte.
    left = 8 * (len(obu) - 2)
    value = int.from_bytes(obu[2:], "big")

    def bits(count: int) -> int:
        nonlocal left
        if count > left:
            raise ValueError(f"{count} bits wanted, {left} left; the sequence header is cut short")
        left -= count
        return (value >> left) & ((1 << count) - 1)

    profile = bits(3)
    bits(1)  # still_picture
    if bits(1):  # reduced_still_picture_header
        return SequenceHeader(profile, bits(5), 0)
    if bits(1):  # timing_info
        bits(64)
        if bits(1):  # equal_picture_interval, then a uvlc
            zeros = 0
            while not bits(1):
                zeros += 1
            bits(zeros)
        if bits(1):  # decoder_model_info
            bits(47)
    bits(1)  # initial_display_delay_present
    bits(5)  # operating_points_cnt_minus_1
    bits(12)  # operating_point_idc
    level = bits(5)
    return SequenceHeader(profile, level, bits(1) if level > 7 else 0)


def av1c_record(obu: bytes) -> bytes:
    """Build an ``AV1CodecConfigurationRecord`` around a sequence header OBU."""
    header = parse_sequence_header(obu)
    sampling = 0b0000_1100  # 8 bits, colour, 4:2:0, chroma position unknown
    return (
        bytes([0x81, header.profile << 5 | header.level_index, header.tier << 7 | sampling, 0])
        + obu
    )


def without_delimiter(unit: bytes) -> bytes:
    """Drop a leading temporal delimiter, which MP4 samples must not contain."""
    return unit[2:] if unit[:2] == bytes([OBU_TEMPORAL_DELIMITER << 3 | 2, 0]) else unit
