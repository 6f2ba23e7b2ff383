"""Facilities: each thing that the device asks of CuPy and CUDA, by itself, so that one that fails is known by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import numpy as np

from engine.base.modes import ExecutionMode
from engine.devices.base import Array, Device
from engine.devices.cuda.graphs import Graphs
from engine.devices.cuda.kernels import rule_of
from engine.devices.cuda.runtime import Gpu, Runtime, Stream
from engine.devices.cuda.transfers import PIECE, Line
from engine.graph.function import function
from engine.ops import linalg
from engine.queues.waiting import block_until
from engine.runtime.current import current_core
from engine.runtime.executor import Executor
from engine.testing.gpu.cases import op
from engine.testing.gpu.conformance import compared, config, raises
from handles.base import Handle

Check = tuple[str, Callable[[], str | None]]
SIZE = 1_000


def on_the_runtime(runtime: Runtime, *, scale: float = 1.0) -> Iterator[Check]:
    """Checks of the runtime itself, without an executor; `scale` makes arrays smaller."""
    gpu = runtime.gpu(0)
    yield "a stream and an event", lambda: _streams(gpu)
    yield "a copy there and back", lambda: _copied(gpu, SIZE)
    yield "a copy of several pieces", lambda: _copied(gpu, max(SIZE, int(3 * PIECE // 8 * scale)) + 5)
    yield "a stream that follows another", lambda: _followed(gpu)
    yield "an event that is asked early", lambda: _asked_early(gpu, max(10, int(2_000 * scale)))
    yield "transforms of two streams", lambda: _transformed(gpu, max(4, int(400 * scale)))
    yield "a captured graph", lambda: _captured(gpu.stream(), Line(gpu))
    yield "a capture that fails", lambda: _uncaptured(gpu)
    yield "memory of graphs that are let go of", lambda: _given_back(gpu, max(SIZE, int(4_000_000 * scale)))
    if runtime.count() > 1:
        yield "a copy from another GPU", lambda: _from_peer(gpu, runtime.gpu(1))


def _streams(gpu: Gpu) -> str | None:
    stream = gpu.stream()
    with stream.active():
        stream.call(lambda xp: xp.ones(SIZE), (), {})
        event = stream.record()
        event.wait()
        return None if event.passed() else "an event that was waited for has not passed"


def _copied(gpu: Gpu, size: int) -> str | None:
    line = Line(gpu)
    there, event = line.upload(np.arange(size, dtype=np.float64))
    event.wait()
    return compared(line.download(there), np.arange(size, dtype=np.float64), True)


def _followed(gpu: Gpu) -> str | None:
    first, second = gpu.stream(), gpu.stream()
    with first.active():
        x = first.call(lambda xp: xp.full(SIZE, 2.0), (), {})
        event = first.record()
    with second.active():
        second.follow(event)
        y = second.call(lambda xp, a: a + 1, (x,), {})
        second.record().wait()
    return compared(Line(gpu).download(y), np.full(SIZE, 3.0), True)


def _asked_early(gpu: Gpu, side: int) -> str | None:
    """A look at an event that has not passed must not spoil the next call of a library in this thread."""
    stream = gpu.stream()
    with stream.active():
        x = stream.call(lambda xp: xp.ones((side, side)), (), {})
        for _ in range(4):
            x = stream.call(lambda xp, a: xp.sin(a), (x,), {})
        stream.record().passed()
        y = stream.call(lambda xp, a: xp.sort(a[0]), (x,), {})
        stream.record().wait()
    return None if y.shape == (side,) else f"gave {y.shape}"


def _uncaptured(gpu: Gpu) -> str | None:
    """A capture that fails must leave its stream, and the thread, as they were."""
    stream = gpu.stream()
    with stream.active():
        x = stream.call(lambda xp: xp.ones(SIZE), (), {})
        try:
            stream.capture(lambda: [stream.call(lambda xp, a: xp.asarray(float(a.sum())) + a, (x,), {})])
            problem = "a host read was captured"
        except Exception:  # noqa: BLE001 - that it fails is what is wanted
            problem = None
        y = stream.call(lambda xp, a: xp.sort(a) + 1, (x,), {})
        stream.record().wait()
    return problem or compared(Line(gpu).download(y), np.full(SIZE, 2.0), True)


def _given_back(gpu: Gpu, size: int) -> str | None:
    """The memory of graphs goes with them, also what was used in between, and that of captures which failed."""
    stream = gpu.stream()

    def once(*, fails: bool) -> None:
        def work() -> list[Any]:
            y = stream.call(lambda xp, a: xp.sin(a) + 1, (x,), {})
            if fails:
                raise RuntimeError("a capture that is to fail")
            return [stream.call(lambda xp, a: xp.sin(a) * 2, (y,), {})]

        with suppress(RuntimeError):
            stream.replay(stream.capture(work))
        stream.record().wait()

    with stream.active():
        x = stream.call(lambda xp: xp.ones(size), (), {})
        once(fails=False)  # which loads the kernels
        before = gpu.unused()
        for number in range(20):
            once(fails=number % 2 == 1)
        gone = before - gpu.unused()
    return None if gone < 8 * 8 * size else f"{gone:,} bytes of the GPU were not given back"


def _from_peer(gpu: Gpu, other: Gpu) -> str | None:
    numbers = np.linspace(0.0, 1.0, SIZE)
    there, event = Line(other).upload(numbers)
    return compared(Line(gpu).download(Line(gpu).pull(there, event)), numbers, True)


def _transformed(gpu: Gpu, rows: int) -> str | None:
    """Transforms of two streams in turn, in one thread: their plan has one place to work in."""
    rule = rule_of("fft.fft", np.fft.fft)
    streams, line = (gpu.stream(), gpu.stream()), Line(gpu)
    array = np.random.default_rng(1).standard_normal((rows, 5_003))
    there, event = line.upload(array)
    event.wait()
    results = []
    for number in range(6):
        stream = streams[number % 2]
        with stream.active():
            results.append((stream.call(rule, (there,), {}), stream.record()))
    for result, done in results:
        done.wait()
        problem = compared(line.download(result), np.fft.fft(array), False)
        if problem is not None:
            return problem
    return None


def _captured(stream: Stream, line: Line) -> str | None:
    """Launch a graph three times, on other numbers each time."""
    numbers = np.linspace(0.0, 1.0, SIZE)
    with stream.active():
        x = stream.allocate((SIZE,), np.dtype(np.float64))

        def work() -> list[Any]:
            return [stream.call(lambda xp, a: xp.sin(a) * 2 + xp.sqrt(a), (x,), {})]

        work()  # compiles
        graph = stream.capture(work)
        for number in range(3):
            there, event = line.upload(numbers + number)
            stream.follow(event)
            stream.pull(there, x)
            stream.replay(graph)
            stream.record().wait()
            expected = np.sin(numbers + number) * 2 + np.sqrt(numbers + number)
            problem = compared(line.download(graph.outputs[0]), expected, False)
            if problem is not None:
                return f"launch {number}: {problem}"
    return None


def here(array: Array) -> Handle:
    """An array on the first GPU."""
    handle: Handle = op("asarray")(array, device="GPU:0")
    return handle


def same(call: Callable[[Any], Any], array: Array, exact: bool = False) -> str | None:
    """Say what differs between the results of a call on the GPU and on the host."""
    theirs = call(op("asarray")(array, device="CPU:0")).result()
    return compared(call(here(array)).result(), theirs, exact)


def of_libraries() -> Iterator[Check]:
    """Checks of each of CUDA's libraries, through ops."""
    rng = np.random.default_rng(0)
    square = rng.standard_normal((40, 40)) + 40 * np.eye(40)
    numbers = rng.uniform(0.1, 0.9, 5_000)
    yield "a kernel", lambda: same(lambda x: op("tanh")(x) * 2 + 1, numbers)
    yield "a reduction", lambda: same(op("sum"), numbers)
    yield "a reduction along an axis", lambda: same(lambda x: op("max")(x, axis=1), square)
    yield "a sort", lambda: same(op("sort"), numbers, True)
    yield "a stable order", lambda: same(lambda x: op("argsort")(op("round")(x * 8)), numbers, True)
    yield "a running sum", lambda: same(op("cumulative_sum"), numbers)
    yield "a matrix product", lambda: same(lambda x: op("matmul")(x, x), square)
    yield "a solver", lambda: same(linalg.inv, square)
    yield "a transform", lambda: same(op("fft.fft"), numbers)
    yield "an index array", lambda: same(lambda x: x[np.array([3, -1, 0])], numbers, True)
    yield "a mask", lambda: same(lambda x: x[x > 0.5], numbers, True)
    yield "a half", lambda: same(lambda x: x * 2, numbers.astype(np.float16))
    yield "a complex number", lambda: same(lambda x: op("exp")(x * 1j), numbers)


