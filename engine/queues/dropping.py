"""Dropping: many records that are cancelled together, a bounded number at a time.

Purpose: when a request ends before its time, hundreds of its ops may be pending; to cancel all of them at once would
hold the loop for as long as that takes.

Invariant: a record is dropped before what it depends on, or together with it, under one hold of the queue's lock. So a
record is never found to wait for one that was dropped, and each has an error that names itself. Therefore groups of
records are taken from the end, the newest first; inside a group records go in the order of their dispatch.

`Droppable` is guarded by the lock of what holds it; the records, by those of their queues.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterator, Sequence
from itertools import groupby
from time import perf_counter
from typing import TYPE_CHECKING, cast

from engine.base.loops import AbstractEventLoop, call_soon, running_loop, turn
from handles.cell import PENDING, Cell

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue

Reference = weakref.ref[Cell]

TOGETHER = 32
"""Records that are dropped under one hold of a queue's lock."""
SECONDS = 0.000_3
"""Seconds after which what is left to drop waits for the next turn of the loop, at least."""
LONGEST = 0.002
"""Seconds after which it waits at most, however long the turns are."""


class Droppable:
    """Records that may have to be dropped together. The references are weak: to be counted keeps none alive."""

    __slots__ = ("_condemned", "_lock", "_records", "dropped")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._records: list[Reference] = []
        self._condemned: list[tuple[str, list[Reference]]] = []
        """Those that are being dropped, and why."""
        self.dropped = 0
        """Records that had not ended when they were dropped."""

    def add(self, record: Cell, in_flight: int) -> None:
        """Add one more; `in_flight` is how many have not ended. Under the lock."""
        if len(self._records) > 2 * in_flight + 64:
            self._records = [reference for reference in self._records if reference() is not None]
        self._records.append(weakref.ref(record))

    def clear(self) -> None:
        """Forget those that are not being dropped. Under the lock."""
        self._records.clear()

    def pending(self) -> Iterator[Cell]:
        """Those that have not ended, and are not being dropped."""
        with self._lock:
            references = self._records.copy()
        return _pending(references)

    def drop(self, why: str, seconds: float) -> bool:
        """Drop those that were added up to now, for about so long; returns whether any are left."""
        with self._lock:
            if self._records:
                self._condemned.append((why, self._records))
                self._records = []
        return self.go_on(seconds)

    def go_on(self, seconds: float) -> bool:
        """Go on to drop them, for about so long; returns whether any are left."""
        ends = perf_counter() + seconds
        while self._condemned:
            with self._lock:
                why, references = self._condemned[-1] if self._condemned else ("", [])
                last = references[-TOGETHER:]
                del references[-TOGETHER:]
                if not references:
                    self._condemned = self._condemned[:-1]
            self.dropped += drop(list(_pending(last)), why)
            if perf_counter() >= ends:
                return bool(self._condemned)
        return False


def _pending(references: Sequence[Reference]) -> Iterator[Cell]:
    for reference in references:
        record = reference()
        if record is not None and record.value is PENDING:
            yield record


def drop(records: Sequence[Cell], why: str) -> int:
    """Drop records that were dispatched in this order, on any devices; returns how many had not ended."""
    groups = [(home, list(group)) for home, group in groupby(records, lambda record: record.home)]
    return sum(cast("DeviceQueue", home).drop(group, why) for home, group in reversed(groups))


def drop_by_callbacks(records: Droppable, why: str, loop: AbstractEventLoop) -> None:
    """Drop records: some now, the others when the loop has turned. Off the loop's thread, all of them now."""
    seconds = SECONDS if running_loop() is loop else math.inf
    if records.drop(why, seconds):
        _go_on_later(records, loop)


async def drop_in_turns(records: Droppable, why: str, loop: AbstractEventLoop) -> None:
    """Drop records, and let the loop turn now and then; a task that is interrupted leaves the others to callbacks."""
    left = records.drop(why, SECONDS)
    while left:
        since = perf_counter()
        try:
            await turn()
        except BaseException:
            _go_on_later(records, loop)
            raise
        left = records.go_on(_share(since))


def _share(since: float) -> float:
    """Seconds that may be spent in this turn of the loop: as many as all else had since the last.

    A loop that is busy turns slowly: with as little time in each turn as where it is idle, what a client has left
    behind would stay for a hundred turns.
    """
    return min(max(SECONDS, perf_counter() - since), LONGEST)


def _go_on_later(records: Droppable, loop: AbstractEventLoop) -> None:
    since = perf_counter()

    def go_on() -> None:
        nonlocal since
        if records.go_on(_share(since)):
            since = perf_counter()
            loop.call_soon(go_on)

    if not call_soon(loop, go_on):
        records.go_on(math.inf)  # the loop is closed
