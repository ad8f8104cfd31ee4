from server.bench.client import Seen
from server.bench.report import percentile, report

KEYS = (
    "sessions", "ttfc_s", "chunk_p50_s", "chunk_p95_s", "chunk_p99_s", "rtf", "fps",
    "deadline_attainment", "stall_seconds", "cpr",
)  # fmt: skip


def _seen(**changes: object) -> Seen:
    values: dict[str, object] = {
        "fps": 16,
        "ttfc_s": 0.5,
        "arrivals": [0.0, 0.75, 1.5],
        "frames": [12, 12],
        "generate_s": [0.3, 0.3],
        "in_time": [True, False],
        "played_s": 1.0,
        "stalled_s": 0.25,
    }
    return Seen(**{**values, **changes})  # type: ignore[arg-type]


def test_two_streams_are_summed_and_averaged() -> None:
    result = report([_seen(), _seen(ttfc_s=0.7)], pacing="realtime")
    assert set(KEYS) <= set(result)
    assert result["sessions"] == 2
    assert result["fps"] == 32.0
    assert result["chunk_p50_s"] == 0.75
    assert result["rtf"] == 0.4
    assert result["deadline_attainment"] == 0.5
    assert result["stall_seconds"] == 0.5
    assert result["cpr"] == 0.8
    assert result["session_fps"] == [16.0, 16.0]
    assert result["pacing"] == "realtime"


def test_a_stream_that_showed_nothing_is_reported_with_its_error() -> None:
    result = report([Seen(error="capacity: full")])
    assert result["errors"] == ["capacity: full"]
    assert (result["fps"], result["rtf"], result["cpr"], result["ttfc_s"]) == (0, None, None, None)


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([], 0.5) is None
