"""Shape and dtype of nodes, where those of their operands may be unknown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from engine.base.errors import UnknownShapeError
from engine.base.inference import describe, infer, infer_cell
from engine.base.lengths import facts_in_common
from engine.base.op import Op, Params, ShapeDtype
from handles.cell import Cell

UNKNOWN = ShapeDtype(None, None)  # type: ignore[arg-type]
"""A result that only running its op can describe. Where the dtype is known and the rank is not, the shape is None."""

_RANKS = (1, 2, 3, 0, 4)
"""Numbers of dimensions that are tried where the dtype is all there is to know."""


def infer_node(op: Op, operands: Sequence[object], params: Params | None) -> tuple[ShapeDtype, ...]:
    """Describe each result of a node. Raises what the op would raise where its operands do not fit."""
    described = [_described(each) for each in operands]
    shapes = [its for its in described if isinstance(its, ShapeDtype)]
    if op.infer is None or any(its.dtype is None for its in shapes):
        return (UNKNOWN,) * op.outputs
    if any(map(_has_unknown_rank, shapes)):
        return _infer_without_rank(op, described, params)
    try:
        if params:
            return infer(op, described, params)
        return _remembered(op, tuple(described), tuple(map(type, described)))
    except UnknownShapeError:
        return (UNKNOWN,) * op.outputs
    except Exception:
        if all(map(is_complete, shapes)):
            raise
        return _infer_without_lengths(op, described, params)


@lru_cache(maxsize=4096)
def _remembered(op: Op, described: tuple[object, ...], types: tuple[type, ...]) -> tuple[ShapeDtype, ...]:
    """Apply the rule of an op without parameters: programs call the same ones on the same shapes.

    `types` belongs to the key, as 1 and 1.0 are equal.
    """
    return infer(op, described, None)


def is_complete(its: ShapeDtype) -> bool:
    """True if dtype, rank and all lengths are known."""
    dtype: object = its.dtype
    return dtype is not None and not _has_unknown_rank(its) and None not in its.shape


def _has_unknown_rank(its: ShapeDtype) -> bool:
    shape: object = its.shape
    return shape is None


def _infer_without_rank(op: Op, described: Sequence[object], params: Params | None) -> tuple[ShapeDtype, ...]:
    """Find the dtypes of the results by trying some ranks for the operands whose rank is unknown."""
    for rank in _RANKS:
        shape = (None,) * rank
        guess = [
            ShapeDtype(shape, its.dtype) if isinstance(its, ShapeDtype) and _has_unknown_rank(its) else its
            for its in described
        ]
        try:
            results = infer(op, guess, params)
        except Exception:  # noqa: BLE001 - does not fit this number of dimensions, maybe another
            continue
        return tuple(ShapeDtype(None, its.dtype) for its in results)  # type: ignore[arg-type]
    return (UNKNOWN,) * op.outputs


def _infer_without_lengths(op: Op, described: Sequence[object], params: Params | None) -> tuple[ShapeDtype, ...]:
    """Keep what the results have in common for all lengths with which the operands fit; else their dtypes.

    Raises what the op does where they fit with none. A user's rule may compute a length in any way, so that of one
    only the dtypes are kept.
    """
    shapes = [its.shape for its in described if isinstance(its, ShapeDtype)]
    answers: list[tuple[ShapeDtype, ...]] = []

    def rule(operands: Sequence[object]) -> tuple[ShapeDtype, ...]:
        answers.append(infer(op, operands, params))
        return answers[-1]

    try:
        found = facts_in_common(rule, described, _numbers(shapes) | _numbers(params))
    except Exception:
        if op.known:
            raise
        return (UNKNOWN,) * op.outputs
    if found is not None and op.known:
        return found
    return tuple(ShapeDtype(None, its.dtype) for its in answers[0])  # type: ignore[arg-type]


def _numbers(value: object) -> set[int]:
    """The lengths that shapes and parameters mention."""
    if isinstance(value, dict):
        return _numbers(list(value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_numbers, value))
    return {value} if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else set()


def _described(operand: object) -> object:
    """The operand as a shape rule gets it; of a cell what is known now."""
    if not isinstance(operand, Cell):
        return describe(operand)
    rare = operand.rare
    if rare is not None and rare.inferred is not None:
        return rare.inferred
    try:
        return infer_cell(operand)
    except UnknownShapeError:
        return UNKNOWN
