"""Records: the cells that ops settle, and what a record still needs. Pure."""

from __future__ import annotations

from typing import Any

from engine.base.op import Op
from handles.cell import PENDING, Cell, pending_cell

NEVER = pending_cell(Op("never", lambda: None), (), None, None, None, 0)  # type: ignore[arg-type]
"""An operand that never comes: a record that has it is set aside when its turn comes."""

BARRIER = Op("synchronize", lambda: None)
"""The op of a marker: done when all that was dispatched to the queue before it is."""


def record_of(cell: Cell) -> Cell:
    """The record that settles a cell."""
    rare = cell.rare
    return cell if rare is None or rare.record is None else rare.record


def pending_operands(record: Cell) -> list[Cell]:
    """The records that a record needs and that have not been settled."""
    return [record_of(each) for each in record.args if each.__class__ is Cell and each.value is PENDING]


def entry_of(record: Cell) -> Any:
    """The entry of a record that was set aside; None before that, and after the record has ended."""
    rare = record.rare
    return None if rare is None else rare.entry
