"""Mending: what a queue goes on from when an interrupt, or a defect, has ended a slice midway.

Purpose: CPython raises `KeyboardInterrupt` in the main thread where it looks for signals: where a function begins,
after a call, and where a loop goes back. In a notebook the program goes on afterwards. What was half done must
not be lost nor done twice, and must not keep what comes later from being done.

Invariants, which an interrupt does not break as nothing is called while they change:

* a record is taken off its queue only when it has been dealt with;
* a record has a value or has none, stands in the list of the backlog or does not, is among the running ones or is not;
* slots that were granted are noted with the record, and a job that may have been given to a worker is void when its
  record is taken back.

All else follows from those, and is made anew here: states, lines, counts, and who waits for slots. All of it under the
queue's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from handles.cell import tell_settled

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue


@contextmanager
def mended(queue: DeviceQueue) -> Iterator[None]:
    """Mend the queue where an interrupt ends the block."""
    try:
        yield
    except BaseException:
        mend(queue)
        raise


def mend(queue: DeviceQueue) -> None:
    """Have all that does not run looked at anew; done twice it changes nothing more."""
    queue.room = min(queue.room, 0)
    queue.starting.mend()
    for record in queue.backlog.mend():
        tell_settled(record)
