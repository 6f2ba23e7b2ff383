"""Polling: what a task or thread that begins to wait does for the queue before it suspends or blocks.

A task on the queue's loop drives for at most a slice in each turn of the loop, so that a chain of small ops that is
awaited step by step never goes through the selector, and the loop is never held longer. What it still waits for then is
demanded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, Any

from engine.base.inference import infer_cell
from engine.base.loops import CancelledError, Waiter, asyncio_loop, current_task, running_loop
from engine.base.op import SMALL_NS, WATCHED, ShapeDtype
from engine.queues import reading
from engine.queues.base import check_may_block
from engine.queues.demand import Demand
from engine.queues.hooks import hooks
from engine.queues.records import entry_of, record_of
from engine.queues.slice import SLICE
from engine.queues.waiting import block_until, blockers, check_not_waiting_for_itself, tell_interrupted, timed_out
from handles.cell import PENDING, Cell, Failure, Unready, add_waiter, remove_waiter

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue

OVERTIME = 0.000_05
"""Seconds that each task which awaits may drive when this turn of the loop has been the engine's for a slice."""
NEARLY_DONE = 64
"""Records that may be pending for that, or for an awaited one to be run in its turn."""
SOON = 512
"""Records that may be pending for a small one to be left to the next drives, which come to it within some slices."""
TURNS = 4
"""Turns of the loop that a task lets pass for a small record before it waits to be woken."""
PATIENCE = 0.03
"""Seconds that the caller who asks for a shape waits for another drive, whose thread may have to wait for a core."""


