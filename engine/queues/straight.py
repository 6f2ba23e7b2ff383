"""The straight way to a device: records that need nothing but values and each other are launched right off the queue.

Purpose: a program of tiny ops for a device that takes many at once. To set each record aside, to find what is demanded
among them, and to choose them then, one by one, costs several times what is left: one look at the operands.

It is gone only where it changes nothing but the cost. Where tasks demand records and more is pending than one batch
holds, what is demanded goes first, which this way cannot tell; where others of the device are ready, those are older;
and a device that runs its ops in order gets them one by one. All under the queue's lock, inside a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from engine.queues.hooks import hooks
from engine.queues.launch import DEPTH, FEW, Batch
from engine.queues.records import entry_of
from handles.cell import PENDING, Cell

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue
    from engine.queues.starting import Starting


class Straight:
    """Takes records off the front of one queue into batches. Between two slices a batch may be open."""

    def __init__(self, queue: DeviceQueue, starting: Starting) -> None:
        self._queue = queue
        self._starting = starting
        self._on_host = queue.on_host
        self.batch: Batch | None = None
        """The open one: its records are not launched yet."""

    def start_over(self) -> None:
        """In a forked child: what was to be launched will not be."""
        self.batch = None

    def applies(self) -> bool:
        """Tell whether records may go this way now."""
        if self._on_host:
            return False
        queue, starting = self._queue, self._starting
        most = starting.lookahead()
        if most == 1 or queue.strict or queue.held or not queue.pending:
            return False
        demanded = queue.demands.requests or queue.backlog.walking
        if demanded and len(queue.pending) > most:
            return False
        lane = starting.device_lane()
        return not starting.is_choosing() and lane.next() is None

    def take(self, ends: float, deal_with: Callable[[Cell], None]) -> None:
        """Take what stands first on the queue, until then; `deal_with` gets what has to be set aside."""
        starting = self._starting
        batch = self.batch = self.batch or starting.new_batch(starting.device_lane())
        try:
            complete = self._collect(batch, ends, deal_with)
        except BaseException:  # an interrupt: they are launched another time
            self.batch = None
            starting.take_back(batch.entries)
            raise
        if complete:
            self.launch()

    def launch(self) -> bool:
        """Have the open batch submitted; whether there was one."""
        batch, self.batch = self.batch, None
        if batch is None:
            return False
        if batch.entries:
            try:
                self._queue.launcher.put(batch.launched())
            except BaseException:
                self._starting.take_back(batch.entries)
                raise
        return True

    def _collect(self, batch: Batch, ends: float, deal_with: Callable[[Cell], None]) -> bool:
        """Put records into the batch; returns if it is complete: full, or there is nothing more to take."""
        queue, backlog, may_join = self._queue, self._queue.backlog, self._starting.may_join
        pending, early = queue.pending, queue.slice.early
        lane, looked_at = batch.lane, 0
        queue.room = min(queue.room, 0)
        while pending and not batch.is_full():
            cell = pending[0]  # taken off only when it is dealt with: an interrupt loses nothing
            operands = batch.operands_within(cell, may_join) if _is_new(cell) else None
            if operands is None:
                deal_with(cell)
                early.discard(id(cell))
            else:
                entry = backlog.made(cell)
                batch.put(entry, operands, entry.number * DEPTH)
                backlog.launch(entry, lane)
                if hooks.listeners:
                    hooks.started(cell)
            pending.popleft()
            looked_at += 1
            if not looked_at % FEW and perf_counter() > ends:
                return not pending
        return True


def _is_new(cell: Cell) -> bool:
    """Tell whether a record has neither ended nor been set aside."""
    return cell.value is PENDING and (cell.rare is None or entry_of(cell) is None)
