"""Hooks: listeners that are told when a record is dispatched, started and finished.

Free when none listens: the hot loops of dispatch and of the slice, which look at no hook, are left while one does. A
listener is called on the thread where it happens, between two steps of the engine: it has to be quick, and must not
wait for the engine. One that raises is removed, and the error is logged.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from handles.cell import Cell

logger = logging.getLogger("engine.observe")


class Listener(Protocol):
    """A listener that is told of records."""

    def dispatched(self, record: Cell) -> None:
        """A record was put on its queue; in SYNC mode, is about to run."""

    def started(self, record: Cell) -> None:
        """It is computed from now on, by a thread, by the loop or by a device."""

    def finished(self, record: Cell) -> None:
        """It has a value or a failure; also when it never started."""


class Switchable(Protocol):
    """A dispatcher, whose fast path is left while a listener is there."""

    def look_at_hooks(self) -> None: ...


class Hooks:
    """The listeners of the process."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
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

    def dispatched(self, record: Cell) -> None:
        """Tell all that a record was dispatched."""
        for listener in self.listeners:
            self._tell(listener, listener.dispatched, record)

    def started(self, record: Cell) -> None:
        """Tell all that it was started."""
        for listener in self.listeners:
            self._tell(listener, listener.started, record)

    def finished(self, record: Cell) -> None:
        """Tell all that it has ended."""
        for listener in self.listeners:
            self._tell(listener, listener.finished, record)

    def _tell(self, listener: Listener, method: Callable[[Cell], None], record: Cell) -> None:
        try:
            method(record)
        except Exception:
            logger.exception("%r raised and is removed", listener)
            self.remove(listener)


hooks = Hooks()
