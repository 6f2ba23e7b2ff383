"""A runtime of GPUs that has none: streams are threads, and memory is the host's.

It is a second implementation of the seam. Work on a stream is done by a thread of its own, in order, when the gate of
the runtime lets it. Each array is there twice: as it will be (`true`, computed when it is asked for, so that shapes and
errors are known at once), and in memory, which holds garbage until the stream has come to the work. What is read comes
from memory.

Memory that is let go of goes back to its stream: what comes next there overwrites it with garbage. So work on another
stream that still reads it gets garbage, as it would on a GPU, and a test sees a wrong value.

CUDA's rules are enforced. A stream is used by a thread for which it is current, with its GPU: what is asked for outside
of its block, or inside of the block of a stream of another GPU, is an error. While a stream captures, no copy between
the host and a GPU and no look at a value can be made on it, nothing of it can be waited for, and an event of another
stream cannot be waited for by it; any of these ends the capture in an error, whatever is done with the error. What was
allocated in a capture is the graph's. Once a GPU has failed, every call on it says so, looks and waits included.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import prod
from typing import Any, cast

import numpy as np

from engine.devices.base import Array
from engine.devices.cuda.errors import fate_of
from engine.devices.cuda.runtime import Event, Fate, GpuArray, Graph, Rule, Sharing, Stream
from tests.devices.cuda.namespace import Captured, Names

GARBAGE = 0xA7
Task = Callable[[], None]


class GpuError(RuntimeError):
    """An error of the runtime, with a status of CUDA."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Gate:
    """Lets the tasks of all streams of a runtime through: as many as a test says, or all."""

    def __init__(self, opened: bool) -> None:
        self.changed = threading.Condition()
        self._permits = 0
        self._opened = opened
        self._closed_streams: set[HostStream] = set()
        self.ended = False
        """True if the threads are to end."""

    def take(self, stream: HostStream) -> bool:
        """Under `changed`: tell whether a stream may do its next task."""
        if stream in self._closed_streams:
            return False
        if self._opened:
            return True
        if self._permits:
            self._permits -= 1
            return True
        return False

    def open(self) -> None:
        """Let everything through from now on."""
        with self.changed:
            self._opened = True
            self._closed_streams.clear()
            self.changed.notify_all()

    def end(self) -> None:
        """Let everything through, and have the threads end."""
        self.open()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def close(self, stream: HostStream) -> None:
        """Keep one stream from doing anything, until `open`."""
        with self.changed:
            self._closed_streams.add(stream)

    def let(self, number: int = 1) -> None:
        """Let so many tasks through."""
        with self.changed:
            self._permits += number
            self.changed.notify_all()


class HostRuntime:
    """GPUs made of threads. `opened` says whether streams work at once; `limit` is the bytes that each GPU has."""

    def __init__(self, *, count: int = 2, opened: bool = True, limit: int | None = None, captures: bool = True) -> None:
        self.gate = Gate(opened)
        self.limit = limit
        self.captures = captures
        self.gpus = [HostGpu(self) for _ in range(count)]
        self.failures: deque[BaseException] = deque()
        """What the next calls of rules raise."""
        self.names = Names()
        self._local = threading.local()

    def current(self) -> list[HostStream]:
        """The streams whose blocks this thread is in, the current one last."""
        found: list[HostStream] | None = getattr(self._local, "streams", None)
        if found is None:
            found = self._local.streams = []
        return found

    def describe(self) -> str:
        return f"NumPy {np.__version__} on threads"

    def count(self) -> int:
        return len(self.gpus)

    def gpu(self, index: int) -> HostGpu:
        return self.gpus[index]

    def fate(self, error: BaseException) -> Fate:
        status = error.status if isinstance(error, GpuError) else None
        return fate_of(status, is_memory=isinstance(error, MemoryError))

    def streams(self) -> list[HostStream]:
        """All streams that were made, in that order."""
        return [stream for gpu in self.gpus for stream in gpu.streams]


class HostGpu:
    """A GPU of a runtime."""

    def __init__(self, runtime: HostRuntime) -> None:
        self.runtime = runtime
        self.streams: list[HostStream] = []
        self.used = 0
        """Bytes of arrays that are referred to."""
        self.error: BaseException | None = None
        """What every event says from now on."""

    def stream(self) -> HostStream:
        stream = HostStream(self)
        self.streams.append(stream)
        return stream

    def staging(self, nbytes: int) -> Array:
        return np.zeros(nbytes, np.uint8)

    def unused(self) -> int:
        return (self.runtime.limit or 1 << 40) - self.used

    def take(self, nbytes: int) -> None:
        limit = self.runtime.limit
        if limit is not None and self.used + nbytes > limit:
            raise MemoryError(f"Out of memory allocating {nbytes:,} bytes.")
        self.used += nbytes

    def give(self, nbytes: int) -> None:
        self.used -= nbytes


