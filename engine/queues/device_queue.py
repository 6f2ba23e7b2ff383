"""The queue of ASYNC mode: records wait on an `asyncio.Queue`, and whoever can runs them, in order.

Purpose: dispatch costs one append. The queue is worked off by a *drive*: a bounded slice in which one thread takes
records in dispatch order, runs small ops in place and hands large ones, and those of unknown cost, to workers.

Who drives: the pump, a callback on the executor's loop (no task: nothing to cancel at shutdown, nothing in
`asyncio.all_tasks()`); an `await`, which helps before it suspends; a thread blocked in a sync; a worker that has just
finished an op; and, where there is no loop or somebody outside it waits, an attendant on a worker.

Guarantees: one drive at a time; a device runs `width` ops at once, started in dispatch order; a record whose operands
are still being computed elsewhere is parked and holds nobody up; whoever leaves runnable work behind has called for the
next drive. Assumptions: appending to and reading from a deque is atomic (dispatch takes no lock).
"""

from __future__ import annotations

from collections.abc import Generator
from time import perf_counter, sleep
from typing import Any

from engine.errors import BlockingSyncError
from engine.failures import describe
from engine.loops import Waiter, asyncio_loop, current_task, running_loop
from engine.planning.inference import infer_cell
from engine.planning.op import ShapeDtype
from engine.queues.async_ops import AsyncOps
from engine.queues.backlog import BARRIER, SLICE
from engine.queues.base import check_may_block
from engine.queues.execution import finish
from engine.queues.waiting import (
    NEVER,
    block_until,
    blockers,
    cancellation,
    check_not_waiting_for_itself,
    record_of,
    timed_out,
)
from handles.cell import PENDING, CancelOutcome, Cell, add_waiter, pending_cell, remove_waiter

OVERTIME = 0.000_05
"""Seconds that a drive may take for an awaiting task when this turn of the loop has been the engine's for a slice."""
NEARLY_DONE = 64
"""Records that may be pending for that."""
PATIENCE = 4 * SLICE
"""Seconds that whoever asks for a shape waits for another drive."""


class DeviceQueue(AsyncOps):
    """The records of one device of one executor, and what is being done with them."""

    _last_helped = 0
    """The task that got overtime last."""

    # Waiting

    def assist(self, cell: Cell) -> None:
        loop = asyncio_loop()
        # Where this turn of the loop is over, the pump is on its way: the rest of the program comes first.
        if loop is self._loop and not self.turn_is_over():
            self.drive(SLICE, cell)
            if cell.value is not PENDING:
                return
        check_not_waiting_for_itself(cell)

    def help(self, cell: Cell) -> bool:
        loop = running_loop()
        if loop is None or loop is not self._loop or self._lock.locked():
            return False
        now = perf_counter()
        if not self.scheduled or now < self._turn_ends:
            self._drive(SLICE, cell, now)
        elif len(self.pending) <= NEARLY_DONE:
            # One wait of a task gets overtime: the task that got it last may not have suspended since.
            task = id(current_task(loop))
            if task != self._last_helped:
                self._last_helped = task
                self._drive(OVERTIME, cell, now)
        return cell.value is not PENDING

    def wait(self, cell: Cell) -> Generator[Any, None, None]:
        """Help, then suspend until the cell is settled."""
        self.assist(cell)
        if cell.value is not PENDING:
            return
        waiter = Waiter(asyncio_loop())
        if not add_waiter(cell, waiter.wake):
            return
        self.hurry(waiter, True)
        try:
            if not (yield from waiter.wait(self.owner.timeout)):
                raise TimeoutError(timed_out(cell, self.owner.timeout))
        finally:
            self.hurry(waiter, False)
            remove_waiter(cell, waiter.wake)

    def block(self, cell: Cell, timeout: float | None, what: str) -> None:
        check_may_block(cell, what)
        limit = self.owner.timeout
        if timeout is not None and (limit is None or timeout < limit):
            limit = timeout
        if cell.value is PENDING:
            block_until(cell, limit)

    def infer(self, cell: Cell, *, tell: bool = True) -> ShapeDtype:
        """Shape and dtype. Off the loop, who asks for a dimension that values decide runs what can run in place now."""
        inferred = infer_cell(cell, tell=tell)
        if None in inferred.shape and tell and running_loop() is None:
            self._run_up_to(record_of(cell))
            inferred = infer_cell(cell)
        return inferred

    def _run_up_to(self, record: Cell) -> None:
        """Run what can run in place now. Another drive is waited for as long as its slice may take: it may be ours."""
        gives_up = perf_counter() + PATIENCE
        while record.value is PENDING:
            if self.drive(SLICE, record):
                gives_up = perf_counter() + PATIENCE
            elif (self._lock.locked() or self.runnable()) and perf_counter() < gives_up:
                sleep(SLICE / 8)
            else:
                return

    def nudge(self, cell: Cell) -> None:
        for record in blockers(cell):
            home = record.home
            assert isinstance(home, DeviceQueue)
            home._nudge()

    def _nudge(self) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            self.detach()
            self.kick()
        elif loop is not running_loop():
            self._call_attendant()
        elif self.turn_is_over():
            self.drive(SLICE)  # polled in a loop that never awaits

    def check_can_end(self, record: Cell) -> None:
        loop = self._loop
        if loop is None or record not in self._tasks:
            return
        if loop is running_loop():
            raise BlockingSyncError(
                f"the event loop that runs this async op is blocked by this wait: {describe(record)}"
            )
        if not loop.is_running():
            raise BlockingSyncError(f"the event loop that runs this async op is not running: {describe(record)}")

    def awaited_by(self, cell: Cell) -> Cell:
        if cell.op is not BARRIER:
            return cell
        return next((each for each in self.unfinished() if each.op is not BARRIER), cell)

    # Cancellation and barriers

    def waiting_for(self, cell: Cell) -> list[Cell]:
        if cell.op is BARRIER and NEVER not in cell.args:
            return list(self._parked)
        if cell in self._parked:
            return [operand for operand in cell.args if operand.__class__ is Cell and operand.value is PENDING]
        return []

    def cancel(self, cell: Cell, why: str = "handle.cancel() was called") -> CancelOutcome:
        record = record_of(cell)
        with self._lock:
            if record.value is not PENDING:
                return CancelOutcome.TOO_LATE
            rare = record.rare
            running = rare is not None and rare.running
            finish(record, cancellation(record, why))
            self.cancelled += 1
        if rare is not None and rare.task is not None:
            rare.task()
        return CancelOutcome.ABANDONED if running else CancelOutcome.DROPPED

    def barrier(self) -> Cell:
        """A marker behind all that was dispatched so far."""
        cell = pending_cell(BARRIER, (NEVER,), None, self, None, 0)
        self.push(cell)
        self.kick()
        return cell
