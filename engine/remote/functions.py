"""Ops as a worker has them: rows, what a client describes, and traced functions, whose calls become records here.

A call of a traced function is one step of a program. Its ops are records of their own on the worker's queue, so they
are fused and scheduled as any are; that they belong together is known by the numbers in their cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

import cloudpickle
import numpy as np

from engine.base.op import Op
from engine.devices.cpu import lock
from engine.devices.dask.rows import rows
from engine.dispatch.records import cells_of, make_record
from engine.failures import INTERNAL
from engine.queues.device_queue import DeviceQueue
from engine.threads.slots import Slots
from handles.cell import Cell

vars()[INTERNAL] = True  # loaded after the package has marked its modules

WITHIN = 48
"""Bits of the number of a cell that are the step's; those above say which op of a traced function it is."""
ARRIVED = Op("asarray", np.asarray, view=True)
"""The op of a value that is there already."""


def step_number(cell: Cell) -> int:
    """The number of the step that a cell belongs to."""
    return cell.lasti & ((1 << WITHIN) - 1)


def place_within(cell: Cell) -> int | None:
    """Which op of a traced function a cell is; None where it is none of one."""
    return (cell.lasti >> WITHIN) - 1 if cell.lasti >> WITHIN else None


class Function:
    """A traced function."""

    def __init__(
        self,
        steps: Sequence[tuple[Op, tuple[int, ...], dict[str, Any] | None, int]],
        initial: list[Any],
        arguments: Sequence[int],
        outputs: Sequence[int],
        places: Sequence[str],
    ) -> None:
        self._steps = steps
        self._initial = initial
        self._arguments = arguments
        self._outputs = outputs
        self.places = places
        """Where the user called each op."""
        for each in initial:
            if isinstance(each, np.ndarray):
                lock(each)

    def push(
        self, args: Sequence[Any], queue: DeviceQueue, number: int, context: Callable[[Op], Context | None]
    ) -> tuple[Cell, ...]:
        """Under the queue's lock: put the records of a call on the queue; returns the cells of the results.

        `context` gives what an op is to run in; None for the plain one.
        """
        slots = self._initial.copy()
        for slot, value in zip(self._arguments, args, strict=True):
            slots[slot] = value
        for index, (op, inputs, params, slot) in enumerate(self._steps, 1):
            operands = tuple([slots[each] for each in inputs])
            record = make_record(op, operands, params, queue, None, number | index << WITHIN)
            around = context(op)
            if around is not None:
                record.extend().context = around
            queue.push(record)
            slots[slot : slot + op.outputs] = cells_of(record)
        return tuple([self._as_cell(slots[each], queue, number) for each in self._outputs])

    def _as_cell(self, value: Any, queue: DeviceQueue, number: int) -> Cell:
        """A result that is an operand or a constant is a value as any other one."""
        if isinstance(value, Cell):
            return value
        record = make_record(ARRIVED, (value,), None, queue, None, number)
        queue.push(record)
        return record


def understood(definition: str | bytes, calls: Slots) -> Op | Function:
    """The function that a client has named or described; one that fails, where it cannot be had here."""
    try:
        if isinstance(definition, str):
            return rows()[definition]
        facts: dict[str, Any] = cloudpickle.loads(definition)
        if "steps" in facts:
            steps = [(_made(op, calls), *others) for op, *others in facts.pop("steps")]
            return Function(steps, **facts)
        return _made(facts, calls)
    except Exception as error:  # noqa: BLE001 - importing the user's modules may raise anything
        return _broken(error)


def _made(facts: str | dict[str, Any], calls: Slots) -> Op:
    if isinstance(facts, str):
        return rows()[facts]
    name, kernel, known, estimate = (facts.pop(each) for each in ("name", "kernel", "known", "estimate"))
    limit = None if known else calls
    return Op(name, kernel, ns=1.0 if known else None, cost=estimate, limit=limit, **facts)


def _broken(error: Exception) -> Op:
    def kernel(*_: Any, **__: Any) -> Any:
        raise error

    return Op("unknown", kernel, ns=1.0)
