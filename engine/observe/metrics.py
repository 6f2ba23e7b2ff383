"""Prometheus metrics: sums that are kept as ops end, and read when they are scraped.

Imported where it is used only: it needs prometheus-client.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from time import perf_counter
from typing import TypeVar

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.observe.assembly import Assembly, Draft, Lag
from engine.observe.hub import hub
from engine.observe.monitor import device_queues
from engine.observe.service_metrics import collected, described
from engine.observe.sums import MOST_NAMES, OTHER, Histogram
from engine.observe.wiring import Quiet

K = TypeVar("K")

_eagerloop_internal = True  # its frames are not the user's

LAG_SECONDS = 15.0
"""How long a lag of the loop is shown: the usual interval of scrapes."""


class Metrics(Quiet, Collector):
    """The collector that `engine.observe.prometheus()` registers; `close()` takes it away again."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._ops: dict[tuple[str, str, str], int] = {}
        self._seconds: dict[tuple[str, str], Histogram] = {}
        self._waits: dict[str, Histogram] = {}
        self._transfers: dict[tuple[str, str], int] = {}
        self._lags: deque[Lag] = deque(maxlen=10_000)

    # What happens

    def ended(self, draft: Draft, assembly: Assembly) -> None:
        facts = draft.facts
        outcome = facts[0] if isinstance(facts, tuple) else "done"
        with self._lock:
            name = self._label(draft.name)
            key = (draft.device, name, outcome)
            self._ops[key] = self._ops.get(key, 0) + 1
            if draft.started is None or draft.finished is None:
                return
            self._of(self._seconds, (draft.device, name)).add(draft.share())
            self._of(self._waits, draft.device).add(max(0.0, draft.started - draft.dispatched))
            if draft.source is not None and isinstance(facts, int):
                way = (draft.source, draft.device)
                self._transfers[way] = self._transfers.get(way, 0) + facts

    def lagged(self, lag: Lag) -> None:
        self._lags.append(lag)

    def _label(self, name: str) -> str:
        if name not in self._names:
            if len(self._names) >= MOST_NAMES:
                return OTHER
            self._names.add(name)
        return name

    def _of(self, histograms: dict[K, Histogram], key: K) -> Histogram:
        found = histograms.get(key)
        if found is None:
            found = histograms[key] = Histogram()
        return found

    # What is scraped

    def describe(self) -> Iterator[Metric]:
        """The names, so that a registry that has them already says so."""
        yield from (*self._families(), *self._gauges(), *described())

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        hub.deliver()
        ops, seconds, waits, transfers = self._families()
        with self._lock:
            for key, count in self._ops.items():
                ops.add_metric(key, count)
            for labels, histogram in self._seconds.items():
                seconds.add_metric(labels, histogram.buckets(), histogram.sum)
            for device, histogram in self._waits.items():
                waits.add_metric((device,), histogram.buckets(), histogram.sum)
            for way, nbytes in self._transfers.items():
                transfers.add_metric(way, nbytes)
        queued, pending, lag = self._gauges()
        self._fill(queued, pending)
        lag.add_metric((), max((each.seconds for each in self._recent_lags()), default=0.0))
        yield from (ops, seconds, waits, queued, pending, lag, transfers, *collected())

    def _recent_lags(self) -> list[Lag]:
        since = perf_counter() - LAG_SECONDS
        return [each for each in self._lags.copy() if each.time >= since]

    def _fill(self, queued: GaugeMetricFamily, pending: GaugeMetricFamily) -> None:
        depth: dict[str, int] = {}
        held: dict[int, int] = {}
        for queue in device_queues():
            depth[str(queue.device)] = depth.get(str(queue.device), 0) + queue.in_flight()
            held[id(queue.owner)] = queue.owner.pending_bytes
        for device, count in depth.items():
            queued.add_metric((device,), count)
        pending.add_metric((), sum(held.values()))

    @staticmethod
    def _families() -> tuple[CounterMetricFamily, HistogramMetricFamily, HistogramMetricFamily, CounterMetricFamily]:
        return (
            CounterMetricFamily(
                "eagerloop_ops", "Ops that have ended: done, failed or cancelled.", labels=("device", "op", "outcome")
            ),
            HistogramMetricFamily("eagerloop_op_seconds", "How long ops ran.", labels=("device", "op")),
            HistogramMetricFamily(
                "eagerloop_op_wait_seconds", "How long ops waited from dispatch until they ran.", labels=("device",)
            ),
            CounterMetricFamily("eagerloop_transfer_bytes", "Bytes copied between devices.", labels=("src", "dst")),
        )

    @staticmethod
    def _gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("eagerloop_queue_ops", "Ops in flight: waiting or running.", labels=("device",)),
            GaugeMetricFamily("eagerloop_pending_bytes", "Bytes of operands that were copied for ops in flight."),
            GaugeMetricFamily(
                "eagerloop_loop_lag_seconds",
                "The longest that an event loop took to call back in the last 15 s.",
            ),
        )

    def close(self) -> None:
        """Take the metrics off the registry, and count no more."""
        hub.remove(self)
        self.let_go()

    def let_go(self) -> None:
        with suppress(KeyError):
            self._registry.unregister(self)


def register(registry: CollectorRegistry | None) -> Metrics:
    """Register the collector of `engine.observe.prometheus`."""
    chosen = REGISTRY if registry is None else registry
    if not isinstance(chosen, CollectorRegistry):
        raise TypeError(f"registry must be a prometheus_client.CollectorRegistry or None, but got {registry!r}")
    metrics = Metrics(chosen)
    try:
        chosen.register(metrics)
    except ValueError:
        raise ValueError(
            "the registry has the metrics of eagerloop already: engine.observe.prometheus() is called once for each "
            "registry; call close() on what it returned first, or pass another registry"
        ) from None
    hub.add(metrics)
    return metrics
