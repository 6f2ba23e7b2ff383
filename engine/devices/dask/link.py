"""The connection to one worker: programs go there, and what came of them comes back.

Purpose: a round trip costs no more than two messages and two changes of thread. One connection of Dask's own kind
(so its TLS and its addresses) is a stream in both directions, in place of calls of an actor: messages keep their order,
several programs are in flight, and each result comes as soon as it is there.

Guarantees: what was sent and has not ended fails with `DeviceLostError` when the connection breaks, and so does what is
asked for later. A silent network breaks it, too: the system's own probes find that out within `SILENCE` seconds,
however long a kernel keeps the interpreter lock of the worker. What is in flight is bounded; `submit` blocks.

Guarded by `_lock`: the encoder, the outbox, what is in flight. Only the thread of Dask's loop touches the connection.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, cast

import numpy as np
from distributed.comm import connect
from distributed.protocol import to_serialize

from engine.base.errors import DeviceLostError
from engine.devices.base import Array, Device, Record
from engine.devices.dask.errors import unpacked_error
from engine.devices.dask.programs import (
    SILENT,
    Encoder,
    Message,
    Package,
    QueuedRecord,
    Reply,
    Step,
    Unsendable,
    packed,
    unpacked,
)
from engine.devices.dask.values import PASSED, RemoteValue
from handles.cell import add_waiter

MOST_STEPS = 16_384
"""Steps that may be in flight to one worker; further ones wait here, where they can still be dropped."""
MOST_BYTES = 256 << 20
"""Bytes of operands that may be in flight to one worker, but for a single program that has more."""
ANSWER_SECONDS = 30.0
"""Seconds that a worker may take to accept a connection."""
SILENCE = 4
"""Seconds after which a worker that does not answer the probes of the network is lost."""
TIDY = 0.25
"""Seconds between looks at what is to be forgotten, where no message goes there anyway."""
FETCHED_AT_THE_END = 1 << 30
"""Bytes of values that are brought here when the executor closes, because handles still refer to them."""


class _Sent:
    """A step in flight whose end the worker tells."""

    __slots__ = ("nbytes", "outputs", "passed", "record")

    def __init__(self, record: QueuedRecord, passed: list[int]) -> None:
        self.record: QueuedRecord | None = record
        """None once it has been failed."""
        self.outputs = record.outputs
        self.passed = passed
        """Silent steps that have ended when this one has, as it needs them."""
        self.nbytes = 0
        """Bytes of the program, where this is its last step."""


class Link:
    """A worker, as this process speaks to it."""

    def __init__(
        self, device: Device, address: str, loop: asyncio.AbstractEventLoop, lost: Callable[[str], None]
    ) -> None:
        self.device = device
        self.address = address
        self.session = f"{os.getpid()}-{id(self):x}-{device}"
        """The name under which the worker keeps the values of this link."""
        self.lost: str | None = None
        """Why the worker is gone; None while it is not."""
        self._tell_lost = lost
        self._loop = loop
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._drops: deque[int] = deque()
        self._cancels: deque[int] = deque()
        self._encoder = Encoder(f"the Dask worker {address}", self._drops.append)
        self._outbox: deque[Package] = deque()
        self._flight = _Flight()
        self._asked: dict[int, Future[Any]] = {}
        self._reading: dict[int, RemoteValue] = {}
        self._alive: weakref.WeakValueDictionary[int, RemoteValue] = weakref.WeakValueDictionary()
        self._wake = asyncio.Event()
        self._woken = False
        _links.add(self)

    def __repr__(self) -> str:
        return f"{self.device} ({self.address})"

    # What the backend asks for, on workers of the engine

    def submit(self, records: Sequence[Record]) -> None:
        """Send records as a program; block while too much is in flight. Raises `DeviceLostError`."""
        left = [cast("QueuedRecord", record) for record in records]
        while left:
            try:
                self._submit(left)
            except Unsendable as problem:
                problem.record.fail(problem.error)
                left = _without(problem.record, left)
            else:
                return

    def _submit(self, records: list[QueuedRecord]) -> None:
        with self._lock:
            while self._flight.is_full() and self.lost is None:
                self._room.wait()
            self._check_there()
            message, by_number = self._encoder.program(records)
            try:
                package = packed(message)
            except Exception:
                for record in records:
                    self._encoder.check(record)
                raise
            self._encoder.sent()
            self._flight.add(message.steps, by_number, package.nbytes)
            self._put(package)
        for step in message.steps:
            if step.fate != SILENT:
                cell = cast("Any", by_number[step.number].cell)
                if not add_waiter(cell, partial(self._settled, step.number)):
                    self._settled(step.number, None)

    def _settled(self, number: int, _: Any) -> None:
        """A record has a result: where the worker has not said so, it was cancelled."""
        if number in self._flight:
            self._cancels.append(number)
            self._call()

    def read(self, value: RemoteValue) -> Array:
        """The array of a value; blocks until it is here. Raises `DeviceLostError`."""
        with self._lock:
            array = value.array
            if array is not None:
                return array
            future = self._asked.get(value.number)
            if future is None:
                self._reading[value.number] = value
                future = self._ask(value.number, Message(reads=(value.number,)))
        found: Array = future.result()
        return found

    def put(self, array: Array) -> RemoteValue:
        """Send an array there. It is on its way when this returns, before all that uses it."""
        with self._lock:
            while self._flight.is_full() and self.lost is None:
                self._room.wait()
            self._check_there()
            number = self._encoder.number()
            package = packed(Message(values=((number, array),)))
            self._flight.hold(number, package.nbytes)
            self._put(package)
        return self._value(number, array.shape, array.dtype)

    def pull(self, value: RemoteValue, source: Link) -> RemoteValue:
        """Have the worker get a value from another worker; blocks until it has. Raises `DeviceLostError`."""
        with self._lock:
            number = self._encoder.number()
            future = self._ask(number, Message(pulls=((number, source.address, source.session, value.number),)))
        future.result()
        return self._value(number, value.shape, value.dtype)

    def close(self) -> None:
        """The executor has closed: bring the values here that handles still refer to, and let the worker go."""
        budget = FETCHED_AT_THE_END
        for value in sorted(self._alive.values(), key=lambda each: math.prod(each.shape)):
            budget -= math.prod(value.shape) * value.dtype.itemsize
            if value.array is None and budget >= 0 and self.lost is None:
                with suppress(DeviceLostError):
                    self.read(value)
        self._loop.call_soon_threadsafe(self.lose, "its executor has closed, and the value was not read before", False)

    # Messages

    def drop(self, number: int) -> None:
        """Have the worker forget a value, with the next message."""
        self._drops.append(number)

    def _value(
        self, number: int, shape: tuple[int, ...], dtype: np.dtype[Any], array: Array | None = None
    ) -> RemoteValue:
        value = self._alive[number] = RemoteValue(self, number, shape, dtype, array)
        return value

    def _check_there(self) -> None:
        if self.lost is not None:
            raise DeviceLostError(f"device {self.device} was lost: {self.lost}")

    def _ask(self, number: int, message: Message) -> Future[Any]:
        """Under the lock: send a question whose answer is known by a number."""
        self._check_there()
        future: Future[Any] = Future()
        self._asked[number] = future
        self._put(packed(message))
        return future

    def _put(self, package: Package) -> None:
        """Under the lock: have the loop send a message after those before it."""
        self._outbox.append(package)
        self._call()

    def _call(self) -> None:
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake.set)

    # On the thread of the loop

    async def run(self, there: Future[None], connection_args: dict[str, Any], hello: dict[str, Any]) -> None:
        """Connect, and speak to the worker until the connection breaks."""
        try:
            comm = await connect(self.address, timeout=ANSWER_SECONDS, **connection_args)
            _probe(comm)
            await comm.write({"op": "eagerloop", "reply": False, "session": self.session, **hello})
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller of the first op is told
            there.set_exception(error)
            return
        there.set_result(None)
        writer = asyncio.ensure_future(self._write(comm))
        try:
            while self.lost is None:
                for parts in await comm.read():
                    self._received(Reply(*unpacked(parts)))
        except OSError as error:
            self.lose(f"the connection to {self.address} broke: {error}")
        except Exception as error:  # noqa: BLE001 - a defect, or an answer of another version: nothing may hang
            self.lose(f"the worker {self.address} was not understood: {type(error).__name__}: {error}")
        finally:
            writer.cancel()
            comm.abort()

    async def _write(self, comm: Any) -> None:
        try:
            while self.lost is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), TIDY)
                self._wake.clear()
                self._woken = False
                # What is dropped is looked at first: what used it stands in the outbox by now, and goes before it.
                drops, cancels = _taken(self._drops), _taken(self._cancels)
                packages = _taken(self._outbox)
                if drops or cancels:
                    packages.append(packed(Message(drops=drops, cancels=cancels)))
                if packages:
                    await comm.write([list(map(_travelling, each.parts())) for each in packages])
        except OSError as error:
            self.lose(f"the connection to {self.address} broke: {error}")

    def _received(self, reply: Reply) -> None:
        with self._lock:
            ends = self._flight.take(reply)
            self._room.notify_all()
            for number, array in reply.values:
                if (value := self._reading.pop(number, None)) is not None:
                    value.array = array  # before the question is forgotten: another reader finds one or the other
            answers = [(self._asked.pop(number, None), array) for number, array in reply.values]
            for number, _ in reply.refused:
                self._reading.pop(number, None)
            refusals = [(self._asked.pop(number, None), unpacked_error(error)) for number, error in reply.refused]
        for record, error in ends.failed:
            record.fail(error)
        for number, record, facts in ends.ended:
            self._complete(number, record, facts)
        for record in ends.passed:
            record.complete(PASSED)
        for future, array in answers:
            if future is not None:
                future.set_result(array)
        for future, error in refusals:
            if future is not None:
                future.set_exception(error)

    def _complete(self, number: int, record: QueuedRecord, facts: Any) -> None:
        if facts is None:  # it was not to be kept, or something that it needs has failed
            record.complete(PASSED if record.outputs == 1 else (PASSED,) * record.outputs)
            return
        values = tuple(self._value(number + index, *each) for index, each in enumerate(facts))
        record.complete(values[0] if record.outputs == 1 else values)

    def lose(self, reason: str, tell: bool = True) -> None:
        """The worker is gone, or of no more use: fail what is asked, and `tell` the engine."""
        with self._lock:
            if self.lost is not None:
                return
            self.lost = reason
            asked, self._asked = self._asked, {}
            self._reading.clear()
            self._flight.clear()
            self._room.notify_all()
        for future in asked.values():
            future.set_exception(DeviceLostError(f"device {self.device} was lost: {reason}"))
        self._wake.set()
        if tell:
            self._tell_lost(reason)

    def forked(self) -> None:
        """In a forked child: the connection is the parent's."""
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self.lost = "the process was forked, and the connection to the worker stayed with the parent"


