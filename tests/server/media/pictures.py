"""Pictures for the encoder tests, smooth gradients that move and flat colours; readers of results."""

from collections.abc import Iterator, Sequence

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from server.media import h264, mp4
from server.media.types import AccessUnit, CodecConfig

DECODERS = {"h264": "h264", "vp8": "vp8", "av1": "libdav1d", "jpeg": "mjpeg"}


def moving(frames: int, width: int, height: int) -> NDArray[np.uint8]:
    """A bright disc over a gradient, both moving. `[T, H, W, 3]`."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        disc = (x - width / 2 - 2 * t) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2
        out[t, ..., 0] = 40 + 150 * x / width
        out[t, ..., 1] = 60 + 100 * y / height
        out[t, ..., 2] = 90 + 3 * t
        out[t][disc] = (230, 180, 60)
    return out


def flat(colour: Sequence[int], frames: int = 2, size: int = 64) -> NDArray[np.uint8]:
    """Pictures of one colour."""
    return np.full((frames, size, size, 3), colour, np.uint8)


def decode(config: CodecConfig, units: Sequence[AccessUnit]) -> list[av.VideoFrame]:
    """Decode access units with FFmpeg, told no more than a player is told."""
    context = av.CodecContext.create(DECODERS[config.codec], "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    if config.codec == "h264":
        context.extradata = config.description
    frames: list[av.VideoFrame] = []
    for number, unit in enumerate(units):
        packet = av.Packet(unit.data)
        packet.pts = packet.dts = number
        frames += context.decode(packet)
    return frames + context.decode(None)


def rgb(frame: av.VideoFrame, *, jpeg: bool = False) -> NDArray[np.uint8]:
    """Convert a decoded picture the way a browser does: BT.709 limited, JPEG BT.601 full."""
    out = frame.reformat(
        format="rgb24",
        src_colorspace="ITU601" if jpeg else "ITU709",
        src_color_range="JPEG" if jpeg else "MPEG",
        dst_color_range="JPEG",
        threads=1,
    )
    return out.to_ndarray()


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def parameter_sets(description: bytes) -> tuple[bytes, bytes]:
    """Return the SPS and the PPS of an `avcC` record."""
    length = int.from_bytes(description[6:8], "big")
    sps = description[8 : 8 + length]
    at = 8 + length + 1
    pps_length = int.from_bytes(description[at : at + 2], "big")
    assert h264.nal_type(sps) == h264.NAL_SPS
    return sps, description[at + 2 : at + 2 + pps_length]


def split_avcc(data: bytes) -> Iterator[bytes]:
    """Yield the NAL units of one access unit with lengths in front."""
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        assert end <= len(data), f"a NAL ends at {end} of {len(data)}"
        yield data[at + 4 : end]
        at = end


def whole_file(config: CodecConfig, width: int, height: int, units: Sequence[AccessUnit]) -> bytes:
    """A finished file of 16 pictures a second, as a job's folder writes it."""
    samples = [(len(unit.data), unit.keyframe) for unit in units]
    return mp4.header(config, width, height, 16, samples) + b"".join(unit.data for unit in units)
