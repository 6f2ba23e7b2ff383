"""Single flight: concurrent calls of a pure function with equal arguments share one op while it is in flight.

The shared op belongs to no scope. Each call gets a handle of its own, of a small op that passes the result on: to
cancel it, or to end its scope, takes nothing from the others; when all have gone, the shared op is cancelled.

`_lock` guards the table. Ops end on any thread, where a queue's lock may be held, so a cancellation that follows is
left to another thread.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np

from engine.base.exact import by_value
from engine.base.op import Op
from engine.dispatch.queueing import AsyncDispatcher
from engine.queues.device_queue import DeviceQueue
from engine.queues.records import record_of
from engine.threads.offload import offload
from handles.base import Handle
from handles.cell import PENDING, Cell, Failure, add_waiter

SAMPLE = 64
"""Elements by which arrays are told apart before they are compared whole."""


class _Flight:
    """A shared op that is in flight, and how many handles of it are left."""

    __slots__ = ("args", "handles", "key", "left")

    def __init__(self, key: Hashable, handles: tuple[Handle, ...], args: tuple[object, ...]) -> None:
        self.key = key
        self.handles = handles
        self.args = args
        """Its operands: cells, and snapshots of arrays."""
        self.left = 0

    @property
    def record(self) -> Cell:
        return record_of(self.handles[0]._cell)

    def has(self, operands: Sequence[Any]) -> bool:
        """Tell whether its operands are these, whose kinds are the same."""
        return all(map(_is_same, self.args, operands))


class Flights:
    """The shared ops of one function that are in flight."""

    def __init__(self, row: Op) -> None:
        self._row = row
        self._pass_on = Op(row.name, lambda value: value, infer=lambda value: value, ns=1e-6, view=True)
        self._lock = threading.Lock()
        self._flights: dict[Hashable, list[_Flight]] = {}
        _all.add(self)

    def start_over(self) -> None:
        """In a forked child: no thread holds the lock, and what was in flight stayed behind."""
        self._lock = threading.Lock()
        self._flights.clear()

    def dispatch(
        self, dispatcher: AsyncDispatcher, operands: tuple[Any, ...], params: dict[str, Any]
    ) -> tuple[Handle, ...]:
        """Join an op in flight whose arguments are equal, or dispatch one; handles of the results."""
        try:
            key = self._key(dispatcher, operands, params["arguments"])
            hash(key)
        except TypeError:  # an argument that is compared by nothing: the call flies alone
            return dispatcher.dispatch_several(self._row, operands, params)
        with self._lock:
            flights = self._flights.get(key, ())
            flight = next((each for each in flights if each.record.value is PENDING and each.has(operands)), None)
            if flight is not None:
                flight.left += len(flight.handles)
        if flight is None:
            flight = self._take_off(key, dispatcher, operands, params)
        return tuple(self._share(flight, handle, dispatcher) for handle in flight.handles)

    def _take_off(
        self, key: Hashable, dispatcher: AsyncDispatcher, operands: tuple[object, ...], params: dict[str, object]
    ) -> _Flight:
        alone = AsyncDispatcher(dispatcher.core, dispatcher.policy, dispatcher.device, None)
        handles = alone.dispatch_several(self._row, operands, params)
        record = record_of(handles[0]._cell)
        flight = _Flight(key, handles, record.args)
        flight.left = len(handles)
        with self._lock:
            self._flights.setdefault(key, []).append(flight)

        def landed(_: Cell) -> None:
            with self._lock:
                self._remove(flight)

        if not add_waiter(record, landed):
            landed(record)
        return flight

    def _remove(self, flight: _Flight) -> None:
        """Under the lock: no further call joins it."""
        flights = self._flights.get(flight.key)
        if flights is not None and flight in flights:
            flights.remove(flight)
            if not flights:
                del self._flights[flight.key]

    def _share(self, flight: _Flight, handle: Handle, dispatcher: AsyncDispatcher) -> Handle:
        try:
            share = dispatcher.dispatch_any(self._pass_on, (handle,))
        except BaseException:  # its scope is over, or the executor was closed
            self._left(flight)
            raise
        add_waiter(share._cell, partial(self._ended, flight))
        return share

    def _ended(self, flight: _Flight, share: Cell) -> None:
        if share.value.__class__ is Failure and share.value.cancelled and flight.record.value is PENDING:
            self._left(flight)

    def _left(self, flight: _Flight) -> None:
        with self._lock:
            flight.left -= 1
            if flight.left:
                return
            self._remove(flight)
        offload.submit(partial(_cancel, flight.record))

    def _key(self, dispatcher: AsyncDispatcher, operands: Sequence[Any], arguments: object) -> Hashable:
        kinds = tuple(each._cell if isinstance(each, Handle) else _kind(each) for each in operands)
        return dispatcher.core, dispatcher.device, kinds, by_value(arguments)


_all: weakref.WeakSet[Flights] = weakref.WeakSet()


def _start_over() -> None:
    for each in list(_all):
        each.start_over()


os.register_at_fork(after_in_child=_start_over)


def _cancel(record: Cell) -> None:
    home = record.home
    assert isinstance(home, DeviceQueue)
    home.cancel(record, "every call that shared it was cancelled")


def _kind(array: np.ndarray[Any, Any]) -> Hashable:
    """A key that equal arrays have in common, from a few elements: results may depend on the layout, too."""
    step = max(1, array.size // SAMPLE)
    return array.shape, array.dtype, array.strides, array.flat[::step].tobytes()


def _is_same(known: object, given: object) -> bool:
    if not isinstance(given, np.ndarray) or known is given:
        return True  # handles are the same by the key
    if not isinstance(known, np.ndarray):
        return False
    if known.flags.c_contiguous and given.flags.c_contiguous and known.size and not known.dtype.hasobject:
        return _bytes(known).data == _bytes(given).data
    return known.tobytes() == given.tobytes()


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.reshape(-1).view(np.uint8)
