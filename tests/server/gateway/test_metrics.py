"""What ``/metrics`` shows of workers that do not report alike."""

import logging
from typing import Any

import pytest

from server.gateway.metrics import GatewayMetrics, render
from server.worker.stats import WorkerStats


def snapshot(**changes: Any) -> dict[str, Any]:
    fields = ("pages_in_use", "pages_total", "streams_fit", "streams_free", "load")
    return {**dict.fromkeys(fields, 0), "sessions": {}, **WorkerStats().snapshot(), **changes}


@pytest.mark.parametrize(
    "other",
    [
        {key: value for key, value in snapshot().items() if key != "jobs_ended"},
        snapshot(load="half"),
        snapshot(chunk_s={"live": {"bounds": [1.0], "counts": [1], "sum": 1.0}}),
        ["no", "mapping"],
    ],
    ids=["a field less", "no number", "a bucket less", "a list"],
)
def test_a_worker_of_another_release_hides_no_other(
    other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        text = render(
            GatewayMetrics(), {"w1": snapshot(), "w2": other}, {"m": {"live": 1, "job": 2}}
        )
    shown = text.decode()
    for line in (
        "longtake_connections 0.0",
        'longtake_kv_pages_total{worker="w1"} 0.0',
        'longtake_chunk_seconds_count{kind="live",worker="w1"} 0.0',
        'longtake_waiting_jobs{model="m"} 2.0',
    ):
        assert line in shown, (line, shown)
    assert "w2" not in shown
    assert "worker w2 reports what cannot be read" in caplog.text
