"""Driving a queue: one bounded slice at a time, on the loop, on a waiting thread, or on a worker."""

from __future__ import annotations

import time
from abc import abstractmethod
from contextvars import Context
from functools import partial
from time import perf_counter, thread_time_ns
from typing import Any

import numpy as np

from engine.ambient import DEFAULT_ERRSTATE, errstate
from engine.devices.cpu import checked
from engine.devices.workers import workers
from engine.failures import failed
from engine.loops import call_soon, running_loop
from engine.operands import SCALARS
from engine.planning.op import SMALL_NS, WATCHED, Op
from engine.queues.backlog import BARRIER, SLICE, Backlog
from engine.queues.base import ARRAY, Queue
from engine.queues.execution import execute, finish
from engine.queues.waiting import Countdown, cancellation
from handles.cell import PENDING, Cell, Failure, Pending, call_waiters

A_FEW = range(8)
"""Records between two looks at the clock."""
GRACE = 0.001
"""Seconds that an attendant leaves a thread without a loop to get to a sync point by itself."""
UNREADY = (Pending, Failure)

Job = tuple[Cell, list[Any]]


def is_large(op: Op, values: list[Any], params: dict[str, Any] | None) -> bool:
    """Whether an op is a worker's. Where operands make no sense to the estimate, the kernel will say what is wrong."""
    try:
        return op.factor * op.cost(values, params or {}) > SMALL_NS
    except Exception:  # noqa: BLE001
        return not op.known


