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
from itertools import count
from typing import Any, Literal, Protocol

from handles.cell import Cell

logger = logging.getLogger("engine.observe")

Event = Literal[
    "dispatched", "started", "finished", "ran", "called", "grouped", "demanded", "admitted", "entered", "left"
]
"""The methods of a `Listener`."""


numbers = count(1)
"""Gives numbers to scopes."""


class Numbered(Protocol):
    """A scope or a request, known by a number that no other one of the process has, also when it is gone."""

    number: int


class Listener(Protocol):
    """A listener that is told of records and of scopes."""

    never_raises: bool
    """True if its methods for ops may be called without a guard."""

    def dispatched(self, record: Cell, operands: Sequence[Any]) -> None:
        """A record was put on its queue; in SYNC mode, is about to run. Operands that are results are cells."""

    def started(self, record: Cell) -> None:
        """It is computed from now on, by this thread, by the loop or by a device."""

    def finished(self, record: Cell, outcome: Any) -> None:
        """It is about to get its value, a tuple of them, or its `Failure`; also when it never started."""

    def ran(self, record: Cell, outcome: Any, began: float, ended: float) -> None:
        """It started and finished on this thread; the times are those of `perf_counter`."""

    def called(
        self, record: Cell, operands: Sequence[Any], outcome: Any, called: float, began: float, ended: float
    ) -> None:
        """It was dispatched, started and finished on this thread, as in SYNC mode."""

    def grouped(self, records: Sequence[Cell]) -> None:
        """These were computed together, as one fusion group."""

    def demanded(self, records: Sequence[Cell]) -> None:
        """The running task, or this thread, waits for these from now on."""

    def admitted(self, record: Cell, scope: Numbered) -> None:
        """A record that is about to be dispatched is counted in a scope, or in a request."""

    def entered(self, scope: Numbered) -> None:
        """The running task has entered an `engine.scope()`."""

    def left(self, scope: Numbered, error: BaseException | None) -> None:
        """It has left it, with what comes out of the block; the ops of the scope have ended."""


class Switchable(Protocol):
    """A dispatcher, whose fast path is left while a listener is there."""

    def look_at_hooks(self) -> None: ...


class Hooks:
    """The listeners of the process."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.deliver: Callable[[], None] | None = None
        """Hands on to observers what was told: called by threads that read or waited. None: not wanted."""
        # What is called for each op: of a sole listener that never raises, its own methods.
        self.dispatched = self._tell_dispatched
        self.started = self._tell_started
        self.finished = self._tell_finished
        self.ran = self._tell_ran
        self.called = self._tell_called
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
        one = self.listeners[0] if len(self.listeners) == 1 and self.listeners[0].never_raises else None
        self.dispatched = self._tell_dispatched if one is None else one.dispatched
        self.started = self._tell_started if one is None else one.started
        self.finished = self._tell_finished if one is None else one.finished
        self.ran = self._tell_ran if one is None else one.ran
        self.called = self._tell_called if one is None else one.called
        for dispatcher in list(self._dispatchers):
            dispatcher.look_at_hooks()

    def _tell_dispatched(self, record: Cell, operands: Sequence[Any]) -> None:
        self.tell("dispatched", record, operands)

    def _tell_ran(self, record: Cell, outcome: Any, began: float, ended: float) -> None:
        self.tell("ran", record, outcome, began, ended)

    def _tell_called(
        self, record: Cell, operands: Sequence[Any], outcome: Any, called: float, began: float, ended: float
    ) -> None:
        self.tell("called", record, operands, outcome, called, began, ended)

    def _tell_started(self, record: Cell) -> None:
        self.tell("started", record)

    def _tell_finished(self, record: Cell, outcome: Any) -> None:
        self.tell("finished", record, outcome)

    def tell(self, what: Event, *facts: Any) -> None:
        """Tell all."""
        for listener in self.listeners:
            try:
                getattr(listener, what)(*facts)
            except Exception:
                logger.exception("%r raised and is removed", listener)
                self.remove(listener)


hooks = Hooks()
