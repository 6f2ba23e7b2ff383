"""The slice: a bounded time in which one thread works on a queue.

Purpose: run every record that can run without a worker, have the others started, and come back after a quarter of a
millisecond, so that the loop is never held longer.

In a slice the thread takes turns between what tasks demand and what stands on the queue, in dispatch order: a demand
walks some steps, then the records on the queue have a moment. Small ops run in place in either. Ops that a worker has
to run are set aside until there is a slot for them.

All of it runs under the queue's lock, so one thread at a time is in a slice of a queue; dispatch takes no lock and
appends to `pending` meanwhile.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter, thread_time_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.op import WATCHED
from engine.base.warned import REFUSES
from engine.devices.cpu import checked
from engine.queues.costs import Costs
from engine.queues.demand import Demand
from engine.queues.execution import execute, value_after
from engine.queues.hooks import hooks
from engine.queues.in_place import SEVERAL, InPlaceChains
from engine.queues.mending import mend
from engine.queues.operands import SCALARS
from engine.queues.records import BARRIER, NEVER, entry_of, record_of
from engine.queues.states import State
from engine.settings.scope import DEFAULT_ERRSTATE, errstate
from handles.cell import (
    PENDING,
    Cell,
    Failure,
    Pending,
    add_waiter,
    call_waiters,
    has_to_tell,
    tell_group,
    tell_settled,
)

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue
    from engine.queues.launch import Job

__warningregistry__ = REFUSES  # small ops are called in this module

SLICE = 0.000_25
"""Seconds that a drive may hold a loop."""
IN_PLACE = True
"""True where small ops run in place; tests that want every op on a worker say no."""
STEPS = 64
"""Steps that a demand walks in its turn."""
A_FEW = range(8)
"""Records between two looks at the clock."""
UNREADY = (Pending, Failure)
ARRAY = np.ndarray  # of a module with a `__getattr__`, where a look-up takes long


class Slice:
    """The slices of one queue: what the thread that drives it does."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._queue = queue
        self._pending = queue.pending
        self._backlog = queue.backlog
        self._completions = queue.completions
        self._plain = queue.on_host and not queue.strict
        self.chains = InPlaceChains(queue)
        self.costs = Costs()
        self.early: set[int] = set()
        """Records that were demanded and dealt with, and still stand on the queue: their identities."""
        self._torn = False
        """True where an interrupt, or a defect, has ended a slice midway, until that is mended."""

    def run(self, ends: float, until: Cell | None = None, jobs: list[Job] | None = None) -> bool:
        """Work on the queue until then, or until a cell is settled; whether anything was done.

        `jobs` is where a worker wants the next large op, to run it itself: the slice is over once it has one.
        """
        if self._torn:  # an interrupt came when it was mended, too
            self._mend()
        try:
            return self._take_turns(ends, until, jobs)
        except BaseException:
            self._torn = True
            self._mend()
            raise

    def _mend(self) -> None:
        mend(self._queue)
        self._torn = False

    def _take_turns(self, ends: float, until: Cell | None, jobs: list[Job] | None) -> bool:
        queue, pending = self._queue, self._pending
        requests, outcomes = queue.demands.requests, queue.outcomes.waiting
        before = self._completions.completed
        moved = False
        if until is None:  # what is run for one task that awaits does not count
            self._backlog.slices += 1
        backlog = self._backlog
        while not queue.held:
            if backlog.aside or backlog.arrived or backlog.walking or requests or outcomes or queue.starting.wanted:
                moved = self._take_events(ends, jobs) or moved
                if jobs or (until is not None and until.value is not PENDING):
                    break
            if pending and not (queue.strict and queue.is_taken()):
                moved = True
                if self._take_some(ends, until):
                    break
            elif not (backlog.arrived or queue.starting.wanted or queue.demands.can_walk()):
                break
            if perf_counter() > ends:
                break
        if self.early:
            self._take_off_early()
        if not pending:  # then nothing else would call for the next slice
            moved = queue.starting.straight.launch() or moved
        return moved or self._completions.completed > before

    def run_alone(self, ends: float, cell: Cell) -> bool:
        """Run one small record before all that stands ahead of it; False where it is none, or not ready.

        For the task that awaits what it has just dispatched: it stands last on the queue then, and is taken off there.
        Elsewhere it stays until its turn comes, and is in flight no more.
        """
        queue, pending = self._queue, self._pending
        if not self._plain or queue.held or not IN_PLACE or errstate() is not DEFAULT_ERRSTATE:
            return False
        with queue.lock:
            if not self._run_brief(ends, cell, deque((cell,))):
                return False
            if pending and pending[-1] is cell:
                last = pending.pop()
                if last is cell:
                    return True
                pending.append(last)  # another thread's, which has come since
            self.early.add(id(cell))
            return True

    def run_recognized(self, cell: Cell) -> bool:
        """Run a call whose operands were looked at when it was dispatched, and that is all there is on the queue.

        `_run_brief` would come to the same, having looked at them again. False, and nothing done, where it is not so.
        """
        queue, pending = self._queue, self._pending
        if not (cell.op.recognized and self._plain) or queue.held or not IN_PLACE or hooks.listeners:
            return False
        if errstate() is not DEFAULT_ERRSTATE:
            return False
        with queue.lock:
            record = cell if cell.rare is None else record_of(cell)
            if len(pending) != 1 or pending[0] is not record or record.value is not PENDING:
                return False
            operands = [each.value for each in record.args]
            if record.rare is not None:  # it has several results
                outcome = execute(record, operands, queue.device, queue.backend)
            else:
                try:
                    value = cell.op.guarded(*operands)
                    if value.__class__ is not ARRAY:
                        value = checked(np.asarray(value))
                except Exception as error:  # noqa: BLE001 - any error of a kernel is the op's failure
                    outcome = value_after(error, cell, operands)
                else:
                    cell.value = value
                    self._completions.completed += 1  # here, where no interrupt comes in between
                    cell.args = ()
                    if cell.group is not None:
                        tell_group(cell)
                    if cell.waiters is not None:
                        call_waiters(cell)
                    pending.popleft()
                    return True
            self._completions.complete(record, outcome)
            self._completions.completed += 1
            pending.popleft()
        return True

    def run_in_order(self, ends: float, until: Cell) -> bool:
        """Run small records in dispatch order until then, or up to `until`; False where that takes a whole slice.

        For the task that awaits, which does no more than that in its turn: all else is for the drive that is scheduled.
        """
        queue = self._queue
        if not self._plain or queue.held or not IN_PLACE or errstate() is not DEFAULT_ERRSTATE:
            return False
        pending, chains = self._pending, self.chains
        with queue.lock:
            if len(pending) >= SEVERAL and chains.run_several() and until.value is not PENDING:
                return True
            if self._run_brief(ends, until):
                return True
            return bool(pending) and chains.run() and until.value is not PENDING

    def _take_events(self, ends: float, jobs: list[Job] | None) -> bool:
        """Deal with what was said to the queue since the last look, and start what is ready; whether anything was done.

        A device that is not the host gets its records when all that is pending was looked at, as it may like several.
        """
        queue = self._queue
        moved = False
        if queue.demands.requests:
            queue.demands.take()
        if queue.outcomes.waiting:
            moved = True
            queue.outcomes.take(ends)
        if self._backlog.arrived:
            moved = True
            self._look_at_arrived()
        starts = queue.starting.wanted  # read once: where it comes after the walk, what is demanded is not known yet
        if queue.demands.can_walk(before_start=starts) and not queue.starting.straight.applies():
            moved = True
            self._walk(min(ends, perf_counter() + SLICE / 2))
            queue.starting.wanted = starts = True  # what was demanded may be the next now
        if starts and (queue.on_host or queue.starting.is_worthwhile()):
            moved = queue.starting.start_ready(jobs, ends) or moved
        return moved

    # Records on the queue, in dispatch order

    def _take_some(self, ends: float, until: Cell | None) -> bool:
        """Deal with some of the records on the queue; whether the time is up, or what the thread drives for is settled.

        A chain counts as one of them.
        """
        pending = self._pending
        if len(pending) >= SEVERAL and self._plain and IN_PLACE and self.chains.run_several():
            return until is not None and until.value is not PENDING
        if IN_PLACE and self._queue.on_host and self._run_brief(ends, until):
            return True
        straight = self._queue.starting.straight
        if pending and straight.applies():
            straight.take(ends, self.deal_with)
            return False
        return bool(pending) and self._take_one(until)

    def _take_one(self, until: Cell | None) -> bool:
        """Deal with what stands first on the queue; whether that settled what the thread drives for."""
        pending, early = self._pending, self.early
        self.take_off_ended()
        if not pending:
            return False
        if self._plain and IN_PLACE and self.chains.run():
            return until is not None and until.value is not PENDING
        cell = pending[0]  # taken off only when it is dealt with: an interrupt loses nothing
        self.deal_with(cell)
        early.discard(id(cell))
        pending.popleft()
        return cell is until and cell.value is not PENDING

    def take_off_ended(self) -> None:
        """Take records off the front of the queue that have ended, which would keep their results."""
        pending, early = self._pending, self.early
        while pending and pending[0].value is not PENDING and not has_to_tell(pending[0]):
            early.discard(id(pending[0]))
            pending.popleft()

    def _take_off_early(self) -> None:
        """Take what was demanded and dealt with off the front of the queue, which would keep its result.

        A worker that goes from one op of a chain to the next does not come to what stands there, nor does a thread that
        has what it waits for.
        """
        pending, early = self._pending, self.early
        for _ in range(STEPS):
            if not pending or id(pending[0]) not in early or has_to_tell(pending[0]):
                return
            early.discard(id(pending[0]))
            pending.popleft()

    def _run_brief(  # noqa: C901 - a call costs as much as its half
        self, ends: float, until: Cell | None, records: deque[Cell] | None = None
    ) -> bool:
        """Run records as long as they are what nearly all are: a kernel, one or two small operands, nothing else.

        These records, or those on the queue.

        Returns whether the time is up, or `until` is settled.
        """
        source = self._pending if records is None else records
        array, slow = ARRAY, self.costs.slow
        done = 0
        tell = hooks.ran if hooks.listeners else None
        began = perf_counter() if tell is not None else 0.0
        try:
            while True:
                for _ in A_FEW:
                    if not source:
                        return False
                    cell = source[0]
                    op = cell.op
                    args = cell.args
                    if len(args) == 2:
                        left, right = args
                        if right.__class__ is Cell:
                            right = right.value
                        if right.__class__ is array:
                            size = right.size
                        elif right.__class__ in SCALARS:
                            size = 1
                        else:
                            return False
                    elif len(args) == 1:
                        left = args[0]
                        size = 1
                    else:
                        return False
                    if left.__class__ is Cell:
                        left = left.value
                    if left.__class__ is array:
                        size *= left.size
                    elif left.__class__ not in SCALARS:
                        return False
                    params = cell.params
                    if size > op.brief and not (
                        left.__class__ is array
                        and left.size <= op.brief
                        and op.fusion.fusable
                        and left.shape == right.shape
                    ):
                        return False  # the product of two sizes is what may be computed, not what is
                    if cell.rare is not None or cell.value is not PENDING or (slow and op in slow):
                        return False
                    kernel = op.guarded
                    try:
                        if params is not None:
                            value = kernel(left, right, **params) if len(args) == 2 else kernel(left, **params)
                        elif len(args) == 2:
                            value = kernel(left, right)
                        else:
                            value = kernel(left)
                        if value.__class__ is not array:
                            value = checked(np.asarray(value))
                    except Exception as error:  # noqa: BLE001 - any error of a kernel is the op's failure
                        done += 1
                        if tell is not None:
                            hooks.started(cell)
                        operands = (left, right) if len(args) == 2 else (left,)
                        self._completions.complete(cell, value_after(error, cell, operands))
                    else:
                        if tell is not None:
                            ended = perf_counter()
                            tell(cell, value, began, ended)
                            began = ended
                        cell.value = value
                        done += 1  # here, where no interrupt comes in between
                        cell.args = ()
                        cell.params = None
                        if cell.group is not None:
                            tell_group(cell)
                        if cell.waiters is not None:
                            call_waiters(cell)
                    source.popleft()
                    if cell is until:
                        return True
                    if op.brief > WATCHED:
                        break  # a function, which may take longer than all others
                if perf_counter() > ends:
                    return True
        finally:
            self._completions.completed += done

    # One record of any kind

    def deal_with(self, cell: Cell, demand: Demand | None = None) -> None:
        """Run a record in place, or set it aside; one that was dealt with before is skipped."""
        if cell.value is not PENDING:  # cancelled while it was queued, or settled when an interrupt came
            tell_settled(cell)
            return
        if entry_of(cell) is not None:
            return
        if cell.op is BARRIER:
            self._queue.settle_later(cell)
            return
        self._look_at(cell, demand)

    def _look_at(self, cell: Cell, demand: Demand | None = None) -> None:
        """Run a record whose operands may be there, or say what it waits for."""
        values, work = self._values_of(cell)
        if values is None:
            self._park(cell, demand)
        elif self._is_a_workers(cell, values, work):
            self._queue.room -= 1  # it leaves the queue, and is still in flight
            self._queue.starting.add(cell, demand)
        else:
            self._run_in_place(cell, values, work)
            self._completions.completed += 1

    def _is_a_workers(self, cell: Cell, values: list[Any], work: int) -> bool:
        if not (IN_PLACE and self._queue.on_host):
            return True
        if work <= cell.op.cost.small and not self.costs.slow:
            return False
        return self.costs.is_large(cell.op, values, cell.params)

    def _values_of(self, cell: Cell) -> tuple[list[Any] | None, int]:
        """The operands of a record, None where one is not there or failed; and the product of their sizes.

        For an elementwise op of arrays of one shape it is their size.
        """
        values: list[Any] = []
        work = 1
        same: object = None
        elementwise = cell.op.fusion.fusable
        for operand in cell.args:
            if operand.__class__ is Cell:
                value = operand.value
                if value.__class__ in UNREADY:
                    return None, 0
                operand = value
            if operand.__class__ is ARRAY:
                if not elementwise:
                    work *= operand.size
                elif same is None or work != operand.size or operand.shape != same:
                    same = operand.shape
                    work *= operand.size
            values.append(operand)
        return values, work

    def _run_in_place(self, cell: Cell, values: list[Any], work: int) -> None:
        """Run a small op of any kind; one that may have been estimated wrongly is timed."""
        if hooks.listeners:
            hooks.started(cell)
        if work <= WATCHED and cell.op.simple and (cell.rare is None or cell.rare.context is None):
            self._run_simple(cell, values)
            return
        queue = self._queue
        began = thread_time_ns() if work > WATCHED else 0
        self._completions.complete(cell, execute(cell, values, queue.device, queue.backend))
        if work > WATCHED:
            self.costs.took(cell.op, thread_time_ns() - began)

    def run_in_place(self, cell: Cell, values: list[Any]) -> None:
        """Run an op whose cost is that of a small one, however large its operands are."""
        self._run_in_place(cell, values, 1)
        self._completions.completed += 1

    def _run_simple(self, cell: Cell, values: list[Any]) -> None:
        """Execute and complete what most ops are: one result, on the host, nothing kept aside."""
        try:
            value = cell.op.guarded(*values, **cell.params or {})
            if value.__class__ is not ARRAY:
                value = checked(np.asarray(value))
        except Exception as error:  # noqa: BLE001 - any error of a kernel is the op's failure
            value = value_after(error, cell, values)
        self._completions.complete(cell, value)

    # What has to wait

    def _park(self, cell: Cell, demand: Demand | None) -> None:
        """Fail a record whose operand failed; park one whose operand is not there yet."""
        missing: Cell | None = None
        for operand in cell.args:
            if operand.__class__ is Cell:
                value = operand.value
                if value.__class__ is Failure:
                    self._completions.fail_dependent(cell, value)
                    return
                if value is PENDING and missing is None:
                    missing = operand
        if missing is None or missing is NEVER:
            self._look_at(cell, demand)  # it came meanwhile
            return
        record = record_of(missing)
        if record.home is self._queue:
            if entry_of(record) is None:  # it was demanded, or stands behind this one: look at it first
                self.deal_with(record)
                if record.value is not PENDING or entry_of(record) is None:
                    self._look_at(cell, demand)
                    return
            self._queue.room -= 1
            self._backlog.park(cell, record, demand, here=True)
        else:
            self._wait_for_other_queue(cell, record, demand)

    def _wait_for_other_queue(self, cell: Cell, missing: Cell, demand: Demand | None) -> None:
        self._queue.room -= 1
        entry = self._backlog.park(cell, missing, demand, here=False)
        backlog, queue = self._backlog, self._queue

        def arrive(_: Cell) -> None:
            backlog.arrived.append(entry)
            queue.driver.woken()

        if add_waiter(missing, arrive):
            queue.demands.pass_on_parked(entry, missing)
        else:
            backlog.arrived.append(entry)

    def _look_at_arrived(self) -> None:
        arrived = self._backlog.arrived
        while arrived:
            entry = arrived[0]  # taken off only when it is dealt with
            if entry.state is State.PARKED and (entry.missing is None or entry.missing.value is not PENDING):
                entry.missing = None
                self._look_at(entry.record)
            arrived.popleft()

    # What tasks wait for

    def _walk(self, ends: float) -> None:
        """Let demands go on, one turn each: what they come to is run, or set aside as demanded."""
        first = demand = self._backlog.next_demand()
        while demand is not None:
            self._walk_on(demand, ends)
            if perf_counter() > ends:
                return
            demand = self._backlog.next_demand()
            if demand is first:
                return

    def _walk_on(self, demand: Demand, ends: float) -> None:
        for _ in range(STEPS):
            record = self._backlog.walk(demand, self._queue, STEPS)
            if record is None:
                break
            self.deal_with(record, demand)
            self.early.add(id(record))
            if perf_counter() > ends:
                break
        foreign, demand.foreign = demand.foreign, None
        for record in foreign or ():
            self._queue.demands.pass_to(demand, record)
