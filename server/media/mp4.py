"""A whole MP4 file that starts playing before it is downloaded: index first, pictures after.

The header needs only the size and kind of every picture, so a long recording is written without
holding its pictures in memory: make the header, then append the samples of each segment in order.
"""

from collections.abc import Sequence
from fractions import Fraction

from server.media.boxes import full_box, u32, u64
from server.media.fmp4 import file_type, movie, timing
from server.media.types import CodecConfig

_MDAT_HEADER = 16


def header(
    config: CodecConfig,
    width: int,
    height: int,
    fps: int | Fraction,
    samples: Sequence[tuple[int, bool]],
) -> bytes:
    """Build everything in front of the first picture's bytes.

    Args:
        config: The stream's codec, H.264 or AV1.
        width: Displayed width in pixels.
        height: Displayed height in pixels.
        fps: Pictures per second.
        samples: ``(size in bytes, keyframe)`` of each picture, in order.
    """
    timescale, sample_duration = timing(fps)
    sizes = [size for size, _ in samples]
    sync = [number for number, (_, keyframe) in enumerate(samples, start=1) if keyframe]

    def front(first_sample: int) -> bytes:
        tables = (
            full_box("stts", 0, 0, u32(1, len(samples), sample_duration)),
            full_box("stss", 0, 0, u32(len(sync), *sync)),
            full_box("stsc", 0, 0, u32(1, 1, max(1, len(samples)), 1)),
            full_box("stsz", 0, 0, u32(0, len(samples), *sizes)),
            full_box("co64", 0, 0, u32(1), u64(first_sample)),
        )
        duration = len(samples) * sample_duration
        return file_type(config) + movie(config, width, height, timescale, duration, tables)

    # Every offset field has a fixed width, so a first try tells how long the front is.
    before = front(len(front(0)) + _MDAT_HEADER)
    return before + u32(1) + b"mdat" + u64(_MDAT_HEADER + sum(sizes))
