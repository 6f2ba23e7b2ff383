"""GPUs driven with CuPy: the one module that imports it.

Everything here is a call or two of CuPy's. These are not as one would write them first:

* `cupy.cuda.Event.done` takes an error for "not yet", and would be asked for ever when the context is lost: the
  status is asked for itself. "Not yet" stays behind in the thread as the last error of CUDA, where a library that is
  called next would take it for its own, so it is cleared.
* Events are destroyed by this module: CuPy's raise where CUDA is lost or was forked, which nothing can catch.
* The memory pool keeps what was freed for the stream that it was allocated on; which stream that is, is the current
  one of the thread, so all work is done inside of `active()`. A current stream is that of one device of one thread.
* Memory that is allocated during a capture comes from a pool that lives as long as the graph. A pool of CuPy's that
  goes leaves behind what it has not given back, for ever: it is told to give it back first. Graphs, as events, are not
  destroyed where CUDA is lost or was forked.
* What a solver says of a matrix is asked for: CuPy would give numbers that mean nothing for one that is singular.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, cast

import cupy
import cupyx
import numpy as np
from cupy.cuda import runtime as cuda

from engine.devices.base import Array
from engine.devices.cuda.errors import FORKED, fate_of, no_gpu
from engine.devices.cuda.runtime import Argument, Event, Fate, GpuArray, Graph, Rule, Sharing

_eagerloop_internal = True  # its frames are not the user's

SUCCESS, NOT_READY = 0, 600
"""`cudaSuccess` and `cudaErrorNotReady`."""
_EVENT_FLAGS = cuda.eventBlockingSync | cuda.eventDisableTiming
_PROCESS = os.getpid()
"""The process that imported this: a forked one cannot use what it has begun."""
_NO_DEVICE = 100
"""`cudaErrorNoDevice`."""


class CupyRuntime:
    """The GPUs that CuPy finds."""

    def describe(self) -> str:
        """CuPy's version, and those of CUDA."""
        compiler = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
        return (
            f"CuPy {cupy.__version__}, CUDA {cuda.runtimeGetVersion()}, driver {cuda.driverGetVersion()}, "
            f"NVRTC {compiler}"
        )

    def count(self) -> int:
        """How many GPUs there are. Raises `UnknownDeviceError` where they cannot be used, and says why."""
        try:
            count = int(cuda.getDeviceCount())
        except cuda.CUDARuntimeError as error:
            if error.status == _NO_DEVICE:
                return 0
            raise no_gpu(FORKED if os.getpid() != _PROCESS else f"CUDA finds no device: {error}") from error
        if count:
            _check_compiler()
        return count

    def gpu(self, index: int) -> CupyGpu:
        """One of them."""
        return CupyGpu(index)

    def fate(self, error: BaseException) -> Fate:
        """Tell what an error means, by its class and its status."""
        if isinstance(error, cuda.CUDARuntimeError | cupy.cuda.driver.CUDADriverError):
            return fate_of(error.status)
        if type(error).__name__ in _LIBRARY_ERRORS:  # their numbers are their own
            return Fate.MEMORY if str(error).endswith("ALLOC_FAILED") else _fate_of_context()
        if isinstance(error, RuntimeError) and "cudaError" in str(error):  # what sorts and scans raise: a text
            return _fate_of_context()
        return fate_of(None, is_memory=isinstance(error, MemoryError))


_LIBRARY_ERRORS = frozenset({"CUBLASError", "CUSOLVERError", "CuFFTError", "CUSPARSEError"})
"""Errors of CUDA's libraries. They tell of a failed launch, and not of the lost context that was the cause of it."""


def _fate_of_context() -> Fate:
    """The fate of an op whose error has no status of CUDA's: a lost context says so to any call."""
    try:
        cuda.memGetInfo()
    except cuda.CUDARuntimeError as error:
        return fate_of(error.status)
    return Fate.OP


