"""Arithmetic of handles: each operator is the op of that name in the namespace that made the handle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from handles.holder import Holder
from handles.operands import OURS, with_text_or_dates

if TYPE_CHECKING:
    from handles import Handle


class Arithmetic(Holder):
    """Plus, minus, times, divided by, and signs."""

    __slots__ = ()

    def __add__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.add(self, other)
        return with_text_or_dates("add", self, other, other)

    def __radd__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.add(other, self)
        return with_text_or_dates("add", other, self, other)

    def __sub__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.subtract(self, other)
        return with_text_or_dates("subtract", self, other, other)

    def __rsub__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.subtract(other, self)
        return with_text_or_dates("subtract", other, self, other)

    def __mul__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.multiply(self, other)
        return with_text_or_dates("multiply", self, other, other)

    def __rmul__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.multiply(other, self)
        return with_text_or_dates("multiply", other, self, other)

    def __truediv__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.divide(self, other)
        return with_text_or_dates("divide", self, other, other)

    def __rtruediv__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.divide(other, self)
        return with_text_or_dates("divide", other, self, other)

    def __neg__(self) -> Handle:
        return self._cell.home.namespace.negative(self)

    def __pos__(self) -> Handle:
        return self._cell.home.namespace.positive(self)

    def __abs__(self) -> Handle:
        return self._cell.home.namespace.abs(self)


class Division(Holder):
    """Quotients rounded down, and remainders."""

    __slots__ = ()

    def __floordiv__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.floor_divide(self, other)
        return with_text_or_dates("floor_divide", self, other, other)

    def __rfloordiv__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.floor_divide(other, self)
        return with_text_or_dates("floor_divide", other, self, other)

    def __mod__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.remainder(self, other)
        return with_text_or_dates("remainder", self, other, other)

    def __rmod__(self, other: object) -> Handle:
        if isinstance(other, OURS):
            return self._cell.home.namespace.remainder(other, self)
        return with_text_or_dates("remainder", other, self, other)

    def __divmod__(self, other: object) -> tuple[Handle, Handle]:
        return np.divmod(self, other) if isinstance(other, OURS) else NotImplemented  # type: ignore[call-overload]

    def __rdivmod__(self, other: object) -> tuple[Handle, Handle]:
        return np.divmod(other, self) if isinstance(other, OURS) else NotImplemented  # type: ignore[call-overload]


class Products(Holder):
    """Powers and matrix products."""

    __slots__ = ()

    def __pow__(self, other: object) -> Handle:
        return self._cell.home.namespace.operators.power(self, other) if isinstance(other, OURS) else NotImplemented

    def __rpow__(self, other: object) -> Handle:
        return self._cell.home.namespace.operators.power(other, self) if isinstance(other, OURS) else NotImplemented

    def __matmul__(self, other: object) -> Handle:
        return self._cell.home.namespace.matmul(self, other) if isinstance(other, OURS) else NotImplemented

    def __rmatmul__(self, other: object) -> Handle:
        return self._cell.home.namespace.matmul(other, self) if isinstance(other, OURS) else NotImplemented
