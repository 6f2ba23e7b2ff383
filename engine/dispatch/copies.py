"""Copies of values on other devices: the op that makes one, and those that still live, to be used again."""

from __future__ import annotations

from collections.abc import Hashable
from weakref import WeakValueDictionary

from engine.base.op import Op, Params
from engine.queues.base import Queue
from engine.queues.reading import MOVE, Move
from handles.cell import Cell, Failure

TRANSFER = Op(
    "to_device",
    lambda value: value,
    infer=lambda value: value,
    ns=1e-6,
    view=True,
)
"""Logical CPU devices share memory and values never change: a copy between them needs no second buffer."""


def copying_op(cell: Cell, target: Queue) -> tuple[Op, Params | None]:
    """The op, and its parameters, that brings a value to a queue."""
    if cell.home.on_host and target.on_host:
        return TRANSFER, None
    return MOVE, {"move": Move(cell, target)}


def living_copy(cell: Cell, *keys: Hashable) -> Cell | None:
    """Find a copy that still lives and has not failed: one that was cancelled is of no use to other ops."""
    copies: WeakValueDictionary[Hashable, Cell] | None = cell.extend().copies
    for key in keys if copies is not None else ():
        copy = copies.get(key) if copies is not None else None
        if copy is not None and copy.value.__class__ is not Failure:
            return copy
    return None


def keep_copy(cell: Cell, key: Hashable, copy: Cell) -> None:
    """Let later ops use the copy, as long as it lives."""
    rare = cell.extend()
    if rare.copies is None:
        rare.copies = WeakValueDictionary()
    rare.copies[key] = copy
