"""Comparisons of handles: elementwise with any object (strings, dates, None), as those of `ndarray` are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handles.holder import Holder
from handles.operands import NUMBERS

if TYPE_CHECKING:
    from handles import Handle


class Comparisons(Holder):
    """Equal, not equal, and the four orders; each gives booleans."""

    __slots__ = ()

    def __lt__(self, other: object) -> Handle:
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.less(self, other)
        return self._cell.home.namespace.operators.compared("less", self, other)

    def __le__(self, other: object) -> Handle:
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.less_equal(self, other)
        return self._cell.home.namespace.operators.compared("less_equal", self, other)

    def __gt__(self, other: object) -> Handle:
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.greater(self, other)
        return self._cell.home.namespace.operators.compared("greater", self, other)

    def __ge__(self, other: object) -> Handle:
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.greater_equal(self, other)
        return self._cell.home.namespace.operators.compared("greater_equal", self, other)

    def __eq__(self, other: object) -> Handle:  # type: ignore[override]
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.operators.equal(self, other)
        return self._cell.home.namespace.operators.compared("equal", self, other)

    def __ne__(self, other: object) -> Handle:  # type: ignore[override]
        if isinstance(other, NUMBERS):
            return self._cell.home.namespace.operators.not_equal(self, other)
        return self._cell.home.namespace.operators.compared("not_equal", self, other)
