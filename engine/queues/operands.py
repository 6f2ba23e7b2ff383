"""Operands of an op: handles as their cells, arrays as snapshots that no later write can reach, scalars as they are."""

from __future__ import annotations

import array
import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.devices.cluster.values import is_chunked
from engine.devices.cpu import checked, plain, snapshot
from engine.settings.switch import program
from handles.base import Handle
from handles.cell import Cell
from handles.symbol import Symbol

SCALARS = frozenset({bool, int, float, complex})

DATES: dict[Any, Any] = {
    datetime.date: np.datetime64,
    datetime.datetime: np.datetime64,
    datetime.timedelta: np.timedelta64,
}
"""Python's dates and intervals, and NumPy's scalars for them."""


def operand(value: Any, *, keep: bool) -> Any:
    """Turn an operand into what a record holds for it; `keep` says that record or result outlives the call."""
    if value.__class__ is Symbol:
        value.refuse("an op called eagerly")
    if isinstance(value, Handle):
        return value._cell
    if isinstance(value, np.ndarray):
        return snapshot(value) if keep else checked(value if value.__class__ is np.ndarray else plain(value))
    if value.__class__ is Cell:
        return value
    if isinstance(value, bool | int | float | complex | np.generic):
        return value
    if isinstance(value, str | bytes):
        return np.array(value)
    if value.__class__ in DATES:
        return DATES[value.__class__](value)
    if isinstance(value, list | tuple):
        if holds_handle(value):
            return program.namespace.asarray(value)._cell
        return checked(np.asarray(value))
    if is_chunked(value):
        return program.namespace.asarray(value)._cell  # of a cluster; not gathered here in silence
    if is_array_like(value):
        return checked(np.array(value))
    raise TypeError(
        "operands must be handles, arrays, Python scalars, strings, dates or nested sequences of them, "
        f"but got {'None' if value is None else f'{type(value).__module__}.{type(value).__qualname__}'}"
    )


def is_array_like(value: Any) -> bool:
    """Tell whether NumPy makes numbers of this: a `range`, an `array.array`, an object with the array interface."""
    if isinstance(value, Sequence | memoryview):
        return not isinstance(value, str | bytes)
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


_AS_THEY_ARE = frozenset({bool, int, float, complex, str, bytes, type(None), slice, range, np.ndarray})
_NEVER_CHANGED = (Handle, np.ndarray, np.generic, tuple, type)


def settled(value: object) -> object:
    """An argument of one of NumPy's functions as no later write changes it, at the call.

    A buffer (an `array.array`, a `bytearray`), or an object with the array interface, becomes the array that NumPy
    would make of it when the op runs; a sequence of another class (a `deque`) becomes a list.
    """
    if value.__class__ in _AS_THEY_ARE or isinstance(value, _NEVER_CHANGED):
        return value
    if not is_array_like(value) or is_chunked(value):
        return value
    if isinstance(value, Sequence) and not isinstance(value, bytearray | memoryview | array.array):
        return list(value)
    made = np.array(value)
    return value if made.dtype.hasobject else made


def holds_handle(value: Any) -> bool:
    """Tell whether there is a handle anywhere inside nested sequences."""
    if isinstance(value, list | tuple):
        return any(holds_handle(each) for each in value)
    return isinstance(value, Handle)
