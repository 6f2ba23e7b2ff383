"""Outcomes: what backends say of the records that they were given, from any thread.

A backend only appends here and schedules a drive; the slice takes the outcomes under the queue's lock, so that records
end one after the other, and each after the records of its batch that it reads.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.devices.base import loss
from engine.failures import failed
from engine.queues.records import record_of
from engine.queues.states import Entry, State
from handles.cell import PENDING, Cell, Failure

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue

FEW = 16
"""Outcomes that are taken between looks at the clock."""


_LOST = object()
"""The outcome of a record that was lost with its device."""


class Outcomes:
    """The outcomes of one queue that no slice has taken yet."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._queue = queue
        self.waiting: deque[tuple[Entry | None, Any]] = deque()
        """Records and their outcomes; an entry of None says that the device was lost."""
        self._early: dict[Cell, list[tuple[Entry, Any]]] = {}
        """Outcomes of records that read others of their batch which have none yet, by those."""

    def add(self, entry: Entry, outcome: Any, more: bool = False) -> None:
        """Note that a backend has ended a record. On any thread. Where more follow at once, the last one wakes."""
        self.waiting.append((entry, outcome))
        if not more:
            self._queue.driver.woken()

    def lose(self, reason: str) -> None:
        """Note that the device is gone, and what its backend was given with it. On any thread."""
        self._queue.lost = reason
        self.waiting.append((None, None))
        self._queue.driver.woken()

    def take(self, ends: float) -> None:
        """Complete the records that were ended since the last slice, until then. Under the queue's lock."""
        taken = 0
        while self.waiting and (taken % FEW or perf_counter() < ends):
            taken += 1
            entry, outcome = self.waiting[0]
            if entry is None:
                self._fail_launched()
            else:
                self._complete(entry, outcome)
            self.waiting.popleft()

    def _complete(self, entry: Entry, outcome: Any) -> None:
        queue, record = self._queue, entry.record
        if entry not in queue.backlog.running:
            return  # an interrupt came when it had been completed, or the device was lost
        failure: Failure | None = None
        for operand in record.args:
            if operand.__class__ is Cell:
                value = operand.value
                if value is PENDING:
                    self._early.setdefault(record_of(operand), []).append((entry, outcome))
                    return
                if failure is None and value.__class__ is Failure:
                    failure = value
        if entry.grants:
            queue.starting.release(entry)
        if failure is not None:
            queue.completions.fail_dependent(record, failure)
        else:
            if outcome is _LOST:
                outcome = failed(record, loss(queue.device, queue.lost or ""))
            queue.completions.complete_started(record, outcome)
        if self._early:
            self.waiting.extend(self._early.pop(record, ()))

    def _fail_launched(self) -> None:
        """Fail what the backend has and will never end."""
        launched = [each for each in self._queue.backlog.running if each.state is State.LAUNCHED]
        launched.sort(key=lambda entry: entry.number)  # operands first
        self.waiting.extend([(each, _LOST) for each in launched])  # the errors are made as they are taken, in slices
