"""Demands: which tasks and threads wait for records of a queue, and what those need of other queues.

A demand is made and withdrawn on any thread, by an append to `requests`; the slice takes those up under the queue's
lock. So a task that begins to wait never waits for the lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from engine.base.loops import running_loop
from engine.queues.demand import Demand
from engine.queues.records import BARRIER, record_of
from engine.queues.states import Entry
from engine.settings.scope import scope_var
from handles.cell import PENDING, Cell, add_waiter

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue


class Demands:
    """The demands for records of one queue."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._queue = queue
        self.requests: deque[Demand] = deque()
        """Demands that were made or withdrawn, which the next slice takes."""

    def add(self, cells: Iterable[Cell], priority: int | None = None, *, guest: bool | None = None) -> Demand | None:
        """Demand these cells, and all that they need, from now on until `withdraw`.

        `guest` says whether workers are to drive the queue meanwhile; unless told, they do where the task or thread
        that waits is not on the queue's loop. Returns None where a demand changes nothing.
        """
        driver = self._queue.driver
        if priority is None:
            priority = getattr(scope_var.get(), "priority", 0)
        records = [record_of(cell) for cell in cells]
        targets = [record for record in records if record.op is not BARRIER and not _is_started(record)]
        targets.reverse()  # what stands last is looked at first, and that is to be what was dispatched first
        demand = Demand(targets, priority, everything=any(record.op is BARRIER for record in records))
        if guest is None:
            guest = driver.loop is None or driver.loop is not running_loop()
        if not guest and not targets and not demand.everything:
            return None
        self.requests.append(demand)
        if guest:
            driver.add_guest(demand)
        return demand

    def withdraw(self, demand: Demand | None) -> None:
        """Take a demand back: its task waits no longer."""
        if demand is None:
            return
        demand.alive = False
        demand.stack = []  # not emptied: a slice may be at it
        queue = self._queue
        queue.driver.remove_guest(demand)
        for home, child in demand.children or ():
            home.withdraw(child)
        if demand.taken or demand.everything:
            self.requests.append(demand)
            if not queue.lock.locked():  # else the thread that is in a slice takes it
                with queue.lock:
                    self.take()
                if queue.backlog.walking:
                    queue.driver.schedule_next()  # others relied on it

    def take(self) -> None:
        """Take up what was demanded, and no longer demanded, since the last slice. Under the queue's lock."""
        while self.requests:
            demand = self.requests.popleft()
            if demand.alive:
                self._queue.backlog.demand(demand)
            else:
                self._queue.backlog.withdraw(demand)

    def can_walk(self, *, before_start: bool = False) -> bool:
        """Tell whether a demand has a step to do; where ops run in dispatch order demands change nothing.

        `before_start` says that a worker is about to be given something: what is demanded is to be known then.
        """
        queue = self._queue
        return queue.backlog.walks(in_order=bool(queue.pending) and not before_start) and not queue.strict

    def pass_to(self, demand: Demand, record: Cell) -> None:
        """Demand a record of another queue, which a demand of this one needs."""
        home = _device_queue(record.home, self._queue)
        if home is not None:
            child = home.demand([record], demand.priority, guest=self._queue.driver.has_guests())
            if child is not None:
                demand.children = [*(demand.children or ()), (home, child)]
                home.driver.schedule_next()

    def pass_on_parked(self, entry: Entry, record: Cell) -> None:
        """Demand the record of another queue that one is parked for, where that queue's loop may be blocked."""
        driver = self._queue.driver
        home = _device_queue(record.home, self._queue)
        if home is not None and (driver.has_guests() or home.driver.loop is not driver.loop):
            child = home.demand([record], max(0, entry.rank), guest=True)
            if not add_waiter(record, lambda _: home.withdraw(child)):
                home.withdraw(child)


def _device_queue(home: object, like: DeviceQueue) -> DeviceQueue | None:
    """The home of a record, where it is a queue of the same kind: that of SYNC mode has nothing pending."""
    return home if isinstance(home, type(like)) else None


def _is_started(record: Cell) -> bool:
    rare = record.rare
    return record.value is not PENDING or (rare is not None and rare.running)
