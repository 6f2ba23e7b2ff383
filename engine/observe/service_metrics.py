"""Prometheus metrics of requests and of batches: the sums of the process, as they are when they are scraped.

Imported where it is used only: it needs prometheus-client.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from engine.observe.sums import all_batches, all_requests

_eagerloop_internal = True  # its frames are not the user's

OUTCOMES = ("completed", "failed", "disconnected", "expired", "refused")
"""How requests end: each is shown from the start, so that a rate of it can be asked for before the first."""


def described() -> Iterator[Metric]:
    """The metrics without what they tell, so that a registry that has them already says so."""
    yield from (*_request_families(), *_batch_families())


def collected() -> Iterator[Metric]:
    """The metrics as they are now."""
    yield from (*_of_requests(), *_of_batches())


def _of_requests() -> tuple[Metric, ...]:
    total, seconds, active, dropped = families = _request_families()
    requests = all_requests()
    for outcome in OUTCOMES:
        total.add_metric((outcome,), requests.ended.get(outcome, 0))
    for outcome, histogram in requests.seconds.items():
        seconds.add_metric((outcome,), histogram.buckets(), histogram.sum)
    active.add_metric((), requests.active)
    dropped.add_metric((), requests.dropped_ops)
    return families


def _of_batches() -> tuple[Metric, ...]:
    calls, size, wait, retried, waiting = families = _batch_families()
    for name, sums in all_batches().items():
        waiting.add_metric((name,), sums.waiting())
        with sums.lock:
            for outcome, count in sums.calls.items():
                calls.add_metric((name, outcome), count)
            size.add_metric((name,), sums.sizes.buckets(), sums.sizes.sum)
            wait.add_metric((name,), sums.waits.buckets(), sums.waits.sum)
            retried.add_metric((name,), sums.retried)
    return families


def _request_families() -> tuple[CounterMetricFamily, HistogramMetricFamily, GaugeMetricFamily, CounterMetricFamily]:
    return (
        CounterMetricFamily(
            "eagerloop_requests", "Requests and websockets behind ScopeMiddleware that have ended.", labels=("outcome",)
        ),
        HistogramMetricFamily(
            "eagerloop_request_seconds", "How long requests took that were not refused.", labels=("outcome",)
        ),
        GaugeMetricFamily("eagerloop_requests_in_flight", "Requests and websockets that are being served."),
        CounterMetricFamily(
            "eagerloop_request_dropped_ops", "Ops dropped or abandoned with requests that ended before their time."
        ),
    )


def _batch_families() -> tuple[
    CounterMetricFamily, HistogramMetricFamily, HistogramMetricFamily, CounterMetricFamily, GaugeMetricFamily
]:
    return (
        CounterMetricFamily(
            "eagerloop_batched_calls",
            "Calls of batched functions that have ended: done, failed or cancelled.",
            labels=("op", "outcome"),
        ),
        HistogramMetricFamily("eagerloop_batch_size", "How many calls a batch has.", labels=("op",)),
        HistogramMetricFamily(
            "eagerloop_batch_wait_seconds", "How long calls waited until their batch began.", labels=("op",)
        ),
        CounterMetricFamily(
            "eagerloop_batches_retried", "Batches that failed, and whose calls were tried one by one.", labels=("op",)
        ),
        GaugeMetricFamily("eagerloop_batched_calls_waiting", "Calls that wait for a batch.", labels=("op",)),
    )
