"""Transfers: arrays between the host and a GPU, piece by piece through page-locked memory, on a stream of their own.

Page-locked memory is what a GPU can read and write by itself, while both sides go on computing. Two pieces of it are
used in turn: while the GPU fills or reads one, this thread copies the other.

A line is used by one thread at a time; its lock says by whom. The thread blocks, so it is never a loop's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from engine.devices.base import Array
from engine.devices.cuda.runtime import Event, Gpu, GpuArray, Stream

_eagerloop_internal = True  # its frames are not the user's

PIECE = 8 << 20
"""Bytes of one piece: enough for the full speed of the bus."""
LEAST = 64 << 10
"""Bytes of the first page-locked memory; it grows with what is asked for."""


def pieces(nbytes: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut so many bytes into pieces: where each begins and ends."""
    for begin in range(0, nbytes, size):
        yield begin, min(begin + size, nbytes)


def _bytes_of(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


class Line:
    """One direction of transfers of one GPU."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._staging: list[Array] = []
        self._busy: list[Event | None] = [None, None]
        """Events behind which the pieces of page-locked memory are free again."""

    def upload(self, array: Array) -> tuple[GpuArray, Event]:
        """Copy an array of the host to the GPU: what it is there, and the event behind which it is.

        The array is read before this returns; the array of the GPU has to be referred to until the event has passed,
        and for as long as work of other streams that reads it is under way.
        """
        source = np.ascontiguousarray(array)
        with self._used() as stream:
            target = stream.allocate(array.shape, array.dtype)
            for number, (begin, end) in enumerate(pieces(source.nbytes, PIECE)):
                staging = self._free(number % 2, end - begin)
                staging[: end - begin] = _bytes_of(source)[begin:end]
                stream.send(staging, target, begin, end)
                self._busy[number % 2] = stream.record()
            return target, stream.record()

    def download(self, array: GpuArray) -> Array:
        """Copy an array of the GPU, whose contents are there, to the host. Blocks until it is there."""
        with self._used() as stream:
            source = stream.packed(array)
            result = np.empty(array.shape, array.dtype)
            target = _bytes_of(result)
            waiting: tuple[int, int, int] | None = None
            for number, (begin, end) in enumerate(pieces(result.nbytes, PIECE)):
                which = number % 2
                stream.fetch(source, begin, end, self._free(which, end - begin))
                self._busy[which] = stream.record()
                if waiting is not None:
                    self._unload(target, *waiting)
                waiting = which, begin, end
            if waiting is not None:
                self._unload(target, *waiting)
            return result

    def pull(self, source: GpuArray, ready: Event) -> GpuArray:
        """Copy a packed array of another GPU here, once an event there has passed. Blocks until it is here."""
        with self._used() as stream:
            stream.follow(ready)
            target = stream.allocate(source.shape, source.dtype)
            stream.pull(source, target)
            stream.record().wait()
            return target

    def pack(self, array: GpuArray) -> tuple[GpuArray, Event]:
        """The array, its elements row by row in order, and the event behind which it is."""
        with self._used() as stream:
            return stream.packed(array), stream.record()

    @contextmanager
    def _used(self) -> Iterator[Stream]:
        """The stream, for this thread alone.

        Where that ends with an error or an interrupt, a copy may be under way that no event was recorded behind: both
        pieces of page-locked memory are busy until all that was asked for is done.
        """
        with self._lock:
            if self._stream is None:
                self._stream = self._gpu.stream()
            stream = self._stream
            with stream.active():
                try:
                    yield stream
                except BaseException:
                    with suppress(Exception):  # no copy is under way on a GPU that is lost
                        self._busy = [stream.record()] * 2
                    raise

    def _free(self, which: int, nbytes: int) -> Array:
        """A piece of page-locked memory that nothing uses, of so many bytes or more."""
        busy = self._busy[which]
        if busy is not None:
            busy.wait()
            self._busy[which] = None
        if not self._staging or self._staging[0].nbytes < nbytes:
            other = self._busy[1 - which]
            if other is not None:
                other.wait()
                self._busy[1 - which] = None
            size = LEAST
            while size < nbytes:
                size *= 2
            self._staging = [self._gpu.staging(min(size, PIECE)) for _ in range(2)]
        return self._staging[which]

    def _unload(self, target: Array, which: int, begin: int, end: int) -> None:
        target[begin:end] = self._free(which, 0)[: end - begin]
