"""Records: how a call becomes one, or a few cells, and the handles of them. Graphs make their nodes here too."""

from __future__ import annotations

from contextvars import copy_context
from types import CodeType
from typing import TypeVar

from engine.base.op import Op, Params
from handles.base import Handle
from handles.cell import Cell, Home, pending_cell

AnyHandle = TypeVar("AnyHandle", bound=Handle)

new = object.__new__


def make_record(
    op: Op,
    operands: tuple[object, ...],
    params: Params | None,
    home: Home,
    code: CodeType | None,
    lasti: int,
    *,
    keeps_context: bool = False,
) -> Cell:
    """Make the record of any op, with a cell for each result where it has several.

    `code` and `lasti` say where the op was called. `keeps_context` has it run in a copy of the caller's context.
    """
    record = pending_cell(op, operands, params, home, code, lasti)
    if keeps_context:
        record.extend().context = copy_context()
    if op.outputs != 1:
        outputs = []
        for _ in range(op.outputs):
            output = pending_cell(op, (record,), None, home, code, lasti)
            output.extend().record = record
            outputs.append(output)
        record.extend().outputs = tuple(outputs)
    return record


def make_value(op: Op, value: object, home: Home, code: CodeType | None = None, lasti: int = 0) -> Cell:
    """Make the cell of a value that is there."""
    cell = pending_cell(op, (), None, home, code, lasti)
    cell.value = value
    return cell


def cells_of(record: Cell) -> tuple[Cell, ...]:
    """The cells of a record's results."""
    rare = record.rare
    return rare.outputs if rare is not None and rare.outputs else (record,)


def handles_of(record: Cell, cls: type[AnyHandle]) -> tuple[AnyHandle, ...]:
    """Make the handles of a record's results."""
    return tuple(handle_of(cell, cls) for cell in cells_of(record))


def handle_of(cell: Cell, cls: type[AnyHandle]) -> AnyHandle:
    """Make a handle that shows a cell."""
    handle = new(cls)
    handle._cell = cell
    return handle
