"""Shape and dtype of results that may not exist yet, found from those of the operands without running or waiting.

`describe` and `infer` are what every user of a shape rule calls. `infer_cell` applies them to the pending cells of
eager execution; `engine.graph.inference` applies them to nodes, of whose operands less may be known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from engine.base.errors import UnknownShapeError
from engine.base.op import Op, ShapeDtype
from engine.base.sites import describe_op, hide_frames, hide_traceback, located, render_apart
from handles.cell import PENDING, Cell, Failure


def describe(operand: object) -> object:
    """The operand as a shape rule gets it: shape and dtype of an array, anything else as it is."""
    if isinstance(operand, np.ndarray | np.generic):
        return ShapeDtype(operand.shape, operand.dtype)
    return operand


def infer(op: Op, described: Sequence[object], params: Mapping[str, object] | None) -> tuple[ShapeDtype, ...]:
    """Apply the shape rule of an op: one entry for each result.

    Raises `UnknownShapeError` for an op that has no rule, and what the op would raise where its operands do not fit.
    """
    if op.infer is None:
        raise UnknownShapeError(
            f"the shape and dtype of {op.name!r} are not known before it has run: await the handle first, "
            "or say them with engine.op(..., shape=...)"
        )
    inferred: object = op.infer(*described, **(params or {}))
    if isinstance(inferred, ShapeDtype):
        return (inferred,)
    if isinstance(inferred, tuple):
        return inferred
    return (ShapeDtype((), np.asarray(inferred).dtype),)  # the rule gave back its operand, a scalar


def result_layout(
    op: Op, operands: Sequence[object], params: Mapping[str, object] | None
) -> tuple[tuple[int, ...], np.dtype[np.generic]] | None:
    """The shape and dtype of the one result for operands that are there.

    None where they are not known, or where the operands do not fit: the kernel will raise what is wrong.
    """
    try:
        (its,) = infer(op, [describe(each) for each in operands], params)
    except Exception:  # noqa: BLE001 - the kernel will say what is wrong
        return None
    shape = tuple(length for length in its.shape if length is not None)
    return (shape, its.dtype) if len(shape) == len(its.shape) else None


def size_of(its: ShapeDtype) -> int:
    """Bytes of an array of a shape that is known."""
    return its.dtype.itemsize * math.prod(length or 0 for length in its.shape)


# ---------------------------------------------------------------------------------------------------------------------
# Eager execution: results of pending ops


def infer_cell(cell: Cell, *, tell: bool = True) -> ShapeDtype:
    """The shape and dtype of a cell's result, now or in future.

    Raises what the op will raise where its operands do not fit, and `UnknownShapeError` where only running the op can
    tell. Raises the error of an op that failed, which then counts as reported unless `tell` is False, for callers that
    swallow it.
    """
    known = _infer(cell)
    if isinstance(known, Failure):
        known.seen = known.seen or tell
        hide_frames()
        raise located(known)
    return known


def _infer(cell: Cell) -> ShapeDtype | Failure:
    """Walk the operands with a stack of its own: chains of pending ops may be long."""
    stack = [cell]
    while stack:
        top = stack[-1]
        if _known(top) is not None:
            stack.pop()
            continue
        args = _operands(top)
        described = [_known(arg) if isinstance(arg, Cell) else describe(arg) for arg in args]
        missing = [arg for arg, its in zip(args, described, strict=True) if its is None and isinstance(arg, Cell)]
        poison = next((its for its in described if isinstance(its, Failure)), None)
        if _known(top) is not None:
            continue  # it was computed meanwhile, and its operands may have been let go
        if poison is not None:
            return poison
        if missing:
            stack.extend(missing)
            continue
        _remember(top, described)
    known = _known(cell)
    assert known is not None
    return known


def _operands(cell: Cell) -> tuple[object, ...]:
    rare = cell.rare
    return (rare.record or cell).args if rare is not None else cell.args


def _known(cell: Cell) -> ShapeDtype | Failure | None:
    value = cell.value
    if value is PENDING:
        rare = cell.rare
        return None if rare is None else rare.inferred
    if isinstance(value, Failure):
        rare = cell.rare
        if rare is not None and rare.inferred is not None:
            return rare.inferred  # type: ignore[no-any-return]
        return value
    return ShapeDtype(value.shape, value.dtype)


def _remember(cell: Cell, operands: Sequence[object]) -> None:
    rare = cell.rare
    record = rare.record or cell if rare is not None else cell
    op: Op = record.op
    params = record.params
    if cell.value is not PENDING:
        return  # it was computed meanwhile, and its operands and parameters may have been let go
    try:
        inferred = infer(op, operands, params)
    except Exception as error:
        _tell_place(error, record)
        raise
    if op.outputs == 1:
        (rare or cell.extend()).inferred = inferred[0]
        return
    outputs = record.extend().outputs
    if outputs:  # else another thread completes them at this moment, and their values will tell
        for output, its in zip(outputs, inferred, strict=True):
            output.extend().inferred = its


def _tell_place(error: Exception, record: Cell) -> None:
    note = describe_op(record.op.name, record.home.device, record.code, record.lasti)
    if note not in vars(error).get("__notes__", ()):  # of a step in a function's own inference
        error.add_note(note)
    hide_frames()
    hide_traceback(error.__traceback__)
    render_apart(error)
