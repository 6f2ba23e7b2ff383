"""The wire between a client and a worker: messages in both directions, in order, from a thread here to a thread there.

Dask opens the connection, so its addresses, its handshake and its TLS hold. A plain TCP connection is then taken over
by both sides: threads read and write the socket themselves, which saves half of the changes of thread of a round trip
and most of the work for a message. Any other connection stays Dask's, and is read and written on its loop.

One thread reads a wire, any thread may send on it or break it off. The worker's first message says that it is ready;
the client sends nothing before, as it would be lost where a socket is about to change hands.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
from distributed.comm.tcp import TCP
from distributed.protocol import to_serialize

from engine.devices.dask.programs import Package

READY = Package(b"", [])
"""The message that a worker sends first."""
_BUFFERED = 1 << 16
"""Bytes that are read from the system at once."""
_PIECES = 512
"""Pieces of memory that are given to the system at once, which takes 1,024."""


class Wire(Protocol):
    """A connection that carries messages."""

    def send(self, package: Package) -> None:
        """Send a message after those before it. Raises `OSError` where the connection is broken."""

    def read(self) -> Sequence[Any]:
        """The parts of the next message; blocks until it is there. Raises `OSError` where the connection is broken."""

    def break_off(self) -> None:
        """Have both sides find the connection broken. On any thread; doing it again changes nothing."""

    def close(self) -> None:
        """Let go of the connection: called by the thread that reads it, when it reads no more."""


class SocketWire:
    """A socket of its own."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()
        self._buffer = memoryview(bytearray(_BUFFERED))
        self._start = self._end = 0
        """What has been read into the buffer and not been taken yet."""

    def send(self, package: Package) -> None:
        """Send a message; blocks until the system has taken it."""
        parts = [memoryview(part) for part in package.parts()]
        header = struct.pack(f"<{len(parts) + 1}Q", len(parts), *(part.nbytes for part in parts))
        left = deque([memoryview(header), *parts])
        with self._sending:
            while left:
                sent = self._socket.sendmsg(islice(left, _PIECES))
                while left and sent >= left[0].nbytes:
                    sent -= left.popleft().nbytes
                if sent:
                    left[0] = left[0][sent:]

    def read(self) -> Sequence[Any]:
        """The parts of the next message; the large ones have memory of their own."""
        (count,) = struct.unpack("<Q", self._exactly(8))
        head, *others = struct.unpack(f"<{count}Q", self._exactly(8 * count))
        return [self._exactly(head), *map(self._apart, others)]

    def _exactly(self, nbytes: int) -> bytearray:
        data = bytearray(nbytes)
        self._read_into(memoryview(data))
        return data

    def _apart(self, nbytes: int) -> memoryview:
        memory = np.empty(nbytes, np.uint8).data
        self._read_into(memory)
        return memory

    def _read_into(self, memory: memoryview) -> None:
        """Fill memory: from the buffer, and where much is missing from the system, by one call."""
        while memory.nbytes:
            there = min(self._end - self._start, memory.nbytes)
            if there:
                memory[:there] = self._buffer[self._start : self._start + there]
                self._start += there
            elif memory.nbytes >= _BUFFERED:
                there = _some(self._socket.recv_into(memory, memory.nbytes, socket.MSG_WAITALL))
            else:
                self._start, self._end = 0, _some(self._socket.recv_into(self._buffer))
            memory = memory[there:]

    def break_off(self) -> None:
        """Have both sides find the connection broken."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket."""
        self.break_off()
        self._socket.close()


def _some(nbytes: int) -> int:
    if not nbytes:
        raise ConnectionError("the other side has closed it")
    return nbytes


class StreamWire:
    """Dask's own stream, on its loop: made there."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._loop = asyncio.get_running_loop()
        self._inbox: SimpleQueue[Sequence[Any] | OSError] = SimpleQueue()
        self._outbox: deque[Package] = deque()
        self._wake = asyncio.Event()
        self._broken: OSError | None = None
        self._tasks = [asyncio.ensure_future(self._receive()), asyncio.ensure_future(self._write())]

    def send(self, package: Package) -> None:
        """Have the loop send a message."""
        if self._broken is not None:
            raise self._broken
        self._outbox.append(package)
        self._call(self._wake.set)

    def read(self) -> Sequence[Any]:
        """The parts of the next message."""
        found = self._inbox.get()
        if isinstance(found, OSError):
            raise found
        return found

    def break_off(self) -> None:
        """Have both sides find the connection broken."""
        self._call(self._comm.abort)

    def close(self) -> None:
        """Let go of the stream."""
        self._call(self._end)

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and the connection with it
            self._loop.call_soon_threadsafe(function)

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._comm.abort()

    async def _receive(self) -> None:
        problem = ConnectionError("the loop of the connection has ended")
        try:
            while True:
                for parts in await self._comm.read():
                    self._inbox.put(from_dask(parts))
        except OSError as error:
            problem = ConnectionError(str(error))
        finally:
            self._broken = problem
            self._inbox.put(problem)

    async def _write(self) -> None:
        with suppress(OSError):  # the reader finds that out, too
            while True:
                await self._wake.wait()
                self._wake.clear()
                packages = [self._outbox.popleft() for _ in range(len(self._outbox))]
                if packages:
                    await self._comm.write([*map(for_dask, packages)])


def is_plain(comm: Any) -> bool:
    """Tell whether a connection of Dask is a TCP connection without more."""
    return type(comm) is TCP and comm.stream is not None


def taken_over(comm: Any) -> SocketWire:
    """The wire of a plain connection, which Dask lets go of: on the thread of its loop."""
    return SocketWire(taken_over_socket(comm))


def taken_over_socket(comm: Any) -> socket.socket:
    """The socket of such a connection."""
    connection: socket.socket = comm.stream.socket.dup()
    comm.abort()  # closes its own descriptor, not the connection
    connection.setblocking(True)
    return connection


def for_dask(package: Package) -> list[Any]:
    """A message for Dask's stream.

    Dask reads the first buffer of a message into one piece of memory with all before it, where it stands askew: so one
    comes first that is of no use. The others get memory of their own, which can be let go one by one.
    """
    head, *buffers = package.parts()
    return [head, *map(to_serialize, [memoryview(bytearray(8)), *buffers] if buffers else [])]


def from_dask(parts: Sequence[Any]) -> Sequence[Any]:
    """The parts of a message that came by Dask's stream."""
    return [parts[0], *parts[2:]]
