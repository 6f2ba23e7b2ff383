"""Shapes of what joins, cuts, repeats and rearranges arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, SupportsInt

import numpy as np

from engine.base.op import ShapeDtype
from engine.ops.infer import Dim, Shape, probe, replaced, size_of, total
from engine.ops.numpy_shapes import Function, Rule, Undecided
from engine.ops.numpy_shapes_terms import flat_or_along, one_axis, operand, parts_of

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


def _joined(shapes: Sequence[Shape], axis: int) -> Shape:
    """The shape of arrays joined along an axis. Raises `ValueError` where they do not fit."""
    first = shapes[0]
    for shape in shapes[1:]:
        if len(shape) != len(first):
            raise ValueError(
                "all the input array dimensions must match exactly, but along dimension 0 there are arrays with "
                f"{len(first)} and {len(shape)} dimensions"
            )
    where = one_axis(axis, len(first))
    for other in range(len(first)):
        if other != where and len({shape[other] for shape in shapes} - {None}) > 1:
            raise ValueError(
                "all the input array dimensions except for the concatenation axis must match exactly, but along "
                f"dimension {other} they have {', '.join(str(shape[other]) for shape in shapes)}"
            )
    return replaced(first, where, total([shape[where] for shape in shapes]))


def _at_least(ndim: int) -> Callable[[Shape], Shape]:
    def shape(lengths: Shape) -> Shape:
        if ndim == 3 and len(lengths) < 3:  # as `np.atleast_3d` does
            return {0: (1, 1, 1), 1: (1, *lengths, 1), 2: (*lengths, 1)}[len(lengths)]
        return (1,) * (ndim - len(lengths)) + lengths

    return shape


def stacked_rule(ndim: int, axis: int | None) -> Rule:
    """Arrays of so many dimensions at least, joined along an axis (of vectors, along the only one)."""
    at_least = _at_least(ndim)

    def rule(tup: object, dtype: DTypeLike | None = None, casting: str = "same_kind") -> ShapeDtype:
        parts = parts_of(tup)
        if not parts:
            raise ValueError("need at least one array to concatenate")
        shapes = [at_least(part.shape) for part in parts]
        where = axis if axis is not None else 0 if len(shapes[0]) == 1 else 1
        asked = np.result_type(*(part.dtype for part in parts)) if dtype is None else np.dtype(dtype)
        return ShapeDtype(_joined(shapes, where), asked)

    return rule


def column_stack_rule(tup: object) -> ShapeDtype:
    parts = parts_of(tup)
    shapes = [(*part.shape, 1)[:2] if len(part.shape) == 1 else (part.shape or (1, 1)) for part in parts]
    return ShapeDtype(_joined(shapes, 1), np.result_type(*(part.dtype for part in parts)))


def block_rule(arrays: object) -> ShapeDtype:
    def depth(value: object) -> int:
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    def leaves(value: object) -> list[ShapeDtype]:
        return [leaf for each in value for leaf in leaves(each)] if isinstance(value, list) else [operand(value)]

    deep = depth(arrays)
    ndim = max(deep, max(len(leaf.shape) for leaf in leaves(arrays)))

    def shape(value: object, level: int) -> Shape:
        if not isinstance(value, list):
            lengths = operand(value).shape
            return (1,) * (ndim - len(lengths)) + lengths
        return _joined([shape(each, level - 1) for each in value], -level)

    return ShapeDtype(shape(arrays, deep), np.result_type(*(leaf.dtype for leaf in leaves(arrays))))


def append_rule(arr: object, values: object, axis: int | None = None) -> ShapeDtype:
    parts = [operand(arr), operand(values)]
    dtype = np.result_type(*(part.dtype for part in parts))
    if axis is None:
        return ShapeDtype((total([size_of(part.shape) for part in parts]),), dtype)
    return ShapeDtype(_joined([part.shape for part in parts], axis), dtype)


def ediff1d_rule(ary: object, to_end: object = None, to_begin: object = None) -> ShapeDtype:
    ary = operand(ary)
    size = size_of(ary.shape)
    ends = [size_of(operand(each).shape) for each in (to_begin, to_end) if each is not None]
    return ShapeDtype((total([None if size is None else max(size - 1, 0), *ends]),), ary.dtype)


def insert_rule(arr: object, obj: Any, values: object, axis: object = None) -> ShapeDtype:
    arr, its = operand(arr), operand(values).shape
    shape, where = flat_or_along(arr, axis)
    if len(its) > len(shape):
        raise Undecided("the values have more dimensions")
    its = (1,) * (len(shape) - len(its)) + its
    places = _places(obj, shape[where])
    count = places
    if obj.__class__ is not slice and not (obj.shape if isinstance(obj, ShapeDtype) else np.shape(obj)):
        count = its[0]
    elif places == 1:
        count = its[where]
    return ShapeDtype(replaced(shape, where, total([shape[where], count])), arr.dtype)


def _places(obj: Any, length: Dim) -> Dim:
    """How many places of an axis an argument stands for: a slice, a mask, or indices."""
    if isinstance(obj, ShapeDtype):
        return None if obj.dtype == np.bool_ else size_of(obj.shape)
    if isinstance(obj, slice):
        return None if length is None else len(range(*obj.indices(length)))
    array = np.asarray(obj)
    return int(np.count_nonzero(array)) if array.dtype == np.bool_ else array.size


def delete_rule(arr: object, obj: Any, axis: object = None) -> ShapeDtype:
    arr = operand(arr)
    shape, where = flat_or_along(arr, axis)
    length, left = shape[where], None
    if length is not None and not isinstance(obj, ShapeDtype):
        left = np.delete(np.broadcast_to(np.zeros(1, np.int8), (length,)), obj).size
    return ShapeDtype(replaced(shape, where, left), arr.dtype)


def pad_rule(array: object, pad_width: Any, mode: object = "constant", **_: object) -> ShapeDtype:
    array = operand(array)
    ndim = len(array.shape)
    if isinstance(pad_width, dict):
        widths = [(0, 0)] * ndim
        for axis, each in pad_width.items():
            widths[axis] = (each, each) if isinstance(each, int) else tuple(each)
    else:
        widths = np.broadcast_to(np.asarray(pad_width), (ndim, 2)).tolist()
    lengths = [None if n is None else n + int(a) + int(b) for n, (a, b) in zip(array.shape, widths, strict=True)]
    return ShapeDtype(tuple(lengths), array.dtype)


def resize_rule(a: object, new_shape: SupportsInt | Iterable[SupportsInt]) -> ShapeDtype:
    lengths = tuple(new_shape) if isinstance(new_shape, Iterable) else (new_shape,)
    return ShapeDtype(tuple(map(int, lengths)), operand(a).dtype)


def packbits_rule(a: object, axis: object = None, bitorder: str = "big") -> ShapeDtype:
    return _bits(a, axis, lambda n: -(-n // 8))


def unpackbits_rule(a: object, axis: object = None, count: int | None = None, bitorder: str = "big") -> ShapeDtype:
    def bits(n: int) -> int:
        return 8 * n if count is None else count if count >= 0 else 8 * n + count

    return _bits(a, axis, bits)


def _bits(a: object, axis: object, lengths: Callable[[int], int]) -> ShapeDtype:
    a = operand(a)
    shape: Shape = (size_of(a.shape),) if axis is None else a.shape
    where = one_axis(0 if axis is None else axis, len(shape))
    length = shape[where]
    return ShapeDtype(replaced(shape, where, None if length is None else lengths(length)), np.dtype(np.uint8))


def diag_rule(v: object, k: int = 0) -> ShapeDtype:
    v = operand(v)
    k = int(k)
    if len(v.shape) == 1:
        return _square(None if v.shape[0] is None else v.shape[0] + abs(k), v.dtype)
    if len(v.shape) != 2:
        raise ValueError("Input must be 1- or 2-d.")
    n, m = v.shape
    if n is None or m is None:
        return ShapeDtype((None,), v.dtype)
    return ShapeDtype((max(0, min(n, m - k) if k >= 0 else min(n + k, m)),), v.dtype)


def diagflat_rule(v: object, k: int = 0) -> ShapeDtype:
    v = operand(v)
    size = size_of(v.shape)
    return _square(None if size is None else size + abs(int(k)), v.dtype)


def _square(length: Dim, dtype: np.dtype[Any]) -> ShapeDtype:
    return ShapeDtype((length, length), dtype)


def flat_rule(a: object, order: object = "C") -> ShapeDtype:
    a = operand(a)
    return ShapeDtype((size_of(a.shape),), a.dtype)


def copy_rule(a: object, **_: object) -> ShapeDtype:
    return operand(a)


def piecewise_rule(x: object, condlist: object, funclist: object, *_: object, **__: object) -> ShapeDtype:
    return operand(x)


def along_rule(function: Function, dtype: np.dtype[Any] | None = None, *, last: bool = False) -> Rule:
    """A function along an axis that keeps the shape; without an axis it flattens."""
    name = "x" if function in (np.sort_complex,) else "a"

    def rule(axis: object = -1 if last else None, **given: Any) -> ShapeDtype:
        x, asked = operand(given[name]), given.get("dtype")
        shape: Shape = (size_of(x.shape),) if axis is None else x.shape
        if axis is not None:
            one_axis(axis, len(shape) or 1)
        return ShapeDtype(shape, dtype or (np.dtype(asked) if asked is not None else probe(function, x.dtype)))

    return rule
