"""OpenTelemetry: spans of scopes in the SDK's exporter, with their parents, events and errors."""

import asyncio
import logging
import sys
from typing import Any

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer

import engine
from engine import ops
from engine.queues.hooks import hooks


class Exported:
    """A tracer whose finished spans can be looked at."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = provider.get_tracer("test")

    def spans(self, name: str = "engine.scope") -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def exported() -> Exported:
    return Exported()


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def test_the_exporter_is_the_sdks(exported: Exported) -> None:
    with exported.tracer.start_as_current_span("own"):
        pass
    assert len(exported.spans("own")) == 1


async def test_a_scope_is_a_span_with_its_ops_as_events(exported: Exported, mode: engine.ExecutionMode) -> None:
    spans = engine.observe.opentelemetry(exported.tracer)
    async with engine.scope():
        ops.sum(ops.ones(3))
    await ops.add(1, 2).wait_ready()
    (span,) = exported.spans()
    assert [event.name for event in span.events] == ["ones", "sum"]
    assert span.attributes is not None
    assert (span.attributes["eagerloop.ops"], span.attributes["eagerloop.failed"]) == (2, 0)
    facts: Any = span.events[0].attributes
    assert (facts["eagerloop.device"], facts["eagerloop.outcome"]) == ("CPU:0", "done")
    assert facts["code.location"].startswith(__file__)
    assert span.start_time is not None
    assert span.end_time is not None
    assert all(span.start_time <= event.timestamp <= span.end_time for event in span.events)
    spans.close()
    async with engine.scope():
        pass
    assert len(exported.spans()) == 1
    assert not hooks.listeners


async def test_the_parent_is_the_current_span_and_scopes_nest(exported: Exported) -> None:
    engine.observe.opentelemetry(exported.tracer)
    async with engine.Executor(execution_mode=engine.ASYNC):
        with exported.tracer.start_as_current_span("request") as request:
            async with engine.scope():
                with exported.tracer.start_as_current_span("inside"):
                    ops.add(1, 2)
                async with engine.scope():
                    ops.multiply(1, 2)
            assert trace.get_current_span() is request
    inner, outer = exported.spans()
    assert parent_of(outer) == request.get_span_context().span_id
    assert parent_of(inner) == id_of(outer)
    assert parent_of(exported.spans("inside")[0]) == id_of(outer)
    assert [event.name for event in inner.events] == ["multiply"]
    assert [event.name for event in outer.events] == ["add"]


async def test_scopes_of_tasks_at_once_keep_apart(exported: Exported) -> None:
    engine.observe.opentelemetry(exported.tracer)

    async def request(number: int) -> None:
        with exported.tracer.start_as_current_span(f"request {number}"):
            async with engine.scope():
                for _ in range(number):
                    ops.add(1, 2)
                await asyncio.sleep(0)

    async with engine.Executor(execution_mode=engine.ASYNC):
        await asyncio.gather(*(request(number) for number in range(1, 5)))
    for number in range(1, 5):
        (parent,) = exported.spans(f"request {number}")
        (span,) = [each for each in exported.spans() if parent_of(each) == id_of(parent)]
        assert [event.name for event in span.events] == ["add"] * number


async def test_errors_are_recorded(exported: Exported) -> None:
    engine.observe.opentelemetry(exported.tracer)
    async with engine.Executor(execution_mode=engine.ASYNC):
        with pytest.raises(ExceptionGroup):
            async with engine.scope():
                ops.linalg.inv(ops.zeros((2, 2)))
    (span,) = exported.spans()
    assert span.status.status_code is StatusCode.ERROR
    recorded: list[Any] = [event.attributes for event in span.events if event.name == "exception"]
    assert [each["exception.type"] for each in recorded] == ["numpy.linalg.LinAlgError"]
    failed: Any = next(event.attributes for event in span.events if event.name == "linalg.inv")
    assert failed["eagerloop.error"] == "LinAlgError: Singular matrix"


async def test_an_error_of_the_body_and_a_timeout_are_recorded(exported: Exported) -> None:
    engine.observe.opentelemetry(exported.tracer)
    async with engine.Executor(execution_mode=engine.ASYNC):
        with pytest.raises(ExceptionGroup):
            async with engine.scope():
                raise KeyError("body")
        with pytest.raises(TimeoutError):
            async with engine.scope(timeout=0.01):
                await asyncio.sleep(10)
    assert [span.status.status_code for span in exported.spans()] == [StatusCode.ERROR] * 2


async def test_a_cancelled_task_ends_its_span_without_an_error(exported: Exported) -> None:
    engine.observe.opentelemetry(exported.tracer)
    async with engine.Executor(execution_mode=engine.ASYNC):
        entered = asyncio.Event()

        async def work() -> None:
            async with engine.scope():
                entered.set()
                await asyncio.sleep(10)

        task = asyncio.create_task(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (span,) = exported.spans()
    assert span.status.status_code is StatusCode.UNSET


async def test_a_tracer_that_raises_leaves_the_program_alone(
    exported: Exported, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken")

    engine.observe.opentelemetry(exported.tracer)
    monkeypatch.setattr(type(exported.tracer), "start_span", broken)
    async with engine.Executor(execution_mode=engine.ASYNC):
        with caplog.at_level(logging.ERROR, "engine.observe"):
            async with engine.scope():
                result = ops.add(1, 2)
            assert await result == 3
    assert "spans are made no more" in caplog.text


def test_twice_is_refused(exported: Exported) -> None:
    spans = engine.observe.opentelemetry(exported.tracer)
    with pytest.raises(ValueError, match="made already"):
        engine.observe.opentelemetry(exported.tracer)
    spans.close()
    engine.observe.opentelemetry(exported.tracer).close()
    engine.observe.opentelemetry().close()


def test_what_is_no_tracer_is_refused() -> None:
    with pytest.raises(TypeError, match="tracer must be an opentelemetry"):
        engine.observe.opentelemetry(np.ones(3))  # type: ignore[arg-type]
    assert not hooks.listeners


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match=r"needs opentelemetry-api: pip install 'eagerloop\[observe\]'"):
        engine.observe.opentelemetry()
