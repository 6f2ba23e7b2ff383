"""Rules: the engine's own kernels, and functions whose parameters or results differ in CuPy, in CuPy's functions.

A rule takes the namespace (`cupy`) and what the kernel takes. It uses only names and parameters that CuPy has, so that
it can be tried with NumPy's namespace cut down to those. A row is named by the module and the name of the kernel, and
by the op where one kernel serves several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from engine.base.pytree import Slot, fill
from engine.devices.cuda.bounds import check_exponents, check_indices, check_key
from engine.devices.cuda.rules_linalg import LINALG
from engine.devices.cuda.rules_statistics import (
    STATISTICS,
    array_of,
    as_computed,
    as_written,
    is_array,
    is_too_wide,
    shape_of,
)
from engine.devices.cuda.runtime import Namespace, Rule, Term

_eagerloop_internal = True  # its frames are not the user's

Xp = Namespace


# Creation


def _full(xp: Xp, value: Term, *, shape: Term, dtype: Term) -> Term:
    return _filled_with(xp, shape, value, _dtype_of(value) if dtype is None else dtype)


def _filled_with(xp: Xp, shape: Term, value: Term, dtype: Term) -> Term:
    """An array of this shape; a value with dimensions, which CuPy does not fill with, is broadcast."""
    if len(shape_of(value)):
        return xp.broadcast_to(value, shape).astype(dtype)
    return xp.full(shape, as_computed(value, np.dtype(dtype)) if value.__class__ is int else value, dtype=dtype)


def _dtype_of(value: Term) -> Term:
    return value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype


def _full_like(xp: Xp, x: Term, value: Term, *, dtype: Term) -> Term:
    return _filled_with(xp, shape_of(x), value, _dtype_of(x) if dtype is None else dtype)


def _filled(name: str) -> Rule:
    def rule(xp: Xp, *, shape: Term, dtype: Term) -> Term:
        return getattr(xp, name)(shape, dtype=np.float64 if dtype is None else dtype)

    return rule


def _like(name: str) -> Rule:
    def rule(xp: Xp, x: Term, *, dtype: Term) -> Term:
        return getattr(xp, name)(shape_of(x), dtype=_dtype_of(x) if dtype is None else dtype)

    return rule


def _eye(xp: Xp, *, rows: int, columns: int, k: int, dtype: Term) -> Term:
    return xp.eye(rows, columns, k, dtype=np.float64 if dtype is None else dtype)


def _arange(xp: Xp, *, start: Term, stop: Term, step: Term, dtype: Term, length: int) -> Term:
    if dtype is None:  # NumPy looks at the types of all three, not at what they are
        dtype = np.arange(type(start)(0), type(stop)(0), type(step)(1)).dtype
    return xp.arange(start, stop, step, dtype=dtype)


def _linspace(xp: Xp, start: Term, stop: Term, *, length: int, dtype: Term, endpoint: bool) -> Term:
    return xp.linspace(start, stop, length, dtype=dtype, endpoint=endpoint)


def _asarray(xp: Xp, x: Term, **params: Term) -> Term:
    return array_of(xp, x)


def _copy(xp: Xp, x: Term, **params: Term) -> Term:
    return array_of(xp, x).copy()


def _cast(xp: Xp, x: Term, *, dtype: Term, copy: bool) -> Term:
    return array_of(xp, x).astype(dtype, copy=copy)


def _cast_as_called(xp: Xp, *operands: Term, call: Term) -> Term:
    args, kwargs = fill(call, operands)
    casting = kwargs.pop("casting", "unsafe")
    if not np.can_cast(args[0].dtype, kwargs["dtype"], casting):
        raise TypeError(
            f"Cannot cast array data from {args[0].dtype!r} to {kwargs['dtype']!r} according to the rule {casting!r}"
        )
    return args[0].astype(**kwargs)


def _meshgrid(xp: Xp, *arrays: Term, indexing: str) -> Term:
    return tuple(xp.meshgrid(*(array_of(xp, each) for each in arrays), indexing=indexing))


# Shapes and axes


def _reshape(xp: Xp, x: Term, *, shape: Term, copy: bool | None) -> Term:
    result = array_of(xp, x).reshape(shape)
    return result.copy() if copy else result


def _of_arrays(function: Callable[..., Term]) -> Rule:
    """The rule of a method-like function, whose operand may be a scalar."""

    def rule(xp: Xp, x: Term, **params: Term) -> Term:
        return function(xp, array_of(xp, x), **params)

    return rule


def _matrix_transpose(xp: Xp, x: Term) -> Term:
    return xp.swapaxes(x, -1, -2)


def _broadcast_arrays(xp: Xp, *arrays: Term) -> Term:
    shape = np.broadcast_shapes(*map(shape_of, arrays))
    return tuple(xp.broadcast_to(array_of(xp, each), shape) for each in arrays)


def _concatenate(xp: Xp, *arrays: Term, axis: int | None) -> Term:
    if axis is not None and not all(map(shape_of, arrays)):
        raise ValueError("zero-dimensional arrays cannot be concatenated")
    return xp.concatenate([array_of(xp, each) for each in arrays], axis=axis)


def _stack(xp: Xp, *arrays: Term, axis: int) -> Term:
    return xp.stack([array_of(xp, each) for each in arrays], axis=axis)


def _split(xp: Xp, x: Term, *, cuts: tuple[int, ...], axis: int) -> Term:
    return tuple(xp.split(x, list(cuts), axis=axis))


def _unstack(xp: Xp, x: Term, *, axis: int) -> Term:
    return tuple(xp.moveaxis(x, axis, 0))


def _only(rule: Rule) -> Rule:
    """The rule of an op of several results that has one."""

    def only(xp: Xp, *operands: Term, **params: Term) -> Term:
        return rule(xp, *operands, **params)[0]

    return only


def _repeat(xp: Xp, x: Term, *repeats: Term, axis: Term, reps: Term, length: int | None) -> Term:
    x = array_of(xp, x)
    if not repeats:
        return xp.repeat(x, reps, axis=axis)
    count = repeats[0]
    if getattr(count, "size", 1) == 1:
        return xp.repeat(x, int(count), axis=axis)
    # CuPy takes numbers of the host for counts; indices of the elements are found on the device.
    x, axis = (x.ravel(), 0) if axis is None else (x, axis)
    ends = xp.cumsum(count)
    return xp.take(x, xp.searchsorted(ends, xp.arange(int(ends[-1])), side="right"), axis=axis)


def _tile(xp: Xp, x: Term, *, reps: Term) -> Term:
    return xp.tile(array_of(xp, x), reps)


def _roll(xp: Xp, x: Term, *, shift: Term, axis: Term) -> Term:
    return xp.roll(array_of(xp, x), shift, axis=axis)


def _resized(xp: Xp, x: Term, *, shape: tuple[int, ...]) -> Term:
    flat = xp.zeros(shape, dtype=x.dtype).ravel()
    count = min(flat.size, x.size)
    flat[:count] = x.ravel()[:count]
    return flat.reshape(shape)


def _view(xp: Xp, x: Term, *, dtype: Term) -> Term:
    return x.view(dtype)


# Indexing


def _key(key: Term, operands: tuple[Term, ...]) -> Term:
    if isinstance(key, tuple):
        return tuple(operands[part.number] if isinstance(part, Slot) else part for part in key)
    return operands[key.number] if isinstance(key, Slot) else key


def _getitem(xp: Xp, x: Term, *operands: Term, key: Term) -> Term:
    x, key = array_of(xp, x), _key(key, operands)
    check_key(xp, x.shape, key)
    return x[key]


def _setitem(xp: Xp, x: Term, value: Term, *operands: Term, key: Term) -> Term:
    key = _key(key, operands)
    check_key(xp, x.shape, key)
    result = x.copy()
    result[key] = as_written(value, x.dtype)
    return result


def _take(xp: Xp, x: Term, indices: Term, *, axis: int | None) -> Term:
    x = array_of(xp, x)
    check_indices(xp, indices, *_indexed(x, axis))
    return xp.take(x, indices, axis=axis)


def _take_along_axis(xp: Xp, x: Term, indices: Term, *, axis: int | None) -> Term:
    check_indices(xp, indices, *_indexed(x, axis))
    return xp.take_along_axis(x, indices, axis)


def _indexed(x: Term, axis: int | None) -> tuple[int, int]:
    """The length of an axis, and its number; None is the only axis of the array in one row."""
    if axis is None or not x.ndim:
        return x.size, 0
    return x.shape[axis], axis % x.ndim


def _where(xp: Xp, condition: Term, x1: Term, x2: Term) -> Term:
    dtype = np.result_type(*(each if isinstance(each, int | float | complex) else each.dtype for each in (x1, x2)))
    return xp.where(array_of(xp, condition), _chosen(x1, x2), _chosen(x2, x1)).astype(dtype, copy=False)


def _chosen(x: Term, other: Term) -> Term:
    """An operand that is chosen where another is not; a scalar as NumPy gives it there, whose versions differ."""
    return x if is_array(x) else np.where([True], x, _sample(other))[0]


# Elementwise, but no ufuncs


def _clip(xp: Xp, x: Term, *bounds: Term, given: tuple[bool, bool]) -> Term:
    rest = iter(bounds)
    low, high = (next(rest) if there else None for there in given)
    x = array_of(xp, x)
    types = [x.dtype, *(each if isinstance(each, int | float | complex) else each.dtype for each in bounds)]
    dtype = np.result_type(*types)
    if dtype != x.dtype:
        x = x.astype(dtype)
    low, high = _bound(low, dtype, lower=True), _bound(high, dtype, lower=False)
    if low is not None:
        x = xp.maximum(x, low)
    if high is not None:
        x = xp.minimum(x, high)
    return x.copy() if low is high is None else x


def _bound(bound: Term, dtype: np.dtype[Term], *, lower: bool) -> Term:
    """A bound; None for an integer that is beyond all integers of the dtype, which NumPy takes for no bound."""
    if bound.__class__ is not int or dtype.kind not in "iu":
        return as_computed(bound, dtype)
    known = np.iinfo(dtype)
    return None if (bound <= known.min if lower else bound >= known.max) else bound


def _round(xp: Xp, x: Term) -> Term:
    return xp.round(array_of(xp, x))


def _real(xp: Xp, x: Term) -> Term:
    return array_of(xp, x).real


def _imag(xp: Xp, x: Term) -> Term:
    return array_of(xp, x).imag


def _conjugate(xp: Xp, x: Term) -> Term:
    return xp.conjugate(x) if x.dtype.kind == "c" else x


_INT64 = np.dtype(np.int64)


def _pow(xp: Xp, x1: Term, x2: Term) -> Term:
    """A power, in the dtype that NumPy's operator gives: some exponents have functions of their own there."""
    dtype = (_sample(x1) ** _sample(x2)).dtype
    check_exponents(xp, dtype, x2)
    x1, x2 = (as_computed(each, dtype) if is_too_wide(each, _INT64) else each for each in (x1, x2))
    return ((x1 if is_array(x2) else array_of(xp, x1)) ** x2).astype(dtype, copy=False)


