"""Large result buffers, used again once nothing refers to them.

Fresh memory costs more than computing on it: each page is faulted in and cleared by the system. A large result is
therefore an array over a *lease*; when the last view of it is gone, the lease gives its memory back to the cache.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from handles.display import statistics_html

Array = np.ndarray[Any, Any]

LARGE = 1 << 20
"""Bytes from which a result is put on a lease."""
_HUGE = 4 << 20
"""Bytes from which memory is asked for in huge pages, as NumPy does."""


@dataclass(frozen=True, slots=True)
class BufferStatistics:
    """The buffer cache of the process, at one moment."""

    cached_bytes: int
    """Bytes held for reuse; nothing else refers to them."""
    limit_bytes: int
    """Bytes held at most."""
    hits: int
    """Large results that were written into memory used before."""
    misses: int
    """Large results that needed fresh memory."""

    def _repr_html_(self) -> str:
        return statistics_html(self)


class Lease:
    """Memory of a result; given back when the last array over it is gone."""

    __slots__ = ("__array_interface__", "_cache", "memory")

    def __init__(self, cache: BufferCache, memory: Array, shape: tuple[int, ...], strides: Any, dtype: Any) -> None:
        self._cache = cache
        self.memory = memory
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "strides": strides,
            "typestr": dtype.str,
            "data": (memory.__array_interface__["data"][0], False),
        }

    def __del__(self) -> None:
        self._cache.give(self.memory)


class BufferCache:
    """Free buffers by size; when there are too many, those go first whose size was not freed for the longest time.

    A lease may be collected anywhere, inside the cache's own code too, so giving memory back leaves a lock that is held
    alone: what it finds locked is taken in by the thread that holds it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._warmed = False
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._returned: deque[Array] = deque()
        self._free: dict[int, list[Array]] = {}
        self._cached = 0
        self._hits = 0
        self._misses = 0

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: tuple[int, ...] | None = None) -> Array:
        """An uninitialized array; `order` names its axes from the slowest to the fastest (row-major when None)."""
        if dtype.hasobject:  # strings of any length: NumPy has to know of their memory
            axes = tuple(range(len(shape))) if order is None else order
            return np.empty([shape[axis] for axis in axes], dtype).transpose(np.argsort(axes))
        nbytes = math.prod(shape) * dtype.itemsize
        if not self.leases(shape, dtype):
            memory = np.empty(nbytes, np.uint8)
            return np.ndarray(shape, dtype, memory, strides=strides_of(shape, dtype.itemsize, order))
        strides = strides_of(shape, dtype.itemsize, order)
        return np.asarray(Lease(self, self._take(nbytes), shape, strides, dtype))

    def leases(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Tell whether a result is large enough for a lease, and of a dtype that can be on one."""
        return math.prod(shape) * dtype.itemsize >= LARGE and dtype.char not in "mMV"

    def _take(self, nbytes: int) -> Array:
        buffer = self._free_buffer(nbytes)
        if buffer is not None:
            return buffer
        if not self._warmed:
            self._warmed = True
            _let_scratch_be_kept()
        return _mapped(nbytes)

    def _free_buffer(self, nbytes: int) -> Array | None:
        """A free buffer of this size, counted as a hit; None, counted as a miss, where there is none."""
        with self._open():
            buffers = self._free.get(nbytes)
            if buffers is None:
                self._misses += 1
                return None
            self._hits += 1
            return self._remove(nbytes, -1)

    def give(self, memory: Array) -> None:
        """Take memory back that nothing refers to any more."""
        self._returned.append(memory)
        self._take_back()

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Hold the lock, with all that was given back taken in; what comes meanwhile is taken in afterwards."""
        with self._lock:
            self._sort_in()
            yield
        self._take_back()

    def _take_back(self) -> None:
        while self._returned and not self._lock.locked():
            with self._lock:
                self._sort_in()

    def _sort_in(self) -> None:
        while self._returned:
            memory = self._returned.popleft()
            nbytes = memory.nbytes
            if nbytes <= self._limit:
                self._free[nbytes] = [*self._free.pop(nbytes, ()), memory]  # to the end: the size freed last
                self._cached += nbytes
            while self._cached > self._limit:
                self._remove(next(iter(self._free)), 0)

    def _remove(self, nbytes: int, position: int) -> Array:
        buffers = self._free[nbytes]
        buffer = buffers.pop(position)
        self._cached -= nbytes
        if not buffers:
            del self._free[nbytes]
        return buffer

    def clear(self) -> None:
        """Give all cached memory back to the system."""
        with self._open():
            self._free.clear()
            self._cached = 0

    def statistics(self) -> BufferStatistics:
        """Count what is cached at this moment, and how often it served."""
        with self._open():
            return BufferStatistics(self._cached, self._limit, self._hits, self._misses)


def _mapped(nbytes: int) -> Array:
    """Fresh memory straight from the system: among the allocator's blocks it would take the room of kept scratch."""
    try:
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
    except (OSError, AttributeError, TypeError):  # no such memory, or no such system: NumPy says what is wrong
        return np.empty(nbytes, np.uint8)
    return np.frombuffer(memory, np.uint8)


def _let_scratch_be_kept() -> None:
    """Let the allocator keep the scratch memory that NumPy's kernels (transforms, say) take and free inside a call.

    The GNU allocator maps large blocks afresh each time, until it has seen one freed: then it keeps what is not larger,
    32 MiB at most. This one is freed at once and never touched.
    """
    with suppress(MemoryError):
        np.empty((32 << 20) - (64 << 10), np.uint8)


def strides_of(shape: tuple[int, ...], itemsize: int, order: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The strides of fresh memory; `order` names the axes from the slowest to the fastest (row-major when None)."""
    strides = [0] * len(shape)
    stride = itemsize
    for axis in reversed(order if order is not None else range(len(shape))):
        strides[axis] = stride
        stride *= shape[axis]
    return tuple(strides)


def unlocked(array: Array) -> Array:
    """The memory of an array that nothing else refers to, to be written to, whether it was read before or not."""
    if array.base is not None:
        return np.asarray(array.base)
    array.setflags(write=True)
    return array


buffers = BufferCache(limit=256 << 20)


def buffer_statistics() -> BufferStatistics:
    """Count what the cache of large result buffers holds and how often it served.

    >>> statistics = engine.buffer_statistics()
    >>> statistics.cached_bytes <= statistics.limit_bytes
    True
    """
    return buffers.statistics()


def clear_buffers() -> None:
    """Give the memory that is kept for reuse back to the system. Arrays in use are left alone.

    >>> engine.clear_buffers()
    """
    buffers.clear()
