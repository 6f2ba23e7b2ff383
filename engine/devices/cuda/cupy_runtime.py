"""GPUs driven with CuPy: the one module that imports it.

Everything here is a call or two of CuPy's. Three things are not as one would write them first:

* `cupy.cuda.Event.done` takes an error for "not yet", and would be asked for ever when the context is lost: the
  status is asked for itself.
* The memory pool keeps what was freed for the stream that it was allocated on; which stream that is, is the current
  one of the thread, so all work is done inside of `active()`.
* Memory that is allocated during a capture comes from a pool that lives as long as the graph.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import cupy
import numpy as np
from cupy.cuda import runtime as cuda

from engine.devices.base import Array
from engine.devices.cuda.errors import fate_of
from engine.devices.cuda.runtime import Argument, Event, Fate, GpuArray, Graph, Rule

_eagerloop_internal = True  # its frames are not the user's

SUCCESS, NOT_READY = 0, 600
"""`cudaSuccess` and `cudaErrorNotReady`."""
_ERRORS = (cuda.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)


class CupyRuntime:
    """The GPUs that CuPy finds."""

    def describe(self) -> str:
        """CuPy's version, and those of CUDA."""
        return f"CuPy {cupy.__version__}, CUDA {cuda.runtimeGetVersion()}, driver {cuda.driverGetVersion()}"

    def count(self) -> int:
        """How many GPUs there are; none where there is no driver."""
        try:
            return int(cuda.getDeviceCount())
        except cuda.CUDARuntimeError:
            return 0

    def gpu(self, index: int) -> CupyGpu:
        """One of them."""
        return CupyGpu(index)

    def fate(self, error: BaseException) -> Fate:
        """Tell what an error means, by its class and its status."""
        status = getattr(error, "status", None) if isinstance(error, _ERRORS) else None
        return fate_of(status, is_memory=isinstance(error, MemoryError))


_idle: defaultdict[int, list[Any]] = defaultdict(list)
"""Streams that are not used any more, by GPU. They are never destroyed: the pool knows memory by the address of its
stream, and a new one at the same address would be given what the old one may still be working on."""


class CupyGpu:
    """One GPU."""

    def __init__(self, index: int) -> None:
        self._index = index

    def stream(self) -> CupyStream:
        """A stream that does not wait for the default one: one that is not used any more, or a new one."""
        idle = _idle[self._index]
        try:
            raw = idle.pop()
        except IndexError:
            with cupy.cuda.Device(self._index):
                raw = cupy.cuda.Stream(non_blocking=True)
        stream = CupyStream(self._index, raw)
        weakref.finalize(stream, idle.append, raw).atexit = False
        return stream

    def staging(self, nbytes: int) -> Array:
        """Page-locked memory; it goes back to CuPy's pool with the array."""
        return np.frombuffer(cupy.cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)


class CupyEvent:
    """An event of CUDA, whose waiters sleep."""

    __slots__ = ("_event",)

    def __init__(self, stream: Any) -> None:
        self._event = cupy.cuda.Event(block=True, disable_timing=True)
        self._event.record(stream)

    @property
    def raw(self) -> Any:
        """CuPy's."""
        return self._event

    def passed(self) -> bool:
        """Ask for the status of the event, and raise what it says."""
        status = cuda.eventQuery(self._event.ptr)
        if status not in (SUCCESS, NOT_READY):
            raise cuda.CUDARuntimeError(status)
        return bool(status == SUCCESS)

    def wait(self) -> None:
        """Sleep until the event has passed."""
        self._event.synchronize()


class CupyGraph:
    """A captured graph, and the pool that its memory comes from."""

    __slots__ = ("pool", "raw")

    def __init__(self, raw: Any, pool: Any) -> None:
        self.raw = raw
        self.pool = pool


class CupyStream:
    """A stream of CUDA."""

    def __init__(self, index: int, stream: Any) -> None:
        self._index = index
        self._stream = stream

    def active(self) -> AbstractContextManager[object]:
        """Make GPU and stream current for this thread, until the end of the block."""
        return self._active()

    @contextmanager
    def _active(self) -> Iterator[None]:
        with cupy.cuda.Device(self._index), self._stream:
            yield

    def call(self, rule: Rule, arguments: Sequence[Argument], params: Mapping[str, Any]) -> Any:
        """Call the rule with CuPy."""
        return rule(cupy, *arguments, **params)

    def record(self) -> CupyEvent:
        """A new event."""
        return CupyEvent(self._stream)

    def follow(self, event: Event) -> None:
        """Wait for an event, on the GPU."""
        self._stream.wait_event(cast(CupyEvent, event).raw)

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> GpuArray:
        """An array of undefined contents."""
        return cast(GpuArray, cupy.empty(shape, dtype))

    def packed(self, array: GpuArray) -> GpuArray:
        """The array, row by row in order."""
        return cast(GpuArray, cupy.ascontiguousarray(array).reshape(array.shape))

    def send(self, staging: Array, target: GpuArray, begin: int, end: int) -> None:
        """Copy from page-locked memory."""
        (_memory(target) + begin).copy_from_host_async(staging.ctypes.data, end - begin, self._stream)

    def fetch(self, source: GpuArray, begin: int, end: int, staging: Array) -> None:
        """Copy to page-locked memory."""
        (_memory(source) + begin).copy_to_host_async(staging.ctypes.data, end - begin, self._stream)

    def pull(self, source: GpuArray, target: GpuArray) -> None:
        """Copy from the memory of a GPU."""
        _memory(target).copy_from_device_async(_memory(source), target.nbytes, self._stream)

    def capture(self, work: Callable[[], Sequence[GpuArray]]) -> tuple[Graph, Sequence[GpuArray]]:
        """Capture what is launched on this stream."""
        pool = cupy.cuda.MemoryPool()
        with cupy.cuda.using_allocator(pool.malloc):
            self._stream.begin_capture()
            try:
                outputs = work()
            except BaseException:
                self._drop_capture()
                raise
            return CupyGraph(self._stream.end_capture(), pool), outputs

    def _drop_capture(self) -> None:
        """End a capture that failed; that it did is said already."""
        try:
            self._stream.end_capture()
        except cuda.CUDARuntimeError:
            pass

    def replay(self, graph: Graph) -> None:
        """Launch a graph."""
        cast(CupyGraph, graph).raw.launch(self._stream)


def _memory(array: GpuArray) -> Any:
    return cast(Any, array).data
