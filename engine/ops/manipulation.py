"""Manipulation functions: shapes, axes, joining and splitting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.base.op import SMALL_NS, Op, ShapeDtype
from engine.ops import checks, costs
from engine.ops.infer import (
    Dim,
    Shape,
    axis_of_scalar,
    broadcast,
    described,
    dtype_of,
    normalize_axes,
    normalize_axis,
    outline,
    replaced,
    same,
    shape_of,
    size_of,
    total,
    viewed,
)
from engine.ops.rows import Axis, Operand, dispatch_view, dispatch_views, op_of_several
from engine.parallel.joins import concatenated, stacked
from engine.parallel.moves import repeated, rolled, tiled
from engine.runtime.current import current
from handles.base import Handle

Array = np.ndarray[Any, Any]

Axes = int | tuple[int, ...]


def _shape_argument(function: str, value: object) -> tuple[int, ...]:
    return checks.integers(function, "shape", value)


def shape_now(x: Any) -> tuple[int | None, ...]:
    """The shape of an operand, as far as it is known."""
    return x.shape if isinstance(x, Handle) else np.shape(x)


# ---------------------------------------------------------------------------------------------------------------------
# Shapes and axes: no copies


def _reshape(x: Array, *, shape: Any, copy: bool | None) -> object:
    return np.reshape(x, shape, copy=copy)


def _infer_reshape(x: object, *, shape: tuple[int, ...], copy: bool | None) -> ShapeDtype:
    old, new = shape_of(x), shape
    size = size_of(old)
    if size is None:
        return ShapeDtype(tuple(None if n == -1 else n for n in new), dtype_of(x))
    known = math.prod(n for n in new if n != -1)
    if new.count(-1) > 1 or (-1 not in new and known != size) or (-1 in new and (known == 0 or size % known)):
        raise ValueError(f"cannot reshape array of size {size} into shape {new}")
    return ShapeDtype(tuple(size // known if n == -1 else n for n in new), dtype_of(x))


def _cost_of_reshape(values: Sequence[object], params: dict[str, object]) -> float:
    x = np.asarray(values[0])
    return 1.0 if x.flags.c_contiguous and not params["copy"] else float(x.size)


_RESHAPE = Op("reshape", _reshape, infer=_infer_reshape, cost=_cost_of_reshape, small=SMALL_NS, view=True)
_PERMUTE = Op("permute_dims", np.transpose, infer=viewed(np.transpose), ns=0.001, view=True)
_MATRIX_TRANSPOSE = Op("matrix_transpose", np.matrix_transpose, infer=viewed(np.matrix_transpose), ns=0.001, view=True)
_EXPAND = Op("expand_dims", np.expand_dims, infer=viewed(np.expand_dims), ns=0.001, view=True)


def _infer_squeeze(x: object, *, axis: Axis = None) -> ShapeDtype:
    """The shape without the axes: each has the length 1, also where that is not known yet."""
    shape = shape_of(x)
    if axis is not None and shape:  # an array of no axes is NumPy's matter: it lets the axes 0 and -1 pass
        axes = normalize_axes(axis, len(shape))
        shape = tuple(1 if n is None and place in axes else n for place, n in enumerate(shape))
    return _VIEW_SQUEEZE(ShapeDtype(shape, dtype_of(x)), axis=axis)


def _infer_broadcast_to(x: object, *, shape: tuple[int, ...]) -> ShapeDtype:
    """The shape that was asked for; what is known of the operand's has to fit."""
    return ShapeDtype(np.broadcast_to(outline(shape_of(x), dtype_of(x), 1), shape).shape, dtype_of(x))


_VIEW_SQUEEZE = viewed(np.squeeze)
_SQUEEZE = Op("squeeze", np.squeeze, infer=_infer_squeeze, ns=0.001, view=True)
_BROADCAST = Op("broadcast_to", np.broadcast_to, infer=_infer_broadcast_to, ns=0.001, view=True)
_FLIP = Op("flip", np.flip, infer=viewed(np.flip), ns=0.001, view=True)
_MOVE = Op("moveaxis", np.moveaxis, infer=viewed(np.moveaxis), ns=0.001, view=True)


def reshape(x: Operand, /, shape: int | tuple[int, ...], *, copy: bool | None = None) -> Handle:
    """The elements in another shape, in row-major order; one length may be -1."""
    if copy is not None:
        copy = checks.flag("reshape", "copy", copy)
    return dispatch_view(_RESHAPE, x, {"shape": _shape_argument("reshape", shape), "copy": copy})


