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

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter, thread_time_ns
from typing import Any

import numpy as np

from engine.ambient import DEFAULT_ERRSTATE, errstate
from engine.devices.base import Backend, Device
from engine.devices.cores import cores
from engine.devices.workers import workers
from engine.errors import BlockingSyncError
from engine.failures import describe, failed
from engine.kernels.fused import execute_run
from engine.loops import AbstractEventLoop, Waiter, asyncio_loop, call_soon, running_loop, start_task
from engine.planning.inference import infer_cell
from engine.planning.op import SMALL_NS, Op, ShapeDtype
from engine.planning.runs import LOOKAHEAD, Run, can_begin, collect, mark_kept
from engine.queues import forking
from engine.queues.base import Owner, Queue, check_may_block
from engine.queues.execution import (
    adopt_results,
    enter_async_kernel,
    execute,
    execute_guarded,
    finish,
    kernel_values,
    run_coroutine,
)
from engine.queues.waiting import (
    NEVER,
    Countdown,
    block_until,
    blockers,
    cancellation,
    check_not_waiting_for_itself,
    record_of,
    timed_out,
)
from handles.cell import PENDING, CancelOutcome, Cell, Failure, Pending, add_waiter, call_waiters, remove_waiter

SLICE = 0.000_5
"""Seconds that a drive may hold a loop."""
WORKER_SLICE = 0.000_1
"""Seconds of small ops that a worker runs between large ones, before it leaves them to the loop."""
GRACE = 0.001
"""Seconds that an attendant leaves a thread without a loop to get to a sync point by itself."""
WATCHED = 1 << 12
"""Elements from which an op that runs in place is timed, so that a wrong estimate is made once."""
UNREADY = (Pending, Failure)

BARRIER = Op("synchronize", lambda: None)
"""The op of a marker: done when all that was dispatched to the queue before it is."""

Job = tuple[Cell, list[Any]]


def is_large(op: Op, values: list[Any], params: dict[str, Any] | None) -> bool:
    """Whether an op is a worker's. Where the operands make no sense to the estimate, the kernel will say what is wrong."""
    try:
        return op.factor * op.cost(values, params or {}) > SMALL_NS
    except Exception:  # noqa: BLE001
        return not op.known


def _operand_values(cell: Cell) -> list[Any]:
    return [operand.value if operand.__class__ is Cell else operand for operand in cell.args]


class Records(asyncio.Queue[Cell]):
    """An unbounded queue that nobody waits on, so that putting a record is one append."""

    def _init(self, maxsize: int) -> None:
        self._queue: deque[Cell] = deque()
        self.pending = self._queue
        self.put_nowait = self._queue.append  # type: ignore[assignment, method-assign]