def _sample(x: Term) -> Term:
    """A scalar as it is, and one element of the host for an array: what NumPy says of the two is known from it."""
    return np.ones(1, x.dtype) if is_array(x) else x


def _powered(xp: Xp, x1: Term, x2: Term) -> Term:
    result = _pow(xp, x1, x2)
    if result.shape != x1.shape:
        raise ValueError(
            f"non-broadcastable output operand with shape {x1.shape} doesn't match the broadcast shape {result.shape}"
        )
    if not np.can_cast(result.dtype, x1.dtype, "same_kind"):
        raise TypeError(f"Cannot cast ufunc 'power' output from {result.dtype!r} to {x1.dtype!r}")
    return result.astype(x1.dtype, copy=False)


_OPS = "engine.ops."

RULES: Mapping[str, Rule] = {
    **LINALG,
    **STATISTICS,
    # NumPy's functions that CuPy has in another form
    "numpy:array": _copy,
    "numpy:asarray": _asarray,
    "numpy:broadcast_to": _of_arrays(lambda xp, x, *, shape: xp.broadcast_to(x, shape)),
    "numpy:expand_dims": _of_arrays(lambda xp, x, *, axis: xp.expand_dims(x, axis)),
    "numpy:flip": _of_arrays(lambda xp, x, *, axis: xp.flip(x, axis)),
    "numpy:full_like": _full_like,
    "numpy:imag": _imag,
    "numpy:matrix_transpose": _matrix_transpose,
    "numpy:moveaxis": lambda xp, x, *, source, destination: xp.moveaxis(x, source, destination),
    "numpy:ones": _filled("ones"),
    "numpy:ones_like": _like("ones"),
    "numpy:real": _real,
    "numpy:roll": _roll,
    "numpy:squeeze": _of_arrays(lambda xp, x, *, axis: xp.squeeze(x, axis)),
    "numpy:take_along_axis": _take_along_axis,
    "numpy:transpose": _of_arrays(lambda xp, x, *, axes: xp.transpose(x, axes)),
    "numpy:tril": _of_arrays(lambda xp, x, *, k: xp.tril(x, k)),
    "numpy:triu": _of_arrays(lambda xp, x, *, k: xp.triu(x, k)),
    "numpy:where": _where,
    "numpy:zeros": _filled("zeros"),
    "numpy:zeros_like": _like("zeros"),
    # Operators
    "_operator:pow": _pow,
    f"{_OPS}operators:_conjugate": _conjugate,
    f"{_OPS}operators:_powered": _powered,
    # The engine's own kernels
    f"{_OPS}attributes:_resized": _resized,
    f"{_OPS}attributes:_view": _view,
    f"{_OPS}creation:_arange": _arange,
    f"{_OPS}creation:_cast": _cast,
    f"{_OPS}creation:_eye": _eye,
    f"{_OPS}creation:_full": _full,
    f"{_OPS}creation:_linspace": _linspace,
    f"{_OPS}creation:_meshgrid": _meshgrid,
    f"{_OPS}elementwise:_clip": _clip,
    f"{_OPS}elementwise:_round": _round,
    f"{_OPS}indexing:_getitem": _getitem,
    f"{_OPS}indexing:_setitem": _setitem,
    f"{_OPS}indexing:_take": _take,
    f"{_OPS}manipulation:_broadcast_arrays": _broadcast_arrays,
    f"{_OPS}manipulation:_concat": _concatenate,
    f"{_OPS}manipulation:_repeat": _repeat,
    f"{_OPS}manipulation:_reshape": _reshape,
    f"{_OPS}manipulation:_split": _split,
    f"{_OPS}manipulation:_stack": _stack,
    f"{_OPS}manipulation:_tile": _tile,
    f"{_OPS}manipulation:_unstack": _unstack,
    f"{_OPS}numpy_protocols:_astype": _cast_as_called,
    f"{_OPS}rows:op_of_several.<locals>.only:broadcast_arrays": _only(_broadcast_arrays),
    f"{_OPS}rows:op_of_several.<locals>.only:meshgrid": _only(_meshgrid),
    f"{_OPS}rows:op_of_several.<locals>.only:split": _only(_split),
    f"{_OPS}rows:op_of_several.<locals>.only:unstack": _only(_unstack),
}