def of_promises(*, scale: float = 1.0) -> Iterator[Check]:
    """Checks of what the engine promises, through ops; `scale` makes chains shorter."""
    numbers = np.random.default_rng(0).uniform(0.1, 0.9, 5_000)

    def traced() -> str | None:
        @function
        def model(x: Any) -> Any:
            for _ in range(6):
                x = op("sin")(x) * 0.5 + 1.0
            return x

        for number in range(4):
            problem = same(model, numbers + number)
            if problem is not None:
                return f"call {number}: {problem}"
        graphs = graphs_of_gpu()
        return None if graphs.launches else f"it was launched op by op: {graphs.refused}"

    def on_threads() -> str | None:
        def one(number: int) -> str | None:
            return same(lambda x: op("sum")(x * number + 1), numbers + number)

        with ThreadPoolExecutor(8) as pool:  # in the context of this thread, whose executor is current
            futures = [pool.submit(copy_context().run, one, number) for number in range(16)]
            return next(filter(None, (future.result() for future in futures)), None)

    def long_chain() -> str | None:
        count = max(10, int(1_000 * scale))
        x = op("ones")((max(10, int(12_500_000 * scale)),), device="GPU:0")  # 100 MB
        for _ in range(count):
            x = x + 1.0
        block_until(x._cell, None)
        return compared(x[0].result(), np.float64(count + 1.0), True)

    def after_too_much() -> str | None:
        return raises(MemoryError, "GPU:0", lambda: op("ones")((1 << 42,), device="GPU:0")) or same(
            lambda x: x + 1, numbers
        )

    yield (
        "an index that is out of bounds",
        lambda: raises(IndexError, "out of bounds", lambda: here(numbers)[np.array([0, 5_000])]),
    )
    yield (
        "a singular matrix",
        lambda: raises(np.linalg.LinAlgError, "on GPU:0", lambda: linalg.inv(here(np.zeros((3, 3))))),
    )
    yield "a traced function", traced
    yield "ops of several threads", on_threads
    yield "a long chain of large ops", long_chain
    yield "memory after too much was asked for", after_too_much


