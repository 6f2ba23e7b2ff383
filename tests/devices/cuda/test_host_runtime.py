"""The runtime that the tests run on enforces CUDA's rules: what would go wrong on a GPU goes wrong here."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engine.devices.cuda.transfers import Line
from tests.devices.cuda.host_runtime import GpuError, HostArray, HostRuntime, HostStream


@pytest.fixture
def runtime() -> Iterator[HostRuntime]:
    made = HostRuntime()
    yield made
    made.gate.end()


def ones(stream: HostStream) -> HostArray:
    with stream.active():
        array: HostArray = stream.call(lambda xp: xp.ones(4), (), {})
        return array


def test_a_stream_is_used_inside_of_its_block_only(runtime: HostRuntime) -> None:
    first, second = runtime.gpus[0].stream(), runtime.gpus[0].stream()
    calls: list[Any] = [lambda: first.allocate((2,), np.dtype(float)), first.record, lambda: first.call(abs, (), {})]
    for call in calls:
        with pytest.raises(AssertionError, match="outside of the stream's block"):
            call()
        with second.active(), pytest.raises(AssertionError, match="another stream is the thread's current one"):
            call()


def test_an_array_of_another_gpu_is_not_read(runtime: HostRuntime) -> None:
    here, there = runtime.gpus[0].stream(), runtime.gpus[1].stream()
    array = ones(there)
    with here.active(), pytest.raises(AssertionError, match="an array of another GPU"):
        here.call(lambda xp, x: x + 1, (array,), {})


def test_a_gpu_that_has_failed_says_so_at_every_call(runtime: HostRuntime) -> None:
    stream = runtime.gpus[0].stream()
    with stream.active():
        event = stream.record()
        runtime.gpus[0].error = GpuError(700)
        calls: list[Any] = [event.passed, event.wait, stream.record, lambda: stream.allocate((1,), np.dtype(float))]
        for call in calls:
            with pytest.raises(GpuError, match="700"):
                call()


@pytest.mark.parametrize("what", ["a copy from the host", "a copy to the host", "a value", "an event", "a graph"])
def test_what_cannot_be_captured_ends_the_capture(runtime: HostRuntime, what: str) -> None:
    stream, other = runtime.gpus[0].stream(), runtime.gpus[0].stream()
    array = ones(stream)
    with other.active():
        event = other.record()
    with stream.active():
        graph = stream.capture(lambda: [stream.call(lambda xp, x: xp.sin(x), (array,), {})])
        calls: dict[str, Any] = {
            "a copy from the host": lambda: stream.send(np.zeros(8, np.uint8), array, 0, 8),
            "a copy to the host": lambda: stream.fetch(array, 0, 8, np.zeros(8, np.uint8)),
            "a value": lambda: stream.call(lambda xp, x: xp.full(int(xp.sum(x)), 1.0), (array,), {}),
            "an event": lambda: stream.follow(event),
            "a graph": lambda: stream.replay(graph),
        }

        def work() -> list[Any]:
            calls[what]()
            return []

        with pytest.raises(RuntimeError, match="the current stream is capturing"):
            stream.capture(work)
        assert stream.call(lambda xp, x: x + 1, (array,), {}).shape == (4,)  # the stream is as before


def test_a_capture_is_of_no_use_after_what_it_cannot_have_whatever_is_done_with_the_error(runtime: HostRuntime) -> None:
    stream = runtime.gpus[0].stream()
    array = ones(stream)

    def work() -> list[Any]:
        with pytest.raises(RuntimeError):
            stream.fetch(array, 0, 8, np.zeros(8, np.uint8))
        return []

    with stream.active(), pytest.raises(GpuError, match="901"):
        stream.capture(work)


def test_an_event_of_a_capture_is_not_waited_for(runtime: HostRuntime) -> None:
    stream = runtime.gpus[0].stream()
    events: list[Any] = []

    def work() -> list[Any]:
        events.append(stream.record())
        return []

    with stream.active():
        stream.capture(work)
    for call in (events[0].passed, events[0].wait):
        with pytest.raises(GpuError, match="907"):
            call()


def test_memory_that_is_let_go_of_too_early_gives_garbage_on_another_stream(runtime: HostRuntime) -> None:
    first, second = runtime.gpus[0].stream(), runtime.gpus[0].stream()
    array = ones(first)
    with first.active():
        ready = first.record()
    runtime.gate.close(second)
    with second.active():
        second.follow(ready)
        result = second.call(lambda xp, x: x + 1, (array,), {})
        event = second.record()
    del array  # nothing holds it for the second stream
    with first.active():
        first.record().wait()  # its memory was overwritten
    runtime.gate.open()
    event.wait()
    assert Line(runtime.gpus[0]).download(result).tolist() != [2.0] * 4
