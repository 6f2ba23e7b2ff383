"""OpenTelemetry: a span for each `engine.scope()`, with the ops dispatched inside as events.

Imported where it is used only: it needs opentelemetry-api. The span is the current one inside the block, so spans that
the program makes there, and scopes inside the scope, are its children.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextvars import Token
from dataclasses import dataclass

from opentelemetry import context as contexts, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from engine.observe.assembly import Assembly, Draft
from engine.observe.events import OpRecord
from engine.observe.hub import hub
from engine.observe.wiring import Quiet
from engine.queues.hooks import Numbered

_eagerloop_internal = True  # its frames are not the user's

logger = logging.getLogger("engine.observe")

NAME = "engine.scope"


@dataclass
class Open:
    """The span of a scope that has not been left."""

    span: Span
    context: Context
    token: Token[Context]
    ops: int = 0
    failed: int = 0
    seconds: float = 0.0


class Spans(Quiet):
    """The spans that `engine.observe.opentelemetry()` begins; `close()` ends it."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: dict[int, Open] = {}

    # What scopes say, in the task that enters and leaves them

    def entered(self, scope: Numbered) -> None:
        try:
            span = self._tracer.start_span(NAME)
            context = trace.set_span_in_context(span)
            self._open[scope.number] = Open(span, context, contexts.attach(context))
        except Exception as error:  # noqa: BLE001 - a tracer's error is not the program's
            self._give_up(error)

    def left(self, scope: Numbered, error: BaseException | None) -> None:
        hub.deliver()
        opened = self._open.pop(scope.number, None)
        if opened is None:
            return
        try:
            self._end(opened, error)
        except Exception as problem:  # noqa: BLE001 - a tracer's error is not the program's
            self._give_up(problem)

    def _end(self, opened: Open, error: BaseException | None) -> None:
        span = opened.span
        if contexts.get_current() is opened.context:  # else the scope is left in a context of another task
            contexts.detach(opened.token)
        span.set_attributes(
            {"eagerloop.ops": opened.ops, "eagerloop.failed": opened.failed, "eagerloop.seconds": opened.seconds}
        )
        if isinstance(error, Exception):  # a cancelled task is no error
            for each in _leaves(error):
                span.record_exception(each)
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        span.end()

    def _give_up(self, error: Exception) -> None:
        logger.error("a tracer raised, so spans are made no more", exc_info=error)
        hub.listen_to_scopes(None)

    # What happens inside

    def ended(self, draft: Draft, assembly: Assembly) -> None:
        opened = None if draft.scope is None else self._open.get(draft.scope)
        if opened is None:
            return
        record = assembly.record(draft)
        opened.ops += 1
        opened.failed += record.outcome == "failed"
        opened.seconds += record.seconds
        opened.span.add_event(record.name, _attributes(record), _epoch(record.finished or record.dispatched))

    def close(self) -> None:
        """Make no more spans; those of scopes that have not been left are ended."""
        hub.remove(self)
        self.let_go()

    def let_go(self) -> None:
        hub.listen_to_scopes(None)
        opened, self._open = self._open, {}
        for each in opened.values():
            each.span.end()


def _attributes(op: OpRecord) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float | None] = {
        "eagerloop.device": op.device,
        "eagerloop.outcome": op.outcome,
        "eagerloop.seconds": op.seconds,
        "eagerloop.waited": op.operand_wait + op.slot_wait,
        "eagerloop.bytes": op.nbytes,
        "eagerloop.error": op.error,
        "code.location": op.site,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _epoch(moment: float) -> int:
    """A time of `perf_counter` in nanoseconds since 1970."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def begin(tracer: Tracer | None) -> Spans:
    """Begin the spans of `engine.observe.opentelemetry`."""
    chosen = trace.get_tracer("eagerloop") if tracer is None else tracer
    if not isinstance(chosen, Tracer):
        raise TypeError(f"tracer must be an opentelemetry.trace.Tracer or None, but got {tracer!r}")
    if hub.has_scope_listener():
        raise ValueError("spans of scopes are made already: call close() on what opentelemetry() returned first")
    spans = Spans(chosen)
    hub.listen_to_scopes(spans)
    hub.add(spans)
    return spans