def _check_compiler() -> None:
    """Raise `UnknownDeviceError` where CUDA's compiler, which every function needs, is not installed."""
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        raise no_gpu(
            f"CUDA's own libraries are not found: pip install 'eagerloop[cuda]' brings them ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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

    def unused(self) -> int:
        """Bytes that CUDA has left; what CuPy's pools keep is taken."""
        with cupy.cuda.Device(self._index):
            return int(cuda.memGetInfo()[0])


class CupyEvent:
    """An event of CUDA, whose waiters sleep. `address` is that of CUDA's event."""

    __slots__ = ("address",)

    def __init__(self, stream: Any) -> None:
        self.address = 0
        self.address = cuda.eventCreateWithFlags(_EVENT_FLAGS)
        cuda.eventRecord(self.address, stream.ptr)

    def passed(self) -> bool:
        """Ask for the status of the event, and raise what it says."""
        status = cuda.eventQuery(self.address)
        if status == SUCCESS:
            return True
        try:
            cuda.check_status(status)  # which clears it in this thread
        except cuda.CUDARuntimeError:
            if status != NOT_READY:
                raise
        return False

    def wait(self) -> None:
        """Sleep until the event has passed."""
        cuda.eventSynchronize(self.address)

    def __del__(self, destroy: Callable[[int], None] = cuda.eventDestroy, process: int = _PROCESS) -> None:
        if self.address and os.getpid() == process and not sys.is_finalizing():
            with suppress(cuda.CUDARuntimeError):
                destroy(self.address)


class CupyGraph:
    """A captured graph, its outputs, and the pool that its memory comes from."""

    __slots__ = ("_index", "_pool", "outputs", "raw")

    def __init__(self, index: int, raw: Any, pool: Any, outputs: Sequence[GpuArray]) -> None:
        self._index = index
        self._pool = pool
        self.raw = raw
        self.outputs = outputs

    def __del__(self) -> None:
        if not _answers(self._index):
            _leave_behind((self.raw, self._pool, self.outputs))
            return
        self.outputs = ()
        with cupy.cuda.Device(self._index):
            del self.raw  # before its memory
            self._pool.free_all_blocks()


def _answers(index: int) -> bool:
    """Tell whether this process can use a GPU: what is destroyed where it cannot raises an error."""
    if os.getpid() != _PROCESS or sys.is_finalizing():
        return False
    try:
        with cupy.cuda.Device(index):
            cuda.memGetInfo()
    except cuda.CUDARuntimeError:
        return False
    return True


def _leave_behind(what: object) -> None:
    """Never destroy something."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(what))


_shared = threading.local()
"""For each GPU the event behind the last call of this thread that used memory of the thread's."""


class CupyStream:
    """A stream of CUDA."""

    def __init__(self, index: int, stream: Any) -> None:
        self._index = index
        self._stream = stream
        self._spare: Any = None
        """The pool of a capture that failed: what it allocated goes back there."""

    def active(self) -> AbstractContextManager[object]:
        """Make GPU and stream current for this thread, until the end of the block."""
        return self._active()

    @contextmanager
    def _active(self) -> Iterator[None]:
        with (
            cupy.cuda.Device(self._index),
            self._stream,
            cupyx.errstate(linalg="raise"),
            np.errstate(all="ignore"),  # of scalars that are converted on the host: a GPU does not warn
        ):
            yield

    def call(self, rule: Rule, arguments: Sequence[Argument], params: Mapping[str, Any]) -> Any:
        """Call the rule with CuPy."""
        if not isinstance(rule, Sharing):
            return rule(cupy, *arguments, **params)
        before: CupyEvent | None = getattr(_shared, f"gpu{self._index}", None)
        if before is not None:
            self.follow(before)
        try:
            return rule(cupy, *arguments, **params)
        finally:
            setattr(_shared, f"gpu{self._index}", self.record())

    def record(self) -> CupyEvent:
        """A new event."""
        return CupyEvent(self._stream)

    def follow(self, event: Event) -> None:
        """Wait for an event, on the GPU."""
        cuda.streamWaitEvent(self._stream.ptr, cast(CupyEvent, event).address)

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

    def capture(self, work: Callable[[], Sequence[GpuArray]]) -> Graph:
        """Capture what is launched on this stream."""
        pool = self._spare = self._spare or cupy.cuda.MemoryPool()
        try:
            with cupy.cuda.using_allocator(pool.malloc):
                outputs = self._captured(work)
                graph = CupyGraph(self._index, self._stream.end_capture(), pool, outputs)
        except BaseException:
            if _answers(self._index):
                pool.free_all_blocks()
            raise
        self._spare = None
        return graph

    def _captured(self, work: Callable[[], Sequence[GpuArray]]) -> Sequence[GpuArray]:
        """Begin a capture, and ask for the work; where that fails the capture is ended."""
        self._stream.begin_capture()
        try:
            return work()
        except BaseException:
            with suppress(cuda.CUDARuntimeError):  # that it failed is said already
                self._stream.end_capture()
            raise

    def replay(self, graph: Graph) -> None:
        """Launch a graph."""
        cast(CupyGraph, graph).raw.launch(self._stream)


def _memory(array: GpuArray) -> Any:
    return cast(Any, array).data
