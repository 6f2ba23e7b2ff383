"""Terms that the rules for shapes are written in: arguments of calls as arrays, axes, dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.base.op import ShapeDtype
from engine.ops.infer import Shape, normalize_axes, size_of
from engine.ops.numpy_shapes import Undecided

INTP = np.dtype(np.intp)
FLOAT = np.dtype(np.float64)


def operand(value: object) -> ShapeDtype:
    """An argument as an array: a sequence may hold some."""
    if isinstance(value, ShapeDtype):
        return value
    if isinstance(value, list | tuple):
        parts = [operand(each) for each in value]
        if not parts:
            return ShapeDtype((0,), FLOAT)
        if len({part.shape for part in parts}) > 1:
            raise Undecided("a sequence of arrays of several shapes")
        return ShapeDtype((len(parts), *parts[0].shape), np.result_type(*(part.dtype for part in parts)))
    array = np.asarray(value)
    return ShapeDtype(array.shape, array.dtype)


def promoted(*values: object) -> np.dtype[Any]:
    """The dtype that NumPy promotes to; Python scalars are weak."""
    types: list[Any] = [
        value if isinstance(value, bool | int | float | complex) else operand(value).dtype for value in values
    ]
    return np.result_type(*types)


def one_axis(axis: object, ndim: int) -> int:
    (found,) = normalize_axes(axis, ndim)
    return found


def parts_of(arrays: object) -> list[ShapeDtype]:
    """The arrays of a sequence, or of the rows of an array."""
    if isinstance(arrays, ShapeDtype):
        if not arrays.shape or arrays.shape[0] is None:
            raise Undecided("the number of arrays is not known")
        return [ShapeDtype(arrays.shape[1:], arrays.dtype)] * arrays.shape[0]
    if not isinstance(arrays, list | tuple):
        raise Undecided("arrays of no known kind")
    return [operand(each) for each in arrays]


def flat_or_along(arr: ShapeDtype, axis: object) -> tuple[Shape, int]:
    """The shape, flattened where there is no axis, and the axis."""
    return ((size_of(arr.shape),), 0) if axis is None else (arr.shape, one_axis(axis, len(arr.shape)))
