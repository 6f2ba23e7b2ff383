"""Bit operators of handles, which on booleans are the logical ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handles.holder import Holder
from handles.operands import OURS

if TYPE_CHECKING:
    from handles import Handle


class Bits(Holder):
    """And, or, exclusive or, shifts, and inversion."""

    __slots__ = ()

    def __and__(self, other: object) -> Handle:
        return self._cell.home.namespace.bitwise_and(self, other) if isinstance(other, OURS) else NotImplemented

    def __rand__(self, other: object) -> Handle:
        return self._cell.home.namespace.bitwise_and(other, self) if isinstance(other, OURS) else NotImplemented

    def __or__(self, other: object) -> Handle:
        return self._cell.home.namespace.bitwise_or(self, other) if isinstance(other, OURS) else NotImplemented

    def __ror__(self, other: object) -> Handle:
        return self._cell.home.namespace.bitwise_or(other, self) if isinstance(other, OURS) else NotImplemented

    def __xor__(self, other: object) -> Handle:
        return self._cell.home.namespace.bitwise_xor(self, other) if isinstance(other, OURS) else NotImplemented

    def __rxor__(self, other: object) -> Handle:
        return self._cell.home.namespace.bitwise_xor(other, self) if isinstance(other, OURS) else NotImplemented

    def __lshift__(self, other: object) -> Handle:
        return self._cell.home.namespace.bitwise_left_shift(self, other) if isinstance(other, OURS) else NotImplemented

    def __rlshift__(self, other: object) -> Handle:
        return self._cell.home.namespace.bitwise_left_shift(other, self) if isinstance(other, OURS) else NotImplemented

    def __rshift__(self, other: object) -> Handle:
        return self._cell.home.namespace.bitwise_right_shift(self, other) if isinstance(other, OURS) else NotImplemented

    def __rrshift__(self, other: object) -> Handle:
        return self._cell.home.namespace.bitwise_right_shift(other, self) if isinstance(other, OURS) else NotImplemented

    def __invert__(self) -> Handle:
        return self._cell.home.namespace.bitwise_invert(self)
