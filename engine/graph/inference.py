"""Shape and dtype of nodes, where those of their operands may be unknown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from engine.base.errors import UnknownShapeError
from engine.base.inference import infer_cell
from engine.base.op import Op, ShapeDtype
from handles.cell import Cell

UNKNOWN = ShapeDtype(None, None)  # type: ignore[arg-type]
"""Of a result that only running its op can describe. Of a known dtype and an unknown rank, only the shape is None."""

_RANKS = (1, 2, 3, 0, 4)
"""Numbers of dimensions that are tried where the dtype is all there is to know."""


def infer_node(op: Op, operands: Sequence[Any], params: dict[str, Any] | None) -> tuple[ShapeDtype, ...]:
    """What each result of a node will look like. Raises what the op would where its operands do not fit."""
    described: list[Any] = [_described(each) for each in operands]
    if op.infer is None or any(its.__class__ is ShapeDtype and its.dtype is None for its in described):
        return (UNKNOWN,) * op.outputs
    if any(map(_has_unknown_rank, described)):
        return _of_unknown_rank(op, described, params or {})
    try:
        if params:
            return _several(op.infer(*described, **params))
        return _remembered(op, tuple(described), tuple(map(type, described)))
    except UnknownShapeError:
        return (UNKNOWN,) * op.outputs
    except Exception:
        if all(its.__class__ is not ShapeDtype or is_complete(its) for its in described):
            raise
        return _of_unknown_lengths(op, described, params or {})


@lru_cache(maxsize=4096)
def _remembered(op: Op, described: tuple[Any, ...], types: tuple[type, ...]) -> tuple[ShapeDtype, ...]:
    """What an op without parameters gives: programs call the same ones on the same shapes. 1 and 1.0 are equal keys."""
    assert op.infer is not None
    return _several(op.infer(*described))


def is_complete(its: Any) -> bool:
    """Whether dtype, rank and all lengths are known."""
    return its.dtype is not None and its.shape is not None and None not in its.shape


def _has_unknown_rank(its: Any) -> bool:
    return its.__class__ is ShapeDtype and its.shape is None


def _of_unknown_rank(op: Op, described: list[Any], params: dict[str, Any]) -> tuple[ShapeDtype, ...]:
    assert op.infer is not None
    for rank in _RANKS:
        shape = (None,) * rank
        guess = [ShapeDtype(shape, its.dtype) if _has_unknown_rank(its) else its for its in described]
        try:
            results = _several(op.infer(*guess, **params))
        except Exception:  # noqa: BLE001 - does not fit this number of dimensions, maybe another
            continue
        return tuple(ShapeDtype(None, its.dtype) for its in results)  # type: ignore[arg-type]
    return (UNKNOWN,) * op.outputs


def _of_unknown_lengths(op: Op, described: list[Any], params: dict[str, Any]) -> tuple[ShapeDtype, ...]:
    """What the results look like for those lengths, of some that may be meant, with which the operands fit at all.

    Raises what the op does where they fit with none.
    """
    assert op.infer is not None
    lengths = {1, 2, *_numbers([its.shape for its in described if its.__class__ is ShapeDtype]), *_numbers(params)}
    found: list[tuple[ShapeDtype, ...]] = []
    problems: list[Exception] = []
    for length in sorted(lengths)[:_LENGTHS_TRIED]:
        guess = [_with_length(its, length) if its.__class__ is ShapeDtype else its for its in described]
        try:
            found.append(_several(op.infer(*guess, **params)))
        except Exception as error:  # noqa: BLE001 - does not fit this length, maybe another
            problems.append(error)
    if not found:
        raise problems[0]
    return tuple(_common(results) for results in zip(*found, strict=True))


_LENGTHS_TRIED = 16


def _numbers(value: Any) -> set[int]:
    """The lengths that shapes and parameters speak of."""
    if isinstance(value, dict):
        return _numbers(list(value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_numbers, value))
    return {value} if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else set()


def _with_length(its: ShapeDtype, length: int) -> ShapeDtype:
    return ShapeDtype(tuple(length if n is None else n for n in its.shape), its.dtype)


def _common(results: Sequence[ShapeDtype]) -> ShapeDtype:
    """What several possible results have in common."""
    shapes = [its.shape for its in results]
    if len(set(map(len, shapes))) > 1:
        return ShapeDtype(None, results[0].dtype)  # type: ignore[arg-type]
    lengths = (set(each) for each in zip(*shapes, strict=True))
    return ShapeDtype(tuple(each.pop() if len(each) == 1 else None for each in lengths), results[0].dtype)


def _several(inferred: Any) -> tuple[ShapeDtype, ...]:
    return (inferred,) if isinstance(inferred, ShapeDtype) else tuple(inferred)


def _described(operand: Any) -> Any:
    """An operand as inference sees it: shape and dtype of arrays, scalars as they are."""
    if operand.__class__ is Cell:
        rare = operand.rare
        if rare is not None and rare.inferred is not None:
            return rare.inferred
        try:
            return infer_cell(operand)
        except UnknownShapeError:
            return UNKNOWN
    if isinstance(operand, np.ndarray | np.generic):
        return ShapeDtype(operand.shape, operand.dtype)
    return operand
