"""Reading: values of a device come to the host on a worker, once, and go from device to device.

A copy on the host is a cell of its own that the value's cell keeps: readers of the value wait for that. A copy that
failed is tried again by the next reader. No loop's thread ever calls a backend here, in ASYNC mode.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from functools import partial
from typing import Any, NoReturn, Protocol

import numpy as np

from engine.base.loops import Waiter, asyncio_loop
from engine.base.op import Op
from engine.devices.base import Array, Backend, Device, loss
from engine.devices.cpu import HOST
from engine.failures import describe, failed, throw
from engine.threads.offload import offload
from handles.cell import PENDING, Cell, Failure, add_waiter, pending_cell, remove_waiter, settle

READ = Op("read", lambda value: value)
"""The op of a copy on the host."""


class Holder(Protocol):
    """A queue as the keeper of values."""

    @property
    def device(self) -> Device: ...

    @property
    def backend(self) -> Backend[Any]: ...

    @property
    def on_host(self) -> bool: ...

    @property
    def lost(self) -> str | None:
        """Why the device is gone; None where it is not."""


_lock = threading.Lock()
_under_way: set[Cell] = set()
"""Copies that a worker is making."""


def _after_fork() -> None:
    """In the child no worker goes on with a copy: readers have to ask again."""
    global _lock
    _lock = threading.Lock()
    for copy in list(_under_way):
        settle(copy, Failure(RuntimeError("the process was forked while the value was being read"), cancelled=True))
    _under_way.clear()


os.register_at_fork(after_in_child=_after_fork)


# The copy on the host


def _copy_of(holder: Holder, cell: Cell) -> tuple[Cell, bool]:
    """The copy of a value, and whether it is up to the caller to have it made."""
    with _lock:
        rare = cell.extend()
        copy: Cell | None = rare.host
        if copy is not None and copy.value.__class__ is not Failure:
            return copy, False
        home: Any = holder
        copy = rare.host = pending_cell(READ, (), None, home, cell.code, cell.lasti)
        _under_way.add(copy)
        return copy, True


def _make(holder: Holder, cell: Cell, copy: Cell) -> None:
    try:
        outcome: Any = to_host(holder, cell.value)
    except BaseException as error:  # noqa: BLE001 - readers get the error of the backend
        outcome = failed(cell, error)
    _under_way.discard(copy)
    settle(copy, outcome)


def _begin(holder: Holder, cell: Cell) -> Cell:
    """The copy of a value, which a worker makes where none did."""
    copy, new = _copy_of(holder, cell)
    if new:
        offload.submit(partial(_make, holder, cell, copy))
    return copy


def to_host(holder: Holder, value: Any) -> Array:
    """A value as a read-only array. May block."""
    _check_there(holder)
    array = holder.backend.to_host(value)
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"to_host() of the backend of {holder.device} must return an ndarray, but returned {type(array).__name__}"
        )
    return HOST.to_host(array)


def _check_there(holder: Holder) -> None:
    if holder.lost is not None:
        raise loss(holder.device, holder.lost)


# Readers


def peek(cell: Cell) -> Array | None:
    """The array of a value that has been read; None where it has not."""
    copy = cell.rare.host if cell.rare is not None else None
    return None if copy is None or copy.value.__class__ is not np.ndarray else HOST.to_host(copy.value)


def fetch(holder: Holder, cell: Cell, seconds: float | None) -> Generator[Any, None, Array]:
    """Suspend until a value is on the host, and return its array."""
    copy = _begin(holder, cell)
    if copy.value is PENDING:
        waiter = Waiter(asyncio_loop())
        if add_waiter(copy, waiter.wake):
            try:
                if not (yield from waiter.wait(seconds)):
                    _time_out(cell, seconds)
            finally:
                remove_waiter(copy, waiter.wake)
    return _array(copy)


def block(holder: Holder, cell: Cell, seconds: float | None) -> Array:
    """Block this thread until a value is on the host, and return its array."""
    copy = _begin(holder, cell)
    _wait_for(copy, cell, seconds)
    return _array(copy)


def obtain(holder: Holder, cell: Cell) -> Array:
    """As `block`, on a worker, which makes the copy itself where no other does."""
    copy, new = _copy_of(holder, cell)
    if new:
        _make(holder, cell, copy)
    _wait_for(copy, cell, None)
    return _array(copy)


def _wait_for(copy: Cell, cell: Cell, seconds: float | None) -> None:
    if copy.value is not PENDING:
        return
    done = threading.Event()

    def wake(_: Cell) -> None:
        done.set()

    if not add_waiter(copy, wake):
        return
    try:
        if not done.wait(seconds):
            _time_out(cell, seconds)
    finally:
        remove_waiter(copy, wake)


def _time_out(cell: Cell, seconds: float | None) -> NoReturn:
    raise TimeoutError(f"not read after {seconds:.3g} s: {describe(cell)}; its value is being copied to the host")


def _array(copy: Cell) -> Array:
    if isinstance(copy.value, Failure):
        throw(copy.value)
    return HOST.to_host(copy.value)


# From device to device


class Move:
    """Copies the value of a cell to a device. Called on a worker, because it may block."""

    __slots__ = ("_source", "_target")

    def __init__(self, source: Cell, target: Holder) -> None:
        self._source = source
        self._target = target

    def __call__(self, value: Any) -> Any:
        source: Any = self._source.home
        target = self._target
        _check_there(target)
        if source.on_host:
            return self._from_host(HOST.to_host(value))
        if source.backend is target.backend:
            _check_there(source)
            return checked_value(target.device, target.backend.copy(value, source.device, target.device))
        array = obtain(source, self._source)
        return array if target.on_host else self._from_host(array)

    def _from_host(self, array: Array) -> Any:
        target = self._target
        return checked_value(target.device, target.backend.from_host(target.device, array))


def _moved(value: Any, *, move: Move) -> Any:
    return move(value)


def _infer_moved(value: Any, *, move: Move) -> Any:
    return value


MOVE = Op("to_device", _moved, infer=_infer_moved, ns=None, view=True)
"""A copy from or to a device that is not the host's."""


def is_elsewhere(value: Any) -> bool:
    """Tell whether an operand is a value of a device that is not the host's."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.ndarray | np.generic)


def checked_value(device: Device, value: Any) -> Any:
    """Check what a backend gave for a value. Raises `TypeError` unless it can be one."""
    if not is_elsewhere(value):
        kind = type(value).__name__
        raise TypeError(
            f"the backend of {device} must give values of a class of its own, with `shape` and `dtype`, but gave {kind}"
            + (": wrap the array" if isinstance(value, np.ndarray | np.generic) else "")
        )
    return value
