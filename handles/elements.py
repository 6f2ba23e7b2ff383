"""Elements of handles: methods and attributes that convert or compute each element on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

from handles.holder import Holder
from handles.operands import call
from handles.views import refresh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from handles import Handle
    from handles.types import Order, Out


class Elements(Holder):
    """Casts, copies, parts of complex numbers, rounding and limits."""

    __slots__ = ()

    def astype(
        self, dtype: DTypeLike, order: Order = "K", casting: str = "unsafe", subok: bool = True, copy: bool = True
    ) -> Handle:
        """The elements in another dtype."""
        return self._cell.home.namespace.numpy_protocols.cast(self, dtype, order, casting, copy)

    def copy(self, order: Order = "C") -> Handle:
        """A copy."""
        return call(np.copy, self, order=order)

    def conj(self) -> Handle:
        """The complex conjugate of each element; real numbers as they are."""
        return self._cell.home.namespace.operators.conjugate(self)

    def conjugate(self) -> Handle:
        """The complex conjugate of each element; real numbers as they are."""
        return self._cell.home.namespace.operators.conjugate(self)

    @property
    def real(self) -> Handle:
        """The real part of each element."""
        return call(np.real, self)

    @real.setter
    def real(self, value: ArrayLike) -> None:
        self._write("real", value)

    @property
    def imag(self) -> Handle:
        """The imaginary part of each element."""
        return call(np.imag, self)

    @imag.setter
    def imag(self, value: ArrayLike) -> None:
        self._write("imag", value)

    def _write(self, attribute: str, value: ArrayLike) -> None:
        refresh(self)
        self._cell.home.namespace.attributes.write(self, attribute, value)

    def round(self, decimals: SupportsIndex = 0, out: Out = None) -> Handle:
        """Each element rounded to so many decimals."""
        return call(np.round, self, decimals=decimals, out=out)

    def clip(
        self,
        min: ArrayLike | None = None,  # noqa: A002
        max: ArrayLike | None = None,  # noqa: A002
        out: Out = None,
        **kwargs: object,
    ) -> Handle:
        """Each element limited to an interval."""
        return call(np.clip, self, min, max, out=out, **kwargs)

    def dot(self, other: ArrayLike, out: Out = None) -> Handle:
        """The dot product, as `numpy.dot`."""
        return call(np.dot, self, other, out=out)
