"""Sorting, searching and set functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from engine.base.op import Op, ShapeDtype
from engine.ops import checks, costs
from engine.ops.infer import (
    axis_of_scalar,
    dtype_of,
    normalize_axes,
    normalize_axis,
    probe,
    reduced_axes,
    same,
    shape_of,
    without,
)
from engine.ops.rows import Axis, Operand, SearchRow, named, op_of_several
from engine.parallel.axes import along_axis, in_order
from engine.parallel.lanes import in_lanes
from engine.runtime.current import current
from handles.base import Handle

Array = np.ndarray[Any, Any]

INTP = np.dtype(np.intp)


def _sort(x: Any, *, axis: int, descending: bool, stable: bool, out: Any = None) -> Any:
    result = _sorted_stably(x, axis, out) if stable else _sorted(x, axis, out)
    return np.flip(result, axis) if descending else result


def _sorted(x: Any, axis: int, out: Any, *, stable: bool | None = None) -> Any:
    if out is None:
        return np.sort(x, axis=axis, stable=stable)
    np.copyto(out, x)
    out.sort(axis=axis, stable=stable)
    return out


def _sorted_stably(x: Array, axis: int, out: Array) -> Any:
    """`np.sort(x, axis, stable=True)`, by the sort that is not stable and many times as fast.

    Whether a sort of values is stable can be seen only where equal elements differ in their bits: zeros of either sign,
    and NaNs. Those are put back in the order in which they came.
    """
    if x.dtype.kind in "biu":
        return _sorted(x, axis, out)
    if x.dtype.kind != "f" or not x.size:
        return _sorted(x, axis, out, stable=True)
    if x.ndim != 1:
        differ = np.isnan(x).any() or not x.all()
        return _sorted(x, axis, out, stable=True if differ else None)
    result = _sorted(x, axis, out)
    zero = x.dtype.type(0)
    low, high = result.searchsorted(zero, "left"), result.searchsorted(zero, "right")
    if high - low > 1:
        result[low:high] = x[x == zero]
    if np.isnan(result[-1]):
        nans = x[np.isnan(x)]
        result[-nans.size :] = nans
    return result


def _argsort(x: Array, *, axis: int, descending: bool, stable: bool) -> object:
    if not descending:
        return np.argsort(x, axis=axis, stable=stable)
    # Flipped before and after, so that equal elements keep their order.
    order = np.flip(np.argsort(np.flip(x, axis), axis=axis, stable=stable), axis)
    return x.shape[axis] - 1 - order


def _infer_sort(x: object, *, axis: int, descending: bool, stable: bool) -> ShapeDtype:
    normalize_axis(axis, len(shape_of(x)))
    return same(x)


def _infer_argsort(x: object, *, axis: int, descending: bool, stable: bool) -> ShapeDtype:
    shape = axis_of_scalar(shape_of(x))
    normalize_axis(axis, len(shape))
    return ShapeDtype(shape, INTP)


_SORT = Op("sort", _sort, infer=_infer_sort, cost=costs.sorting(2), into=_sort, parallel=in_lanes(in_order))
_ARGSORT = Op("argsort", _argsort, infer=_infer_argsort, cost=costs.sorting(5), parallel=in_lanes(along_axis))


def _order(name: str, axis: int, descending: bool, stable: bool) -> dict[str, object]:
    return {
        "axis": checks.integer(name, "axis", axis),
        "descending": checks.flag(name, "descending", descending),
        "stable": checks.flag(name, "stable", stable),
    }


def sort(x: Operand, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Handle:
    """The elements in order along an axis."""
    return current().dispatch(_SORT, x, params=_order("sort", axis, descending, stable))


def argsort(x: Operand, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Handle:
    """The indices that put the elements in order along an axis."""
    return current().dispatch(_ARGSORT, x, params=_order("argsort", axis, descending, stable))


# ---------------------------------------------------------------------------------------------------------------------
# Searching


def _search(name: str, kernel: Callable[..., object], doc: str) -> SearchRow:
    def infer(x: Any, *, axis: int | None, keepdims: bool) -> ShapeDtype:
        shape = shape_of(x)
        probe(kernel, dtype_of(x))
        return ShapeDtype(without(shape, reduced_axes(axis, len(shape)), keepdims=keepdims), INTP)

    op = Op(name, kernel, infer=infer, ns=1, parallel=in_lanes(along_axis))

    def function(x: Operand, /, *, axis: int | None = None, keepdims: bool = False) -> Handle:
        params = {"axis": checks.axis_or_none(name, axis), "keepdims": checks.flag(name, "keepdims", keepdims)}
        return current().dispatch(op, x, params=params)

    return named(function, name, doc)


argmax = _search("argmax", np.argmax, "Index of the first largest element, along an axis or of all.")
argmin = _search("argmin", np.argmin, "Index of the first smallest element, along an axis or of all.")


def _infer_count(x: object, *, axis: Axis, keepdims: bool) -> ShapeDtype:
    shape = shape_of(x)
    if not shape and axis is not None:
        normalize_axes(axis, 1)
        return ShapeDtype((), INTP)
    return ShapeDtype(without(shape, normalize_axes(axis, len(shape)), keepdims=keepdims), INTP)


_COUNT = Op("count_nonzero", np.count_nonzero, infer=_infer_count, ns=1, parallel=in_lanes(along_axis))


def count_nonzero(x: Operand, /, *, axis: Axis = None, keepdims: bool = False) -> Handle:
    """How many elements over the axes are not zero."""
    params = {
        "axis": checks.axes("count_nonzero", axis),
        "keepdims": checks.flag("count_nonzero", "keepdims", keepdims),
    }
    return current().dispatch(_COUNT, x, params=params)


def nonzero(x: Operand, /) -> tuple[Handle, ...]:
    """The indices of the elements that are not zero: one array for each dimension, of a length known once it has run.

    Raises `ValueError` at the call for an array of no dimensions.
    """
    ndim = len(x.shape if isinstance(x, Handle) else np.shape(x))  # type: ignore[arg-type]
    if ndim == 0:
        raise ValueError("nonzero: x must have at least one dimension")
    return current().dispatch_several(_nonzero(ndim), (x,))


def _nonzero(ndim: int) -> Op:
    def infer(x: Any) -> Any:
        return tuple(ShapeDtype((None,), INTP) for _ in shape_of(x))

    return op_of_several("nonzero", np.nonzero, ndim, infer=infer, ns=5)


def _searchsorted(x1: Array, x2: Array, *sorter: Array, side: Literal["left", "right"]) -> object:
    return np.searchsorted(x1, x2, side=side, sorter=sorter[0] if sorter else None)


def _infer_searchsorted(x1: object, x2: object, *sorter: object, side: str) -> ShapeDtype:
    np.result_type(dtype_of(x1), dtype_of(x2))
    return ShapeDtype(shape_of(x2), INTP)


_SEARCHSORTED = Op("searchsorted", _searchsorted, infer=_infer_searchsorted, cost=costs.each(50))


def searchsorted(
    x1: Operand, x2: Operand, /, *, side: Literal["left", "right"] = "left", sorter: Operand | None = None
) -> Handle:
    """Where to insert the elements of `x2` so that the one-dimensional `x1` (in the order of `sorter`) stays sorted."""
    operands = (x1, x2) if sorter is None else (x1, x2, sorter)
    side = checks.one_of("searchsorted", "side", side, ("left", "right"))
    return current().dispatch_any(_SEARCHSORTED, operands, {"side": side})


# ---------------------------------------------------------------------------------------------------------------------
# Sets


class UniqueAllResult(NamedTuple):
    """Unique values, the index of the first of each, how to build the array from them, and how often each occurs."""

    values: Handle
    indices: Handle
    inverse_indices: Handle
    counts: Handle


class UniqueCountsResult(NamedTuple):
    """Unique values, and how often each occurs."""

    values: Handle
    counts: Handle


class UniqueInverseResult(NamedTuple):
    """Unique values, and how to build the array from them."""

    values: Handle
    inverse_indices: Handle


def _values(x: object) -> ShapeDtype:
    return ShapeDtype((None,), dtype_of(x))


_SOME = ShapeDtype((None,), INTP)
_UNIQUE_COST = costs.sorting(8)

_UNIQUE_ALL = Op(
    "unique_all",
    np.unique_all,
    infer=lambda x: (_values(x), _SOME, ShapeDtype(shape_of(x), INTP), _SOME),
    cost=_UNIQUE_COST,
    outputs=4,
)
_UNIQUE_COUNTS = Op(
    "unique_counts", np.unique_counts, infer=lambda x: (_values(x), _SOME), cost=_UNIQUE_COST, outputs=2
)
_UNIQUE_INVERSE = Op(
    "unique_inverse",
    np.unique_inverse,
    infer=lambda x: (_values(x), ShapeDtype(shape_of(x), INTP)),
    cost=_UNIQUE_COST,
    outputs=2,
)
_UNIQUE_VALUES = Op("unique_values", np.unique_values, infer=_values, cost=_UNIQUE_COST)


def unique_all(x: Operand, /) -> UniqueAllResult:
    """The unique elements of the flattened array, with first indices, inverse indices and counts."""
    return UniqueAllResult(*current().dispatch_several(_UNIQUE_ALL, (x,)))


def unique_counts(x: Operand, /) -> UniqueCountsResult:
    """The unique elements of the flattened array, with counts."""
    return UniqueCountsResult(*current().dispatch_several(_UNIQUE_COUNTS, (x,)))


def unique_inverse(x: Operand, /) -> UniqueInverseResult:
    """The unique elements of the flattened array, with the indices that rebuild it."""
    return UniqueInverseResult(*current().dispatch_several(_UNIQUE_INVERSE, (x,)))


def unique_values(x: Operand, /) -> Handle:
    """The unique elements of the flattened array."""
    return current().dispatch(_UNIQUE_VALUES, x)


def _infer_isin(x1: object, x2: object, *, invert: bool) -> ShapeDtype:
    return ShapeDtype(shape_of(x1), np.dtype(bool))


_ISIN = Op("isin", np.isin, infer=_infer_isin, cost=costs.sorting(8))


def isin(x1: Operand, x2: Operand, /, *, invert: bool = False) -> Handle:
    """Tell whether each element of `x1` is among those of `x2` (or is not, with `invert`)."""
    return current().dispatch(_ISIN, x1, x2, {"invert": checks.flag("isin", "invert", invert)})
