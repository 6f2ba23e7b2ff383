"""Async ops: tasks of the executor's loop, which hold no worker and no turn of the device."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from functools import partial
from typing import Any

from engine.failures import failed
from engine.loops import call_soon, running_loop, start_task
from engine.queues.execution import adopt_results, enter_async_kernel, kernel_values
from engine.queues.large_ops import LargeOps
from engine.queues.waiting import cancellation
from handles.cell import PENDING, Cell


class AsyncOps(LargeOps):
    """What the loop does for a queue."""

    def _start(self, cell: Cell, values: list[Any]) -> None:
        loop = self._loop
        if loop is not None:
            self._tasks.add(cell)
            self.room = min(self.room, 0)
            cell.extend().running = True
            if call_soon(loop, self._start_on_loop, cell, values):
                return
            self._tasks.discard(cell)
        self._hold(cell)
        self._hand_over(cell, values)

    def _start_on_loop(self, cell: Cell, values: list[Any]) -> None:
        if cell.value is not PENDING:
            self._tasks.discard(cell)
            return
        loop = running_loop()
        assert loop is not None
        context = cell.extend().context or copy_context()
        context.run(enter_async_kernel, cell)
        try:
            coroutine = context.run(
                cell.op.kernel, *kernel_values(values, self.device, self.backend), **cell.params or {}
            )
            cell.extend().task = start_task(loop, coroutine, context, partial(self._end_on_loop, cell))
        except Exception as error:  # noqa: BLE001 - the op's failure
            self._end(cell, failed(cell, error))

    def _end_on_loop(self, cell: Cell, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._end(cell, cancellation(cell, "its task was cancelled"))
            return
        error = task.exception()
        if error is None:
            try:
                outcome = adopt_results(cell, task.result(), self.backend)
            except Exception as problem:  # noqa: BLE001 - the op's failure
                outcome = failed(cell, problem)
        else:
            outcome = failed(cell, error)
        self._end(cell, outcome)

    def _end(self, cell: Cell, outcome: Any) -> None:
        with self._lock:
            self._tasks.discard(cell)
            self._conclude(cell, outcome)
        self._wake_listeners()
        self._pass_on()
