"""The values that leave an encoder: access units and the configuration a decoder needs first.

They are immutable and hold no reference to an encoder, so one encode can be handed to many
viewers, to a recording and to Redis at the same time.
"""

from dataclasses import dataclass
from typing import Literal, get_args

CodecName = Literal["h264", "vp8", "av1", "jpeg"]
CODEC_NAMES: tuple[CodecName, ...] = get_args(CodecName)


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One coded picture.

    Attributes:
        data: H.264: NAL units, each with a 4-byte big-endian length (AVCC), no parameter
            sets. VP8: one frame. AV1: one temporal unit (low-overhead OBUs). JPEG: one file.
        keyframe: Whether a decoder can start here.
    """

    data: bytes
    keyframe: bool


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """What a decoder must be told before the first access unit.

    Attributes:
        codec: Name used in the wire protocol.
        mime: RFC 6381 codec string, e.g. ``avc1.42c01e``; ``image/jpeg`` for JPEG.
        description: Out-of-band configuration record (``avcC`` or ``av1C``); empty for VP8, JPEG.
        width: Coded width in pixels: the picture's, rounded up to an even number for video.
        height: Coded height in pixels, rounded likewise.
    """

    codec: CodecName
    mime: str
    description: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """The access units of one chunk, one per picture, in order, and their configuration."""

    units: tuple[AccessUnit, ...]
    config: CodecConfig