def permute_dims(x: Operand, /, axes: tuple[int, ...] | None = None) -> Handle:
    """The axes in another order; reversed when none is given."""
    return dispatch_view(_PERMUTE, x, {"axes": checks.sequence_of_axes("permute_dims", axes, "axes")})


def matrix_transpose(x: Operand, /) -> Handle:
    """The last two axes exchanged."""
    return dispatch_view(_MATRIX_TRANSPOSE, x)


def expand_dims(x: Operand, /, axis: Axes) -> Handle:
    """A new axis of length 1 at each position `axis`."""
    if axis is None:
        raise checks.wrong("expand_dims", "axis", "an integer or a tuple of integers", axis)
    axis = checks.axes("expand_dims", checks.tuple_of_list(axis))
    _check_axis(_EXPAND, x, axis)
    return dispatch_view(_EXPAND, x, {"axis": axis})


def squeeze(x: Operand, /, axis: Axis = None) -> Handle:
    """Without the axes of length 1 named by `axis` (all of them when none is given)."""
    axis = checks.axes("squeeze", axis)
    if axis is not None:
        _check_axis(_SQUEEZE, x, axis)
    return dispatch_view(_SQUEEZE, x, {"axis": axis})


def _check_axis(op: Op, x: Operand, axis: Axis) -> None:
    """Refuse an axis that the array does not have, or that is not of length 1, where its shape is known."""
    known = described(x)
    if isinstance(known, ShapeDtype) and None not in known.shape and op.infer is not None:
        try:
            op.infer(known, axis=axis)
        except ValueError as error:
            error.add_note(f"{op.name}: axis must fit x, of shape {known.shape}, but got {axis!r}")
            raise


def broadcast_to(x: Operand, /, shape: int | tuple[int, ...]) -> Handle:
    """The elements repeated to a larger shape, without a copy."""
    return dispatch_view(_BROADCAST, x, {"shape": _shape_argument("broadcast_to", shape)}, read_only=True)


def flip(x: Operand, /, *, axis: Axis = None) -> Handle:
    """The elements in reverse order along the axes, along all when none is given."""
    return dispatch_view(_FLIP, x, {"axis": checks.sequence_of_axes("flip", axis)})


def moveaxis(x: Operand, source: Axes, destination: Axes, /) -> Handle:
    """Some axes moved to other positions; the others keep their order."""
    params = {
        "source": checks.sequence_of_axes("moveaxis", source, "source"),
        "destination": checks.sequence_of_axes("moveaxis", destination, "destination"),
    }
    return dispatch_view(_MOVE, x, params)


