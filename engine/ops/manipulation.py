"""Manipulation functions: shapes, axes, joining and splitting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.context import current
from engine.ops.infer import Dim, Shape, broadcast, dtype_of, normalize_axes, shape_of, viewed
from engine.ops.rows import BY_NUMPY, Operand
from engine.planning.op import Op, ShapeDtype
from handles.base import Handle


def _copied(values: Sequence[Any], params: dict[str, Any]) -> float:
    return 1.0 * math.fsum(value.size for value in values if isinstance(value, np.ndarray))


def _reshape(x: Any, *, shape: Any, copy: bool | None) -> Any:
    return np.reshape(x, shape, copy=copy)


def _infer_reshape(x: Any, *, shape: Any, copy: bool | None) -> ShapeDtype:
    old = shape_of(x)
    new = (shape,) if isinstance(shape, int) else tuple(shape)
    if None in old:
        return ShapeDtype(tuple(None if n == -1 else n for n in new), dtype_of(x))
    size = math.prod(n for n in old if n is not None)
    known = math.prod(n for n in new if n != -1)
    if new.count(-1) > 1 or (-1 not in new and known != size) or (-1 in new and (known == 0 or size % known)):
        raise ValueError(f"cannot reshape array of size {size} into shape {new}")
    return ShapeDtype(tuple(size // known if n == -1 else n for n in new), dtype_of(x))


_RESHAPE = Op("reshape", _reshape, infer=_infer_reshape, view=True)
_PERMUTE = Op("permute_dims", np.transpose, infer=viewed(np.transpose), ns=0.001, view=True)
_MATRIX_TRANSPOSE = Op("matrix_transpose", np.matrix_transpose, infer=viewed(np.matrix_transpose), ns=0.001, view=True)
_EXPAND = Op("expand_dims", np.expand_dims, infer=viewed(np.expand_dims), ns=0.001, view=True)
_SQUEEZE = Op("squeeze", np.squeeze, infer=viewed(np.squeeze), ns=0.001, view=True)
_BROADCAST = Op("broadcast_to", np.broadcast_to, infer=viewed(np.broadcast_to), ns=0.001, view=True)


def reshape(x: Operand, /, shape: int | tuple[int, ...], *, copy: bool | None = None) -> Handle:
    """The elements in another shape, in row-major order; one length may be -1."""
    return current().dispatch(_RESHAPE, (x,), {"shape": shape, "copy": copy})


def permute_dims(x: Operand, /, axes: tuple[int, ...] | None = None) -> Handle:
    """The axes in another order; reversed when none is given."""
    return current().dispatch(_PERMUTE, (x,), {"axes": axes})


def matrix_transpose(x: Operand, /) -> Handle:
    """The last two axes exchanged."""
    return current().dispatch(_MATRIX_TRANSPOSE, (x,))


def expand_dims(x: Operand, /, *, axis: int | tuple[int, ...] = 0) -> Handle:
    """A new axis of length 1 at each position `axis`."""
    return current().dispatch(_EXPAND, (x,), {"axis": axis})


def squeeze(x: Operand, /, axis: int | tuple[int, ...] | None = None) -> Handle:
    """Without the axes of length 1 named by `axis` (all of them when none is given)."""
    return current().dispatch(_SQUEEZE, (x,), {"axis": axis})


def broadcast_to(x: Operand, /, shape: tuple[int, ...]) -> Handle:
    """The elements repeated to a larger shape, without a copy."""
    return current().dispatch(_BROADCAST, (x,), {"shape": shape})


def _concat(*arrays: Any, axis: int | None) -> Any:
    return np.concatenate(arrays, axis=axis)


def _infer_concat(*arrays: Any, axis: int | None) -> ShapeDtype:
    dtype = np.result_type(*map(dtype_of, arrays))
    shapes = list(map(shape_of, arrays))
    if axis is None:
        sizes = [None if None in shape else math.prod(n or 0 for n in shape) for shape in shapes]
        return ShapeDtype((_total(sizes),), dtype)
    ndim = len(shapes[0])
    (where,) = normalize_axes(axis, ndim)
    result: list[Dim] = []
    for index in range(ndim):
        lengths = [shape[index] for shape in shapes]
        result.append(_total(lengths) if index == where else next((n for n in lengths if n is not None), None))
    others = [[n for i, n in enumerate(shape) if i != where] for shape in shapes]
    if any(None not in (n, m) and n != m for other in others for n, m in zip(other, others[0], strict=True)):
        raise ValueError("all the input array dimensions except for the concatenation axis must match exactly")
    return ShapeDtype(tuple(result), dtype)


def _total(lengths: Sequence[Dim]) -> Dim:
    return None if None in lengths else sum(n or 0 for n in lengths)


def _stack(*arrays: Any, axis: int) -> Any:
    return np.stack(arrays, axis=axis)


def _infer_stack(*arrays: Any, axis: int) -> ShapeDtype:
    shape: Shape = broadcast(*map(shape_of, arrays))
    if len({len(shape_of(each)) for each in arrays}) > 1 or any(
        n is not None and n != m for each in arrays for n, m in zip(shape_of(each), shape, strict=True)
    ):
        raise ValueError("all input arrays must have the same shape")
    (where,) = normalize_axes(axis, len(shape) + 1)
    return ShapeDtype((*shape[:where], len(arrays), *shape[where:]), np.result_type(*map(dtype_of, arrays)))


_CONCAT = Op("concat", _concat, infer=_infer_concat, cost=_copied)
_STACK = Op("stack", _stack, infer=_infer_stack, cost=_copied)


def concat(arrays: Sequence[Operand], /, *, axis: int | None = 0) -> Handle:
    """The arrays joined along an axis; flattened first when `axis` is None."""
    return current().dispatch(_CONCAT, _several("concat", arrays), {"axis": axis})


def stack(arrays: Sequence[Operand], /, *, axis: int = 0) -> Handle:
    """The arrays joined along a new axis."""
    return current().dispatch(_STACK, _several("stack", arrays), {"axis": axis})


def _several(name: str, arrays: Any) -> tuple[Any, ...]:
    if not isinstance(arrays, list | tuple):
        raise TypeError(f"{name}: arrays must be a list or tuple of arrays, but got {type(arrays).__name__}")
    if not arrays:
        raise ValueError(f"{name}: at least one array is needed")
    return tuple(arrays)


def _split(x: Any, *, cuts: tuple[int, ...], axis: int) -> Any:
    return tuple(np.split(x, cuts, axis=axis))


def _infer_split(x: Any, *, cuts: tuple[int, ...], axis: int) -> Any:
    template = np.broadcast_to(np.zeros((), dtype_of(x)), [0 if n is None else n for n in shape_of(x)])
    return tuple(ShapeDtype(part.shape, part.dtype) for part in np.split(template, cuts, axis=axis))


def split(x: Operand, indices_or_sections: int | Sequence[int], /, axis: int = 0) -> tuple[Handle, ...]:
    """The array cut along an axis: into equal parts, or before each of the indices, as `numpy.split`.

    Raises `ValueError` at the call when the parts would not be equal.
    """
    if isinstance(indices_or_sections, int | np.integer):
        sections = int(indices_or_sections)
        shape = np.shape(x) if isinstance(x, list | tuple) else x.shape
        length = shape[axis]
        if sections <= 0 or length is None or length % sections:
            raise ValueError(f"split: an axis of length {length} does not divide into {sections} equal parts")
        cuts = tuple(range(length // sections, length, length // sections)) if length else (0,) * (sections - 1)
    else:
        cuts = tuple(int(cut) for cut in indices_or_sections)
    outputs = len(cuts) + 1
    op = Op("split", _split, infer=_infer_split, ns=0.001, view=True, outputs=outputs)
    return current().dispatch_several(op, (x,), {"cuts": cuts, "axis": axis})


BY_NUMPY.update({np.concatenate: concat, np.stack: stack, np.reshape: reshape})
BY_NUMPY.update({np.transpose: permute_dims, np.squeeze: squeeze, np.broadcast_to: broadcast_to})