class _Ends:
    """The ends of records that a reply tells of."""

    def __init__(self) -> None:
        self.failed: list[tuple[QueuedRecord, BaseException]] = []
        self.ended: list[tuple[int, QueuedRecord, Any]] = []
        self.passed: list[QueuedRecord] = []


class _Flight:
    """Steps in flight: which records are theirs, and how much they are together."""

    def __init__(self) -> None:
        self._told: dict[int, _Sent] = {}
        self._silent: dict[int, QueuedRecord] = {}
        self._held: dict[int, int] = {}
        self._bytes = 0

    def __contains__(self, number: int) -> bool:
        return number in self._told

    def is_full(self) -> bool:
        """Tell whether nothing more is to be sent for now."""
        return len(self._told) >= MOST_STEPS or self._bytes >= MOST_BYTES

    def clear(self) -> None:
        """Nothing of it will end."""
        self.__init__()  # type: ignore[misc]

    def hold(self, number: int, nbytes: int) -> None:
        """Bytes are on their way for a value, and no record."""
        self._held[number] = nbytes
        self._bytes += nbytes

    def add(self, steps: Sequence[Step], records: dict[int, QueuedRecord], nbytes: int) -> None:
        """A program is sent."""
        silent: dict[int, Step] = {}
        sent: _Sent | None = None
        for step in steps:
            if step.fate == SILENT:
                silent[step.number] = step
                self._silent[step.number] = records[step.number]
            else:
                sent = self._told[step.number] = _Sent(records[step.number], _claimed(step, silent))
        if sent is not None:
            sent.nbytes = nbytes
            self._bytes += nbytes

    def take(self, reply: Reply) -> _Ends:
        """The records that end by a reply."""
        ends = _Ends()
        for number, error in reply.failures:
            self._fail(number, unpacked_error(error), ends)
        for number, facts in reply.ended:
            self._bytes -= self._held.pop(number, 0)
            sent = self._told.pop(number, None)
            if sent is None:
                continue
            self._bytes -= sent.nbytes
            if sent.record is not None:
                ends.ended.append((number, sent.record, facts))
            for each in sent.passed:
                record = self._silent.pop(each, None)
                if record is not None:
                    ends.passed.append(record)
        return ends

    def _fail(self, number: int, error: BaseException, ends: _Ends) -> None:
        record = self._silent.pop(number, None)
        sent = self._told.get(number)
        if record is None and sent is not None:
            record, sent.record = sent.record, None
        if record is not None:
            ends.failed.append((record, error))


