"""The connection to one worker: programs go there, and what came of them comes back.

Purpose: a round trip costs no more than two messages and two changes of thread. One connection of Dask's own kind
(so its TLS and its addresses) is a stream in both directions, in place of calls of an actor: messages keep their order,
several programs are in flight, and each result comes as soon as it is there.

Guarantees: what was sent and has not ended fails with `DeviceLostError` when the connection breaks, and so does what is
asked for later. A worker that is silent breaks it, too (`pulse`). What is in flight is bounded; `submit` blocks.

`_sending` orders messages: the thread that holds it makes one and sends it, and blocks while the system takes it.
`_lock` guards the encoder, what is in flight and what was asked for, for moments only: the thread that reads answers
takes it, and has to go on reading for the worker to go on at all.
"""

from __future__ import annotations

import asyncio
import math
import os
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

from engine.base.errors import DeviceLostError
from engine.devices.base import Array, Device, Record, loss
from engine.devices.dask.errors import unpacked_error
from engine.devices.dask.flight import Failed, Flight
from engine.devices.dask.programs import (
    SILENT,
    Encoder,
    Message,
    Package,
    QueuedRecord,
    Reply,
    Unsendable,
    packed,
    unpacked,
)
from engine.devices.dask.pulse import Pulse, probe
from engine.devices.dask.values import PASSED, RemoteValue
from engine.devices.dask.wire import StreamWire, Wire, is_plain, taken_over
from engine.threads.offload import offload
from handles.cell import add_waiter

