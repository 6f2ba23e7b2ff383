"""Indexing, and choosing elements by a condition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from operator import index as as_index
from typing import Any
from weakref import ref

import numpy as np

from engine.base.op import Op, ShapeDtype
from engine.base.pytree import Slot
from engine.fusion.blocks import select
from engine.ops import checks, costs
from engine.ops.assigned import assigned
from engine.ops.infer import (
    Dim,
    Shape,
    broadcast,
    described,
    dtype_of,
    normalize_axis,
    replaced,
    shape_of,
    size_of,
    type_of,
)
from engine.ops.rows import Operand, check_operands
from engine.parallel.moves import selected, taken
from engine.queues.operands import holds_handle, is_array_like
from engine.runtime.current import current
from handles.base import Handle
from handles.views import Key, link, link_above, ndim_of

Array = np.ndarray[Any, Any]


def _split_key(x: Handle, key: object) -> tuple[object, list[Any]]:
    """The key with slots in place of arrays, and the arrays. Raises `IndexError` for what cannot be an index."""
    operands: list[Any] = []

    def part(entry: Any) -> Any:
        if isinstance(entry, Handle | np.ndarray | list | tuple):
            if isinstance(entry, list | tuple):
                entry = _index_of(entry)
            operands.append(entry)
            return Slot(len(operands) - 1)
        if entry is None or entry is Ellipsis or isinstance(entry, slice | int | bool | np.bool_):
            return entry
        if is_array_like(entry):  # a range, say
            return part(np.asarray(entry))
        try:
            return as_index(entry)
        except TypeError:
            raise _no_index(entry) from None

    if isinstance(key, str) or (key.__class__ is list and key and all(isinstance(each, str) for each in key)):
        if (described(x) or _UNKNOWN).dtype.names is None:
            raise _no_index(key)
        return key, operands  # of fields
    return (tuple(map(part, key)) if isinstance(key, tuple) else part(key)), operands


_UNKNOWN = ShapeDtype((), np.dtype([("any", "i1")]))
"""Stands for what is not known yet: it may have fields."""


def _no_index(key: object) -> IndexError:
    return IndexError(
        "only integers, slices (`:`), ellipsis (`...`), None and integer or boolean arrays are valid indices, "
        f"but got {key!r}"
    )


def _index_of(entry: object) -> object:
    """A nested sequence as an index: one without elements is of integers."""
    if holds_handle(entry):
        return entry
    array = np.asarray(entry)
    array = array if array.size else array.astype(np.intp)
    array.setflags(write=False)  # it is the operand's own: no snapshot is needed
    return array


def fill_key(key: Any, operands: Sequence[Any]) -> Any:
    if isinstance(key, tuple):
        return tuple(operands[part.number] if isinstance(part, Slot) else part for part in key)
    return operands[key.number] if isinstance(key, Slot) else key


def _getitem(x: Array, *operands: Any, key: Any) -> object:
    part = x[fill_key(key, operands)]
    # A string that is an element is as long as it is: the array's dtype says how long it may be.
    return np.array(part, x.dtype) if part.__class__ in _TEXT else part


_TEXT: frozenset[object] = frozenset({str, np.str_, np.bytes_})


def _setitem(x: Array, value: object, *operands: object, key: object) -> object:
    result = x.copy(order="K")
    result[fill_key(key, operands)] = value
    return result


def _overwrite(x: Array, value: Any, *operands: Any, key: Any) -> object:
    """`setitem` in place, where nothing else refers to `x`."""
    x[fill_key(key, operands)] = value
    return x


def _infer_getitem(x: Any, *operands: object, key: object) -> ShapeDtype:
    if isinstance(key, str | list):
        return _infer_fields(x, key)
    # The key is told from its entries before those are put in: a `ShapeDtype` is a tuple too.
    entries = fill_key(key if isinstance(key, tuple) else (key,), operands)
    return ShapeDtype(_indexed(shape_of(x), entries), dtype_of(x))


def _infer_fields(x: object, key: Any) -> ShapeDtype:
    dtype = dtype_of(x)
    if dtype.names is None:
        raise _no_index(key)
    part = np.empty(1, dtype)[key]
    return ShapeDtype((*shape_of(x), *part.shape[1:]), part.dtype)


def _indexed(shape: Shape, key: tuple[object, ...]) -> Shape:
    """The shape of what a key selects: basic entries keep their place, the arrays together take one."""
    used = sum(map(_consumes, key))
    if used > len(shape) or sum(entry is Ellipsis for entry in key) > 1:
        raise IndexError(f"too many indices for array: array is {len(shape)}-dimensional, but {used} were indexed")
    whole = [slice(None)] * (len(shape) - used)
    at = next((place for place, entry in enumerate(key) if entry is Ellipsis), len(key))
    entries = [*key[:at], *whole, *key[at + 1 :]]
    arrays = any(_is_array(entry) for entry in entries)
    lengths = iter(shape)
    basic: list[Dim] = []
    advanced: list[tuple[int, Shape]] = []  # (place in the key, shape of the index)
    front = 0
    for place, entry in enumerate(entries):
        if entry is None:
            basic.append(1)
        elif isinstance(entry, slice):
            basic.append(_sliced(entry, next(lengths)))
        else:
            if arrays and not advanced:
                front = len(basic)
            index_shape = _index_shape(entry, lengths, checked=not arrays)
            if arrays:
                advanced.append((place, index_shape))
    if not arrays:
        return tuple(basic)
    joined = broadcast(*(index_shape for _, index_shape in advanced))
    # Arrays that stand apart (an ellipsis between them counts, even of no axes) put their dimensions first.
    apart = advanced[-1][0] - advanced[0][0] != len(advanced) - 1
    if at < len(key) and not whole:
        apart = apart or (any(place < at for place, _ in advanced) and any(place >= at for place, _ in advanced))
    front = 0 if apart else front
    return (*basic[:front], *joined, *basic[front:])


def _is_array(entry: object) -> bool:
    return isinstance(entry, ShapeDtype | bool | np.bool_)


def _consumes(entry: object) -> int:
    """How many dimensions of the array an entry of a key takes."""
    if entry is None or entry is Ellipsis or isinstance(entry, bool | np.bool_):
        return 0
    if isinstance(entry, ShapeDtype) and entry.dtype == np.bool_:
        return len(entry.shape)
    return 1


def _sliced(entry: slice, length: Dim) -> Dim:
    if length is not None:
        return len(range(*entry.indices(length)))
    step = 1 if entry.step is None else entry.step
    return 0 if entry.start is not None and entry.start == entry.stop and step > 0 else None


def _index_shape(entry: Any, lengths: Iterator[Dim], *, checked: bool) -> Shape:
    if isinstance(entry, bool | np.bool_):
        return (int(entry),)
    if isinstance(entry, ShapeDtype):
        if entry.dtype == np.bool_:
            for position, n in enumerate(entry.shape):
                length = next(lengths)
                if n and length is not None and n != length:  # NumPy lets masks of no elements pass
                    raise IndexError(
                        f"boolean index did not match indexed array along axis {position}; size of axis is {length} "
                        f"but size of corresponding boolean axis is {n}"
                    )
            return (None,)
        if entry.dtype.kind not in "iu":
            raise IndexError("arrays used as indices must be of integer (or boolean) type")
        next(lengths)
        return entry.shape
    length = next(lengths)
    # Beside arrays NumPy checks an integer only where something is selected.
    if checked and length is not None and not -length <= entry < length:
        raise IndexError(f"index {entry} is out of bounds for an axis with size {length}")
    return ()


def _selected(values: Sequence[object], params: dict[str, object]) -> float:
    return 5.0 * costs.elements(values[1:])


def _written(values: Sequence[Any], params: dict[str, Any]) -> float:
    return 1.0 * float(values[0].size) + _selected(values, params)


def _read(values: Sequence[Any], params: dict[str, object]) -> float:
    """5 for each element that is read: one index may stand for a whole row, a mask selects at most all it covers."""
    described = [ShapeDtype(value.shape, value.dtype) if isinstance(value, np.ndarray) else value for value in values]
    try:
        shape = _infer_getitem(*described, **params).shape
    except (IndexError, ValueError):
        return 0.0  # the kernel will say so, at once
    covered = costs.elements([value for value in values[1:] if value.dtype == np.bool_])
    return 5.0 * math.prod(covered if length is None else length for length in shape)


_GETITEM = Op("getitem", _getitem, infer=_infer_getitem, cost=_read, view=True, parallel=selected)
_SLICE = Op("getitem", _getitem, infer=_infer_getitem, ns=1e-6, view=True)
_SETITEM = Op("setitem", _setitem, infer=lambda x, *others, key: x, cost=_written, overwrite=_overwrite)


def getitem(x: Handle, key: Any, /) -> Handle:
    """`x[key]`: integers, slices, `...`, None, integer and boolean arrays, which may be handles."""
    template, operands = _split_key(x, key)
    if not operands:
        handle = current().dispatch(_SLICE, x, params={"key": template})
        cell = x._cell  # as `link` does, whose call costs as much as all of this
        above = link_above(x) if cell.op.memory.view or cell.rare is not None else None
        handle._link = (ref(x), ref(cell), template, above, False)
        return handle
    check_operands(_GETITEM, x, *operands, key=template)
    handle = current().dispatch_any(_GETITEM, (x, *operands), {"key": template})
    if all(map(_may_be_integer, operands)):
        link(handle, x, Key(template, tuple([copy(each) for each in operands]), fill_key))
    return handle


def _may_be_integer(index: object) -> bool:
    """Tell whether a handle in an index may be an integer in NumPy, and give a view. Of an array all is copied."""
    return isinstance(index, Handle) and ndim_of(index) in (0, None)


def setitem(x: Handle, key: object, value: Operand, /) -> Handle:
    """The array that `x` would be after `x[key] = value`."""
    template, operands = _split_key(x, key)
    return current().dispatch_any(_SETITEM, (x, assigned(x, template, value), *operands), {"key": template})


# ---------------------------------------------------------------------------------------------------------------------
# Functions of the standard


def _infer_where(condition: object, x1: Any, x2: Any) -> ShapeDtype:
    dtype = np.result_type(*(each if isinstance(each, int | float | complex) else type_of(each) for each in (x1, x2)))
    return ShapeDtype(broadcast(*map(shape_of, (condition, x1, x2))), dtype)


_WHERE = Op("where", np.where, infer=_infer_where, ns=2, block=select)


def where(condition: Operand, x1: Operand, x2: Operand, /) -> Handle:
    """x1 where the condition holds, x2 elsewhere; the three broadcast."""
    return current().dispatch_any(_WHERE, (condition, x1, x2))


def _infer_take(x: object, indices: object, *, axis: int | None) -> ShapeDtype:
    shape, taken = shape_of(x), shape_of(indices)
    if axis is None:
        return ShapeDtype(taken, dtype_of(x))
    where = normalize_axis(axis, len(shape))
    return ShapeDtype((*shape[:where], *taken, *shape[where + 1 :]), dtype_of(x))


def _take(x: Array, indices: Any, *, axis: int | None) -> object:
    return np.take(x, indices, axis=axis)


def _taken(values: Sequence[object], params: dict[str, object]) -> float:
    x, indices = values
    axis = params["axis"]
    row = 1 if axis is None or not isinstance(x, np.ndarray) else x.size // max(1, x.shape[axis] if x.ndim else 1)
    return 3.0 * float(getattr(indices, "size", 1)) * float(row)


_TAKE = Op("take", _take, infer=_infer_take, cost=_taken, parallel=taken)


def take(x: Operand, indices: Operand, /, *, axis: int | None = None) -> Handle:
    """The elements at these indices of an axis (of the flattened array when none is given)."""
    return current().dispatch(_TAKE, x, indices, {"axis": checks.axis_or_none("take", axis)})


def _infer_take_along(x: object, indices: object, *, axis: int | None) -> ShapeDtype:
    shape, taken = shape_of(x), shape_of(indices)
    if axis is None:
        return ShapeDtype((size_of(taken),), dtype_of(x))
    where = normalize_axis(axis, len(shape))
    if len(shape) != len(taken):
        raise ValueError("`indices` and `arr` must have the same number of dimensions")
    return ShapeDtype(
        replaced(broadcast(replaced(shape, where, 1), replaced(taken, where, 1)), where, taken[where]), dtype_of(x)
    )


_TAKE_ALONG = Op("take_along_axis", np.take_along_axis, infer=_infer_take_along, cost=costs.each(5))


def take_along_axis(x: Operand, indices: Operand, /, *, axis: int = -1) -> Handle:
    """The elements at indices that are given for each line along an axis."""
    params = {"axis": checks.axis_or_none("take_along_axis", axis)}
    return current().dispatch(_TAKE_ALONG, x, indices, params)
