"""Operators of a handle: each is the op of that name in the namespace that made the handle.

An operand that is not an array, a scalar or a sequence of them (an xarray or pandas object, say) gets the first say:
the operator returns `NotImplemented`, as `ndarray` does for types that know better. Comparisons are elementwise with
any other object too (strings, dates, None), as those of `ndarray` are.
"""

from __future__ import annotations

from array import array
from datetime import date, datetime, timedelta
from typing import Any, Generic, Self

import numpy as np

from handles.holder import H, Holder
from handles.views import rebind as rebind, refresh


class Operators(Holder, Generic[H]):
    """The arithmetic, comparison and bit operators, plain and reflected; in-place ones rebind the name."""

    __slots__ = ()

    def __add__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.add(self, other)  # type: ignore[no-any-return]
        return _with_text_or_dates("add", self, other, other)  # type: ignore[no-any-return]

    def __radd__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.add(other, self)  # type: ignore[no-any-return]
        return _with_text_or_dates("add", other, self, other)  # type: ignore[no-any-return]

    def __sub__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.subtract(self, other)  # type: ignore[no-any-return]
        return _with_text_or_dates("subtract", self, other, other)  # type: ignore[no-any-return]

    def __rsub__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.subtract(other, self)  # type: ignore[no-any-return]
        return _with_text_or_dates("subtract", other, self, other)  # type: ignore[no-any-return]

    def __mul__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.multiply(self, other)  # type: ignore[no-any-return]
        return _with_text_or_dates("multiply", self, other, other)  # type: ignore[no-any-return]

    def __rmul__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.multiply(other, self)  # type: ignore[no-any-return]
        return _with_text_or_dates("multiply", other, self, other)  # type: ignore[no-any-return]

    def __truediv__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.divide(self, other)  # type: ignore[no-any-return]
        return _with_text_or_dates("divide", self, other, other)  # type: ignore[no-any-return]

    def __rtruediv__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.divide(other, self)  # type: ignore[no-any-return]
        return _with_text_or_dates("divide", other, self, other)  # type: ignore[no-any-return]

    def __floordiv__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.floor_divide(self, other)  # type: ignore[no-any-return]
        return _with_text_or_dates("floor_divide", self, other, other)  # type: ignore[no-any-return]

    def __rfloordiv__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.floor_divide(other, self)  # type: ignore[no-any-return]
        return _with_text_or_dates("floor_divide", other, self, other)  # type: ignore[no-any-return]

    def __mod__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.remainder(self, other)  # type: ignore[no-any-return]
        return _with_text_or_dates("remainder", self, other, other)  # type: ignore[no-any-return]

    def __rmod__(self, other: Any) -> H:
        if isinstance(other, OURS):
            return self._cell.home.namespace.remainder(other, self)  # type: ignore[no-any-return]
        return _with_text_or_dates("remainder", other, self, other)  # type: ignore[no-any-return]

    def __pow__(self, other: Any) -> H:
        return self._cell.home.namespace.operators.power(self, other) if isinstance(other, OURS) else NotImplemented

    def __rpow__(self, other: Any) -> H:
        return self._cell.home.namespace.operators.power(other, self) if isinstance(other, OURS) else NotImplemented

    def __matmul__(self, other: Any) -> H:
        return self._cell.home.namespace.matmul(self, other) if isinstance(other, OURS) else NotImplemented

    def __rmatmul__(self, other: Any) -> H:
        return self._cell.home.namespace.matmul(other, self) if isinstance(other, OURS) else NotImplemented

    def __and__(self, other: Any) -> H:
        return self._cell.home.namespace.bitwise_and(self, other) if isinstance(other, OURS) else NotImplemented

    def __rand__(self, other: Any) -> H:
        return self._cell.home.namespace.bitwise_and(other, self) if isinstance(other, OURS) else NotImplemented

    def __or__(self, other: Any) -> H:
        return self._cell.home.namespace.bitwise_or(self, other) if isinstance(other, OURS) else NotImplemented

    def __ror__(self, other: Any) -> H:
        return self._cell.home.namespace.bitwise_or(other, self) if isinstance(other, OURS) else NotImplemented

    def __xor__(self, other: Any) -> H:
        return self._cell.home.namespace.bitwise_xor(self, other) if isinstance(other, OURS) else NotImplemented

    def __rxor__(self, other: Any) -> H:
        return self._cell.home.namespace.bitwise_xor(other, self) if isinstance(other, OURS) else NotImplemented

    def __lshift__(self, other: Any) -> H:
        return self._cell.home.namespace.bitwise_left_shift(self, other) if isinstance(other, OURS) else NotImplemented

    def __rlshift__(self, other: Any) -> H:
        return self._cell.home.namespace.bitwise_left_shift(other, self) if isinstance(other, OURS) else NotImplemented

    def __rshift__(self, other: Any) -> H:
        return self._cell.home.namespace.bitwise_right_shift(self, other) if isinstance(other, OURS) else NotImplemented

    def __rrshift__(self, other: Any) -> H:
        return self._cell.home.namespace.bitwise_right_shift(other, self) if isinstance(other, OURS) else NotImplemented

    def __lt__(self, other: Any) -> H:
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.less(self, other)  # type: ignore[no-any-return]
        return self._cell.home.namespace.operators.compared("less", self, other)  # type: ignore[no-any-return]

    def __le__(self, other: Any) -> H:
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.less_equal(self, other)  # type: ignore[no-any-return]
        return self._cell.home.namespace.operators.compared("less_equal", self, other)  # type: ignore[no-any-return]

    def __gt__(self, other: Any) -> H:
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.greater(self, other)  # type: ignore[no-any-return]
        return self._cell.home.namespace.operators.compared("greater", self, other)  # type: ignore[no-any-return]

    def __ge__(self, other: Any) -> H:
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.greater_equal(self, other)  # type: ignore[no-any-return]
        return self._cell.home.namespace.operators.compared("greater_equal", self, other)  # type: ignore[no-any-return]

    def __eq__(self, other: Any) -> H:  # type: ignore[override]
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.operators.equal(self, other)  # type: ignore[no-any-return]
        return self._cell.home.namespace.operators.compared("equal", self, other)  # type: ignore[no-any-return]

    def __ne__(self, other: Any) -> H:  # type: ignore[override]
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.operators.not_equal(self, other)  # type: ignore[no-any-return]
        return self._cell.home.namespace.operators.compared("not_equal", self, other)  # type: ignore[no-any-return]

    def __neg__(self) -> H:
        return self._cell.home.namespace.negative(self)  # type: ignore[no-any-return]

    def __pos__(self) -> H:
        return self._cell.home.namespace.positive(self)  # type: ignore[no-any-return]

    def __abs__(self) -> H:
        return self._cell.home.namespace.abs(self)  # type: ignore[no-any-return]

    def __invert__(self) -> H:
        return self._cell.home.namespace.bitwise_invert(self)  # type: ignore[no-any-return]

    def __divmod__(self, other: Any) -> tuple[H, H]:
        return np.divmod(self, other) if isinstance(other, OURS) else NotImplemented  # type: ignore[call-overload]

    def __rdivmod__(self, other: Any) -> tuple[H, H]:
        return np.divmod(other, self) if isinstance(other, OURS) else NotImplemented  # type: ignore[call-overload]

    def __iadd__(self, other: Any) -> Self:
        return self._update("add", other) if isinstance(other, OURS) else NotImplemented

    def __isub__(self, other: Any) -> Self:
        return self._update("subtract", other) if isinstance(other, OURS) else NotImplemented

    def __imul__(self, other: Any) -> Self:
        return self._update("multiply", other) if isinstance(other, OURS) else NotImplemented

    def __itruediv__(self, other: Any) -> Self:
        return self._update("divide", other) if isinstance(other, OURS) else NotImplemented

    def __ifloordiv__(self, other: Any) -> Self:
        return self._update("floor_divide", other) if isinstance(other, OURS) else NotImplemented

    def __imod__(self, other: Any) -> Self:
        return self._update("remainder", other) if isinstance(other, OURS) else NotImplemented

    def __ipow__(self, other: Any) -> Self:
        return self._update("power", other) if isinstance(other, OURS) else NotImplemented

    def __imatmul__(self, other: Any) -> Self:
        return self._update("matmul", other) if isinstance(other, OURS) else NotImplemented

    def __iand__(self, other: Any) -> Self:
        return self._update("bitwise_and", other) if isinstance(other, OURS) else NotImplemented

    def __ior__(self, other: Any) -> Self:
        return self._update("bitwise_or", other) if isinstance(other, OURS) else NotImplemented

    def __ixor__(self, other: Any) -> Self:
        return self._update("bitwise_xor", other) if isinstance(other, OURS) else NotImplemented

    def __ilshift__(self, other: Any) -> Self:
        return self._update("left_shift", other) if isinstance(other, OURS) else NotImplemented

    def __irshift__(self, other: Any) -> Self:
        return self._update("right_shift", other) if isinstance(other, OURS) else NotImplemented

    def _update(self, ufunc: str, other: Any) -> Self:
        """`self op= other`: the dtype and the shape stay, as they do in an `ndarray`."""
        cell = self._cell
        if cell.op.memory.view or cell.rare is not None:
            refresh(self)
            return rebind(self, cell.home.namespace.operators.updated(ufunc, self, other), update=True)  # type: ignore[no-any-return]
        new = cell.home.namespace.operators.updated(ufunc, self, other)
        mine: Any = self
        mine._cell = new._cell  # as `rebind` does for what is no view
        if mine.__class__ is not new.__class__:
            mine.__class__ = new.__class__
        return self


def _with_text_or_dates(name: str, x1: Any, x2: Any, other: Any) -> Any:
    """An operator with a string or a date of Python's; `NotImplemented` for objects that may know better."""
    handle = x2 if x1 is other else x1
    takes_text = name == "add" and isinstance(other, str | bytes) and _may_be_text(handle)
    if not takes_text and type(other) not in (date, datetime, timedelta):  # a subclass is of pandas, say
        return NotImplemented
    return getattr(handle._cell.home.namespace, name)(x1, x2)


def _may_be_text(handle: Holder) -> bool:
    """Tell whether the elements are strings, or are not known: what adds text to numbers is told so at once."""
    cell = handle._cell
    try:
        dtype: np.dtype[Any] | None = cell.home.infer(cell, tell=False).dtype
    except Exception:  # noqa: BLE001 - it is not known yet, or the op fails: the reader is told
        return True
    return dtype is None or dtype.kind in "SUT"


NUMBERS = (Operators, int, float, complex)
"""Classes of the operands that nearly every comparison has; any other object is looked at more closely."""

OURS = (Operators, int, float, complex, np.ndarray, np.generic, list, tuple, range, array, memoryview)
"""Classes of the operands that are ours to compute with."""
