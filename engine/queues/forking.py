"""Forks: a fork finds queues still, and in the child what their threads were doing starts over.

In the parent the forking thread holds the lock of each queue while it forks, so that no other one is in the middle of a
slice. In the child only that thread is left: what workers, the loop or a device were doing there will never end.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from engine.devices.base import loss
from engine.failures import failed
from engine.queues.states import Entry, State
from engine.queues.waiting import cancellation
from handles.cell import PENDING

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue

PATIENCE = 1.0
"""Seconds that a fork waits for the slice of a queue to end."""

queues: weakref.WeakSet[DeviceQueue] = weakref.WeakSet()
"""All that live."""
_held: list[threading.Lock] = []


def _before() -> None:
    _held.extend(queue.lock for queue in list(queues) if queue.lock.acquire(timeout=PATIENCE))


def _after_in_parent() -> None:
    while _held:
        _held.pop().release()


def _after_in_child() -> None:
    _held.clear()
    for queue in list(queues):
        queue.start_over()
        lost, queue.overwriting = queue.overwriting, set()
        for entry in list(queue.backlog.running):
            _start_over(queue, entry, was_overwriting=entry.record in lost)
        queue.starting.try_again()


def _start_over(queue: DeviceQueue, entry: Entry, *, was_overwriting: bool) -> None:
    """Run again what ran, or end it where that cannot be."""
    record = entry.record
    rare = record.extend()
    rare.running, rare.task = False, None
    rare.context = rare.context and rare.context.copy()  # the parent's thread never leaves this one
    entry.grants = []
    completions = queue.completions
    if was_overwriting:
        why = "the process was forked while the op was writing over its operands"
        completions.complete_started(record, cancellation(record, why))
    elif record.value is not PENDING:
        completions.complete_started(record, None)
    elif entry.state is State.LAUNCHED:
        gone = loss(queue.device, "the process was forked, and what serves the device stayed behind")
        completions.complete_started(record, failed(record, gone))
    else:
        queue.backlog.put_back(entry)


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
