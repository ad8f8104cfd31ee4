"""What ``/metrics`` shows: this gateway's own counts and every worker's snapshot.

Worker values carry a ``worker`` label and come from the fabric, so any gateway shows all of them.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from server.fabric.keys import Kind

log = logging.getLogger(__name__)

TTFC_BUCKETS_S = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
APPLIED_BUCKETS_S = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class GatewayMetrics:
    """This process's own metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.connections = Gauge(
            "longtake_connections", "Open WebSocket connections", registry=self.registry
        )
        self.ttfc_s = Histogram(
            "longtake_ttfc_seconds",
            "From session.start received to the first chunk written to the socket",
            buckets=TTFC_BUCKETS_S,
            registry=self.registry,
        )
        self.applied_s = Histogram(
            "longtake_interaction_applied_seconds",
            "From a prompt change received to the first chunk that shows it written",
            buckets=APPLIED_BUCKETS_S,
            registry=self.registry,
        )
        self.errors = Counter(
            "longtake_client_errors", "Errors told to clients", ["code"], registry=self.registry
        )
        self.sent_bytes = Counter(
            "longtake_sent_bytes", "Media bytes written to viewers", registry=self.registry
        )


class _WorkerCollector:
    """Snapshots as metric families."""

    def __init__(self, snapshots: Mapping[str, Mapping[str, Any]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterable[Metric]:
        """Yield every family; one without workers has no samples."""
        gauges = (
            ("longtake_kv_pages_in_use", "KV pages that some session holds", "pages_in_use"),
            ("longtake_kv_pages_total", "KV pages of the pool", "pages_total"),
            ("longtake_streams_fit", "Live streams the worker holds when empty", "streams_fit"),
            ("longtake_streams_free", "Live streams it would take now", "streams_free"),
            ("longtake_device_load", "Share of the device's time promised to streams", "load"),
        )
        for name, text, field in gauges:
            gauge = GaugeMetricFamily(name, text, labels=["worker"])
            for worker, snapshot in self._snapshots.items():
                gauge.add_metric([worker], snapshot[field])
            yield gauge
        yield self._by_kind(GaugeMetricFamily, "longtake_sessions", "Sessions held", "sessions")
        yield self._by_kind(CounterMetricFamily, "longtake_frames", "Frames made", "frames")
        yield self._by_kind(
            CounterMetricFamily, "longtake_jobs_ended", "Jobs ended", "jobs_ended", "status"
        )
        yield self._by_kind(
            CounterMetricFamily, "longtake_streams_ended", "Live streams ended", "streams_ended",
            "reason",
        )  # fmt: skip
        stalls = CounterMetricFamily(
            "longtake_stall_seconds",
            "Time that realtime viewers had nothing to play while a chunk was made",
            labels=["worker"],
        )
        chunks = HistogramMetricFamily(
            "longtake_chunk_seconds",
            "A chunk from noise to published; those of jobs to decoded",
            labels=["worker", "kind"],
        )
        for worker, snapshot in self._snapshots.items():
            stalls.add_metric([worker], snapshot["stall_s"])
            for kind, times in sorted(snapshot["chunk_s"].items()):
                chunks.add_metric([worker, kind], *_cumulative(times))
        yield stalls
        yield chunks

    def _by_kind(
        self,
        family: type[GaugeMetricFamily | CounterMetricFamily],
        name: str,
        text: str,
        field: str,
        label: str = "kind",
    ) -> Metric:
        made = family(name, text, labels=["worker", label])
        for worker, snapshot in self._snapshots.items():
            for kind, value in sorted(snapshot[field].items()):
                made.add_metric([worker, kind], value)
        return made


def _cumulative(histogram: Mapping[str, Any]) -> tuple[list[tuple[str, float]], float]:
    """Return Prometheus's cumulative buckets and the sum."""
    buckets, count = [], 0
    bounds = [*(str(float(bound)) for bound in histogram["bounds"]), "+Inf"]
    for bound, number in zip(bounds, histogram["counts"], strict=True):
        count += number
        buckets.append((bound, float(count)))
    return buckets, histogram["sum"]


class _WaitingCollector:
    """How many tickets of each model no worker has taken."""

    def __init__(self, waiting: Mapping[str, Mapping[Kind, int]]) -> None:
        self._waiting = waiting

    def collect(self) -> Iterable[Metric]:
        """Yield one family for streams and one for jobs."""
        kinds: tuple[tuple[Kind, str, str], ...] = (
            ("live", "longtake_waiting_streams", "Live streams that no worker has taken"),
            ("job", "longtake_waiting_jobs", "Jobs that no worker has taken"),
        )
        for kind, name, text in kinds:
            gauge = GaugeMetricFamily(name, text, labels=["model"])
            for model, depths in sorted(self._waiting.items()):
                gauge.add_metric([model], depths[kind])
            yield gauge


def render(
    metrics: GatewayMetrics,
    snapshots: Mapping[str, Mapping[str, Any]],
    waiting: Mapping[str, Mapping[Kind, int]],
) -> bytes:
    """Return the exposition text of this gateway, of all workers and of the queues.

    Args:
        metrics: This process's own.
        snapshots: What each worker reports; one that cannot be read is left out.
        waiting: For each model, how many streams and jobs wait.
    """
    readable = {name: snapshot for name, snapshot in snapshots.items() if _readable(name, snapshot)}
    collectors = (_WorkerCollector(readable), _WaitingCollector(waiting))
    return generate_latest(metrics.registry) + b"".join(_text(c) for c in collectors)


def _text(collector: "_WorkerCollector | _WaitingCollector") -> bytes:
    registry = CollectorRegistry()
    registry.register(collector)  # type: ignore[arg-type, unused-ignore]
    return generate_latest(registry)


def _readable(worker: str, snapshot: Mapping[str, Any]) -> bool:
    """Whether a snapshot can be shown; one of another release may have another shape."""
    try:
        _text(_WorkerCollector({worker: snapshot}))
    except Exception as error:
        log.warning(
            "worker %s reports what cannot be read (%s: %s) and is not shown in /metrics; run the "
            "same release everywhere",
            worker,
            type(error).__name__,
            error,
        )
        return False
    return True
