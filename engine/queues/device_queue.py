"""The queue of ASYNC mode: records wait on an `asyncio.Queue`, and each is run when its operands and a slot are there.

Purpose: dispatch costs one append. What happens to a record afterwards is decided by parts that this class holds
together and that can be built and tested alone:

* `backlog` decides, purely: which records wait for what, which is next, what tasks demand.
* `slice` is a bounded time in which one thread works on the queue; `driver` says which thread does.
* `starting` gives slots to ready records; `worker` computes large ops, `tasks` runs coroutines, a backend the rest.
* `completions` settles records and counts them.

Guarantees: one thread at a time is in a slice; an op waits for its operands and for a slot and for nothing else, unless
`inter_op_parallelism_threads` is 1; a thread that leaves runnable work behind has called for the next drive. `lock`
guards everything but the appends of dispatch, the operands that have arrived, and the flags of the driver.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from copy import copy
from functools import partial
from time import monotonic, perf_counter, sleep
from typing import Any, Protocol

from engine.base.inference import infer_cell
from engine.base.loops import AbstractEventLoop, CancelledError, Waiter, asyncio_loop, current_task, running_loop
from engine.base.op import ShapeDtype
from engine.devices.base import Backend, Device
from engine.devices.registry import losers, loss
from engine.failures import failed
from engine.queues import forking, reading
from engine.queues.admission import Admission
from engine.queues.backlog import Backlog, Entry, State
from engine.queues.base import Owner, Queue, check_may_block
from engine.queues.bell import Bells
from engine.queues.completions import Completions
from engine.queues.demand import Demand
from engine.queues.driver import Driver
from engine.queues.execution import finish
from engine.queues.launch import Launcher
from engine.queues.leftovers import leftovers
from engine.queues.loop_tasks import LoopTasks
from engine.queues.records import BARRIER, NEVER, entry_of, pending_operands, record_of
from engine.queues.slice import SLICE, Slice
from engine.queues.starting import Starting
from engine.queues.waiting import (
    Countdown,
    block_until,
    blockers,
    cancellation,
    check_not_waiting_for_itself,
    tell_interrupted,
    timed_out,
)
from engine.queues.worker import WorkerLane
from engine.settings.scope import scope_var
from engine.threads.slots import Slots
from handles.cell import PENDING, CancelOutcome, Cell, Failure, add_waiter, pending_cell, remove_waiter

OVERTIME = 0.000_05
"""Seconds that a drive may take for an awaiting task when this turn of the loop has been the engine's for a slice."""
NEARLY_DONE = 64
"""Records that may be pending for that, or for an awaited one to be run in its turn."""
PATIENCE = 4 * SLICE
"""Seconds that the caller who asks for a shape waits for another drive."""


class Records(asyncio.Queue[Cell]):
    """An unbounded queue that no task waits on, so that putting a record is one append."""

    def _init(self, maxsize: int) -> None:
        self._queue: deque[Cell] = deque()
        self.pending = self._queue
        self.put_nowait = self._queue.append  # type: ignore[assignment, method-assign]


class QueueOwner(Owner, Protocol):
    """An executor as its queues see it."""

    calls: Slots
    """Slots for users' functions."""
    admission: Admission
    """Tasks that wait for room."""

    def start_over(self) -> None:
        """In a forked child: no thread holds a lock."""


