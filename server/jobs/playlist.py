"""The HLS playlist of a job: watch while it is generated, seek in it afterwards.

EVENT type (RFC 8216 section 4.3.3.5): segments are only ever added, and ``ENDLIST``
makes the same address a finished video. Pure text; knows no HTTP.
"""

import math
from collections.abc import Sequence

from server.jobs.record import Segment
from server.jobs.recorder import SEGMENT_S


def event_playlist(segments: Sequence[Segment], fps: int, *, ended: bool, query: str = "") -> str:
    """Return the playlist of committed segments; addresses are relative to the playlist's.

    Args:
        segments: In playing order, at least one.
        fps: Pictures per second.
        ended: No further segment will come.
        query: Appended to every address, for players that cannot send headers.
    """
    durations = [segment.num_frames / fps for segment in segments]
    # It must never change while segments are added, and no segment is longer than the target.
    target = max(math.ceil(SEGMENT_S), *(math.ceil(seconds) for seconds in durations))
    suffix = f"?{query}" if query else ""
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        f"#EXT-X-TARGETDURATION:{target}",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        f'#EXT-X-MAP:URI="segments/{segments[0].init}{suffix}"',
    ]
    for segment, seconds in zip(segments, durations, strict=True):
        lines += [f"#EXTINF:{seconds:.6f},", f"segments/{segment.name}{suffix}"]
    if ended:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"