def broadcast_shapes(*shapes: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The shape that arrays of these shapes are broadcast to; None is an unknown dimension. No op: nothing is run."""
    return broadcast(*shapes)


def _broadcast_arrays(*arrays: Array) -> object:
    shape = np.broadcast_shapes(*map(np.shape, arrays))
    return tuple(np.broadcast_to(array, shape) for array in arrays)


def _infer_broadcast_arrays(*arrays: object) -> object:
    shape = broadcast(*map(shape_of, arrays))
    return tuple(ShapeDtype(shape, dtype_of(array)) for array in arrays)


def broadcast_arrays(*arrays: Operand) -> tuple[Handle, ...]:
    """The arrays, each repeated to the shape of all of them together, without copies."""
    if not arrays:
        return ()
    op = op_of_several(
        "broadcast_arrays", _broadcast_arrays, len(arrays), infer=_infer_broadcast_arrays, ns=0.001, view=True
    )
    return current().dispatch_several(op, arrays)


# ---------------------------------------------------------------------------------------------------------------------
# Copies in another order


def _infer_roll(x: object, *, shift: object, axis: object) -> ShapeDtype:
    normalize_axes(axis, len(shape_of(x)), repeated=True)
    return same(x)


_ROLL = Op("roll", np.roll, infer=_infer_roll, ns=2, parallel=rolled)


def roll(x: Operand, /, shift: Axes, *, axis: Axis = None) -> Handle:
    """The elements moved along the axes; those that go out at one end come in at the other."""
    if shift is None:
        raise checks.wrong("roll", "shift", "an integer or a tuple of integers", shift)
    params = {"shift": checks.sequence_of_axes("roll", shift, "shift"), "axis": checks.sequence_of_axes("roll", axis)}
    return current().dispatch(_ROLL, x, params=params)


def _infer_tile(x: object, *, reps: tuple[int, ...]) -> ShapeDtype:
    shape = shape_of(x)
    ndim = max(len(shape), len(reps))
    lengths = (1,) * (ndim - len(shape)) + shape
    counts = (1,) * (ndim - len(reps)) + reps
    return ShapeDtype(
        tuple(0 if m == 0 else None if n is None else n * m for n, m in zip(lengths, counts, strict=True)), dtype_of(x)
    )


def _repeated_cost(values: Sequence[Any], params: dict[str, Any]) -> float:
    return 1.0 * costs.elements(values) * float(np.prod(params["reps"], dtype=np.float64))


def _tile(x: Array, *, reps: tuple[int, ...]) -> object:
    return np.tile(x, reps)


_TILE = Op("tile", _tile, infer=_infer_tile, cost=_repeated_cost, parallel=tiled)


def tile(x: Operand, repetitions: int | tuple[int, ...], /) -> Handle:
    """The array repeated so often along each axis."""
    return current().dispatch(_TILE, x, params={"reps": checks.integers("tile", "repetitions", repetitions)})


def _repeat(x: Array, *repeats: Any, axis: Any, reps: Any, length: int | None) -> object:
    return np.repeat(x, repeats[0] if repeats else reps, axis=axis)


def _infer_repeat(x: object, *repeats: object, axis: int | None, reps: int | None, length: int | None) -> ShapeDtype:
    shape = shape_of(x)
    if axis is None:
        where, shape = 0, (size_of(shape),)
    else:
        shape = axis_of_scalar(shape)
        where = normalize_axis(axis, len(shape))
    old = shape[where]
    if reps is not None:
        length = 0 if reps == 0 else None if old is None else old * reps
    return ShapeDtype(replaced(shape, where, length), dtype_of(x))


def _repeat_cost(values: Sequence[Any], params: dict[str, Any]) -> float:
    if params["reps"] is not None:
        return 2.0 * float(values[0].size) * float(params["reps"])
    # An array of counts: their sum is the length of one row. Both are there by now.
    return float(2.0 * values[0].size * np.sum(values[1]) / max(1, values[1].size) + values[1].size)


_REPEAT = Op("repeat", _repeat, infer=_infer_repeat, cost=_repeat_cost, parallel=repeated)


def repeat(x: Operand, repeats: int | Operand, /, *, axis: int | None = None) -> Handle:
    """Each element repeated along an axis, or those of the flattened array when none is given.

    `repeats` is one count for all or an array of counts; the length of the result is then known once it has run.
    """
    axis = checks.axis_or_none("repeat", axis)
    if isinstance(repeats, int | np.integer) and not isinstance(repeats, bool):
        if repeats < 0:
            raise ValueError(f"repeat: repeats must be 0 or more, but got {repeats}")
        return current().dispatch(_REPEAT, x, params={"axis": axis, "reps": int(repeats), "length": None})
    length = None
    if not isinstance(repeats, Handle):
        repeats = np.asarray(repeats)
        if repeats.size != 1 and repeats.ndim == 1 and repeats.dtype.kind in "iu":
            length = int(repeats.sum())
    return current().dispatch(_REPEAT, x, repeats, {"axis": axis, "reps": None, "length": length})


# ---------------------------------------------------------------------------------------------------------------------
# Joining and splitting


def _concat(*arrays: Array, axis: int | None) -> object:
    return np.concatenate(arrays, axis=axis)


def _infer_concat(*arrays: object, axis: int | None) -> ShapeDtype:
    dtype = np.result_type(*map(dtype_of, arrays))
    shapes = list(map(shape_of, arrays))
    if axis is None:
        return ShapeDtype((total([size_of(shape) for shape in shapes]),), dtype)
    ndim = len(shapes[0])
    if ndim == 0:
        raise ValueError("zero-dimensional arrays cannot be concatenated")
    if any(len(shape) != ndim for shape in shapes):
        raise ValueError("all the input array dimensions must match: the numbers of dimensions differ")
    where = normalize_axis(axis, ndim)
    result: list[Dim] = []
    for index in range(ndim):
        lengths = [shape[index] for shape in shapes]
        known = {n for n in lengths if n is not None}
        if index != where and len(known) > 1:
            raise ValueError("all the input array dimensions except for the concatenation axis must match exactly")
        result.append(total(lengths) if index == where else known.pop() if known else None)
    return ShapeDtype(tuple(result), dtype)


def _stack(*arrays: Array, axis: int) -> object:
    return np.stack(arrays, axis=axis)


def _infer_stack(*arrays: object, axis: int) -> ShapeDtype:
    shapes = list(map(shape_of, arrays))
    if len(set(map(len, shapes))) > 1:
        raise ValueError("all input arrays must have the same shape")
    shape: list[Dim] = []
    for lengths in zip(*shapes, strict=True):
        known = {n for n in lengths if n is not None}
        if len(known) > 1:
            raise ValueError("all input arrays must have the same shape")
        shape.append(known.pop() if known else None)
    where = normalize_axis(axis, len(shape) + 1)
    return ShapeDtype((*shape[:where], len(arrays), *shape[where:]), np.result_type(*map(dtype_of, arrays)))


_CONCAT = Op("concat", _concat, infer=_infer_concat, cost=costs.each(1), parallel=concatenated)
_STACK = Op("stack", _stack, infer=_infer_stack, cost=costs.each(1), parallel=stacked)


def concat(arrays: Sequence[Operand], /, *, axis: int | None = 0) -> Handle:
    """The arrays joined along an axis; flattened first when `axis` is None."""
    params = {"axis": checks.axis_or_none("concat", axis)}
    return current().dispatch_any(_CONCAT, checks.sequence("concat", "arrays", arrays), params)


def stack(arrays: Sequence[Operand], /, *, axis: int = 0) -> Handle:
    """The arrays joined along a new axis."""
    params = {"axis": checks.integer("stack", "axis", axis)}
    return current().dispatch_any(_STACK, checks.sequence("stack", "arrays", arrays), params)


def _split(x: Array, *, cuts: tuple[int, ...], axis: int) -> object:
    return tuple(np.split(x, cuts, axis=axis))


def _infer_split(x: object, *, cuts: tuple[int, ...], axis: int) -> object:
    shape, dtype = shape_of(x), dtype_of(x)
    template = np.broadcast_to(np.zeros((), dtype), [1 if n is None else n for n in shape])
    parts = [part.shape for part in np.split(template, cuts, axis=axis)]
    return tuple(
        ShapeDtype(tuple(None if whole is None else n for whole, n in zip(shape, part, strict=True)), dtype)
        for part in parts
    )


def split(x: Operand, indices_or_sections: int | Sequence[int], /, axis: int = 0) -> tuple[Handle, ...]:
    """The array cut along an axis: into equal parts, or before each of the indices, as `numpy.split`.

    Raises `ValueError` at the call when the parts would not be equal.
    """
    axis = checks.integer("split", "axis", axis)
    if isinstance(indices_or_sections, int | np.integer):
        sections = int(indices_or_sections)
        shape = shape_now(x)
        length = shape[axis]
        if sections <= 0 or length is None or length % sections:
            raise ValueError(f"split: an axis of length {length} does not divide into {sections} equal parts")
        cuts = tuple(range(length // sections, length, length // sections)) if length else (0,) * (sections - 1)
    else:
        cuts = checks.integers("split", "indices_or_sections", indices_or_sections)
    op = op_of_several("split", _split, len(cuts) + 1, infer=_infer_split, ns=0.001, view=True)
    return dispatch_views(op, x, {"cuts": cuts, "axis": axis})


def _unstack(x: Array, *, axis: int) -> object:
    return tuple(np.moveaxis(x, axis, 0))


def _infer_unstack(x: object, *, axis: int) -> object:
    shape: Shape = shape_of(x)
    where = normalize_axis(axis, len(shape))
    part = ShapeDtype((*shape[:where], *shape[where + 1 :]), dtype_of(x))
    return (part,) * (shape[where] or 0)


def unstack(x: Operand, /, *, axis: int = 0) -> tuple[Handle, ...]:
    """The arrays of one dimension less that lie along an axis.

    Raises `ValueError` at the call where the length of the axis is not known yet.
    """
    axis = checks.integer("unstack", "axis", axis)
    shape = shape_now(x)
    length = shape[normalize_axis(axis, len(shape))]
    if length is None:
        raise ValueError("unstack: the length of the axis is not known yet; await the handle first")
    if length == 0:
        return ()
    op = op_of_several("unstack", _unstack, length, infer=_infer_unstack, ns=0.001, view=True)
    return dispatch_views(op, x, {"axis": axis})
