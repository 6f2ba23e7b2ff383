"""The queue of ASYNC mode: records wait on an `asyncio.Queue`, and each is run when its operands and a slot are there.

Purpose: dispatch costs one append. What happens to a record afterwards is decided by parts that this class holds
together and that can be built and tested alone:

* `backlog` decides, purely: which records wait for what, which is next, what tasks demand.
* `slice` is a bounded time in which one thread works on the queue; `driver` says which thread does.
* `starting` gives slots to ready records; `worker` computes large ops, `tasks` runs coroutines, a backend the rest.
* `completions` ends records and counts them; `outcomes` is what backends say of theirs.
* `demands` is what tasks and threads wait for; `polling` is what they do for the queue before they suspend or block.

Guarantees: one thread at a time is in a slice; an op waits for its operands and for a slot and for nothing else, unless
`inter_op_parallelism_threads` is 1; a thread that leaves runnable work behind has scheduled the next drive. `lock`
guards everything but the appends of dispatch, the operands that have arrived, requests, outcomes, and the flags of the
driver.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from engine.base.loops import AbstractEventLoop
from engine.base.op import ShapeDtype
from engine.devices.base import Backend, Device
from engine.devices.registry import losers
from engine.queues import forking
from engine.queues.admission import Admission
from engine.queues.backlog import Backlog
from engine.queues.base import Owner, Queue
from engine.queues.bell import Bells
from engine.queues.completions import Completions
from engine.queues.demands import Demands
from engine.queues.driver import Driver
from engine.queues.execution import finish
from engine.queues.launch import Launcher
from engine.queues.leftovers import leftovers
from engine.queues.loop_tasks import LoopTasks
from engine.queues.mending import mended
from engine.queues.outcomes import Outcomes
from engine.queues.poll import Poll
from engine.queues.records import BARRIER, NEVER, entry_of, pending_operands, record_of
from engine.queues.slice import Slice
from engine.queues.starting import Starting
from engine.queues.states import State
from engine.queues.waiting import Countdown, blockers, cancellation
from engine.queues.worker import WorkerLane
from engine.threads.slots import Slots
from handles.cell import PENDING, CancelOutcome, Cell, pending_cell


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

    @property
    def pending_bytes(self) -> int:
        """Bytes of operands that were copied for what is in flight."""

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
        """True while a callback of the loop, or a worker, is on its way to drive."""
        self.room = 0
        """Records that may be pending before dispatch has to ask."""
        self.held = 0
        """How often the device was told to start nothing."""
        self.strict = width == 1
        """True where ops run one after the other, in dispatch order."""
        self.lock = threading.Lock()
        self.overwriting: set[Cell] = set()
        """Records of groups that write over their operands."""
        self.bells = Bells()
        self.backlog = Backlog()
        self.completions = Completions(device, owner.ledger, self.backlog)
        self.demands = Demands(self)
        self.outcomes = Outcomes(self)
        self.driver = Driver(self, loop)
        self.tasks = LoopTasks(self)
        self.launcher = Launcher(self)
        self.starting = Starting(self, width=width, split=split, calls=owner.calls)
        self.slice = Slice(self)
        self.worker = WorkerLane(self)
        self.polling = Poll(self)
        # Called for each op, or each handle that is awaited: bound here, so that a call is one call.
        self.schedule = self.driver.schedule
        self.drive = self.driver.drive
        self.demand = self.demands.add
        self.withdraw = self.demands.withdraw
        self.poll = self.polling.poll
        self.wait = self.polling.wait
        self.block = self.polling.block
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
        """Tell whether a drive can do anything now."""
        if self.held:
            return False
        if self.backlog.arrived or self.demands.requests or self.outcomes.waiting or self.starting.wanted:
            return True
        return (bool(self.pending) and not self.is_taken()) or self.demands.can_walk()

    def is_taken(self) -> bool:
        """Tell whether ops run one after the other and one runs, or is about to: coroutines take no turn."""
        if not self.strict:
            return False
        return self.backlog.count(State.READY) + len(self.backlog.running) > len(self.tasks)

    def unfinished(self) -> list[Cell]:
        """The records in flight, oldest first where that is known."""
        with self.lock:
            return [*(entry.record for entry in self.backlog.entries()), *self.pending.copy()]

    def has_unsettled(self) -> bool:
        """Tell whether anything is in flight that was not abandoned."""
        return bool(self.in_flight()) and any(cell.value is PENDING for cell in self.unfinished())

    # What those who wait ask for

    def infer(self, cell: Cell, *, tell: bool = True) -> ShapeDtype:
        """Shape and dtype of a result; None for dimensions that only values decide."""
        return self.polling.infer(cell, tell=tell)

    def keep_going(self, cell: Cell) -> None:
        """Make sure that a cell is worked on, for a caller who asks again and again whether it is ready."""
        for record in blockers(cell):
            home = record.home
            if isinstance(home, DeviceQueue):
                home.driver.asked()

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
        with self.lock, mended(self):
            if record.value is not PENDING:
                return CancelOutcome.TOO_LATE
            rare = record.rare
            running = rare is not None and rare.running
            self.completions.cancel(record, cancellation(record, why))
            self.starting.tidy()
        if rare is not None and rare.task is not None:
            rare.task()
        self.driver.schedule_next()  # what depended on it has arrived
        return CancelOutcome.ABANDONED if running else CancelOutcome.DROPPED

    def drop(self, records: Iterable[Cell], why: str) -> int:
        """Cancel several records under one hold of the lock; returns how many of them had not ended."""
        tasks = []
        count = 0
        with self.lock, mended(self):
            for record in records:
                if record.value is PENDING:
                    rare = record.rare
                    self.completions.cancel(record, cancellation(record, why))
                    count += 1
                    if rare is not None and rare.task is not None:
                        tasks.append(rare.task)
            self.starting.tidy()
        for cancel in tasks:
            cancel()
        self.driver.schedule_next()
        return count

    def barrier(self) -> Cell:
        """A marker behind all that was dispatched so far."""
        cell = pending_cell(BARRIER, (NEVER,), None, self, None, 0)
        self.push(cell)
        self.schedule()
        return cell

    def settle_later(self, marker: Cell) -> None:
        """The marker has come to the head of the queue: it is settled with the last record before it."""
        marker.args = ()
        Countdown([entry.record for entry in list(self.backlog.entries())], partial(finish, marker, None))

    def hold(self) -> None:
        """Start nothing until `resume` was called as often."""
        with self.lock, mended(self):
            self.held += 1
            self.starting.give_up()

    def resume(self) -> None:
        """Start what there is."""
        with self.lock:
            self.held -= 1
            self.starting.try_again()
        self.driver.schedule_next()

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

    def lose(self, reason: str) -> None:
        """The device is gone, and what its backend was given with it. On any thread."""
        self.outcomes.lose(reason)

    def start_over(self) -> None:
        """In a forked child, where no thread holds a lock and no loop is left."""
        self.lock = threading.Lock()
        self.driver.start_over()
        self.bells.clear()
        self.owner.start_over()
        self.tasks.start_over()
        self.launcher.start_over()
        self.starting.start_over()
