"""Indexing, and choosing elements by a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.context import current
from engine.ops.infer import Dim, broadcast, dtype_of, shape_of
from engine.ops.rows import BY_NUMPY, Operand
from engine.planning.op import Op, ShapeDtype
from handles.base import Handle


class Slot:
    """In a key: the place of the operand of that number."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def _split_key(key: Any) -> tuple[Any, list[Any]]:
    """The key with slots in place of arrays, and the arrays. Raises `IndexError` for what cannot be an index."""
    operands: list[Any] = []

    def part(entry: Any) -> Any:
        if isinstance(entry, Handle | np.ndarray | list):
            operands.append(np.asarray(entry, dtype=np.intp) if entry == [] else entry)
            return Slot(len(operands) - 1)
        if entry is None or entry is Ellipsis or isinstance(entry, slice | int | np.integer | bool | np.bool_):
            return entry
        raise IndexError(
            "only integers, slices (`:`), ellipsis (`...`), None and integer or boolean arrays are valid indices, "
            f"but got {entry!r}"
        )

    return (tuple(map(part, key)) if isinstance(key, tuple) else part(key)), operands


def _fill_key(key: Any, operands: Sequence[Any]) -> Any:
    if isinstance(key, tuple):
        return tuple(operands[part.number] if isinstance(part, Slot) else part for part in key)
    return operands[key.number] if isinstance(key, Slot) else key


def _getitem(x: Any, *operands: Any, key: Any) -> Any:
    return x[_fill_key(key, operands)]


def _setitem(x: Any, value: Any, *operands: Any, key: Any) -> Any:
    result = x.copy(order="K")
    result[_fill_key(key, operands)] = value
    return result


def _infer_getitem(x: Any, *operands: Any, key: Any) -> ShapeDtype:
    """Index an array that takes no memory, twice where a mask selects: what differs then is unknown."""
    shapes = []
    shape = shape_of(x)
    masked = any(dtype_of(operand) == np.bool_ for operand in operands) or None in shape
    for unknown in (1, 2) if masked else (1,):
        stand_in = np.broadcast_to(np.zeros((), dtype_of(x)), [unknown if n is None else n for n in shape])
        indices = [_stand_in_index(operand, unknown) for operand in operands]
        shapes.append(stand_in[_fill_key(key, indices)].shape if stand_in.size or not operands else ())
    return ShapeDtype(_merge(shapes), dtype_of(x))


def _stand_in_index(operand: Any, unknown: int) -> Any:
    lengths = [unknown if n is None else n for n in shape_of(operand)]
    if dtype_of(operand) != np.bool_:
        return np.broadcast_to(np.zeros((), dtype_of(operand)), lengths)
    mask = np.zeros(lengths, bool)
    mask.flat[: unknown - 1] = True
    return mask


def _merge(shapes: Sequence[tuple[int, ...]]) -> tuple[Dim, ...]:
    return tuple(lengths[0] if len(set(lengths)) == 1 else None for lengths in zip(*shapes, strict=True))


def _selected(values: Sequence[Any], params: dict[str, Any]) -> float:
    return 5.0 * sum(value.size for value in values[1:] if isinstance(value, np.ndarray))


def _copied(values: Sequence[Any], params: dict[str, Any]) -> float:
    return 1.0 * float(values[0].size) + _selected(values, params)


_GETITEM = Op("getitem", _getitem, infer=_infer_getitem, cost=_selected, view=True)
_SLICE = Op("getitem", _getitem, infer=_infer_getitem, ns=1e-6, view=True)
_SETITEM = Op("setitem", _setitem, infer=lambda x, *others, key: x, cost=_copied)


def getitem(x: Handle, key: Any, /) -> Handle:
    """`x[key]`: integers, slices, `...`, None, integer and boolean arrays, which may be handles."""
    template, operands = _split_key(key)
    return current().dispatch(_GETITEM if operands else _SLICE, (x, *operands), {"key": template})


def setitem(x: Handle, key: Any, value: Operand, /) -> Handle:
    """The array that `x` would be after `x[key] = value`."""
    template, operands = _split_key(key)
    return current().dispatch(_SETITEM, (x, value, *operands), {"key": template})


def _infer_where(condition: Any, x1: Any, x2: Any) -> ShapeDtype:
    types = [each.dtype if isinstance(each, ShapeDtype) else each for each in (x1, x2)]
    return ShapeDtype(broadcast(*map(shape_of, (condition, x1, x2))), np.result_type(*types))


_WHERE = Op("where", np.where, infer=_infer_where, ns=2)


def where(condition: Operand, x1: Operand, x2: Operand, /) -> Handle:
    """x1 where the condition holds, x2 elsewhere; the three broadcast."""
    return current().dispatch(_WHERE, (condition, x1, x2))


BY_NUMPY[np.where] = where
