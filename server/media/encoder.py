"""Encodes chunks of pictures, one access unit per picture, nothing held back.

A keyframe is made where the caller asks for one, and nowhere else, so what is encoded does not
depend on who is watching. Parameter sets travel out of band in ``CodecConfig.description``.
Colours are BT.709 at limited range, converted and tagged as such: browsers show untagged H.264
as BT.709, while the converter's own default is BT.601.

The encoder knows no clock, no container and no viewer. It is not thread-safe: whoever made it
calls it, one chunk after the other.
"""

import os
from dataclasses import dataclass, field
from fractions import Fraction
from types import TracebackType
from typing import Protocol, Self, get_args

import av
import numpy as np
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from server.media import av1, h264
from server.media.jpeg import JpegCodec
from server.media.types import AccessUnit, CodecConfig, CodecName, EncodedChunk

_BT709 = 1
_LIMITED_RANGE = 1
_NEVER = 1 << 30
# One macroblock: below it libvpx gives nothing back and SVT-AV1 does not open.
_SMALLEST = 16


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How much quality is bought with how many bytes and how much time.

    The defaults follow measurements on two CPU cores: x264 ``veryfast`` costs about 0.4 ms a
    picture at 160x96 and 4 ms at 832x480; zero-latency tuning is what makes one picture in give
    one picture out.

    Attributes:
        h264_preset: An x264 preset name.
        h264_crf: Constant rate factor, 0 (lossless) to 51.
        vp8_bits_per_pixel: Target rate of VP8, which has no constant-quality live mode.
        av1_preset: SVT-AV1 preset, 0 (slow) to 13.
        av1_crf: SVT-AV1 constant rate factor, 0 to 63.
        jpeg_quality: 1 to 95.
    """

    h264_preset: str = "veryfast"
    h264_crf: int = 19
    vp8_bits_per_pixel: float = 0.5
    av1_preset: int = 10
    av1_crf: int = 26
    jpeg_quality: int = 88


class _Codec(Protocol):
    config: CodecConfig

    def encode(self, frames: NDArray[np.uint8], key: bool) -> list[AccessUnit]: ...

    def close(self) -> None: ...


class ChunkEncoder:
    """One stream's encoder: chunks of RGB pictures in, access units out.

    ``config`` is known before the first chunk is encoded and never changes.
    """

    def __init__(
        self,
        codec: CodecName,
        width: int,
        height: int,
        fps: int | Fraction,
        settings: EncoderSettings | None = None,
    ) -> None:
        """Open the encoder.

        Args:
            codec: Name in the wire protocol.
            width: Picture width in pixels; odd widths are padded by one column.
            height: Picture height in pixels; odd heights are padded by one row.
            fps: Pictures per second; only rate control looks at it.
            settings: Quality and speed.

        Raises:
            ValueError: The codec is not known, or the size or the rate is too small.
        """
        if codec not in get_args(CodecName):
            raise ValueError(f"codec {codec!r}; one of {', '.join(get_args(CodecName))} is allowed")
        if min(width, height) < _SMALLEST or fps <= 0:
            allowed = f"at least {_SMALLEST}x{_SMALLEST} above 0 fps is needed"
            raise ValueError(f"{width}x{height} at {fps} fps; {allowed}")
        settings = settings or EncoderSettings()
        self._shape = (height, width, 3)
        self._needs_key = True
        self._codec: _Codec = (
            JpegCodec(width, height, settings.jpeg_quality)
            if codec == "jpeg"
            else _AvCodec(codec, width, height, Fraction(fps), settings)
        )

    @property
    def config(self) -> CodecConfig:
        """What a decoder must be told first."""
        return self._codec.config

    def encode(self, frames: NDArray[np.uint8], key: bool) -> EncodedChunk:
        """Encode one chunk.

        Args:
            frames: RGB pictures ``[T, H, W, 3]``, uint8, ``T >= 1``.
            key: Make the first picture a keyframe. The very first picture always is one.

        Raises:
            ValueError: The shape or the type is not the stream's.
        """
        if frames.ndim != 4 or frames.shape[1:] != self._shape or not len(frames):
            raise ValueError(f"pictures of shape {frames.shape}; [T >= 1, {self._shape}] is needed")
        if frames.dtype != np.uint8:
            raise ValueError(f"pictures of type {frames.dtype}; uint8 is needed")
        units = self._codec.encode(frames, key or self._needs_key)
        self._needs_key = False
        assert len(units) == len(frames), f"{len(frames)} pictures gave {len(units)} access units"
        return EncodedChunk(tuple(units), self.config)

    def close(self) -> None:
        """Release the encoder. Calling it twice is harmless."""
        self._codec.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(slots=True)
class _AvCodec:
    """A video encoder of the PyAV wheel."""

    codec: CodecName
    width: int
    height: int
    fps: Fraction
    settings: EncoderSettings
    config: CodecConfig = field(init=False)
    _context: VideoCodecContext | None = field(init=False)
    # One converter per stream: a fresh one per picture starts threads each time.
    _reformatter: VideoReformatter = field(init=False, default_factory=VideoReformatter)
    _next_pts: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        coded_width, coded_height = self.width + self.width % 2, self.height + self.height % 2
        context = _open(self.codec, coded_width, coded_height, self.fps, self.settings)
        self._context = context
        mime, description = _describe(self.codec, context.extradata or b"")
        self.config = CodecConfig(self.codec, mime, description, coded_width, coded_height)

    def encode(self, frames: NDArray[np.uint8], key: bool) -> list[AccessUnit]:
        assert self._context is not None, "the encoder is closed"
        right, bottom = self.config.width - self.width, self.config.height - self.height
        if right or bottom:
            frames = np.pad(frames, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")
        units: list[AccessUnit] = []
        for index, pixels in enumerate(frames):
            frame = self._reformatter.reformat(
                av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"),
                format="yuv420p",
                interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND,
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
            frame.pts = self._next_pts
            frame.time_base = 1 / self.fps
            frame.pict_type = PictureType.I if key and index == 0 else PictureType.NONE
            self._next_pts += 1
            units += [
                AccessUnit(_payload(self.codec, bytes(packet)), packet.is_keyframe)
                for packet in self._context.encode(frame)
            ]
        return units

    def close(self) -> None:
        if self._context is not None:
            # SVT-AV1 leaks its threads when dropped without a flush.
            self._context.encode(None)
            self._context = None


def _open(
    codec: CodecName, width: int, height: int, fps: Fraction, settings: EncoderSettings
) -> VideoCodecContext:
    """Open an encoder that gives one packet per picture and no keyframe unasked."""
    if codec == "h264":
        name = "libx264"
        options = {
            "preset": settings.h264_preset,
            "tune": "zerolatency",
            "crf": str(settings.h264_crf),
            "forced-idr": "1",
            "x264-params": "scenecut=0:keyint=infinite",
        }
    elif codec == "vp8":
        name = "libvpx"
        options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
    else:
        name = "libsvtav1"
        # The library writes a page of text to stderr for each encoder it opens.
        os.environ.setdefault("SVT_LOG", "1")
        options = {
            "preset": str(settings.av1_preset),
            "crf": str(settings.av1_crf),
            "svtav1-params": "pred-struct=1:lp=1:scd=0",
        }
    context = av.CodecContext.create(name, "w")
    assert isinstance(context, VideoCodecContext)
    context.width = width
    context.height = height
    context.pix_fmt = "yuv420p"
    context.time_base = 1 / fps
    context.framerate = fps
    context.gop_size = _NEVER
    context.thread_count = 1
    context.flags |= Flags.global_header
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED_RANGE
    if codec == "vp8":
        context.bit_rate = int(settings.vp8_bits_per_pixel * width * height * float(fps))
    context.options = options
    context.open()
    return context


def _describe(codec: CodecName, extradata: bytes) -> tuple[str, bytes]:
    """Return the codec string and the configuration record of an opened encoder."""
    if codec == "h264":
        sets = {h264.nal_type(unit): unit for unit in h264.split_annexb(extradata)}
        sps, pps = sets[h264.NAL_SPS], sets[h264.NAL_PPS]
        return h264.parse_sps(sps).codec_string, h264.avcc_record(sps, pps)
    if codec == "av1":
        return av1.parse_sequence_header(extradata).codec_string, av1.av1c_record(extradata)
    return "vp8", b""


def _payload(codec: CodecName, packet: bytes) -> bytes:
    """Return a packet in the form ``AccessUnit.data`` promises."""
    if codec == "h264":
        return h264.annexb_to_avcc(packet)
    return av1.without_delimiter(packet) if codec == "av1" else packet