class DeviceQueue(Queue):
    """The records of one device of one executor, and what is being done with them."""

    owner: QueueOwner

    def __init__(
        self,
        owner: QueueOwner,
        device: Device,
        backend: Backend[Any],
        loop: AbstractEventLoop | None,
        *,
        width: int,
        split: int,
    ) -> None:
        super().__init__(owner, device, backend)
        self.records = Records()
        self.pending = self.records.pending
        self.push: Callable[[Cell], None] = self.records.put_nowait
        self.scheduled = False
        """Whether a callback of the loop or an attendant is on its way."""
        self.room = 0
        """Records that may be pending before dispatch has to ask."""
        self.held = 0
        """How often the device was told to start nothing."""
        self.strict = width == 1
        """Whether ops run one after the other, in dispatch order."""
        self.lock = threading.Lock()
        self.overwriting: set[Cell] = set()
        """Records of groups that write over their operands."""
        self.bells = Bells()
        self.outcomes: deque[tuple[Entry | None, Any]] = deque()
        """What backends said of their records; an entry of None says that the device was lost."""
        self._early: dict[Cell, list[tuple[Entry, Any]]] = {}
        """What they said of records that wait for others of their batch, by those."""
        self.backlog = Backlog()
        self.completions = Completions(device, owner.ledger, self.backlog)
        self.driver = Driver(self, loop)
        self.kick = self.driver.kick
        self.tasks = LoopTasks(self)
        self.launcher = Launcher(self)
        self.starting = Starting(self, width=width, split=split, calls=owner.calls)
        self.slice = Slice(self)
        self.worker = WorkerLane(self)
        self._last_helped = 0  # the task that got overtime last
        self.requests: deque[Demand] = deque()
        """Demands that were made or withdrawn, which the next slice takes."""
        forking.queues.add(self)
        if not self.on_host:
            losers.add(self)

    # What is in flight

    def in_flight(self) -> int:
        """Records dispatched and not finished."""
        return len(self.pending) - len(self.slice.early) + self.backlog.aside

    def running(self) -> int:
        """Ops that run on workers, on the loop or on a device now."""
        return len(self.backlog.running)

    def runnable(self) -> bool:
        """Whether a drive can do anything now."""
        if self.held:
            return False
        backlog = self.backlog
        if backlog.arrived or self.requests or self.outcomes or self.starting.wanted:
            return True
        return (bool(self.pending) and not self.is_taken()) or self.can_walk()

    def can_walk(self, *, before_start: bool = False) -> bool:
        """Whether a demand has a step to do; where ops run in dispatch order demands change nothing.

        `before_start` says that a worker is about to be given something: what is demanded is to be known then.
        """
        return self.backlog.walks(in_order=bool(self.pending) and not before_start) and not self.strict

    def is_taken(self) -> bool:
        """Whether ops run one after the other and one runs, or is about to: coroutines take no turn."""
        if not self.strict:
            return False
        return self.backlog.count(State.READY) + len(self.backlog.running) > len(self.tasks)

    def unfinished(self) -> list[Cell]:
        """The records in flight, oldest first where that is known."""
        with self.lock:
            return [*(entry.record for entry in self.backlog.entries()), *self.pending.copy()]

    def has_unsettled(self) -> bool:
        """Whether anything is in flight that was not abandoned."""
        return bool(self.in_flight()) and any(cell.value is PENDING for cell in self.unfinished())

    # What tasks wait for

    def demand(self, cells: Iterable[Cell], priority: int | None = None, *, guest: bool | None = None) -> Demand | None:
        """A task or thread waits for these cells from now on, until `withdraw`: what they need goes first.

        `guest` says whether workers are to drive the queue meanwhile; unless told, they do where the task or thread is
        not on the queue's loop. Returns None where that changes nothing.
        """
        if priority is None:
            priority = getattr(scope_var.get(), "priority", 0)
        records = [record_of(cell) for cell in cells]
        targets = [record for record in records if record.op is not BARRIER and not self._is_started(record)]
        targets.reverse()  # what stands last is looked at first, and that is to be what was dispatched first
        demand = Demand(targets, priority, everything=any(record.op is BARRIER for record in records))
        if guest is None:
            guest = self.driver.loop is None or self.driver.loop is not running_loop()
        if not guest and not targets and not demand.everything:
            return None
        self.requests.append(demand)
        if guest:
            self.driver.welcome(demand)
        return demand

    def _is_started(self, record: Cell) -> bool:
        rare = record.rare
        return record.value is not PENDING or (rare is not None and rare.running)

    def withdraw(self, demand: Demand | None) -> None:
        """It waits no longer."""
        if demand is None:
            return
        demand.alive = False
        demand.stack = []  # not emptied: a slice may be at it
        self.driver.dismiss(demand)
        for home, child in demand.children or ():
            home.withdraw(child)
        if demand.taken or demand.everything:
            self.requests.append(demand)
            if not self.lock.locked():  # else the thread that is in a slice takes it
                with self.lock:
                    self.take_requests()
                if self.backlog.walking:
                    self.driver.pass_on()  # others relied on it

    def take_requests(self) -> None:
        """Under the lock: what tasks demand, and no longer demand, since the last slice."""
        while self.requests:
            demand = self.requests.popleft()
            if demand.alive:
                self.backlog.demand(demand)
            else:
                self.backlog.withdraw(demand)

    def take_outcomes(self) -> None:
        """Under the lock: what backends said of their records since the last slice."""
        while self.outcomes:
            entry, outcome = self.outcomes[0]
            if entry is None:
                self._fail_launched()
            else:
                self._settle_launched(entry, outcome)
            self.outcomes.popleft()

    def ask_for(self, demand: Demand, record: Cell) -> None:
        """A demand needs a record of another queue."""
        home: Any = record.home
        if isinstance(home, DeviceQueue):
            child = home.demand([record], demand.priority, guest=self.driver.has_guests())
            if child is not None:
                demand.children = [*(demand.children or ()), (home, child)]
                home.driver.pass_on()

    def ask_other_queue(self, entry: Entry, record: Cell) -> None:
        """A record is parked for one of another queue: ask for it where that has another loop, which may be blocked."""
        home: Any = record.home
        if isinstance(home, DeviceQueue) and (self.driver.has_guests() or home.driver.loop is not self.driver.loop):
            child = home.demand([record], max(0, entry.rank), guest=True)
            if not add_waiter(record, lambda _: home.withdraw(child)):
                home.withdraw(child)

    # Backends

    def completed(self, entry: Entry, outcome: Any) -> None:
        """On any thread: a backend has ended a record."""
        self.outcomes.append((entry, outcome))
        self.driver.woken()

    def _settle_launched(self, entry: Entry, outcome: Any) -> None:
        record = entry.record
        if entry not in self.backlog.running:
            return  # an interrupt came when it had been settled, or the device was lost
        waits = next(iter(pending_operands(record)), None)
        if waits is not None:
            self._early.setdefault(waits, []).append((entry, outcome))
            return
        self.starting.release(entry)
        values = [each.value for each in record.args if each.__class__ is Cell]
        failure = next((value for value in values if value.__class__ is Failure), None)
        if failure is not None:
            self.completions.poison(record, failure)
        else:
            self.completions.conclude(record, outcome)
        self.outcomes.extend(self._early.pop(record, ()))

    def lose(self, reason: str) -> None:
        """On any thread: the device is gone, and what a backend was given with it."""
        self.lost = reason
        self.outcomes.append((None, None))
        self.driver.woken()

    def _fail_launched(self) -> None:
        """Under the lock: fail what a backend has and will never end."""
        error = loss(self.device, self.lost or "")
        for entry in [each for each in self.backlog.running if each.state is State.LAUNCHED]:
            self.outcomes.append((entry, failed(entry.record, copy(error))))

    def after_slice(self) -> None:
        """Records may have ended: there may be room for tasks that wait for it."""
        if self.owner.admission.waiting:
            self.owner.admission.look()

    # Waiting

    def help(self, cell: Cell) -> bool:
        """Settle a cell that is about to be awaited, where this turn of the loop has time for that."""
        driver = self.driver
        loop = running_loop()
        if loop is None or loop is not driver.loop or self.lock.locked() or len(self.pending) > NEARLY_DONE:
            return False
        now = perf_counter()
        if not self.scheduled or now < driver.turn_ends:
            driver.drive_now(SLICE, cell, now)
        else:
            # One wait of a task gets overtime: the task that got it last may not have suspended since.
            task = id(current_task(loop))
            if task != self._last_helped:
                self._last_helped = task
                driver.drive_now(OVERTIME, cell, now)
        return cell.value is not PENDING

    def assist(self, cells: Iterable[Cell]) -> Demand | None:
        """A task of the running loop is about to wait for these cells: drive as long as it may, and demand the rest."""
        loop = asyncio_loop()
        cells = tuple(cells)
        if loop is self.driver.loop and not self.driver.turn_is_over():
            self.driver.drive(SLICE, cells[0])
        left = [cell for cell in cells if cell.value is PENDING]
        if not left:
            return None
        for cell in left:
            check_not_waiting_for_itself(cell)
        demand = self.demand(left)
        if demand is not None and loop is self.driver.loop:
            self.driver.pass_on()
        return demand

    def wait(self, cell: Cell) -> Generator[Any, None, None]:
        """Suspend until the cell is settled, having demanded it."""
        if cell.value is not PENDING:
            return
        demand = self.assist([cell])
        try:
            if cell.value is not PENDING:
                return
            waiter = Waiter(asyncio_loop())
            if not add_waiter(cell, waiter.wake):
                return
            try:
                if not (yield from waiter.wait(self.owner.timeout)):
                    raise TimeoutError(timed_out(cell, self.owner.timeout))
            except CancelledError as error:
                tell_interrupted(error, self.awaited_by(cell))
                raise
            finally:
                remove_waiter(cell, waiter.wake)
        finally:
            self.withdraw(demand)

    def block(self, cell: Cell, timeout: float | None, what: str) -> None:
        """Block this thread until the cell is settled; refuse where that would freeze a running loop."""
        check_may_block(cell, what)
        limit = self.owner.timeout
        if timeout is not None and (limit is None or timeout < limit):
            limit = timeout
        ends = None if limit is None else monotonic() + limit
        if cell.value is PENDING:
            block_until(cell, limit)
        if not self.on_host and not isinstance(cell.value, Failure):
            reading.block(self, cell, None if ends is None else max(0.0, ends - monotonic()))

    def drive(self, seconds: float, until: Cell | None = None, *, patient: bool = False) -> bool:
        """Work on the queue for so long, or until a cell is settled; whether anything was done."""
        return self.driver.drive(seconds, until, patient=patient)

    def infer(self, cell: Cell, *, tell: bool = True) -> ShapeDtype:
        """Shape and dtype. Off the loop, a caller that needs a dimension which values decide runs what can run now."""
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
            elif (self.lock.locked() or self.runnable()) and perf_counter() < gives_up:
                sleep(SLICE / 8)
            else:
                return

    def nudge(self, cell: Cell) -> None:
        """A caller polls for this cell: make sure that it is being worked on."""
        for record in blockers(cell):
            home = record.home
            if isinstance(home, DeviceQueue):
                home.driver.nudged()

    def listen(self, bell: Any, listening: bool) -> None:
        """Have `bell` rung whenever an op of this queue ends, or no longer."""
        self.bells.listen(bell, listening)

    def check_can_end(self, record: Cell) -> None:
        """Raise `BlockingSyncError` when the record cannot end while this thread is blocked."""
        self.tasks.check_can_end(record)

    def waiting_for(self, cell: Cell) -> list[Cell]:
        """The records that a record has been set aside for; none when it is up to this queue to run it."""
        if cell.op is BARRIER and NEVER not in cell.args:
            return [entry.record for entry in list(self.backlog.entries()) if entry.state is State.PARKED]
        entry = entry_of(cell)
        return pending_operands(cell) if entry is not None and entry.state is State.PARKED else []

    def awaited_by(self, cell: Cell) -> Cell:
        """The op to name when waiting for a cell took too long: the cell's own, or the oldest one before a marker."""
        if cell.op is not BARRIER:
            return cell
        return next((each for each in self.unfinished() if each.op is not BARRIER), cell)

    # Cancellation, barriers, holding still

    def cancel(self, cell: Cell, why: str = "handle.cancel() was called") -> CancelOutcome:
        """Drop a record that has not started, abandon one that has."""
        record = record_of(cell)
        with self.lock:
            if record.value is not PENDING:
                return CancelOutcome.TOO_LATE
            rare = record.rare
            running = rare is not None and rare.running
            self.completions.cancel(record, cancellation(record, why))
            self.starting.tidy()
        if rare is not None and rare.task is not None:
            rare.task()
        self.driver.pass_on()  # what depended on it has arrived
        return CancelOutcome.ABANDONED if running else CancelOutcome.DROPPED

    def barrier(self) -> Cell:
        """A marker behind all that was dispatched so far."""
        cell = pending_cell(BARRIER, (NEVER,), None, self, None, 0)
        self.push(cell)
        self.kick()
        return cell

    def settle_later(self, marker: Cell) -> None:
        """The marker has come to the head of the queue: it is settled with the last record before it."""
        marker.args = ()
        Countdown([entry.record for entry in list(self.backlog.entries())], partial(finish, marker, None))

    def hold(self) -> None:
        """Start nothing until `resume` was called as often."""
        with self.lock:
            self.held += 1
            self.starting.give_up()

    def resume(self) -> None:
        """Start what there is."""
        with self.lock:
            self.held -= 1
            self.starting.try_again()
        self.driver.pass_on()

    def detach(self) -> None:
        """The loop is gone: its coroutines will never end, and are cancelled; other records stay for those who ask."""
        for record in self.unfinished():
            if record.op.coroutine:
                self.cancel(record, "the event loop that was to run it has ended")
        with self.lock:
            self.tasks.forget_all()
        self.driver.detach()

    def __del__(self) -> None:
        if self.pending or self.backlog.aside:
            leftovers.add(self.unfinished())

    # Fork

    def hold_still(self) -> bool:
        """Let no thread be in the middle of a slice; False when one does not end."""
        return self.lock.acquire(timeout=1.0)

    def go_on(self) -> None:
        """In the parent, after `hold_still`."""
        self.lock.release()

    def start_over(self) -> None:
        """In the child: threads and loop stayed behind, so what ran there is run again."""
        self.lock = threading.Lock()
        self.driver.start_over()
        self.bells.clear()
        self.owner.start_over()
        lost, self.overwriting = self.overwriting, set()
        self.tasks.start_over()
        self.launcher.start_over()
        for entry in list(self.backlog.running):
            record = entry.record
            rare = record.extend()
            rare.running, rare.task = False, None
            rare.context = rare.context and rare.context.copy()  # the parent's thread never leaves this one
            entry.grants = []
            if record in lost:
                why = "the process was forked while the op was writing over its operands"
                self.completions.conclude(record, cancellation(record, why))
            elif record.value is not PENDING:
                self.completions.conclude(record, None)
            elif entry.state is State.LAUNCHED:
                gone = loss(self.device, "the process was forked, and what serves the device stayed behind")
                self.completions.conclude(record, failed(record, gone))
            else:
                self.backlog.put_back(entry)
        self.starting.try_again()
