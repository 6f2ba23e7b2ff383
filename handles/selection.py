"""Selection from handles: methods that choose, search and sort elements.

What changes an `ndarray` in place (`sort`, `fill`, `put`, ...) rebinds the handle: handles made from the old value keep
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, SupportsIndex

import numpy as np

from handles.holder import Holder
from handles.operands import call
from handles.views import rebind, refresh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from handles import Handle
    from handles.types import Fields, Mode, Out


class Selection(Holder):
    """Elements by their indices, indices by their elements."""

    __slots__ = ()

    def take(
        self, indices: ArrayLike, axis: SupportsIndex | None = None, out: Out = None, mode: Mode = "raise"
    ) -> Handle:
        """The elements at these indices."""
        return call(np.take, self, indices, axis=axis, out=out, mode=mode)

    def repeat(self, repeats: ArrayLike, axis: SupportsIndex | None = None) -> Handle:
        """Each element repeated."""
        return call(np.repeat, self, repeats, axis=axis)

    def choose(self, choices: ArrayLike, out: Out = None, mode: Mode = "raise") -> Handle:
        """Elements of the choices, by number."""
        return call(np.choose, self, choices, out=out, mode=mode)

    def compress(self, condition: ArrayLike, axis: SupportsIndex | None = None, out: Out = None) -> Handle:
        """The elements where the condition holds."""
        return call(np.compress, condition, self, axis=axis, out=out)

    def nonzero(self) -> tuple[Handle, ...]:
        """The indices of the elements that are not zero, an array for each dimension."""
        return call(np.nonzero, self)  # type: ignore[return-value]

    def searchsorted(self, v: ArrayLike, side: str = "left", sorter: ArrayLike | None = None) -> Handle:
        """Where to insert values so that the array stays sorted."""
        return call(np.searchsorted, self, v, side=side, sorter=sorter)

    def argsort(
        self,
        axis: SupportsIndex | None = -1,
        kind: str | None = None,
        order: Fields = None,
        *,
        stable: bool | None = None,
    ) -> Handle:
        """The indices that would sort the array along an axis."""
        return call(np.argsort, self, axis=axis, kind=kind, order=order, stable=stable)

    def argpartition(self, kth: ArrayLike, axis: SupportsIndex | None = -1, kind: str = "introselect") -> Handle:
        """The indices that would partition the array along an axis."""
        return call(np.argpartition, self, kth, axis=axis, kind=kind)


class Rearrangement(Holder):
    """Methods that change an array in place: the handle is rebound."""

    __slots__ = ()

    def __delitem__(self, key: object) -> NoReturn:
        raise ValueError("cannot delete array elements: np.delete(handle, index) gives an array without them")

    def sort(
        self,
        axis: SupportsIndex = -1,
        kind: str | None = None,
        order: Fields = None,
        *,
        stable: bool | None = None,
    ) -> None:
        """Rebind this handle to the sorted array."""
        refresh(self)
        rebind(self, call(np.sort, self, axis=axis, kind=kind, order=order, stable=stable))

    def partition(self, kth: ArrayLike, axis: SupportsIndex = -1, kind: str = "introselect") -> None:
        """Rebind this handle to the partitioned array."""
        refresh(self)
        rebind(self, call(np.partition, self, kth, axis=axis, kind=kind))

    def fill(self, value: ArrayLike) -> None:
        """Rebind this handle to an array of one value."""
        refresh(self)
        self._cell.home.namespace.attributes.write(self, "fill", value)

    def put(self, indices: ArrayLike, values: ArrayLike, mode: Mode = "raise") -> None:
        """Rebind this handle to the array with these elements replaced."""
        np.put(self, indices, values, mode=mode)  # type: ignore[arg-type]
