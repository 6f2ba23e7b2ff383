"""Methods of a handle: those of `ndarray`, with its signatures; each is the NumPy function of that name on the handle.

What changes an `ndarray` in place (`sort`, `fill`, `put`, ...) rebinds the handle: handles made from the old value keep
it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, SupportsIndex

import numpy as np

from handles.holder import H, Holder
from handles.operators import OURS
from handles.views import CHANGES, VIEWS, forget, link_results, rebind, refresh, refresh_target

Axis = SupportsIndex | tuple[SupportsIndex, ...] | None
Order = Literal["C", "F", "A", "K"]

_NOT_GIVEN: Any = np._NoValue

MASKED = "masked arrays are not supported: pass .filled(value), or .data and .mask apart"
"""The error for a masked array among the operands."""


class Methods(Holder, Generic[H]):
    """Methods that NumPy users call on arrays, and NumPy's own protocols."""

    __slots__ = ()

    # Protocols

    __array_priority__ = 1000.0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if not all(map(_may_take, inputs)):
            return NotImplemented
        if kwargs or method == "at":
            for target in (*_handles_of(kwargs.get("out", ())), *_handles_of(inputs[:1] if method == "at" else ())):
                refresh(target)
        return self._cell.home.namespace.numpy_protocols.call_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not all(issubclass(each, Methods | np.ndarray) for each in types):
            return NotImplemented
        known = VIEWS.get(function)
        if known is CHANGES:
            refresh_target(function, args, kwargs)
        result = self._cell.home.namespace.numpy_protocols.call_function(function, args, kwargs)
        if known is None or known is CHANGES or getattr(result, "_link", None) is not None:
            return result  # no view, or linked by the row that made it
        return link_results(function, args, kwargs, result)

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """The array API namespace, `engine.ops`. Raises `ValueError` for a version of the standard not supported."""
        if api_version is not None and api_version not in VERSIONS:
            raise ValueError(f"api_version must be one of {', '.join(VERSIONS)}, but got {api_version!r}")
        return self._cell.home.namespace

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> H:
        """Call a NumPy function with what was given."""
        given = {name: value for name, value in kwargs.items() if value is not _NOT_GIVEN}
        return function(*args, **given)  # type: ignore[no-any-return]

    # Reductions

    def all(self, axis: Axis = None, out: Any = None, keepdims: bool = False, *, where: Any = _NOT_GIVEN) -> H:
        """Tell whether all elements over the axes are true."""
        return self._call(np.all, self, axis=axis, out=out, keepdims=keepdims, where=where)

    def any(self, axis: Axis = None, out: Any = None, keepdims: bool = False, *, where: Any = _NOT_GIVEN) -> H:
        """Tell whether any element over the axes is true."""
        return self._call(np.any, self, axis=axis, out=out, keepdims=keepdims, where=where)

    def sum(
        self,
        axis: Axis = None,
        dtype: Any = None,
        out: Any = None,
        keepdims: bool = False,
        initial: Any = _NOT_GIVEN,
        where: Any = _NOT_GIVEN,
    ) -> H:
        """Sum of the elements over the axes."""
        return self._call(
            np.sum, self, axis=axis, dtype=dtype, out=out, keepdims=keepdims, initial=initial, where=where
        )

    def prod(
        self,
        axis: Axis = None,
        dtype: Any = None,
        out: Any = None,
        keepdims: bool = False,
        initial: Any = _NOT_GIVEN,
        where: Any = _NOT_GIVEN,
    ) -> H:
        """Product of the elements over the axes."""
        return self._call(
            np.prod, self, axis=axis, dtype=dtype, out=out, keepdims=keepdims, initial=initial, where=where
        )

    def max(
        self,
        axis: Axis = None,
        out: Any = None,
        keepdims: bool = False,
        initial: Any = _NOT_GIVEN,
        where: Any = _NOT_GIVEN,
    ) -> H:
        """Largest element over the axes."""
        return self._call(np.max, self, axis=axis, out=out, keepdims=keepdims, initial=initial, where=where)

    def min(
        self,
        axis: Axis = None,
        out: Any = None,
        keepdims: bool = False,
        initial: Any = _NOT_GIVEN,
        where: Any = _NOT_GIVEN,
    ) -> H:
        """Smallest element over the axes."""
        return self._call(np.min, self, axis=axis, out=out, keepdims=keepdims, initial=initial, where=where)

    def mean(
        self, axis: Axis = None, dtype: Any = None, out: Any = None, keepdims: bool = False, *, where: Any = _NOT_GIVEN
    ) -> H:
        """Arithmetic mean of the elements over the axes."""
        return self._call(np.mean, self, axis=axis, dtype=dtype, out=out, keepdims=keepdims, where=where)

    def std(
        self,
        axis: Axis = None,
        dtype: Any = None,
        out: Any = None,
        ddof: float = 0,
        keepdims: bool = False,
        *,
        where: Any = _NOT_GIVEN,
        mean: Any = _NOT_GIVEN,
    ) -> H:
        """Standard deviation over the axes; `ddof` is taken from the number of elements."""
        return self._call(
            np.std, self, axis=axis, dtype=dtype, out=out, ddof=ddof, keepdims=keepdims, where=where, mean=mean
        )

    def var(
        self,
        axis: Axis = None,
        dtype: Any = None,
        out: Any = None,
        ddof: float = 0,
        keepdims: bool = False,
        *,
        where: Any = _NOT_GIVEN,
        mean: Any = _NOT_GIVEN,
    ) -> H:
        """Variance over the axes; `ddof` is taken from the number of elements."""
        return self._call(
            np.var, self, axis=axis, dtype=dtype, out=out, ddof=ddof, keepdims=keepdims, where=where, mean=mean
        )

    def argmax(self, axis: SupportsIndex | None = None, out: Any = None, *, keepdims: bool = False) -> H:
        """Index of the first largest element, along an axis or of all."""
        return self._call(np.argmax, self, axis=axis, out=out, keepdims=keepdims)

    def argmin(self, axis: SupportsIndex | None = None, out: Any = None, *, keepdims: bool = False) -> H:
        """Index of the first smallest element, along an axis or of all."""
        return self._call(np.argmin, self, axis=axis, out=out, keepdims=keepdims)

    def cumsum(self, axis: SupportsIndex | None = None, dtype: Any = None, out: Any = None) -> H:
        """Running sum along an axis, or of the flattened array."""
        return self._call(np.cumsum, self, axis=axis, dtype=dtype, out=out)

    def cumprod(self, axis: SupportsIndex | None = None, dtype: Any = None, out: Any = None) -> H:
        """Running product along an axis, or of the flattened array."""
        return self._call(np.cumprod, self, axis=axis, dtype=dtype, out=out)

    def trace(
        self, offset: SupportsIndex = 0, axis1: SupportsIndex = 0, axis2: SupportsIndex = 1, dtype: Any = None
    ) -> H:
        """Sum along a diagonal."""
        return self._call(np.trace, self, offset=offset, axis1=axis1, axis2=axis2, dtype=dtype)

    # Shapes

    def reshape(self, *shape: Any, order: Order = "C", copy: bool | None = None) -> H:
        """The elements in another shape; one length may be -1."""
        lengths = shape[0] if len(shape) == 1 else shape
        return self._call(np.reshape, self, lengths, order=order, copy=copy)

    def transpose(self, *axes: Any) -> H:
        """The axes in another order; reversed when none is given."""
        order = None if not axes else axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return self._call(np.transpose, self, order)

    @property
    def T(self) -> H:
        """The axes in reverse order."""
        return self._call(np.transpose, self)

    @property
    def mT(self) -> H:
        """The last two axes exchanged. Raises `ValueError` with fewer than two."""
        return self._call(np.matrix_transpose, self)

    def swapaxes(self, axis1: SupportsIndex, axis2: SupportsIndex, /) -> H:
        """Two axes exchanged."""
        return self._call(np.swapaxes, self, axis1, axis2)

    def ravel(self, order: Order = "C") -> H:
        """The elements in one dimension."""
        return self._call(np.ravel, self, order=order)

    def flatten(self, order: Order = "C") -> H:
        """The elements in one dimension, always a copy."""
        return forget(self._call(np.ravel, self, order=order))

    def squeeze(self, axis: Axis = None) -> H:
        """Without axes of length 1."""
        return self._call(np.squeeze, self, axis=axis)

    def diagonal(self, offset: SupportsIndex = 0, axis1: SupportsIndex = 0, axis2: SupportsIndex = 1) -> H:
        """The elements of a diagonal."""
        return self._call(np.diagonal, self, offset=offset, axis1=axis1, axis2=axis2)

    # Elements

    def astype(
        self, dtype: Any, order: Order = "K", casting: str = "unsafe", subok: bool = True, copy: bool = True
    ) -> H:
        """The elements in another dtype."""
        return self._cell.home.namespace.numpy_protocols.cast(self, dtype, order, casting, copy)  # type: ignore[no-any-return]

    def copy(self, order: Order = "C") -> H:
        """A copy."""
        return self._call(np.copy, self, order=order)

    def conj(self) -> H:
        """The complex conjugate of each element; real numbers as they are."""
        return self._cell.home.namespace.operators.conjugate(self)  # type: ignore[no-any-return]

    def conjugate(self) -> H:
        """The complex conjugate of each element; real numbers as they are."""
        return self._cell.home.namespace.operators.conjugate(self)  # type: ignore[no-any-return]

    @property
    def real(self) -> H:
        """The real part of each element."""
        return self._call(np.real, self)

    @real.setter
    def real(self, value: Any) -> None:
        self._write("real", value)

    @property
    def imag(self) -> H:
        """The imaginary part of each element."""
        return self._call(np.imag, self)

    @imag.setter
    def imag(self, value: Any) -> None:
        self._write("imag", value)

    def _write(self, attribute: str, value: Any) -> None:
        refresh(self)
        self._cell.home.namespace.attributes.write(self, attribute, value)

    def round(self, decimals: SupportsIndex = 0, out: Any = None) -> H:
        """Each element rounded to so many decimals."""
        return self._call(np.round, self, decimals=decimals, out=out)

    def clip(self, min: Any = None, max: Any = None, out: Any = None, **kwargs: Any) -> H:  # noqa: A002
        """Each element limited to an interval."""
        return self._call(np.clip, self, min, max, out=out, **kwargs)

    def dot(self, other: Any, out: Any = None) -> H:
        """The dot product, as `numpy.dot`."""
        return self._call(np.dot, self, other, out=out)

    def take(self, indices: Any, axis: SupportsIndex | None = None, out: Any = None, mode: str = "raise") -> H:
        """The elements at these indices."""
        return self._call(np.take, self, indices, axis=axis, out=out, mode=mode)

    def repeat(self, repeats: Any, axis: SupportsIndex | None = None) -> H:
        """Each element repeated."""
        return self._call(np.repeat, self, repeats, axis=axis)

    def choose(self, choices: Any, out: Any = None, mode: str = "raise") -> H:
        """Elements of the choices, by number."""
        return self._call(np.choose, self, choices, out=out, mode=mode)

    def compress(self, condition: Any, axis: SupportsIndex | None = None, out: Any = None) -> H:
        """The elements where the condition holds."""
        return self._call(np.compress, condition, self, axis=axis, out=out)

    def nonzero(self) -> tuple[H, ...]:
        """The indices of the elements that are not zero, an array for each dimension."""
        arrays: Any = self._call(np.nonzero, self)
        return arrays  # type: ignore[no-any-return]

    def searchsorted(self, v: Any, side: str = "left", sorter: Any = None) -> H:
        """Where to insert values so that the array stays sorted."""
        return self._call(np.searchsorted, self, v, side=side, sorter=sorter)

    def argsort(
        self, axis: SupportsIndex | None = -1, kind: Any = None, order: Any = None, *, stable: bool | None = None
    ) -> H:
        """The indices that would sort the array along an axis."""
        return self._call(np.argsort, self, axis=axis, kind=kind, order=order, stable=stable)

    def argpartition(self, kth: Any, axis: SupportsIndex | None = -1, kind: Any = "introselect") -> H:
        """The indices that would partition the array along an axis."""
        return self._call(np.argpartition, self, kth, axis=axis, kind=kind)

    # What changes an array in place: the handle is rebound

    def sort(
        self, axis: SupportsIndex = -1, kind: Any = None, order: Any = None, *, stable: bool | None = None
    ) -> None:
        """Rebind this handle to the sorted array."""
        refresh(self)
        rebind(self, self._call(np.sort, self, axis=axis, kind=kind, order=order, stable=stable))

    def partition(self, kth: Any, axis: SupportsIndex = -1, kind: Any = "introselect") -> None:
        """Rebind this handle to the partitioned array."""
        refresh(self)
        rebind(self, self._call(np.partition, self, kth, axis=axis, kind=kind))

    def fill(self, value: Any) -> None:
        """Rebind this handle to an array of one value."""
        np.copyto(self, value, casting="unsafe")  # type: ignore[arg-type]

    def put(self, indices: Any, values: Any, mode: Literal["raise", "wrap", "clip"] = "raise") -> None:
        """Rebind this handle to the array with these elements replaced."""
        np.put(self, indices, values, mode=mode)  # type: ignore[arg-type]


VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")
"""The versions of the array API standard that the namespace serves."""


def _may_take(other: Any) -> bool:
    """Tell whether an operand of a ufunc is ours to compute with; an array of another library gets the first say."""
    return isinstance(other, OURS) or not hasattr(type(other), "__array_ufunc__")


def _handles_of(outs: Any) -> list[Any]:
    return [each for each in (outs if isinstance(outs, tuple) else (outs,)) if isinstance(each, Methods)]
