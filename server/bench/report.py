"""What a measurement showed, as one JSON object.

Keys: ``ttfc_s`` median time to first chunk; ``chunk_p50_s`` … the time between chunks of one
stream as they arrive; ``generate_p50_s`` … the worker's own time for a chunk (denoise, decode,
encode); ``rtf`` generation seconds per second of video; ``fps`` frames received a second, all streams
together; ``deadline_attainment`` share of chunks there before their viewer needed them;
``stall_seconds`` of all simulated viewers; ``cpr`` played / (played + stalled). The warm-up, until
the model's window is full, is left out of all but ``ttfc_s``.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from server.bench.client import Seen


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which ``share`` of all lie (nearest rank); None of nothing."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def _rate(seen: Seen) -> float:
    """Return one stream's frames a second between its first and last counted arrival."""
    if len(seen.arrivals) < 2:
        return 0.0
    return sum(seen.frames) / (seen.arrivals[-1] - seen.arrivals[0])


def report(streams: Sequence[Seen], **about: Any) -> dict[str, Any]:
    """Summarise what the streams of one measurement showed.

    Args:
        streams: One for each session.
        about: How it was measured; copied into the result.
    """
    between = [b - a for seen in streams for a, b in pairwise(seen.arrivals)]
    generate = [value for seen in streams for value in seen.generate_s]
    media_s = sum(sum(seen.frames) / seen.fps for seen in streams if seen.fps)
    in_time = [value for seen in streams for value in seen.in_time]
    played = sum(seen.played_s for seen in streams)
    stalled = sum(seen.stalled_s for seen in streams)
    rates = [_rate(seen) for seen in streams]
    firsts = [seen.ttfc_s for seen in streams if seen.ttfc_s is not None]
    applied = [value for seen in streams for value in seen.applied_s]
    return {
        "sessions": len(streams),
        "ttfc_s": _rounded(percentile(firsts, 0.5)),
        "chunk_p50_s": _rounded(percentile(between, 0.5)),
        "chunk_p95_s": _rounded(percentile(between, 0.95)),
        "chunk_p99_s": _rounded(percentile(between, 0.99)),
        "rtf": _rounded(sum(generate) / media_s) if media_s else None,
        "fps": round(sum(rates), 2),
        "deadline_attainment": _rounded(sum(in_time) / len(in_time)) if in_time else None,
        "stall_seconds": round(stalled, 3),
        "cpr": _rounded(played / (played + stalled)) if played + stalled else None,
        "generate_p50_s": _rounded(percentile(generate, 0.5)),
        "generate_p95_s": _rounded(percentile(generate, 0.95)),
        "applied_p50_s": _rounded(percentile(applied, 0.5)),
        "applied_p95_s": _rounded(percentile(applied, 0.95)),
        "session_fps": [round(rate, 2) for rate in rates],
        "chunks": len(in_time),
        "bytes": sum(seen.bytes for seen in streams),
        "errors": [seen.error for seen in streams if seen.error is not None],
        **about,
    }