class Poll:
    """Waits for cells of one queue, on behalf of tasks and threads."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._queue = queue
        self._slice = queue.slice
        self._last_task = 0  # the task that got overtime last
        self._overtime_ends = 0.0

    def poll(self, cell: Cell) -> bool:
        """Complete a cell that is about to be awaited, where this turn of the loop has time for that."""
        queue = self._queue
        driver = queue.driver
        loop = running_loop()
        if loop is None or loop is not driver.loop or queue.lock.locked():
            return False
        now = perf_counter()
        seconds = SLICE
        if queue.scheduled and now >= driver.turn_ends:
            # The task that got overtime last may not have suspended since: it goes on with what is left of it.
            task = id(current_task(loop))
            if task != self._last_task:
                self._last_task = task
                self._overtime_ends = now + OVERTIME
            seconds = self._overtime_ends - now
            if seconds <= 0.0 or self._takes_long(cell):
                return False
        left = len(queue.pending)
        if left == 1 and self._slice.run_recognized(cell):
            return True
        nearly_done = left <= NEARLY_DONE
        done = nearly_done and self._slice.run_in_order(now + seconds, cell)
        done = done or cell.value is not PENDING or self._slice.run_alone(now + seconds, cell)
        if nearly_done and not done:
            driver.drive_now(seconds, cell, now)
        if hooks.deliver is not None:
            hooks.deliver()
        return cell.value is not PENDING

    def _takes_long(self, cell: Cell) -> bool:
        """Tell whether what would be run for a cell, a function or a chain, may take longer than a task's overtime."""
        op = cell.op
        if op.recognized or op.brief > WATCHED:
            return bool(op.cost.estimate(cell.args, cell.params or {}) > SMALL_NS / 5)
        return self._slice.chains.may_take(OVERTIME * 1e9)

    def begin(self, cells: Iterable[Cell]) -> Demand | None:
        """Begin to wait for cells, in a task of the running loop: drive as long as it may, and demand the rest."""
        queue = self._queue
        driver = queue.driver
        loop = asyncio_loop()
        cells = tuple(cells)
        if loop is driver.loop and not driver.turn_is_over():
            driver.drive(SLICE, cells[0])
        left = [cell for cell in cells if cell.value is PENDING]
        if not left:
            return None
        for cell in left:
            check_not_waiting_for_itself(cell)
        if hooks.listeners:
            hooks.tell("demanded", [record_of(cell) for cell in left])
        if len(left) == 1 and loop is driver.loop and self._comes_soon(left[0]):
            return None
        demand = queue.demand(left)
        if demand is not None and loop is driver.loop:
            driver.schedule_next()
        return demand

    def _comes_soon(self, cell: Cell) -> bool:
        """Tell whether the next drive will come to a cell and run it in place, so that to demand it changes nothing."""
        queue, op = self._queue, cell.op
        if op.brief < 1 or not queue.on_host or queue.strict or len(queue.pending) > SOON or entry_of(cell) is not None:
            return False
        for operand in cell.args:
            if operand.__class__ is Cell:
                operand = operand.value
                if isinstance(operand, Unready):
                    return False
            if getattr(operand, "size", 1) > op.brief:
                return False
        return bool(queue.pending)

    def wait(self, cell: Cell) -> Generator[Any, None, None]:
        """Suspend until the cell has a value or a failure, having demanded it."""
        if cell.value is not PENDING:
            return
        if (yield from self._next_turns(cell)):
            return
        timeout = self._queue.owner.timeout
        demand = self.begin([cell])
        try:
            if cell.value is not PENDING:
                return
            waiter = Waiter(asyncio_loop())
            if not add_waiter(cell, waiter.wake):
                return
            try:
                if not (yield from waiter.wait(timeout)):
                    raise TimeoutError(timed_out(cell, timeout))
            except CancelledError as error:
                tell_interrupted(error, self._queue.awaited_by(cell))
                raise
            finally:
                remove_waiter(cell, waiter.wake)
        finally:
            self._queue.withdraw(demand)
            if hooks.deliver is not None:
                hooks.deliver()

    def _next_turns(self, cell: Cell) -> Generator[Any, None, bool]:
        """Let the loop take a few turns for a small record that is ready, which costs less than to be woken for it.

        One turn for others, as they may be the end of a chain. Returns whether it has run.
        """
        queue = self._queue
        driver = queue.driver
        for turn in range(TURNS):
            on_loop = asyncio_loop() is driver.loop
            if not (on_loop and queue.scheduled and not hooks.listeners):
                return False
            if not (self._comes_soon(cell) or (turn == 0 and self._is_next(cell))):
                return False
            try:
                yield
            except CancelledError as error:
                tell_interrupted(error, queue.awaited_by(cell))
                raise
            if cell.value is not PENDING or self.poll(cell):
                return True
        return False

    def _is_next(self, cell: Cell) -> bool:
        """Tell whether the next drive may well compute a cell: what is pending are a few records, and it is one."""
        queue = self._queue
        few = 0 < len(queue.pending) <= NEARLY_DONE
        return few and queue.on_host and not (queue.strict or queue.held) and entry_of(cell) is None

    def block(self, cell: Cell, timeout: float | None, what: str) -> None:
        """Block this thread until the cell has a value or a failure; refuse where that would freeze a running loop."""
        check_may_block(cell, what)
        queue = self._queue
        limit = queue.owner.timeout
        if timeout is not None and (limit is None or timeout < limit):
            limit = timeout
        ends = None if limit is None else monotonic() + limit
        if cell.value is PENDING:
            block_until(cell, limit)
        if not queue.on_host and not isinstance(cell.value, Failure):
            reading.block(queue, cell, None if ends is None else max(0.0, ends - monotonic()))

    def infer(self, cell: Cell, *, tell: bool = True) -> ShapeDtype:
        """Shape and dtype.

        Off the loop, a caller that needs a dimension which values decide runs what can run now, and waits while an op
        of the library's own is being computed; it never waits for a function of the user, or for a slot.
        """
        inferred = infer_cell(cell, tell=tell)
        if None in inferred.shape and tell and running_loop() is None:
            self._run_up_to(record_of(cell))
            inferred = infer_cell(cell)
        return inferred

    def _run_up_to(self, record: Cell) -> None:
        """Run what can run in place now. Another drive is waited for as long as it may take: it may be ours."""
        queue = self._queue
        gives_up = perf_counter() + PATIENCE
        while record.value is PENDING:
            if queue.drive(SLICE, record):
                gives_up = perf_counter() + PATIENCE
            elif (queue.lock.locked() or queue.runnable()) and perf_counter() < gives_up:
                sleep(SLICE / 8)
            elif _is_being_computed(record):
                sleep(SLICE / 8)
                gives_up = perf_counter() + PATIENCE
            else:
                return


def _is_being_computed(record: Cell) -> bool:
    """Tell whether a record waits only for computations of the library, all of which have begun, so that they end."""
    awaited = blockers(record)
    return bool(awaited) and all(
        each.op.known and not each.op.external and each.rare is not None and each.rare.running for each in awaited
    )
