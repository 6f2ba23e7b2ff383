"""Waiting for a cell from a thread that may block, by working off what the cell waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from time import monotonic
from typing import Any

from engine.ambient import scope_var
from engine.errors import BlockingSyncError, OpCancelledError
from engine.failures import describe
from engine.planning.op import Op
from engine.queues.base import Queue
from engine.queues.bell import Bell
from handles.cell import PENDING, Cell, Failure, add_waiter, pending_cell, remove_waiter

SLICE = 0.005
"""Seconds that a blocked thread drives a queue before it looks at its deadline."""
RECHECK = 0.1
"""Seconds after which a blocked thread looks again, whatever it was told."""

NEVER = pending_cell(Op("never", lambda: None), (), None, None, None, 0)  # type: ignore[arg-type]
"""An operand that never comes: a record that has it is set aside when its turn comes."""


class Countdown:
    """Calls back once when all of several cells are settled, at once where they are."""

    __slots__ = ("_left", "_lock", "_then")

    def __init__(self, cells: Iterable[Cell], then: Callable[[], object]) -> None:
        self._then = then
        self._lock = threading.Lock()
        self._left = 1
        for cell in cells:
            with self._lock:
                self._left += 1
            if not add_waiter(cell, self):
                self(cell)
        self(None)

    def __call__(self, _: Cell | None) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._then()


class Settled:
    """Awaits that a cell is settled; raises nothing of its own."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def __await__(self) -> Generator[Any, None, None]:
        if self._cell.value is PENDING:
            yield from self._cell.home.wait(self._cell)


def record_of(cell: Cell) -> Cell:
    """The record that settles a cell."""
    rare = cell.rare
    return cell if rare is None or rare.record is None else rare.record


def pending_operands(record: Cell) -> list[Cell]:
    """The records that a record needs and that have not been settled."""
    return [record_of(each) for each in record.args if each.__class__ is Cell and each.value is PENDING]


def blockers(*cells: Cell) -> list[Cell]:
    """The records whose queues have to move before the cells can be settled."""
    return _walk([record_of(cell) for cell in cells], {})


def _walk(stack: list[Cell], needed_by: dict[Cell, Cell]) -> list[Cell]:
    """The records that those on the stack wait for in the end; `needed_by` is told how each was found."""
    seen, found = set(), []
    while stack:
        record = stack.pop()
        if record in seen or record is NEVER:
            continue
        seen.add(record)
        home = record.home
        assert isinstance(home, Queue)
        waits_for = home.waiting_for(record)
        if not waits_for:
            found.append(record)
        for each in map(record_of, waits_for):
            if each not in seen:
                needed_by[each] = record
                stack.append(each)
    return found


class Blockers:
    """The records whose queues have to move before a cell can be settled.

    Each look goes on from where the last one ended: to start from the cell whenever an op has ended would take time
    with the square of the length of a chain.
    """

    __slots__ = ("_cell", "_found", "_needed_by")

    def __init__(self, cell: Cell) -> None:
        self._cell = record_of(cell)
        self._found = [self._cell]
        self._needed_by: dict[Cell, Cell] = {}

    def look(self) -> list[Cell]:
        self._found = _walk([self._unsettled(record) for record in self._found], self._needed_by)
        return self._found

    def _unsettled(self, record: Cell) -> Cell:
        """The record, or where it is settled, the next one on the way to the cell that is not."""
        while record.value is not PENDING and record is not self._cell:
            record = self._needed_by.pop(record, self._cell)  # forgotten, so that its result can be let go of
        return record


def block_until(cell: Cell, seconds: float | None) -> None:
    """Block this thread until the cell is settled, driving the queues that it waits for."""
    deadline = None if seconds is None else monotonic() + seconds
    bell = Bell()
    homes: set[Queue] = set()
    ahead = Blockers(cell)

    def wake(_: Cell) -> None:
        bell.ring()

    if not add_waiter(cell, wake):
        return
    try:
        while cell.value is PENDING:
            if not _drive(ahead.look(), bell, homes) and cell.value is PENDING:
                left = RECHECK if deadline is None else min(RECHECK, deadline - monotonic())
                if left > 0:
                    bell.wait(left)
            if deadline is not None and monotonic() >= deadline and cell.value is PENDING:
                raise TimeoutError(timed_out(cell, seconds))
    finally:
        remove_waiter(cell, wake)
        for home in homes:
            home.listen(bell, False)


def _drive(records: list[Cell], bell: Bell, homes: set[Queue]) -> bool:
    """Drive the queues of the records that hold a cell up; whether anything was done."""
    done = False
    for record in records:
        home = record.home
        assert isinstance(home, Queue)
        if home not in homes:
            homes.add(home)
            home.listen(bell, True)
        if record.value is PENDING:
            home.check_can_end(record)
        done = home.drive(SLICE, record, patient=True) or done
    return done


def timed_out(cell: Cell, seconds: float | None) -> str:
    home = cell.home
    assert isinstance(home, Queue)
    awaited = home.awaited_by(cell)
    return f"not ready after {seconds:.3g} s: {describe(awaited)}; it is {awaited.state}"


def cancellation(record: Cell, why: str) -> Failure:
    """The failure of an op that was cancelled."""
    error = OpCancelledError(f"op {record.op.name!r} was cancelled: {why}")
    error.add_note(describe(record))
    return Failure(error, cancelled=True)


def check_not_waiting_for_itself(cell: Cell) -> None:
    """Raise where an async kernel waits for what cannot be done before the kernel has ended."""
    kernel = scope_var.get().kernel
    if kernel is None or kernel.value is not PENDING:
        return
    stack, seen = [record_of(cell)], set()
    while stack:
        record = stack.pop()
        if record is kernel:
            raise BlockingSyncError(
                f"the kernel of {kernel.op.name!r} waits for something that needs its own result: {describe(cell)}"
            )
        if record not in seen:
            seen.add(record)
            stack.extend(pending_operands(record))
