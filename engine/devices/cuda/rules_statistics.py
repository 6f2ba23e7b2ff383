"""Rules of reductions, sorting, searching and sets, and of frequencies: in the functions that CuPy has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.devices.cuda.runtime import Namespace, Rule, Term

_eagerloop_internal = True  # its frames are not the user's

INTP = np.dtype(np.intp)
Xp = Namespace


def is_array(x: Term) -> bool:
    """Tell whether an operand is an array of the GPU; it may be a scalar."""
    return hasattr(x, "shape") and not isinstance(x, np.generic)


def array_of(xp: Xp, x: Term) -> Term:
    """An operand as an array of the GPU: it may be a scalar."""
    if is_array(x):
        return x
    array = np.asarray(x)
    if array.dtype.kind == "O":
        raise OverflowError(f"Python integer {x} out of bounds for int64")
    return xp.asarray(array)


def as_computed(x: Term, dtype: np.dtype[Term]) -> Term:
    """An operand that is computed in this dtype: a scalar as NumPy converts it, where CuPy would refuse it or take it
    for another one. Raises `OverflowError` as NumPy does for a Python integer that the dtype cannot hold.
    """
    if isinstance(x, np.generic):
        return x if x.dtype == dtype else x.astype(dtype)
    if x.__class__ is not int:
        return x
    if dtype.kind in "fc":
        with np.errstate(over="ignore"):
            return np.asarray(float(x)).astype(dtype)[()]
    if is_too_wide(x, dtype):
        raise OverflowError(f"Python integer {x} out of bounds for {dtype}")
    return x


def as_written(x: Term, dtype: np.dtype[Term]) -> Term:
    """A value that is written to elements of this dtype. Raises what NumPy does for a number that it cannot hold."""
    if x.__class__ not in (int, float, complex):
        return x
    element = np.zeros((), dtype)
    with np.errstate(over="ignore"):
        element[()] = x
    return element[()]


def is_too_wide(x: Term, dtype: np.dtype[Term]) -> bool:
    """Tell whether an operand is a Python integer that integers of this dtype cannot be."""
    return x.__class__ is int and dtype.kind in "iu" and not np.iinfo(dtype).min <= x <= np.iinfo(dtype).max


def shape_of(x: Term) -> tuple[int, ...]:
    """The shape of an operand, which may be a scalar."""
    return tuple(getattr(x, "shape", ()))


# Statistics, sorting, searching


def axis_of(x: Term, axis: Term) -> Term:
    """The axis of a reduction: NumPy takes 0 and -1 for an array that has none."""
    return None if not x.ndim and axis.__class__ is int and axis in (0, -1) else axis


def _reduction(name: str) -> Rule:
    def rule(xp: Xp, x: Term, *, axis: Term = None, keepdims: bool = False, **params: Term) -> Term:
        x = array_of(xp, x)
        return getattr(xp, name)(x, axis=axis_of(x, axis), keepdims=keepdims, **params)

    return rule


def _spread(name: str) -> Rule:
    def rule(xp: Xp, x: Term, *, axis: Term, correction: float, keepdims: bool) -> Term:
        x = array_of(xp, x)
        return getattr(xp, name)(x, axis=axis_of(x, axis), ddof=correction, keepdims=keepdims)

    return rule


def _running(name: str, empty: int) -> Rule:
    def rule(xp: Xp, x: Term, *, axis: int | None, dtype: Term, include_initial: bool) -> Term:
        x = array_of(xp, x)
        x = x.reshape((1,)) if x.ndim == 0 else x
        if axis is None and x.ndim > 1:
            raise ValueError("For arrays which have more than one dimension ``axis`` argument is required.")
        axis = 0 if axis is None else axis
        result = getattr(xp, name)(x, axis=axis, dtype=dtype)
        if not include_initial:
            return result
        shape = list(result.shape)
        shape[axis] = 1
        return xp.concatenate([xp.full(tuple(shape), empty, dtype=result.dtype), result], axis=axis)

    return rule


def _diff(xp: Xp, x: Term, *ends: Term, axis: int, n: int, given: tuple[str, ...]) -> Term:
    return xp.diff(array_of(xp, x), n=n, axis=axis, **dict(zip(given, ends, strict=True)))


def _count_nonzero(xp: Xp, x: Term, *, axis: Term, keepdims: bool) -> Term:
    x = array_of(xp, x)
    return xp.sum(x != 0, axis=axis_of(x, axis), keepdims=keepdims, dtype=INTP)


def _search(name: str) -> Rule:
    def rule(xp: Xp, x: Term, *, axis: int | None, keepdims: bool) -> Term:
        x = array_of(xp, x)
        return getattr(xp, name)(x, axis=axis_of(x, axis), keepdims=keepdims).astype(INTP, copy=False)

    return rule


def _sort(xp: Xp, x: Term, *, axis: int, descending: bool, stable: bool, out: Term = None) -> Term:
    result = xp.sort(x, axis=axis, kind="stable")
    return xp.flip(result, axis) if descending else result


def _argsort(xp: Xp, x: Term, *, axis: int, descending: bool, stable: bool) -> Term:
    if not descending:
        return xp.argsort(x, axis=axis, kind="stable")
    order = xp.flip(xp.argsort(xp.flip(x, axis), axis=axis, kind="stable"), axis)  # equal elements keep their order
    return x.shape[axis] - 1 - order


def _searchsorted(xp: Xp, x1: Term, x2: Term, *sorter: Term, side: str) -> Term:
    found = xp.searchsorted(x1, array_of(xp, x2), side=side, sorter=sorter[0] if sorter else None)
    return found.astype(INTP, copy=False)


def _nonzero(xp: Xp, x: Term) -> Term:
    return tuple(xp.nonzero(x))


def _unique(*wanted: str) -> Rule:
    """The rule of a set function: each NaN is a value of its own, as the standard has it."""

    def rule(xp: Xp, x: Term) -> Term:
        flat = array_of(xp, x).ravel()
        flags = {f"return_{each}": True for each in wanted}
        result = xp.unique(flat, equal_nan=False, **flags)
        if not wanted:
            return result
        parts = list(result)
        if "inverse" in wanted:
            place = 1 + wanted.index("inverse")
            parts[place] = parts[place].reshape(shape_of(x))
        return (parts[0], *(each.astype(INTP, copy=False) for each in parts[1:]))

    return rule


def _isin(xp: Xp, x1: Term, x2: Term, *, invert: bool) -> Term:
    return xp.isin(array_of(xp, x1), array_of(xp, x2), invert=invert)


# Transforms


def _frequencies(name: str) -> Rule:
    def rule(xp: Xp, *, n: int, d: float, dtype: np.dtype[Term]) -> Term:
        return getattr(xp.fft, name)(n, d=d).astype(dtype, copy=False)

    return rule


_OPS = "engine.ops."

STATISTICS: Mapping[str, Rule] = {
    "numpy:all": _reduction("all"),
    "numpy:any": _reduction("any"),
    "numpy:argmax": _search("argmax"),
    "numpy:argmin": _search("argmin"),
    "numpy:count_nonzero": _count_nonzero,
    "numpy:cumulative_prod": _running("cumprod", 1),
    "numpy:cumulative_sum": _running("cumsum", 0),
    "numpy:isin": _isin,
    "numpy:max": _reduction("max"),
    "numpy:mean": _reduction("mean"),
    "numpy:min": _reduction("min"),
    "numpy:prod": _reduction("prod"),
    "numpy:sum": _reduction("sum"),
    "numpy:unique_all": _unique("index", "inverse", "counts"),
    "numpy:unique_counts": _unique("counts"),
    "numpy:unique_inverse": _unique("inverse"),
    "numpy:unique_values": _unique(),
    f"{_OPS}fft:_frequencies.<locals>.run:fft.fftfreq": _frequencies("fftfreq"),
    f"{_OPS}fft:_frequencies.<locals>.run:fft.rfftfreq": _frequencies("rfftfreq"),
    f"{_OPS}sorting:_argsort": _argsort,
    f"{_OPS}sorting:_searchsorted": _searchsorted,
    f"{_OPS}sorting:_sort": _sort,
    f"{_OPS}statistics:_diff": _diff,
    f"{_OPS}statistics:_spread.<locals>.run:std": _spread("std"),
    f"{_OPS}statistics:_spread.<locals>.run:var": _spread("var"),
    "numpy:nonzero": _nonzero,
    f"{_OPS}rows:op_of_several.<locals>.only:nonzero": lambda xp, x: _nonzero(xp, x)[0],
}