ANSWER_SECONDS = 30.0
"""Seconds that a worker may take to accept a connection."""
TIDY = 0.25
"""Seconds between looks at what is to be forgotten, where no message goes there anyway."""
FETCHED_AT_THE_END = 1 << 30
"""Bytes of values that are brought here when the executor closes, because handles still refer to them."""


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
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._wire: Wire | None = None
        self._drops: deque[int] = deque()
        self._cancels: deque[int] = deque()
        self._encoder = Encoder(f"the Dask worker {address}", self._drops.append)
        self._flight = Flight()
        self._asked: dict[int, Future[Any]] = {}
        self._reading: dict[int, RemoteValue] = {}
        self._alive: weakref.WeakValueDictionary[int, RemoteValue] = weakref.WeakValueDictionary()
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
        self._wait_for_room()
        with self._sending:
            drops = _taken(self._drops)
            try:
                with self._lock:
                    self._check_there()
                    package, steps = self._encoder.program(records, drops)
                    self._flight.add(steps, records, package.nbytes)
            except BaseException:
                self._drops.extend(drops)
                raise
            self._send(package)
        for step, record in zip(steps, records, strict=True):
            if step[5] != SILENT:
                cell = cast("Any", record.cell)
                if not add_waiter(cell, partial(self._settled, step[0])):
                    self._settled(step[0], None)

    def _wait_for_room(self) -> None:
        with self._lock:
            while self._flight.is_full() and self.lost is None:
                self._room.wait()

    def _settled(self, number: int, _: Any) -> None:
        """A record has a result: where the worker has not said so, it was cancelled."""
        if number in self._flight:
            self._cancels.append(number)
            offload.submit(self._tidy)

    def read(self, value: RemoteValue) -> Array:
        """The array of a value; blocks until it is here. Raises `DeviceLostError`."""
        with self._sending:
            with self._lock:
                array = value.array
                if array is not None:
                    return array
                future = self._asked.get(value.number)
                if future is None:
                    self._reading[value.number] = value
            if future is None:
                future = self._ask(value.number, Message(reads=(value.number,)))
        found: Array = future.result()
        return found

    def put(self, array: Array) -> RemoteValue:
        """Send an array there. It is on its way when this returns, before all that uses it."""
        self._wait_for_room()
        with self._sending:
            with self._lock:
                self._check_there()
                number = self._encoder.number()
            package = packed(Message(values=((number, array),)))
            with self._lock:
                self._flight.hold(number, package.nbytes)
            self._send(package)
        return self._value(number, array.shape, array.dtype)

    def pull(self, value: RemoteValue, source: Link) -> RemoteValue:
        """Have the worker get a value from another worker; blocks until it has. Raises `DeviceLostError`."""
        with self._sending:
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
        self.lose("its executor has closed, and the value was not read before", tell=False)

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
            raise loss(self.device, self.lost)

    def _ask(self, number: int, message: Message) -> Future[Any]:
        """Under `_sending`: send a question whose answer is known by a number."""
        future: Future[Any] = Future()
        with self._lock:
            self._check_there()
            self._asked[number] = future
        self._send(packed(message, plain=True))
        return future

    def _send(self, package: Package) -> None:
        """Under `_sending`: send a message. Where that fails the worker is lost, and what waits for it is told so."""
        assert self._wire is not None
        try:
            self._wire.send(package)
        except OSError as error:
            self.lose(self._broke(error))

    def _tidy(self) -> None:
        """Send what the worker is to forget and to give up."""
        with self._sending:
            # Taken under the lock: a message that uses what is dropped was sent before.
            drops, cancels = _taken(self._drops), _taken(self._cancels)
            if (drops or cancels) and self.lost is None:
                self._send(packed(Message(drops=drops, cancels=cancels), plain=True))

    def _broke(self, error: OSError) -> str:
        return f"the connection to {self.address} broke: {error}"

    # On the thread of the loop

    async def run(self, there: Future[None], connection_args: dict[str, Any], hello: dict[str, Any]) -> None:
        """Connect, have a thread read what the worker says, and see that it lives as long as it is asked anything."""
        try:
            comm = await connect(self.address, timeout=ANSWER_SECONDS, **connection_args)
            plain = is_plain(comm)
            if not plain:
                probe(comm)
            hello = {"op": "eagerloop", "reply": False, "session": self.session, "plain": plain, **hello}
            await comm.write(hello)
            wire: Wire = taken_over(comm) if plain else StreamWire(comm)
            pulse = Pulse(self.address, connection_args)
            watched = (plain or self.address.startswith("tls://")) and await pulse.begin()
        except Exception as error:  # noqa: BLE001 - any of them: the caller of the first op is told
            there.set_exception(error)
            return
        self._wire = wire
        threading.Thread(target=self._listen, args=(wire, there), name=f"eagerloop-{self.device}", daemon=True).start()
        watching = asyncio.ensure_future(pulse.watch(self)) if watched else None
        try:
            while self.lost is None:
                await asyncio.sleep(TIDY)
                if self._drops:
                    offload.submit(self._tidy)
        finally:
            if watching is not None:
                watching.cancel()
            pulse.close()  # a watch that is cancelled before it has begun closes nothing

    # On the thread that reads

    def _listen(self, wire: Wire, there: Future[None]) -> None:
        try:
            wire.read()  # the worker is ready
            there.set_result(None)
            while self.lost is None:
                self._received(Reply(*unpacked(wire.read())))
        except OSError as error:
            self.lose(self._broke(error))
        except Exception as error:  # noqa: BLE001 - a defect, or an answer of another version: nothing may hang
            self.lose(f"the worker {self.address} was not understood: {type(error).__name__}: {error}")
        finally:
            wire.close()
            if not there.done():
                there.set_exception(loss(self.device, self.lost or ""))

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
        last = len(ends) - 1
        for index, (number, record, facts) in enumerate(ends):
            self._end(number, record, facts, more=index < last)
        for future, array in answers:
            if future is not None:
                future.set_result(array)
        for future, error in refusals:
            if future is not None:
                future.set_exception(error)

    def _end(self, number: int, record: QueuedRecord, facts: Any, *, more: bool) -> None:
        if facts is None:  # it was not to be kept, or something that it needs has failed
            record.end(PASSED if record.outputs == 1 else (PASSED,) * record.outputs, more=more)
        elif facts.__class__ is Failed:
            record.fail(facts.error, more=more)
        else:
            values = tuple(self._value(number + index, *each) for index, each in enumerate(facts))
            record.complete(values[0] if record.outputs == 1 else values, more=more)

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
            future.set_exception(loss(self.device, reason))
        if self._wire is not None:
            self._wire.break_off()
        if tell:
            self._tell_lost(reason)

    def forked(self) -> None:
        """In a forked child: the connection is the parent's."""
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self.lost = "the process was forked, and the connection to the worker stayed with the parent"


def _without(bad: QueuedRecord, records: list[QueuedRecord]) -> list[QueuedRecord]:
    """The records that do not depend on one that failed; those that do are ended: they share its failure."""
    poisoned: set[Any] = {bad}
    left = []
    for record in records:
        if record is bad:
            continue
        if any(each in poisoned for each in record.operands if each.__class__ is bad.__class__):
            poisoned.add(record)
            record.end(PASSED if record.outputs == 1 else (PASSED,) * record.outputs)
        else:
            left.append(record)
    return left


def _taken(queue: deque[int]) -> list[int]:
    """The items of a deque, to which other threads append."""
    return [queue.popleft() for _ in range(len(queue))]


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _after_fork() -> None:
    for link in list(_links):
        link.forked()


os.register_at_fork(after_in_child=_after_fork)