class Driving(Backlog):
    """Who drives, and what a drive does."""

    @abstractmethod
    def _start_large(self, cell: Cell, values: list[Any], jobs: list[Job] | None) -> bool:
        """Start an op off the loop's thread; whether the caller, a worker, is to run it."""

    # Who drives

    def kick(self) -> None:
        """Call for a drive: on the loop, or on a worker where there is none, or where the loop may be blocked."""
        if self._guests:
            self._call_attendant()
        if self.scheduled:
            return
        self.scheduled = True
        try:
            loop = self._loop
            if loop is not None and call_soon(loop, self._pump):
                self._turn_ends = perf_counter() + SLICE
            else:
                workers.submit(self._attend)
        except BaseException:  # an interrupt: whoever comes next calls again
            self.scheduled = False
            raise

    def hurry(self, guest: object, waiting: bool) -> None:
        if not waiting:
            self._guests.discard(guest)
        elif self._loop is None or self._loop is not running_loop():
            self._welcome(guest)

    def _welcome(self, guest: object) -> None:
        alone = not self._guests
        self._guests.add(guest)
        if alone or len(self._guests) == 1:  # asked twice, because guests come and go on any thread
            for record in self.parked():
                self._hurry_operands(record)
        self._call_attendant()

    def _hurry_operands(self, record: Cell) -> None:
        """Have workers drive the queues that a parked record waits for, where their loop may be blocked."""
        for operand in record.args:
            if operand.__class__ is Cell and operand.value is PENDING:
                home = operand.home
                assert isinstance(home, Driving)
                if home is not self and (self._guests or home._loop is not self._loop):
                    home._welcome(record)

    def _call_attendant(self) -> None:
        if self.runnable() and not self._attended:
            self._attended = True
            workers.submit(self._drive_for_guests)

    def detach(self) -> None:
        """The loop is gone; what is pending stays for whoever asks for it."""
        self._loop = None
        self.scheduled = False
        if self._guests:
            self._call_attendant()

    def _pump(self) -> None:
        self.scheduled = False
        self.drive(SLICE)

    def _attend(self) -> None:
        time.sleep(GRACE)
        self.scheduled = False
        self._drive_out()

    def _drive_for_guests(self) -> None:
        self._drive_out()
        self._attended = False
        self._call_attendant()

    def _drive_out(self) -> None:
        while self.runnable() and self.drive(SLICE, patient=True):
            pass

    def drive(self, seconds: float, until: Cell | None = None, *, patient: bool = False) -> bool:
        """Run what can run now, in order, for `seconds` or until a cell is settled; whether anything was done.

        When another thread drives, `patient` waits for its slice to end; otherwise there is nothing to do.
        """
        return (patient or not self._lock.locked()) and self._drive(seconds, until)

    def _drive(self, seconds: float, until: Cell | None, now: float | None = None) -> bool:
        # Taken by `with` only: an interrupt between a call of `acquire` and a `try` would leave it locked for good.
        try:
            with self._lock:
                ends = (now or perf_counter()) + seconds
                if errstate() is DEFAULT_ERRSTATE:
                    return self._slice(ends, until)
                # The error state of whoever drives is not that of the ops: those without a context have the default.
                return Context().run(self._slice, ends, until)
        finally:
            if self._ready or self.pending:
                self._pass_on()

    def _pass_on(self) -> None:
        if self.runnable():
            self.kick()

    def turn_is_over(self) -> bool:
        """Whether this turn of the loop has been the engine's for a slice."""
        return self.scheduled and perf_counter() >= self._turn_ends

    # The slice

    def _slice(self, ends: float, until: Cell | None = None, jobs: list[Job] | None = None) -> bool:
        """Take records in order; `jobs` is where a worker wants the next large op, to run it itself."""
        before = self.completed
        moved = False
        pending, ready, running, width = self.pending, self._ready, self._running, self._width
        brief = self.on_host
        while not running or len(running) < width:
            if brief and self._run_brief(ends, until):
                break
            source = ready or pending
            if not source:
                break
            cell = source[0]  # taken off only when it is dealt with: an interrupt loses nothing
            moved = True
            mine = self._deal_with(cell, jobs)
            source.popleft()
            if mine or cell is until or perf_counter() > ends:
                break
        return moved or self.completed > before

    def _run_brief(self, ends: float, until: Cell | None) -> bool:  # noqa: C901 - a call costs as much as its half
        """Run records as long as they are what nearly all are: a kernel, one or two small operands, nothing else.

        Returns whether the slice is over: the time is up, or `until` is settled.
        """
        pending, ready, array = self.pending, self._ready, ARRAY
        done = 0
        try:
            while True:
                for _ in A_FEW:
                    source = ready or pending
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
                    if size > op.brief or cell.rare is not None or cell.value is not PENDING:
                        return False
                    kernel = op.kernel
                    try:
                        if params is not None:
                            value = kernel(left, right, **params) if len(args) == 2 else kernel(left, **params)
                        elif len(args) == 2:
                            value = kernel(left, right)
                        else:
                            value = kernel(left)
                        if value.__class__ is not array:
                            value = checked(np.asarray(value))
                    except Exception as error:  # noqa: BLE001 - whatever a kernel raises is the op's failure
                        done += 1
                        self._finish(cell, failed(cell, error))
                    else:
                        cell.value = value
                        done += 1  # here, where no interrupt comes in between
                        cell.args = ()
                        cell.params = None
                        if cell.waiters is not None:
                            call_waiters(cell)
                    source.popleft()
                    if cell is until:
                        return True
                if perf_counter() > ends:
                    return True
        finally:
            self.completed += done

    def _deal_with(self, cell: Cell, jobs: list[Job] | None) -> bool:
        """Settle a record, set it aside, or have it started; whether the caller, a worker, is to run it."""
        if self._lost and cell in self._lost:
            self._lost.discard(cell)
            why = "the process was forked while the op was writing over its operands"
            self._conclude(cell, cancellation(cell, why))
            return False
        if cell.value is not PENDING:  # cancelled while it was queued, or settled when an interrupt came
            if cell.waiters is not None:
                call_waiters(cell)
            return False
        values, work = self._values_of(cell)
        if values is None:
            self._set_aside(cell)
            return False
        if work > cell.op.small and is_large(cell.op, values, cell.params):
            return self._start_large(cell, values, jobs)
        self._run_in_place(cell, values, work)
        self.completed += 1
        return False

    def _values_of(self, cell: Cell) -> tuple[list[Any] | None, int]:
        """The operands of a record, None where one is not there or failed; and the product of their sizes."""
        values: list[Any] = []
        work = 1
        for operand in cell.args:
            if operand.__class__ is Cell:
                operand = operand.value
                if operand.__class__ in UNREADY:
                    return None, 0
            if operand.__class__ is np.ndarray:
                work *= operand.size
            values.append(operand)
        return values, work

    def _run_in_place(self, cell: Cell, values: list[Any], work: int) -> None:
        """Run a small op of any kind; one that may have been estimated wrongly is timed."""
        if work <= WATCHED and cell.op.simple and cell.rare is None and self.on_host:
            self._run_simple(cell, values)
            return
        began = thread_time_ns() if work > WATCHED else 0
        self._finish(cell, execute(cell, values, self.device, self.backend, self.threads))
        if work > WATCHED:
            cell.op.took(thread_time_ns() - began)

    def _run_simple(self, cell: Cell, values: list[Any]) -> None:
        """What `execute` and `_finish` do, for what most ops are: one result, on the host, nothing kept aside."""
        try:
            value = cell.op.kernel(*values, **cell.params or {})
            if value.__class__ is not ARRAY:
                value = checked(np.asarray(value))
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises is the op's failure
            value = failed(cell, error)
        self._finish(cell, value)

    def _set_aside(self, cell: Cell) -> None:
        """Poison a record whose operand failed; park one whose operand is not there yet; settle a marker."""
        if cell.op is BARRIER:
            cell.args = ()
            rest = {*self._running, *self._taken, *self._tasks, *self._parked, *self._ready}
            Countdown(rest, partial(finish, cell, None))
            return
        missing: set[Any] = set()
        for operand in cell.args:
            if operand.__class__ is Cell:
                value = operand.value
                if value.__class__ is Failure:
                    self._poison(cell, value)
                    return
                if value is PENDING:
                    missing.add(operand)
        self._parked.add(cell)
        self.room = min(self.room, 0)
        self._hurry_operands(cell)
        Countdown(missing, partial(self._unpark, cell, {operand.home for operand in missing}))

    def _unpark(self, cell: Cell, homes: set[Queue]) -> None:
        for home in homes:
            home.hurry(cell, False)
        self._ready.append(cell)
        self._parked.discard(cell)
        self._wake_listeners()
        self.kick()
