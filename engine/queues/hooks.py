"""Hooks: listeners that are told when a record is dispatched, started and finished, and what tasks wait for.

Free when none listens: the hot loops of dispatch and of the slice, which look at no hook, are left while one does. A
listener is called on the thread where it happens, between two steps of the engine, often under the queue's lock: it has
to be quick, and must not wait for the engine. One that raises is removed, and the error is logged.

Guarantee: a listener is told of the end of a record before any task that waits for the record can go on.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from handles.cell import Cell

logger = logging.getLogger("engine.observe")

Seldom = Literal["grouped", "demanded", "admitted", "entered", "left"]
"""Methods of `Listener` that are not called for each op."""


class Listener(Protocol):
    """What is told of records and scopes."""

    def dispatched(self, record: Cell, operands: Sequence[Any]) -> None:
        """A record was put on its queue; in SYNC mode, is about to run. Operands that are results are cells."""

    def started(self, record: Cell) -> None:
        """It is computed from now on, by this thread, by the loop or by a device."""

    def finished(self, record: Cell, outcome: Any) -> None:
        """It is about to get its value, a tuple of them, or its `Failure`; also when it never started."""

    def ran(self, record: Cell, outcome: Any, began: float, ended: float) -> None:
        """It started and finished on this thread; the times are those of `perf_counter`."""

    def grouped(self, records: Sequence[Cell]) -> None:
        """These were computed together, as one fusion group."""

    def demanded(self, records: Sequence[Cell]) -> None:
        """The running task, or this thread, waits for these from now on."""

    def admitted(self, record: Cell, scope: object) -> None:
        """A record that is about to be dispatched is counted in a scope."""

    def entered(self, scope: object) -> None:
        """The running task has entered an `engine.scope()`."""

    def left(self, scope: object, error: BaseException | None) -> None:
        """It has left it, with what comes out of the block; the ops of the scope have ended."""


class Switchable(Protocol):
    """A dispatcher, whose fast path is left while a listener is there."""

    def look_at_hooks(self) -> None: ...


class Hooks:
    """The listeners of the process."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.deliver: Callable[[], None] | None = None
        """Has what was told handed on to observers: threads that have waited for a record call it. None: nobody asks."""
        self._dispatchers: weakref.WeakSet[Switchable] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, listener: Listener) -> None:
        """Tell a listener from now on."""
        with self._lock:
            self.listeners = (*self.listeners, listener)
        self._switch()

    def remove(self, listener: Listener) -> None:
        """Tell it no more; one that is not there is no error."""
        with self._lock:
            self.listeners = tuple(each for each in self.listeners if each is not listener)
        self._switch()

    def register(self, dispatcher: Switchable) -> None:
        """Have a dispatcher look whenever the listeners change."""
        self._dispatchers.add(dispatcher)

    def _switch(self) -> None:
        for dispatcher in list(self._dispatchers):
            dispatcher.look_at_hooks()

    # A loop in each, and no `*args`, because these are called for each op

    def dispatched(self, record: Cell, operands: Sequence[Any]) -> None:
        """Tell all that a record was dispatched."""
        for listener in self.listeners:
            try:
                listener.dispatched(record, operands)
            except Exception:  # noqa: BLE001 - the engine goes on
                self._drop(listener)

    def started(self, record: Cell) -> None:
        """Tell all that it was started."""
        for listener in self.listeners:
            try:
                listener.started(record)
            except Exception:  # noqa: BLE001 - the engine goes on
                self._drop(listener)

    def finished(self, record: Cell, outcome: Any) -> None:
        """Tell all that it ends."""
        for listener in self.listeners:
            try:
                listener.finished(record, outcome)
            except Exception:  # noqa: BLE001 - the engine goes on
                self._drop(listener)

    def ran(self, record: Cell, outcome: Any, began: float, ended: float) -> None:
        """Tell all that it ran on this thread."""
        for listener in self.listeners:
            try:
                listener.ran(record, outcome, began, ended)
            except Exception:  # noqa: BLE001 - the engine goes on
                self._drop(listener)

    def tell(self, what: Seldom, *facts: Any) -> None:
        """Tell all of what happens seldom."""
        for listener in self.listeners:
            try:
                getattr(listener, what)(*facts)
            except Exception:  # noqa: BLE001 - the engine goes on
                self._drop(listener)

    def _drop(self, listener: Listener) -> None:
        logger.exception("%r raised and is removed", listener)
        self.remove(listener)


hooks = Hooks()