def _claimed(step: Step, silent: dict[int, Step]) -> list[int]:
    """The silent steps that a step needs, directly or not, and that no step before it needed; taken out of `silent`."""
    claimed: list[int] = []
    stack = [step]
    while stack:
        for number in stack.pop().operands:
            needed = silent.pop(number, None)
            if needed is not None:
                claimed.append(number)
                stack.append(needed)
    return claimed


def _without(bad: QueuedRecord, records: list[QueuedRecord]) -> list[QueuedRecord]:
    """The records that do not depend on one that failed; those that do are ended: they share its failure."""
    poisoned: set[Any] = {bad}
    left = []
    for record in records:
        if record is bad:
            continue
        if any(each in poisoned for each in record.operands if each.__class__ is bad.__class__):
            poisoned.add(record)
            record.complete(PASSED if record.outputs == 1 else (PASSED,) * record.outputs)
        else:
            left.append(record)
    return left


def _taken(queue: deque[Any]) -> list[Any]:
    """The items of a deque, to which other threads append."""
    return [queue.popleft() for _ in range(len(queue))]


def _travelling(part: bytes | memoryview) -> object:
    return part if isinstance(part, bytes) else to_serialize(part)


def _probe(comm: Any) -> None:
    """Have the system find out soon where the other side does not answer any more."""
    stream = getattr(comm, "stream", None)
    found: socket.socket | None = getattr(stream, "socket", None)
    if found is None:
        return
    options = {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": SILENCE - 1, "TCP_USER_TIMEOUT": SILENCE * 1000}
    with suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            option = getattr(socket, name, None)
            if option is not None:
                found.setsockopt(socket.IPPROTO_TCP, option, value)


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _after_fork() -> None:
    for link in list(_links):
        link.forked()


os.register_at_fork(after_in_child=_after_fork)
