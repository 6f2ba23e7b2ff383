"""Waiting for a cell from a thread that may block, by working off what the cell waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from functools import partial
from time import monotonic
from types import CodeType
from typing import Any, NamedTuple, Protocol
from weakref import ref

from engine.base.errors import BlockingSyncError, OpCancelledError
from engine.base.sites import describe_op
from engine.failures import describe
from engine.queues.bell import Bell
from engine.queues.demand import Demand
from engine.queues.hooks import hooks
from engine.queues.records import NEVER, pending_operands, record_of
from engine.settings.scope import scope_var
from handles.cell import PENDING, Cell, Failure, add_waiter, remove_waiter
from handles.display import shell

SLICE = 0.005
"""Seconds that a blocked thread drives a queue before it looks at its deadline."""
RECHECK = 0.1
"""Seconds after which a blocked thread looks again, even where it was told nothing."""


class Drivable(Protocol):
    """A queue whose cells a thread can wait for."""

    def waiting_for(self, cell: Cell) -> list[Cell]: ...

    def awaited_by(self, cell: Cell) -> Cell: ...

    def drive(self, seconds: float, until: Cell | None = None, *, patient: bool = False) -> bool: ...

    def listen(self, bell: Bell, listening: bool) -> None: ...

    def check_can_end(self, record: Cell) -> None: ...

    def demand(
        self, cells: Iterable[Cell], priority: int | None = None, *, guest: bool | None = None
    ) -> Demand | None: ...

    def withdraw(self, demand: Demand | None) -> None: ...


def queue_of(cell: Cell) -> Drivable:
    """The queue of a cell that is not settled: only those of device queues are ever seen so."""
    return cell.home  # type: ignore[return-value]


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


class Need(NamedTuple):
    """A record that a waiting thread needs, and why: because of another one, up to the record that it waits for.

    The references are weak, because the thread looks later than records end: their results must not wait for that.
    """

    record: ref[Cell]
    because_of: Need | None


def blockers(*cells: Cell) -> list[Cell]:
    """The records whose queues have to move before the cells can be settled."""
    return [record for record, _ in _walk([_needed(record_of(cell)) for cell in cells])]


def _needed(record: Cell, because_of: Need | None = None) -> tuple[Cell, Need]:
    return record, Need(ref(record), because_of)


def _walk(stack: list[tuple[Cell, Need]]) -> list[tuple[Cell, Need]]:
    """The records that those on the stack wait for in the end."""
    seen, found = set(), []
    while stack:
        record, need = stack.pop()
        if record in seen or record is NEVER:
            continue
        seen.add(record)
        waits_for = queue_of(record).waiting_for(record)
        if not waits_for:
            found.append((record, need))
        stack.extend(_needed(each, need) for each in map(record_of, waits_for) if each not in seen)
    return found


class Blockers:
    """The records whose queues have to move before a cell can be settled.

    Each look goes on from where the last one ended: to start from the cell whenever an op has ended would take time
    with the square of the length of a chain.
    """

    __slots__ = ("_cell", "_needs")

    def __init__(self, cell: Cell) -> None:
        self._cell = record_of(cell)
        self._needs: list[Need] = []

    def look(self) -> list[Cell]:
        """The records, as they are now."""
        found = _walk([self._unsettled(need) for need in self._needs] or [_needed(self._cell)])
        self._needs = [need for _, need in found]
        return [record for record, _ in found]

    def _unsettled(self, need: Need) -> tuple[Cell, Need]:
        """The record, or where it is settled, the next one on the way to the cell that is not."""
        while True:
            record = need.record()
            if need.because_of is None:
                return self._cell, need
            if record is not None and record.value is PENDING:
                return record, need
            need = need.because_of


def block_until(cell: Cell, seconds: float | None) -> None:
    """Block this thread until the cell is settled, driving the queues that it waits for."""
    deadline = None if seconds is None else monotonic() + seconds
    bell = Bell()
    homes: set[Drivable] = set()
    ahead = Blockers(cell)

    def wake(_: Cell) -> None:
        bell.ring()

    if not add_waiter(cell, wake):
        return
    home = queue_of(cell)
    if hooks.listeners:
        hooks.tell("demanded", [record_of(cell)])
    demand = home.demand([cell], guest=False)  # this thread drives
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
        home.withdraw(demand)
        for each in homes:
            each.listen(bell, False)
        if hooks.deliver is not None:
            hooks.deliver()


def _drive(records: list[Cell], bell: Bell, homes: set[Drivable]) -> bool:
    """Drive the queues of the records that hold a cell up; whether anything was done."""
    done = False
    for record in records:
        home = queue_of(record)
        if home not in homes:
            homes.add(home)
            home.listen(bell, True)
        if record.value is PENDING:
            home.check_can_end(record)
        done = home.drive(SLICE, record, patient=True) or done
    return done


def tell_interrupted(error: BaseException, awaited: Cell) -> None:
    """In a notebook, where an interrupt cancels the cell that waits, say what became of the op."""
    if shell() is not None:
        error.add_note(
            f"waiting for {describe(awaited)} was interrupted; the op itself goes on: await its handle again, or drop "
            "it with handle.cancel() or engine.cancel_pending()"
        )


def timed_out(cell: Cell, seconds: float | None) -> str:
    return f"not ready after {seconds:.3g} s: {state_of(cell)}"


def state_of(cell: Cell) -> str:
    """The op that is waited for, where it was dispatched, and its state, in the words of an error."""
    awaited = queue_of(cell).awaited_by(cell)
    return f"{describe(awaited)}; it is {awaited.state}"


def cancellation(record: Cell, why: str) -> Failure:
    """The failure of an op that was cancelled; its error is made when it is first looked at."""
    make = partial(_cancelled, record.op.name, record.home.device, record.code, record.lasti, why)
    return Failure(make, cancelled=True)


def _cancelled(name: str, device: object, code: CodeType | None, lasti: int, why: str) -> OpCancelledError:
    error = OpCancelledError(f"op {name!r} was cancelled: {why}")
    error.add_note(describe_op(name, device, code, lasti))
    return error


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
