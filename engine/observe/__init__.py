"""Seeing what the engine does: observers, profiles, metrics, spans, and a live page.

With no one observing, nothing is paid: no thread runs, and no op is told of. The libraries that some of it needs are
imported where it is used: `pip install 'eagerloop[observe]'`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.observe.events import Observer, OpRecord
from engine.observe.extras import needed
from engine.observe.hub import hub
from engine.observe.profiling import Profile, profile

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer
    from prometheus_client import CollectorRegistry
    from starlette.applications import Starlette

    from engine.observe.metrics import Metrics
    from engine.observe.spans import Spans

__all__ = [
    "Observer",
    "OpRecord",
    "Profile",
    "add",
    "dashboard",
    "opentelemetry",
    "profile",
    "prometheus",
    "remove",
    "using",
]


def __dir__() -> list[str]:
    return sorted(__all__)


add = hub.add
remove = hub.remove
using = hub.using


def prometheus(registry: CollectorRegistry | None = None) -> Metrics:
    """Register a collector of metrics with a registry of prometheus-client, the default one where it is None.

    `eagerloop_ops_total{device,op,outcome}`, `eagerloop_op_seconds{device,op}` and `eagerloop_op_wait_seconds{device}`
    (histograms), `eagerloop_queue_ops{device}`, `eagerloop_pending_bytes`, `eagerloop_loop_lag_seconds`,
    `eagerloop_transfer_bytes_total{src,dst}`. Users' functions are labelled by name.

    Of requests behind `ScopeMiddleware`: `eagerloop_requests_total{outcome}`, `eagerloop_request_seconds{outcome}`,
    `eagerloop_requests_in_flight`, `eagerloop_request_dropped_ops_total`. Of batched functions:
    `eagerloop_batched_calls_total{op,outcome}`, `eagerloop_batched_calls_waiting{op}`, `eagerloop_batch_size{op}` and
    `eagerloop_batch_wait_seconds{op}` (histograms), `eagerloop_batches_retried_total{op}`.

    Returns the collector; its `close()` takes it off the registry. Raises `ValueError` where the registry has it
    already, `TypeError` for what is no registry, and `ImportError` where prometheus-client is missing.

    >>> import prometheus_client
    >>> registry = prometheus_client.CollectorRegistry()
    >>> metrics = engine.observe.prometheus(registry)
    >>> text = prometheus_client.generate_latest(registry)  # or prometheus_client.start_http_server(9000)
    """
    needed("prometheus_client", "engine.observe.prometheus()", distribution="prometheus-client")
    from engine.observe import metrics

    return metrics.register(registry)


def opentelemetry(tracer: Tracer | None = None) -> Spans:
    """Make a span for each `engine.scope()`, with the ops dispatched inside as events, and errors recorded.

    The span's parent is the current span where the scope is entered. `tracer` is an OpenTelemetry tracer, None for
    that of the global provider. Returns an object whose `close()` ends it. Raises `ValueError` where spans are made
    already, `TypeError` for what is no tracer, and `ImportError` where opentelemetry-api is missing.
    """
    needed("opentelemetry", "engine.observe.opentelemetry()", distribution="opentelemetry-api")
    from engine.observe import spans

    return spans.begin(tracer)


def dashboard() -> Starlette:
    """An ASGI application: one page that shows, live, what the engine does in this process.

    Serve it, or mount it in an application: `app.mount("/engine", engine.observe.dashboard())`. What happens is counted
    from this call on. The page shows lines of the program, so do not let strangers reach it. Raises `ImportError`
    where starlette is missing.
    """
    needed("starlette", "engine.observe.dashboard()")
    from engine.observe.page import application

    return application.make()
