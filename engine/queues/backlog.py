"""What is in flight on one device of one executor: records that wait, are parked, or run; and how they are settled."""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any, Protocol

from engine.devices.base import Backend, Device
from engine.loops import AbstractEventLoop
from engine.planning.op import Op
from engine.queues import forking
from engine.queues.base import Owner, Queue
from engine.queues.bell import Bell
from engine.queues.execution import finish
from handles.cell import PENDING, Cell, Failure

SLICE = 0.000_25
"""Seconds that a drive may hold a loop."""

BARRIER = Op("synchronize", lambda: None)
"""The op of a marker: done when all that was dispatched to the queue before it is."""


class Records(asyncio.Queue[Cell]):
    """An unbounded queue that nobody waits on, so that putting a record is one append."""

    def _init(self, maxsize: int) -> None:
        self._queue: deque[Cell] = deque()
        self.pending = self._queue
        self.put_nowait = self._queue.append  # type: ignore[assignment, method-assign]


class ForkableOwner(Owner, Protocol):
    """An executor as a queue that survives a fork sees it."""

    def start_over(self) -> None:
        """In a forked child: no thread holds a lock."""


class Backlog(Queue):
    """The records of a queue by what is being done with them. Sets change under the lock; dispatch only appends."""

    owner: ForkableOwner

    def __init__(
        self,
        owner: ForkableOwner,
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
        self._overwriting: set[Cell] = set()  # those of them whose run writes over its operands
        self._lost: set[Cell] = set()  # those that a fork left half done
        self._tasks: set[Cell] = set()
        self._listeners: set[Bell] = set()
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

    def counts(self) -> tuple[int, int, int]:
        """Ops that ended with a value, with an error, and that were cancelled."""
        ends = perf_counter() + 2 * SLICE
        while self._lock.locked() and perf_counter() < ends:
            sleep(SLICE / 8)  # a slice counts when it ends
        return max(0, self.completed - self.failed), self.failed, self.cancelled

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

    # What happens to a record

    @abstractmethod
    def kick(self) -> None:
        """Call for a drive."""

    def _hold(self, cell: Cell) -> None:
        cell.extend().running = True
        self._running.add(cell)
        self.room = min(self.room, 0)

    def _let_go(self, cell: Cell) -> None:
        """Take `_hold` back."""
        self._running.discard(cell)
        cell.extend().running = False

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

    def _poison(self, cell: Cell, failure: Failure) -> None:
        """Settle a record whose operand failed."""
        if cell.value is PENDING:
            finish(cell, failure)
            self.completed += 1
            self.failed += 1

    def listen(self, bell: Bell, listening: bool) -> None:
        if listening:
            self._listeners.add(bell)
        else:
            self._listeners.discard(bell)

    def _wake_listeners(self) -> None:
        if self._listeners:
            for bell in list(self._listeners):
                bell.ring()

    # Fork

    def hold_still(self) -> bool:
        return self._lock.acquire(timeout=1.0)

    def go_on(self) -> None:
        self._lock.release()

    def start_over(self) -> None:
        self._lock = threading.Lock()
        self._loop = None
        self.scheduled = self._attended = False
        self._lost |= self._overwriting
        self._overwriting.clear()
        self.owner.start_over()
        for lost in (self._running, self._taken, self._tasks):
            for cell in lost:
                rare = cell.extend()
                rare.running, rare.task = False, None
                rare.context = rare.context and rare.context.copy()  # the parent's thread never leaves this one
            self._ready.extend(lost)
            lost.clear()
        self._listeners.clear()
        self._guests.clear()
