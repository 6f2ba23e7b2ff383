"""Shape and dtype of pending results, from those of the operands; nothing is computed, nobody waits."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.base.errors import UnknownShapeError
from engine.base.op import ShapeDtype
from engine.base.sites import describe_op, hide_frames, hide_traceback, located, render_apart
from handles.cell import PENDING, Cell, Failure


def infer_cell(cell: Cell, *, tell: bool = True) -> ShapeDtype:
    """The shape and dtype of a cell's result, now or in future.

    Raises what the op will raise where its operands do not fit, and `UnknownShapeError` where nobody can tell. Raises
    the error of an op that failed, which then counts as reported unless `tell` is False: whoever asks swallows it.
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
        described = [_described(arg) for arg in args]
        missing = [arg for arg, its in zip(args, described, strict=True) if its is None]
        poison = next((its for its in described if its.__class__ is Failure), None)
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


def _operands(cell: Cell) -> tuple[Any, ...]:
    rare = cell.rare
    return (rare.record or cell).args if rare is not None else cell.args


def _known(cell: Cell) -> ShapeDtype | Failure | None:
    value = cell.value
    if value is PENDING:
        rare = cell.rare
        return None if rare is None else rare.inferred
    if value.__class__ is Failure:
        rare = cell.rare
        if rare is not None and rare.inferred is not None:
            return rare.inferred  # type: ignore[no-any-return]
        return value
    return ShapeDtype(value.shape, value.dtype)


def _remember(cell: Cell, operands: list[Any]) -> None:
    rare = cell.rare
    record = rare.record or cell if rare is not None else cell
    op = record.op
    params = record.params
    if cell.value is not PENDING:
        return  # it was computed meanwhile, and its operands and parameters may have been let go
    if op.infer is None:
        raise UnknownShapeError(
            f"the shape and dtype of {op.name!r} are not known before it has run: await the handle first, "
            "or say them with engine.op(..., shape=...)"
        )
    try:
        inferred = op.infer(*operands, **(params or {}))
    except Exception as error:
        _tell_place(error, record)
        raise
    if isinstance(inferred, tuple) and not isinstance(inferred, ShapeDtype):
        outputs = record.extend().outputs
        if not outputs and record.op.outputs != 1:
            return  # they are being settled at this moment, and their values will tell
        for output, its in zip(outputs or (record,), inferred, strict=True):
            output.extend().inferred = its
    else:
        (rare or cell.extend()).inferred = inferred


def _tell_place(error: Exception, record: Cell) -> None:
    note = describe_op(record.op.name, record.home.device, record.code, record.lasti)
    if note not in vars(error).get("__notes__", ()):  # of a step in a function's own inference
        error.add_note(note)
    hide_frames()
    hide_traceback(error.__traceback__)
    render_apart(error)


def _described(arg: Any) -> Any:
    """An operand as inference sees it: shape and dtype of arrays, scalars as they are."""
    if arg.__class__ is Cell:
        return _known(arg)
    if isinstance(arg, np.ndarray | np.generic):
        return ShapeDtype(arg.shape, arg.dtype)
    return arg
