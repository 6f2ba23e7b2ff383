"""Operands of operators and methods: which are ours to compute with, and how a call of NumPy's function is made."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from handles.holder import Holder

if TYPE_CHECKING:
    from handles import Handle

NUMBERS = (Holder, int, float, complex)
"""Classes of the operands that nearly every comparison has; any other object is looked at more closely."""

OURS = (
    *(Holder, int, float, complex, np.ndarray, np.generic, list, tuple, range),
    *(array, memoryview, bytearray),
)
"""Classes of the operands that are ours to compute with."""

NOT_GIVEN: Any = np._NoValue
"""Stands for an argument that was not given, as in NumPy's own functions."""

MASKED = "masked arrays are not supported: pass .filled(value), or .data and .mask apart"
"""The error for a masked array among the operands."""


def call(function: Callable[..., object], *args: object, **kwargs: object) -> Handle:
    """Call a NumPy function with what was given; it comes back to the handle by NumPy's protocol."""
    given = {name: value for name, value in kwargs.items() if value is not NOT_GIVEN}
    return function(*args, **given)  # type: ignore[return-value]


def with_text_or_dates(name: str, x1: object, x2: object, other: object) -> Handle:
    """An operator with a string or a date of Python's; `NotImplemented` for objects that may know better.

    Raises `TypeError` for bytes and numbers: Python would take the elements for bytes, and join them.
    """
    handle = x2 if x1 is other else x1
    assert isinstance(handle, Holder)
    takes_text = name == "add" and isinstance(other, str | bytes) and _may_be_text(handle)
    if not takes_text and type(other) not in (date, datetime, timedelta):  # a subclass is of pandas, say
        if isinstance(other, bytes):
            raise TypeError(f"unsupported operand types for {name}: a handle of numbers, and bytes")
        return NotImplemented  # type: ignore[no-any-return]
    function: Callable[[object, object], Handle] = getattr(handle._cell.home.namespace, name)
    return function(x1, x2)


def _may_be_text(handle: Holder) -> bool:
    """Tell whether the elements are strings, or are not known: what adds text to numbers is told so at once."""
    cell = handle._cell
    try:
        dtype: np.dtype[Any] | None = cell.home.infer(cell, tell=False).dtype
    except Exception:  # noqa: BLE001 - it is not known yet, or the op fails: the reader is told
        return True
    return dtype is None or dtype.kind in "SUT"
