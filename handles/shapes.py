"""Shapes of handles: methods that give the same elements in another arrangement, mostly views."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

from handles.holder import Holder
from handles.operands import call
from handles.views import forget

if TYPE_CHECKING:
    from handles import Handle
    from handles.types import Axis, Lengths, Order


class Shapes(Holder):
    """The same elements in other shapes and orders of axes."""

    __slots__ = ()

    def reshape(self, *shape: Lengths, order: Order = "C", copy: bool | None = None) -> Handle:
        """The elements in another shape; one length may be -1."""
        lengths = shape[0] if len(shape) == 1 else shape
        return call(np.reshape, self, lengths, order=order, copy=copy)

    def transpose(self, *axes: Lengths | None) -> Handle:
        """The axes in another order; reversed when none is given."""
        order = None if not axes else axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return call(np.transpose, self, order)

    @property
    def T(self) -> Handle:
        """The axes in reverse order."""
        return call(np.transpose, self)

    @property
    def mT(self) -> Handle:
        """The last two axes exchanged. Raises `ValueError` with fewer than two."""
        return call(np.matrix_transpose, self)

    def swapaxes(self, axis1: SupportsIndex, axis2: SupportsIndex, /) -> Handle:
        """Two axes exchanged."""
        return call(np.swapaxes, self, axis1, axis2)

    def ravel(self, order: Order = "C") -> Handle:
        """The elements in one dimension."""
        return call(np.ravel, self, order=order)

    def flatten(self, order: Order = "C") -> Handle:
        """The elements in one dimension, always a copy."""
        return forget(call(np.ravel, self, order=order))

    def squeeze(self, axis: Axis = None) -> Handle:
        """Without axes of length 1."""
        return call(np.squeeze, self, axis=axis)

    def diagonal(self, offset: SupportsIndex = 0, axis1: SupportsIndex = 0, axis2: SupportsIndex = 1) -> Handle:
        """The elements of a diagonal."""
        return call(np.diagonal, self, offset=offset, axis1=axis1, axis2=axis2)