def graphs_of_gpu() -> Graphs:
    """The captured functions of GPU:0 in the current executor."""
    backend: Any = current_core().devices[Device("GPU:0")]
    return backend._units[Device("GPU:0")].graphs  # type: ignore[no-any-return]


def on_an_executor(*, scale: float = 1.0) -> Iterator[Check]:
    """Checks through ops."""
    yield from of_libraries()
    yield from of_promises(scale=scale)


def executor() -> Executor:
    """An executor with a GPU, in ASYNC mode."""
    return Executor(config(), execution_mode=ExecutionMode.ASYNC)


class OnTheRuntime:
    """The functions that figures are compared with, on any runtime: `by_hand` has them in CuPy's own calls."""

    def __init__(self, runtime: Runtime) -> None:
        self._stream = runtime.gpu(0).stream()
        self._line = Line(runtime.gpu(0))

    def _call(self, rule: Callable[..., Any], *arguments: Any) -> Any:
        with self._stream.active():
            return self._stream.call(rule, arguments, {})

    def array(self, size: int) -> Any:
        """An array of ones."""
        return self._call(lambda xp: xp.ones(size))

    def add(self, x: Any, number: float) -> Any:
        """Launch a sum."""
        return self._call(lambda xp, a: a + number, x)

    def sin(self, x: Any) -> Any:
        """Launch a sine."""
        return self._call(lambda xp, a: xp.sin(a), x)

    def matmul(self, x: Any, y: Any) -> Any:
        """Launch a product."""
        return self._call(lambda xp, a, b: xp.matmul(a, b), x, y)

    def host(self, x: Any) -> Array:
        """Copy to the host."""
        self.synchronize()
        return self._line.download(x)

    def synchronize(self) -> None:
        """Wait for the stream."""
        with self._stream.active():
            self._stream.record().wait()
