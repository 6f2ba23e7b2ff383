"""Operators of a handle: each is the op of that name in the namespace that made the handle.

An operand that is not an array, a scalar or a sequence of them (an xarray or pandas object, say) gets the first say:
the operator returns `NotImplemented`, as `ndarray` does for types that know better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from handles.base import Handle
    from handles.cell import Cell


class Operators:
    """The arithmetic, comparison and bit operators, plain and reflected; in-place ones rebind the name."""

    __slots__ = ()

    _cell: Cell

    def __add__(self, other: Any) -> Handle:
        return self._cell.home.namespace.add(self, other) if _is_operand(other) else NotImplemented

    def __radd__(self, other: Any) -> Handle:
        return self._cell.home.namespace.add(other, self) if _is_operand(other) else NotImplemented

    def __sub__(self, other: Any) -> Handle:
        return self._cell.home.namespace.subtract(self, other) if _is_operand(other) else NotImplemented

    def __rsub__(self, other: Any) -> Handle:
        return self._cell.home.namespace.subtract(other, self) if _is_operand(other) else NotImplemented

    def __mul__(self, other: Any) -> Handle:
        return self._cell.home.namespace.multiply(self, other) if _is_operand(other) else NotImplemented

    def __rmul__(self, other: Any) -> Handle:
        return self._cell.home.namespace.multiply(other, self) if _is_operand(other) else NotImplemented

    def __truediv__(self, other: Any) -> Handle:
        return self._cell.home.namespace.divide(self, other) if _is_operand(other) else NotImplemented

    def __rtruediv__(self, other: Any) -> Handle:
        return self._cell.home.namespace.divide(other, self) if _is_operand(other) else NotImplemented

    def __floordiv__(self, other: Any) -> Handle:
        return self._cell.home.namespace.floor_divide(self, other) if _is_operand(other) else NotImplemented

    def __rfloordiv__(self, other: Any) -> Handle:
        return self._cell.home.namespace.floor_divide(other, self) if _is_operand(other) else NotImplemented

    def __mod__(self, other: Any) -> Handle:
        return self._cell.home.namespace.remainder(self, other) if _is_operand(other) else NotImplemented

    def __rmod__(self, other: Any) -> Handle:
        return self._cell.home.namespace.remainder(other, self) if _is_operand(other) else NotImplemented

    def __pow__(self, other: Any) -> Handle:
        return self._cell.home.namespace.pow(self, other) if _is_operand(other) else NotImplemented

    def __rpow__(self, other: Any) -> Handle:
        return self._cell.home.namespace.pow(other, self) if _is_operand(other) else NotImplemented

    def __matmul__(self, other: Any) -> Handle:
        return self._cell.home.namespace.matmul(self, other) if _is_operand(other) else NotImplemented

    def __rmatmul__(self, other: Any) -> Handle:
        return self._cell.home.namespace.matmul(other, self) if _is_operand(other) else NotImplemented

    def __and__(self, other: Any) -> Handle:
        return self._cell.home.namespace.bitwise_and(self, other) if _is_operand(other) else NotImplemented

    def __rand__(self, other: Any) -> Handle:
        return self._cell.home.namespace.bitwise_and(other, self) if _is_operand(other) else NotImplemented

    def __or__(self, other: Any) -> Handle:
        return self._cell.home.namespace.bitwise_or(self, other) if _is_operand(other) else NotImplemented

    def __ror__(self, other: Any) -> Handle:
        return self._cell.home.namespace.bitwise_or(other, self) if _is_operand(other) else NotImplemented

    def __xor__(self, other: Any) -> Handle:
        return self._cell.home.namespace.bitwise_xor(self, other) if _is_operand(other) else NotImplemented

    def __rxor__(self, other: Any) -> Handle:
        return self._cell.home.namespace.bitwise_xor(other, self) if _is_operand(other) else NotImplemented

    def __lshift__(self, other: Any) -> Handle:
        return self._cell.home.namespace.bitwise_left_shift(self, other) if _is_operand(other) else NotImplemented

    def __rlshift__(self, other: Any) -> Handle:
        return self._cell.home.namespace.bitwise_left_shift(other, self) if _is_operand(other) else NotImplemented

    def __rshift__(self, other: Any) -> Handle:
        return self._cell.home.namespace.bitwise_right_shift(self, other) if _is_operand(other) else NotImplemented

    def __rrshift__(self, other: Any) -> Handle:
        return self._cell.home.namespace.bitwise_right_shift(other, self) if _is_operand(other) else NotImplemented

    def __lt__(self, other: Any) -> Handle:
        return self._cell.home.namespace.less(self, other) if _is_operand(other) else NotImplemented

    def __le__(self, other: Any) -> Handle:
        return self._cell.home.namespace.less_equal(self, other) if _is_operand(other) else NotImplemented

    def __gt__(self, other: Any) -> Handle:
        return self._cell.home.namespace.greater(self, other) if _is_operand(other) else NotImplemented

    def __ge__(self, other: Any) -> Handle:
        return self._cell.home.namespace.greater_equal(self, other) if _is_operand(other) else NotImplemented

    def __eq__(self, other: Any) -> Handle:  # type: ignore[override]
        return self._cell.home.namespace.equal(self, other) if _is_operand(other) else NotImplemented

    def __ne__(self, other: Any) -> Handle:  # type: ignore[override]
        return self._cell.home.namespace.not_equal(self, other) if _is_operand(other) else NotImplemented

    def __neg__(self) -> Handle:
        return self._cell.home.namespace.negative(self)  # type: ignore[no-any-return]

    def __pos__(self) -> Handle:
        return self._cell.home.namespace.positive(self)  # type: ignore[no-any-return]

    def __abs__(self) -> Handle:
        return self._cell.home.namespace.abs(self)  # type: ignore[no-any-return]

    def __invert__(self) -> Handle:
        return self._cell.home.namespace.bitwise_invert(self)  # type: ignore[no-any-return]

    __hash__ = object.__hash__


def _is_operand(other: Any) -> bool:
    return isinstance(other, _OPERANDS)


_OPERANDS = (Operators, int, float, complex, np.ndarray, np.generic, list, tuple)
