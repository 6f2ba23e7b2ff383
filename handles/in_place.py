"""In-place operators of handles: `h += x` rebinds `h`, and handles made from the old value keep it."""

from __future__ import annotations

from typing import Any, Self

from handles.holder import Holder
from handles.operands import OURS
from handles.views import rebind, refresh


class InPlace(Holder):
    """The operators that give a handle a new value; its dtype and shape stay, as they do in an `ndarray`."""

    __slots__ = ()

    def __iadd__(self, other: object) -> Self:
        return self._update("add", other) if isinstance(other, OURS) else NotImplemented

    def __isub__(self, other: object) -> Self:
        return self._update("subtract", other) if isinstance(other, OURS) else NotImplemented

    def __imul__(self, other: object) -> Self:
        return self._update("multiply", other) if isinstance(other, OURS) else NotImplemented

    def __itruediv__(self, other: object) -> Self:
        return self._update("divide", other) if isinstance(other, OURS) else NotImplemented

    def __ifloordiv__(self, other: object) -> Self:
        return self._update("floor_divide", other) if isinstance(other, OURS) else NotImplemented

    def __imod__(self, other: object) -> Self:
        return self._update("remainder", other) if isinstance(other, OURS) else NotImplemented

    def __ipow__(self, other: object) -> Self:
        return self._update("power", other) if isinstance(other, OURS) else NotImplemented

    def __imatmul__(self, other: object) -> Self:
        return self._update("matmul", other) if isinstance(other, OURS) else NotImplemented

    def __iand__(self, other: object) -> Self:
        return self._update("bitwise_and", other) if isinstance(other, OURS) else NotImplemented

    def __ior__(self, other: object) -> Self:
        return self._update("bitwise_or", other) if isinstance(other, OURS) else NotImplemented

    def __ixor__(self, other: object) -> Self:
        return self._update("bitwise_xor", other) if isinstance(other, OURS) else NotImplemented

    def __ilshift__(self, other: object) -> Self:
        return self._update("left_shift", other) if isinstance(other, OURS) else NotImplemented

    def __irshift__(self, other: object) -> Self:
        return self._update("right_shift", other) if isinstance(other, OURS) else NotImplemented

    def _update(self, ufunc: str, other: object) -> Self:
        """`self op= other`."""
        cell = self._cell
        if cell.op.memory.view or cell.rare is not None:
            refresh(self)
            return rebind(self, cell.home.namespace.operators.updated(ufunc, self, other), update=True)
        new = cell.home.namespace.operators.updated(ufunc, self, other)
        mine: Any = self
        mine._cell = new._cell  # as `rebind` does for what is no view
        if mine.__class__ is not new.__class__:
            mine.__class__ = new.__class__
        return self
