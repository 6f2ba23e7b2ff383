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
from engine.planning.op import SMALL_NS, Op
from engine.queues.backlog import BARRIER, SLICE, Backlog
from engine.queues.base import Queue
from engine.queues.execution import execute, finish
from engine.queues.waiting import Countdown
from handles.cell import PENDING, Cell, Failure, Pending, call_waiters

GRACE = 0.001
"""Seconds that an attendant leaves a thread without a loop to get to a sync point by itself."""
WATCHED = 1 << 12
"""Elements from which an op that runs in place is timed, so that a wrong estimate is made once."""
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
        # Taken by `with` only: an interrupt between a call of `acquire` and a `try` would leave it locked for good.
        if not patient and self._lock.locked():
            return False
        try:
            with self._lock:
                if errstate() is DEFAULT_ERRSTATE:
                    return self._slice(seconds, until)
                # The error state of whoever drives is not that of the ops: those without a context have the default.
                return Context().run(self._slice, seconds, until)
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

    def _slice(self, seconds: float, until: Cell | None = None, jobs: list[Job] | None = None) -> bool:
        """Take records in order; `jobs` is where a worker wants the next large op, to run it itself."""
        ends = perf_counter() + seconds
        done = 0
        moved = False
        pending, ready, running, width = self.pending, self._ready, self._running, self._width
        simple = self.backend.on_host
        array = np.ndarray
        while (source := ready or pending) and (not running or len(running) < width):
            cell = source[0]  # taken off only when it is dealt with: an interrupt loses nothing
            if simple and len(cell.args) == 2 and self._run_pair(cell, cell.op):
                done += 1
            elif cell.value is PENDING:
                op = cell.op
                values: list[Any] = []
                work = 1
                for operand in cell.args:
                    if operand.__class__ is Cell:
                        operand = operand.value
                        if operand.__class__ is not array and operand.__class__ in UNREADY:
                            self._set_aside(cell)
                            moved = True
                            break
                    if operand.__class__ is array:
                        work *= operand.size
                    values.append(operand)
                else:
                    if work > op.small and is_large(op, values, cell.params):
                        moved = True
                        mine = self._start_large(cell, values, jobs)
                        source.popleft()
                        if mine:
                            break
                        continue
                    self._run_in_place(cell, op, values, work)
                    done += 1
            else:
                moved = True  # cancelled while it was queued, or settled when an interrupt came
                if cell.waiters is not None:
                    call_waiters(cell)
            source.popleft()
            if cell is until or (done & 7 == 7 and perf_counter() > ends):
                break
        self.completed += done
        return moved or done > 0

    def _run_in_place(self, cell: Cell, op: Op, values: list[Any], work: int) -> None:
        """Run a small op of any kind; one that may have been estimated wrongly is timed."""
        if work <= WATCHED and op.simple and cell.rare is None and self.backend.on_host:
            self._run_simple(cell, op, values)
            return
        began = thread_time_ns() if work > WATCHED else 0
        self._finish(cell, execute(cell, values, self.device, self.backend, self.threads))
        if work > WATCHED:
            op.took(thread_time_ns() - began)

    def _run_simple(self, cell: Cell, op: Op, values: list[Any]) -> None:
        """What `execute` and `_finish` do, for what most ops are: one result, on the host, nothing kept aside."""
        try:
            params = cell.params
            value = op.kernel(*values) if params is None else op.kernel(*values, **params)
            if value.__class__ is not np.ndarray:
                value = checked(np.asarray(value))
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises is the op's failure
            self._finish(cell, failed(cell, error))
            return
        cell.value = value
        cell.args = ()
        cell.params = None
        if cell.waiters is not None:
            call_waiters(cell)

    def _run_pair(self, cell: Cell, op: Op) -> bool:
        """What `_run_simple` does, for what nearly all ops are: two small operands that are there, no parameters."""
        left, right = cell.args
        if left.__class__ is Cell:
            left = left.value
        if right.__class__ is Cell:
            right = right.value
        size = 1
        if left.__class__ is np.ndarray:
            size = left.size
        elif left.__class__ not in SCALARS:
            return False
        if right.__class__ is np.ndarray:
            size *= right.size
        elif right.__class__ not in SCALARS:
            return False
        if size > WATCHED or size > op.small or cell.params is not None or cell.rare is not None or not op.simple:
            return False
        if cell.value is not PENDING:
            return False
        try:
            value = op.kernel(left, right)
            if value.__class__ is not np.ndarray:
                value = checked(np.asarray(value))
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises is the op's failure
            self._finish(cell, failed(cell, error))
            return True
        cell.value = value
        cell.args = ()
        if cell.waiters is not None:
            call_waiters(cell)
        return True

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
