"""Loop tasks: async ops, which run as tasks of the executor's loop and hold no worker and no slot of the device.

The loop's thread starts and ends them; the set of tasks is changed under the queue's lock.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.base.errors import BlockingSyncError
from engine.base.loops import call_soon, running_loop, start_task
from engine.failures import describe, failed
from engine.memory.references import HELD_BY_TASK
from engine.queues.execution import adopt_results, enter_async_kernel, start_coroutine
from engine.queues.hooks import hooks
from engine.queues.states import Entry
from engine.queues.waiting import cancellation
from handles.cell import PENDING, Cell

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue


class LoopTasks:
    """The async ops of one queue that run now."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._queue = queue
        self._entries: dict[Cell, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def has_loop(self) -> bool:
        """True where there is a loop to run them on; without one a worker runs them on a loop of their own."""
        loop = self._queue.driver.loop
        return loop is not None and not loop.is_closed()

    def start(self, entry: Entry, values: list[Any]) -> bool:
        """Have the loop start an async op; False where there is no loop."""
        loop = self._queue.driver.loop
        if loop is None:
            return False
        self._entries[entry.record] = entry
        called = False
        try:
            called = call_soon(loop, self._start_on_loop, entry, values)
        finally:
            if not called:  # also after an interrupt: then it is called for another time
                self._entries.pop(entry.record, None)
        return called

    def check_can_end(self, record: Cell) -> None:
        """Raise `BlockingSyncError` when an async op cannot end while this thread is blocked."""
        loop = self._queue.driver.loop
        if loop is None or record not in self._entries:
            return
        if loop.is_closed():
            self._queue.detach()
            return
        if loop is running_loop():
            raise BlockingSyncError(
                f"the event loop that runs this async op is blocked by this wait: {describe(record)}"
            )
        if not loop.is_running():
            raise BlockingSyncError(f"the event loop that runs this async op is not running: {describe(record)}")

    def forget_all(self) -> None:
        """Their loop has ended, and will end none of them. Under the queue's lock, when they were cancelled."""
        entries = list(self._entries.values())
        self._entries.clear()
        for entry in entries:
            self._queue.starting.release(entry)
            self._queue.completions.complete_started(entry.record, None)

    def start_over(self) -> list[Entry]:
        """In a forked child: their loop stayed behind."""
        entries = list(self._entries.values())
        self._entries.clear()
        return entries

    def _start_on_loop(self, entry: Entry, values: list[Any]) -> None:
        cell = entry.record
        queue = self._queue
        if cell not in self._entries or cell.extend().task is not None:
            return  # it was cancelled with its loop, or called for twice
        if cell.value is not PENDING:
            self._end(entry, None)
            return
        loop = running_loop()
        assert loop is not None
        if hooks.listeners:
            hooks.started(cell)
        try:
            context = cell.extend().context or copy_context()
            context.run(enter_async_kernel, cell)
            coroutine = context.run(start_coroutine, cell, values, queue.device, queue.backend)
            cell.extend().task = start_task(loop, coroutine, context, partial(self._end_on_loop, entry))
        except Exception as error:  # noqa: BLE001 - the op's failure
            self._end(entry, failed(cell, error))
        except BaseException:
            self._end(entry, cancellation(cell, "an interrupt came when the loop was starting it"))
            raise

    def _end_on_loop(self, entry: Entry, task: asyncio.Task[Any]) -> None:
        cell = entry.record
        error = None if task.cancelled() else task.exception()
        if cell not in self._entries:
            return  # it was cancelled with its loop
        if task.cancelled():
            outcome: Any = cancellation(cell, "its task was cancelled")
        elif error is None:
            try:
                outcome = adopt_results(cell, [task.result()], HELD_BY_TASK) if self._queue.on_host else task.result()
            except Exception as problem:  # noqa: BLE001 - the op's failure
                outcome = failed(cell, problem)
        else:
            outcome = failed(cell, error)
        self._end(entry, outcome)

    def _end(self, entry: Entry, outcome: Any) -> None:
        queue = self._queue
        queue.starting.release(entry)
        with queue.lock:
            self._entries.pop(entry.record, None)
            queue.completions.complete_started(entry.record, outcome)
        queue.bells.ring()
        queue.driver.admit()
        queue.driver.schedule_next()
