"""Reductions of handles: methods that make one element of many, and running ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

from handles.holder import Holder
from handles.operands import NOT_GIVEN, call

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from handles import Handle
    from handles.types import Axis, Out, Start, Where


class Reductions(Holder):
    """Sums, products, extremes, means and spreads, of all elements or over axes."""

    __slots__ = ()

    def all(self, axis: Axis = None, out: Out = None, keepdims: bool = False, *, where: Where = NOT_GIVEN) -> Handle:
        """Tell whether all elements over the axes are true."""
        return call(np.all, self, axis=axis, out=out, keepdims=keepdims, where=where)

    def any(self, axis: Axis = None, out: Out = None, keepdims: bool = False, *, where: Where = NOT_GIVEN) -> Handle:
        """Tell whether any element over the axes is true."""
        return call(np.any, self, axis=axis, out=out, keepdims=keepdims, where=where)

    def sum(
        self,
        axis: Axis = None,
        dtype: DTypeLike | None = None,
        out: Out = None,
        keepdims: bool = False,
        initial: Start = NOT_GIVEN,
        where: Where = NOT_GIVEN,
    ) -> Handle:
        """Sum of the elements over the axes."""
        return call(np.sum, self, axis=axis, dtype=dtype, out=out, keepdims=keepdims, initial=initial, where=where)

    def prod(
        self,
        axis: Axis = None,
        dtype: DTypeLike | None = None,
        out: Out = None,
        keepdims: bool = False,
        initial: Start = NOT_GIVEN,
        where: Where = NOT_GIVEN,
    ) -> Handle:
        """Product of the elements over the axes."""
        return call(np.prod, self, axis=axis, dtype=dtype, out=out, keepdims=keepdims, initial=initial, where=where)

    def max(
        self,
        axis: Axis = None,
        out: Out = None,
        keepdims: bool = False,
        initial: Start = NOT_GIVEN,
        where: Where = NOT_GIVEN,
    ) -> Handle:
        """Largest element over the axes."""
        return call(np.max, self, axis=axis, out=out, keepdims=keepdims, initial=initial, where=where)

    def min(
        self,
        axis: Axis = None,
        out: Out = None,
        keepdims: bool = False,
        initial: Start = NOT_GIVEN,
        where: Where = NOT_GIVEN,
    ) -> Handle:
        """Smallest element over the axes."""
        return call(np.min, self, axis=axis, out=out, keepdims=keepdims, initial=initial, where=where)

    def mean(
        self,
        axis: Axis = None,
        dtype: DTypeLike | None = None,
        out: Out = None,
        keepdims: bool = False,
        *,
        where: Where = NOT_GIVEN,
    ) -> Handle:
        """Arithmetic mean of the elements over the axes."""
        return call(np.mean, self, axis=axis, dtype=dtype, out=out, keepdims=keepdims, where=where)

    def std(
        self,
        axis: Axis = None,
        dtype: DTypeLike | None = None,
        out: Out = None,
        ddof: float = 0,
        keepdims: bool = False,
        *,
        where: Where = NOT_GIVEN,
        mean: Start = NOT_GIVEN,
    ) -> Handle:
        """Standard deviation over the axes; `ddof` is taken from the number of elements."""
        return call(np.std, self, axis=axis, dtype=dtype, out=out, ddof=ddof, keepdims=keepdims, where=where, mean=mean)

    def var(
        self,
        axis: Axis = None,
        dtype: DTypeLike | None = None,
        out: Out = None,
        ddof: float = 0,
        keepdims: bool = False,
        *,
        where: Where = NOT_GIVEN,
        mean: Start = NOT_GIVEN,
    ) -> Handle:
        """Variance over the axes; `ddof` is taken from the number of elements."""
        return call(np.var, self, axis=axis, dtype=dtype, out=out, ddof=ddof, keepdims=keepdims, where=where, mean=mean)

    def argmax(self, axis: SupportsIndex | None = None, out: Out = None, *, keepdims: bool = False) -> Handle:
        """Index of the first largest element, along an axis or of all."""
        return call(np.argmax, self, axis=axis, out=out, keepdims=keepdims)

    def argmin(self, axis: SupportsIndex | None = None, out: Out = None, *, keepdims: bool = False) -> Handle:
        """Index of the first smallest element, along an axis or of all."""
        return call(np.argmin, self, axis=axis, out=out, keepdims=keepdims)

    def cumsum(self, axis: SupportsIndex | None = None, dtype: DTypeLike | None = None, out: Out = None) -> Handle:
        """Running sum along an axis, or of the flattened array."""
        return call(np.cumsum, self, axis=axis, dtype=dtype, out=out)

    def cumprod(self, axis: SupportsIndex | None = None, dtype: DTypeLike | None = None, out: Out = None) -> Handle:
        """Running product along an axis, or of the flattened array."""
        return call(np.cumprod, self, axis=axis, dtype=dtype, out=out)

    def trace(
        self,
        offset: SupportsIndex = 0,
        axis1: SupportsIndex = 0,
        axis2: SupportsIndex = 1,
        dtype: DTypeLike | None = None,
    ) -> Handle:
        """Sum along a diagonal."""
        return call(np.trace, self, offset=offset, axis1=axis1, axis2=axis2, dtype=dtype)