class DeviceQueue(Queue):
    """The records of one device of one executor, and what is being done with them."""

    def __init__(
        self,
        owner: Owner,
        device: Device,
        backend: Backend,
        loop: AbstractEventLoop | None,
        *,
        width: int,
        threads: int,
        split: int,
    ) -> None:
        super().__init__(owner, device, backend)
        self.records = Records()
        self.pending = self.records.pending
        self.push: Callable[[Cell], None] = self.records.put_nowait
        self.scheduled = False
        """Whether a pump or an attendant is on its way."""
        self.room = 0
        """Records that may be pending before dispatch has to ask."""
        self.threads = threads
        """Threads of BLAS that one op may use."""
        self.split = split
        """Threads that one run may be split over, as far as cores are idle."""
        self.completed = 0
        self.failed = 0
        self.cancelled = 0
        self._loop = loop
        self._width = width
        self._turn_ends = 0.0
        self._lock = threading.Lock()
        self._ready: deque[Cell] = deque()
        self._parked: set[Cell] = set()
        self._running: set[Cell] = set()
        self._taken: set[Cell] = set()  # records that run together with one that counts as running
        self._tasks: set[Cell] = set()
        self._listeners: set[threading.Event] = set()
        self._guests: set[object] = set()
        self._attended = False
        forking.queues.add(self)

    # What is in flight

    def in_flight(self) -> int:
        """Records dispatched and not finished."""
        waiting = len(self.pending) + len(self._ready) + len(self._parked)
        return waiting + len(self._running) + len(self._taken) + len(self._tasks)

    def running(self) -> int:
        """Ops that run on workers or on the loop now."""
        return len(self._running) + len(self._taken) + len(self._tasks)

    def blocked_outside(self) -> bool:
        """Whether what is in flight waits for code that only the dispatching thread may get to run."""
        return bool(self._tasks) or any(cell.op.external for cell in self._running.copy())

    def moves(self) -> bool:
        """Whether something can run here, or runs and will end without anybody's help."""
        return self.runnable() or any(not cell.op.external for cell in self._running.copy())

    def parked(self) -> list[Cell]:
        """The records whose operands are still being computed elsewhere."""
        return list(self._parked.copy())

    def unfinished(self) -> list[Cell]:
        """The records in flight, oldest first where that is known."""
        with self._lock:
            return [*self._running, *self._taken, *self._tasks, *self._parked, *self._ready, *self.pending.copy()]

    def has_unsettled(self) -> bool:
        """Whether anything is in flight that was not abandoned."""
        return bool(self.in_flight()) and any(cell.value is PENDING for cell in self.unfinished())

    def runnable(self) -> bool:
        """Whether the next record can be dealt with now."""
        return len(self._running) < self._width and bool(self._ready or self.pending)

    # Who drives

    def kick(self) -> None:
        """Call for a drive: on the loop, or on a worker where there is none, or where the loop may be blocked."""
        if self._guests:
            self._call_attendant()
        if self.scheduled:
            return
        self.scheduled = True
        loop = self._loop
        if loop is not None and call_soon(loop, self._pump):
            self._turn_ends = perf_counter() + SLICE
        else:
            workers.submit(self._attend)

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
                assert isinstance(home, DeviceQueue)
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
        if not self._lock.acquire(patient):
            return False
        try:
            if errstate() is DEFAULT_ERRSTATE:
                return self._slice(seconds, until)
            # The error state of whoever drives is not that of the ops: those that keep no context have the default.
            return Context().run(self._slice, seconds, until)
        finally:
            self._lock.release()
            if self._ready or self.pending:
                self._pass_on()

    def _pass_on(self) -> None:
        if self.runnable():
            self.kick()

    # Fork

    def hold_still(self) -> bool:
        return self._lock.acquire(timeout=1.0)

    def go_on(self) -> None:
        self._lock.release()

    def start_over(self) -> None:
        self._lock = threading.Lock()
        self._loop = None
        self.scheduled = self._attended = False
        for lost in (self._running, self._taken, self._tasks):
            for cell in lost:
                rare = cell.extend()
                rare.running, rare.task = False, None
                rare.context = rare.context and rare.context.copy()  # the parent's thread never leaves this one
            self._ready.extend(lost)
            lost.clear()
        self._listeners.clear()
        self._guests.clear()

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
            if cell.value is PENDING:
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
                        source.popleft()
                        moved = True
                        if self._start_large(cell, values, jobs):
                            break
                        continue
                    if work > WATCHED:
                        began = thread_time_ns()
                    if simple and cell.rare is None and op.simple:
                        self._run_simple(cell, op, values)
                    else:
                        self._finish(cell, execute(cell, values, self.device, self.backend, self.threads))
                    if work > WATCHED:
                        op.took(thread_time_ns() - began)
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

    def _run_simple(self, cell: Cell, op: Op, values: list[Any]) -> None:
        """What `execute` and `_finish` do, for what most ops are: one result, on the host, nothing kept aside."""
        try:
            params = cell.params
            value = op.kernel(*values) if params is None else op.kernel(*values, **params)
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises is the op's failure
            self._finish(cell, failed(cell, error))
            return
        cell.value = value if value.__class__ is np.ndarray else np.asarray(value)
        cell.args = ()
        cell.params = None
        if cell.waiters is not None:
            call_waiters(cell)

    def _start_large(self, cell: Cell, values: list[Any], jobs: list[Job] | None) -> bool:
        """Start an op off the loop's thread; whether the caller, a worker, is to run it."""
        if cell.op.coroutine:
            self._start(cell, values)
            return False
        self._hold(cell)
        if jobs is None:
            self._hand_over(cell, values)
            return False
        jobs.append((cell, values))
        return True

    def _hold(self, cell: Cell) -> None:
        cell.extend().running = True
        self._running.add(cell)
        self.room = min(self.room, 0)

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

    def _poison(self, cell: Cell, failure: Failure) -> None:
        """Settle a record whose operand failed."""
        if cell.value is PENDING:
            finish(cell, failure)
            self.completed += 1
            self.failed += 1

    def _unpark(self, cell: Cell, homes: set[Queue]) -> None:
        for home in homes:
            home.hurry(cell, False)
        self._ready.append(cell)
        self._parked.discard(cell)
        self._wake_listeners()
        self.kick()

    def _finish(self, cell: Cell, outcome: Any) -> None:
        """Settle a record; a failure is entered in the ledger before anybody can see it."""
        if outcome.__class__ is Failure:
            self.failed += 1
            self.owner.ledger.add(self.device, outcome)
        finish(cell, outcome)

    def _conclude(self, cell: Cell, outcome: Any) -> None:
        """Settle a record that ran elsewhere, unless it was abandoned."""
        if cell.value is not PENDING:
            return
        if outcome.__class__ is Failure and outcome.cancelled:
            self.cancelled += 1
            finish(cell, outcome)
        else:
            self.completed += 1
            self._finish(cell, outcome)

    # Large ops

    def _hand_over(self, cell: Cell, values: list[Any]) -> None:
        # In a list, which the worker empties: what is submitted lives as long as the worker goes on.
        workers.submit(partial(self._work, [(cell, values)]))

    def _work(self, jobs: list[Job]) -> None:
        """On a worker: run a large op, then go on with the queue."""
        while jobs:
            self._work_one(jobs)
        self._pass_on()

    def _work_one(self, jobs: list[Job]) -> None:
        try:
            run = self._collect(jobs)
        except Exception as error:  # noqa: BLE001 - a defect of the planning: whoever waits for the op is told
            cell, _ = jobs.pop()
            self._end_alone(cell, failed(cell, error), jobs)
            return
        granted = cores.claim(1 if run is None else self.split)
        try:
            if run is not None:
                self._work_run(run, granted, jobs)
            else:
                self._work_alone(jobs)
        finally:
            cores.give_back(granted)
        self._wake_listeners()

    def _work_alone(self, jobs: list[Job]) -> None:
        cell, values = jobs.pop()
        if cell.op.coroutine:
            outcome = run_coroutine(cell, values, self.device, self.backend, self.threads)
        else:
            began = thread_time_ns()
            outcome = execute_guarded(cell, values, self.device, self.backend, self.threads)
            cell.op.took_elsewhere(thread_time_ns() - began)
        values.clear()
        self._end_alone(cell, outcome, jobs)

    def _end_alone(self, cell: Cell, outcome: Any, jobs: list[Job]) -> None:
        with self._lock:
            self._running.discard(cell)
            self._conclude(cell, outcome)
            self._slice(SLICE if self._loop is None else WORKER_SLICE, None, jobs)

    # Runs

    def _collect(self, jobs: list[Job]) -> Run | None:
        """The run that the next job begins, taken off the queue; None when the job is to be run by itself."""
        head = jobs[-1][0]
        if not self.backend.on_host or not can_begin(head.op):
            return None
        with self._lock:
            run = collect(head, [self.pending[index] for index in range(min(len(self.pending), LOOKAHEAD))])
            if run is None:
                return None
            jobs.clear()
            del head
            self._take(run)
            mark_kept(run)
        return run

    def _take(self, run: Run) -> None:
        for cell in run.cells[1:]:
            self.pending.remove(cell)
            cell.extend().running = True
            self._taken.add(cell)

    def _work_run(self, run: Run, threads: int, jobs: list[Job]) -> None:
        results = self._results_of(run, threads)
        if results is None:
            for cell in run.cells:
                self._run_again(cell)
        run.inputs.clear()
        with self._lock:
            for number, cell in enumerate(run.cells):
                self._running.discard(cell)
                self._taken.discard(cell)
                if results is not None:
                    self._settle_taken(cell, results[number])
            del cell, results
            run.steps.clear()  # before anything else runs here: what refers to its results counts
            self._slice(SLICE if self._loop is None else WORKER_SLICE, None, jobs)

    def _results_of(self, run: Run, threads: int) -> list[Any] | None:
        """What the run computes; None where its ops have to be run one by one."""
        try:
            return execute_run(run, threads)
        except Exception:  # noqa: BLE001 - a deviation, or a defect of the engine: one by one they come out right
            return None

    def _settle_taken(self, cell: Cell, outcome: Any) -> None:
        """Settle a record of a run; one whose operand was abandoned meanwhile has no value, whatever was computed."""
        failure = next((value for value in _operand_values(cell) if value.__class__ is Failure), None)
        if failure is None:
            self._conclude(cell, outcome)
        else:
            self._poison(cell, failure)

    def _run_again(self, cell: Cell) -> None:
        """Run a record of a run that did not go as planned by itself, and settle it for those after it."""
        with self._lock:  # a cancellation lets go of operands and parameters
            values = _operand_values(cell)
            if cell.value is not PENDING:
                return
        outcome = next((value for value in values if value.__class__ is Failure), None)
        if outcome is None:
            outcome = execute_guarded(cell, values, self.device, self.backend, self.threads)
        with self._lock:
            self._settle_taken(cell, outcome)

    def _wake_listeners(self) -> None:
        if self._listeners:
            for event in list(self._listeners):
                event.set()

    # Async ops

    def _start(self, cell: Cell, values: list[Any]) -> None:
        loop = self._loop
        if loop is not None:
            self._tasks.add(cell)
            self.room = min(self.room, 0)
            cell.extend().running = True
            if call_soon(loop, self._start_on_loop, cell, values):
                return
            self._tasks.discard(cell)
        self._hold(cell)
        self._hand_over(cell, values)

    def _start_on_loop(self, cell: Cell, values: list[Any]) -> None:
        if cell.value is not PENDING:
            self._tasks.discard(cell)
            return
        loop = running_loop()
        assert loop is not None
        context = cell.extend().context or copy_context()
        context.run(enter_async_kernel, cell)
        try:
            coroutine = context.run(
                cell.op.kernel, *kernel_values(values, self.device, self.backend), **cell.params or {}
            )
            cell.extend().task = start_task(loop, coroutine, context, partial(self._end_on_loop, cell))
        except Exception as error:  # noqa: BLE001 - the op's failure
            self._end(cell, failed(cell, error))

    def _end_on_loop(self, cell: Cell, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._end(cell, cancellation(cell, "its task was cancelled"))
            return
        error = task.exception()
        if error is None:
            try:
                outcome = adopt_results(cell, task.result(), self.backend)
            except Exception as problem:  # noqa: BLE001 - the op's failure
                outcome = failed(cell, problem)
        else:
            outcome = failed(cell, error)
        self._end(cell, outcome)

    def _end(self, cell: Cell, outcome: Any) -> None:
        with self._lock:
            self._tasks.discard(cell)
            self._conclude(cell, outcome)
        self._wake_listeners()
        self._pass_on()

    # Waiting

    def turn_is_over(self) -> bool:
        """Whether this turn of the loop has been the engine's for a slice."""
        return self.scheduled and perf_counter() >= self._turn_ends

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
        if loop is None or loop is not self._loop or self.turn_is_over():
            return False
        self.drive(SLICE, cell)
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
        if None in inferred.shape and tell and cell.value is PENDING and running_loop() is None:
            self.drive(SLICE, record_of(cell))
            inferred = infer_cell(cell)
        return inferred

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

    def listen(self, event: threading.Event, listening: bool) -> None:
        if listening:
            self._listeners.add(event)
        else:
            self._listeners.discard(event)

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

    # Cancellation

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
        cell = Cell(BARRIER, (NEVER,), None, self, None, 0)
        self.push(cell)
        self.kick()
        return cell