class HostArray:
    """An array of a GPU."""

    __slots__ = ("__weakref__", "base", "gpu", "memory", "true")

    def __init__(self, gpu: HostGpu, memory: Array, true: Array, base: HostArray | None = None) -> None:
        self.gpu = gpu
        self.memory = memory
        self.true = true
        self.base = base

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.true.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.true.dtype
        return dtype

    @property
    def nbytes(self) -> int:
        return self.true.nbytes


class HostEvent:
    """A place in a stream."""

    def __init__(self, gpu: HostGpu, stream: HostStream | None = None) -> None:
        self._gpu = gpu
        self.stream = stream
        self._there = threading.Event()

    def set(self) -> None:
        self._there.set()

    def passed(self) -> bool:
        if self._gpu.error is not None:
            raise self._gpu.error
        self._check()
        return self._there.is_set()

    def wait(self) -> None:
        self._check()
        self._there.wait()
        self.passed()

    def reached(self) -> None:
        """Wait on the thread of another stream."""
        self._there.wait()

    def _check(self) -> None:
        if self.stream is None:
            raise GpuError(907)  # cudaErrorCapturedEvent


class HostGraph:
    """Tasks that were captured: what is computed at once for the outside, and what the stream does."""

    def __init__(self) -> None:
        self.now: list[Task] = []
        self.later: list[Task] = []
        self.outputs: Sequence[GpuArray] = ()
        self.invalid = False
        """True once something was asked for that cannot be captured."""


