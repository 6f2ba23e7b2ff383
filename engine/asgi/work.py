"""The ops of one request: what is dropped when it ends before its time.

They are counted on any thread, as they are dispatched. Unlike `engine.scope()` a failed op interrupts nothing: the
application may catch the error and answer as it likes.
"""

from __future__ import annotations

import threading
from typing import Self

from engine.base.errors import OpCancelledError
from engine.base.loops import AbstractEventLoop, call_soon, report
from engine.queues.dropping import Droppable, drop_by_callbacks, drop_in_turns
from engine.queues.hooks import hooks, numbers
from handles.cell import Cell, Failure


class Work:
    """The ops dispatched in one request, until its last byte."""

    __slots__ = ("_ended", "_failures", "_in_flight", "_lock", "_loop", "_over", "_records", "_refusal", "number")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.number = next(numbers)
        self._loop = loop
        self._lock = threading.Lock()
        self._records = Droppable(self._lock)
        self._in_flight = 0
        self._failures: dict[Failure, None] | None = None
        self._over = False
        """True if the last byte has gone out."""
        self._ended = False
        """True if the application has returned: it reads no further handle."""
        self._refusal = ""
        """Why ops are refused; empty where they are not."""

    @property
    def dropped(self) -> int:
        """Ops that were dropped, or abandoned."""
        return self._records.dropped

    def innermost_open(self) -> Self | None:
        """Itself until the last byte: what dispatchers, and scopes inside, count their ops in."""
        return None if self._over else self

    def admit(self, cell: Cell) -> None:
        """Count an op that is being dispatched; raises `OpCancelledError` in what is left of a dropped request."""
        if self._refusal:
            raise OpCancelledError(f"op {cell.op.name!r} was not dispatched: {self._refusal}")
        if self._over:
            return
        with self._lock:
            self._in_flight += 1
            self._records.add(cell, self._in_flight)
        cell.group = self
        if hooks.listeners:
            hooks.tell("admitted", cell, self)

    def note(self, cell: Cell) -> None:
        """An op has ended, on any thread."""
        value = cell.value
        with self._lock:
            if cell.group is None:
                return
            cell.group = None
            self._in_flight -= 1
            if value.__class__ is Failure and not value.cancelled:
                self._failures = self._failures or {}
                self._failures[value] = None
            last = self._ended and self._in_flight == 0 and self._failures is not None
        if last:
            call_soon(self._loop, self._report)

    def drop(self, why: str, *, refuse: bool = True) -> None:
        """Drop the ops that have not started and abandon those that run: some now, others when the loop has turned.

        With `refuse` what is left of the request (a thread, a task that it made) can dispatch no further ones.
        """
        if refuse:
            self._refusal = why
        drop_by_callbacks(self._records, why, self._loop)

    async def drop_all(self, why: str) -> None:
        """Drop them, all before this returns. What is left of the request can dispatch no further ones."""
        self._refusal = why
        await drop_in_turns(self._records, why, self._loop)

    def release(self) -> None:
        """The last byte has gone out: what is in flight, and what comes, is the executor's work like any other."""
        with self._lock:
            self._over = True
            self._records.clear()

    def end(self) -> None:
        """The application has returned: once all has ended, tell the loop's handler of failures that were not read."""
        if not self._over:
            self.release()
        with self._lock:
            self._ended = True
            last = self._in_flight == 0 and self._failures is not None
        if last:
            self._report()

    def _report(self) -> None:
        failures, self._failures = self._failures or {}, None
        for failure in failures:
            if not failure.seen:
                failure.seen = True
                report(self._loop, "an op of a request failed and its result was never read", failure.restored())