class HostStream:
    """A stream: a thread, and what it is to do."""

    def __init__(self, gpu: HostGpu) -> None:
        self._gpu = gpu
        self._tasks: deque[Task] = deque()
        self._graph: HostGraph | None = None
        self.done = 0
        """Tasks that it has done."""
        threading.Thread(target=self._work, name="host-stream", daemon=True).start()

    def active(self) -> AbstractContextManager[object]:
        return self._block()

    @contextmanager
    def _block(self) -> Iterator[None]:
        current: list[HostStream] = self._gpu.runtime.current()
        current.append(self)
        try:
            yield
        finally:
            assert current.pop() is self, "blocks of streams were left in another order than they were entered"

    def _check(self) -> None:
        """Raise what CUDA raises for a call on a stream that is not the thread's, or on a GPU that has failed."""
        current = self._gpu.runtime.current()
        assert current, "called outside of the stream's block"
        assert current[-1] is self, "called while another stream is the thread's current one"
        if self._gpu.error is not None:
            raise self._gpu.error

    def _no_capture(self, what: str) -> None:
        """Raise what CUDA raises for a call that cannot be captured; the capture is of no use then."""
        if self._graph is not None:
            self._graph.invalid = True
            raise RuntimeError(f"the current stream is capturing, so {what} is not allowed")

    # Work

    def _work(self) -> None:
        gate = self._gpu.runtime.gate
        changed = gate.changed
        while True:
            with changed:
                changed.wait_for(lambda: (self._tasks and gate.take(self)) or gate.ended)
                if not self._tasks:
                    return
                task = self._tasks.popleft()
            try:
                task()
            except Exception as error:  # noqa: BLE001 - garbage was computed with: a GPU would be lost
                self._gpu.error = GpuError(700)
                self._gpu.error.__cause__ = error
            del task
            self.done += 1

    def _add(self, later: Task, now: Task | None = None) -> None:
        self._check()
        if self._graph is not None:
            self._graph.later.append(later)
            if now is not None:
                self._graph.now.append(now)
            return
        self._enqueue(later)

    def _enqueue(self, task: Task) -> None:
        changed = self._gpu.runtime.gate.changed
        with changed:
            self._tasks.append(task)
            changed.notify_all()

    def call(self, rule: Rule, arguments: Sequence[Any], params: Mapping[str, Any]) -> Any:
        runtime = self._gpu.runtime
        if runtime.failures:
            raise runtime.failures.popleft()
        names = runtime.names
        self._check()
        assert self._graph is None or not isinstance(rule, Sharing), "memory that is not the graph's was captured"
        for each in arguments:
            assert not isinstance(each, HostArray) or each.gpu is self._gpu, "an array of another GPU was read"
        trues = [each.true if isinstance(each, HostArray) else each for each in arguments]
        memories = [each.memory if isinstance(each, HostArray) else each for each in arguments]
        with np.errstate(all="ignore"):
            answer = rule(names, *(self._unseen(each) for each in trues), **params)
        several = isinstance(answer, tuple)
        results = [_plain(each) for each in (answer if several else (answer,))]
        given = [each for each in arguments if isinstance(each, HostArray)]
        arrays = [self._result(each, given) for each in results]
        computed = [index for index, each in enumerate(arrays) if each is None]
        if len(computed) < len(arrays):
            views = rule(names, *memories, **params)
            for index, view in enumerate(views if several else (views,)):
                if arrays[index] is None:
                    continue
                known = next((each for each in given if each.true is results[index]), None)
                source = next(each for each in given if np.may_share_memory(each.true, results[index]))
                arrays[index] = known or HostArray(self._gpu, view, results[index], source)
        for index in computed:
            arrays[index] = self.allocate(results[index].shape, results[index].dtype, results[index])
        if computed:
            targets = [(index, cast(HostArray, arrays[index])) for index in computed]
            self._add(
                lambda rows=[(index, each.memory) for index, each in targets]: _fill(  # type: ignore[misc]
                    rule, names, memories, params, several, rows
                ),
                lambda rows=[(index, each.true) for index, each in targets]: _fill(  # type: ignore[misc]
                    rule, names, trues, params, several, rows
                ),
            )
        return tuple(arrays) if several else arrays[0]

    def _unseen(self, value: Any) -> Any:
        """An array whose values cannot be looked at, while this stream captures."""
        return value.view(Captured) if self._graph is not None and isinstance(value, np.ndarray) else value

    def _result(self, result: Array, given: Sequence[HostArray]) -> HostArray | None:
        """Anything but None for a view of an operand."""
        return next((each for each in given if np.may_share_memory(each.true, result)), None)

    def record(self) -> Event:
        self._check()
        if self._graph is not None:
            return HostEvent(self._gpu)  # a node of the graph: it never passes, and waiting for it is an error
        event = HostEvent(self._gpu, self)
        self._add(event.set)
        return event

    def follow(self, event: Event) -> None:
        theirs = cast(HostEvent, event)
        assert theirs.stream is not None, "an event of a capture is of that capture only"
        self._no_capture("to wait for an event of a stream that is not captured")
        self._add(theirs.reached)

    # Memory

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], true: Array | None = None) -> HostArray:
        self._check()
        if dtype.kind not in "biufc":
            raise ValueError(f"Unsupported dtype {dtype}")
        nbytes = prod(shape) * dtype.itemsize
        self._gpu.take(nbytes)
        buffer = np.full(nbytes, GARBAGE, np.uint8)
        memory = np.ndarray(shape, dtype, buffer)
        array = HostArray(self._gpu, memory, np.zeros(shape, dtype) if true is None else np.array(true, order="C"))
        captured = self._graph is not None
        weakref.finalize(array, self._free, buffer, captured).atexit = False
        return array

    def _free(self, buffer: Array, captured: bool) -> None:
        self._gpu.give(buffer.nbytes)
        if not captured:  # a graph keeps its memory
            self._enqueue(lambda: buffer.fill(GARBAGE))

    def packed(self, array: GpuArray) -> HostArray:
        mine = cast(HostArray, array)
        if mine.memory.flags.c_contiguous:
            return mine
        return cast(HostArray, self.call(lambda names, x: np.array(x, order="C"), [mine], {}))

    def send(self, staging: Array, target: GpuArray, begin: int, end: int) -> None:
        self._check()
        self._no_capture("a copy from the host")
        mine = cast(HostArray, target)
        _bytes(mine.true)[begin:end] = staging[: end - begin]
        memory = _bytes(mine.memory)
        self._add(lambda: _copy(memory[begin:end], staging[: end - begin]))

    def fetch(self, source: GpuArray, begin: int, end: int, staging: Array) -> None:
        self._check()
        self._no_capture("a copy to the host")
        memory = _bytes(cast(HostArray, source).memory)
        self._add(lambda: _copy(staging[: end - begin], memory[begin:end]))

    def pull(self, source: GpuArray, target: GpuArray) -> None:
        theirs, mine = cast(HostArray, source), cast(HostArray, target)
        mine.true[...] = theirs.true
        memories, trues = (mine.memory, theirs.memory), (mine.true, theirs.true)
        self._add(lambda: _copy(*memories), lambda: _copy(*trues))

    # Graphs

    def capture(self, work: Callable[[], Sequence[GpuArray]]) -> Graph:
        self._check()
        graph = self._graph = HostGraph()
        try:
            graph.outputs = work()
        finally:
            self._graph = None
        if graph.invalid:
            raise GpuError(901)  # cudaErrorStreamCaptureInvalidated
        if not self._gpu.runtime.captures:
            raise GpuError(900)  # cudaErrorStreamCaptureUnsupported
        return graph

    def replay(self, graph: Graph) -> None:
        self._check()
        self._no_capture("a launch of another graph")
        for task in cast(HostGraph, graph).now:
            task()
        for task in cast(HostGraph, graph).later:
            self._enqueue(task)


def _plain(value: Any) -> Array:
    array: Array = np.asarray(value)
    return array


def _fill(
    rule: Rule,
    names: Names,
    arguments: Sequence[Any],
    params: Mapping[str, Any],
    several: bool,
    rows: Sequence[tuple[int, Array]],
) -> None:
    with np.errstate(all="ignore"):
        answer = rule(names, *arguments, **params)
    for index, target in rows:
        target[...] = answer[index] if several else answer


def _copy(target: Array, source: Array) -> None:
    target[...] = source


def _bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


_: type[Stream] = HostStream
