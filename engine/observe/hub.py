"""The hub: who observes, and how events get to them.

While there is no one, nothing listens to the hooks and no thread runs. One lock guards who observes; another is held by
the thread that hands events on, so observers are called by one thread at a time and in the order of the events.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, Protocol, TypeVar

from engine.observe.assembly import Assembly
from engine.observe.events import Observer
from engine.observe.monitor import Monitor
from engine.observe.recorder import Raw, Recorder, ScopeListener
from engine.observe.wiring import Quiet, connect
from engine.queues.hooks import hooks

logger = logging.getLogger("engine.observe")

SomeObserver = TypeVar("SomeObserver", bound=Observer)

PATIENCE = 1.0
"""Seconds that a thread waits for another one that hands events on."""
MOST_FIELDS = 1_500_000
"""Fields that may be kept by the recorder before they are handed on to what reads them at the end only."""


class Log(Protocol):
    """A keeper of events as they are, to read them later."""

    def keep(self, events: list[Raw]) -> None: ...


class Hub:
    """The observers of the process."""

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()
        self._logs: tuple[Log, ...] = ()
        self._recorder: Recorder | None = None
        self._assembly: Assembly | None = None
        self._monitor: Monitor | None = None
        self._scope_listener: ScopeListener | None = None
        self._start_over()
        os.register_at_fork(after_in_child=self._after_fork)

    def _start_over(self) -> None:
        self._lock = threading.RLock()
        self._delivery = threading.Lock()
        self._delivering: int | None = None
        """The thread that hands events on now."""
        self._dropped = False
        """True if an observer raised meanwhile."""

    def _after_fork(self) -> None:
        """Threads stayed behind."""
        self._start_over()
        if self._recorder is not None:
            self._recorder.muted = None
        self._monitor = None
        self._switch()

    # Who observes

    def add(self, observer: Observer) -> None:
        """Tell an observer from now on. Raises `TypeError` for what is none, `ValueError` for one that is there."""
        given: object = observer
        if not isinstance(given, Observer):
            kind = f"the class {given.__name__}: make one" if isinstance(given, type) else repr(given)
            raise TypeError(f"observer must be an instance of a subclass of engine.observe.Observer, but got {kind}")
        self.deliver()
        with self._lock:
            if any(each is observer for each in self._observers):
                raise ValueError(f"{observer!r} observes already: remove it first, or add another one")
            self._observers = (*self._observers, observer)
            self._switch()

    def remove(self, observer: Observer) -> None:
        """Tell it what has happened up to now, and no more; one that is not there is no error."""
        self._end_monitor(self._observers == (observer,) and not self._logs)
        self.deliver()
        with self._lock:
            self._observers = tuple(each for each in self._observers if each is not observer)
            self._switch()

    def _end_monitor(self, last: bool) -> None:
        """Have a loop that stalls now be told of, before the last one that observes is gone."""
        with self._lock:
            monitor, self._monitor = (self._monitor, None) if last else (None, self._monitor)
        if monitor is not None:
            monitor.stop()

    @contextmanager
    def using(self, observer: SomeObserver) -> Iterator[SomeObserver]:
        """Tell an observer inside the block."""
        self.add(observer)
        try:
            yield observer
        finally:
            self.remove(observer)

    def begin(self, log: Log) -> Recorder:
        """Have a log keep what happens from now on."""
        self.deliver()
        with self._lock:
            self._logs = (*self._logs, log)
            self._switch()
            assert self._recorder is not None
            return self._recorder

    def end(self, log: Log) -> None:
        """Give it the last events."""
        self._end_monitor(self._logs == (log,) and not self._observers)
        self.deliver()
        with self._lock:
            self._logs = tuple(each for each in self._logs if each is not log)
            self._switch()

    def listen_to_scopes(self, listener: ScopeListener | None) -> None:
        """Have the one listener of scopes told, or none."""
        with self._lock:
            self._scope_listener = listener
            if self._recorder is not None:
                self._recorder.scopes = listener

    def has_scope_listener(self) -> bool:
        """Tell whether scopes have a listener."""
        return self._scope_listener is not None

    def clear(self) -> None:
        """Let all go."""
        with self._lock:
            observers, self._observers, self._logs = self._observers, (), ()
            self._switch()
        for observer in observers:
            if isinstance(observer, Quiet):
                observer.let_go()

    def _switch(self) -> None:
        """Listen to the hooks where that is wanted, and not where it is not. Under the lock."""
        if not (self._observers or self._logs):
            self._stop()
            return
        if self._recorder is None:
            self._recorder = Recorder()
            self._recorder.scopes = self._scope_listener
            hooks.add(self._recorder)
        if self._monitor is None:
            self._monitor = Monitor(self._recorder, self._hand_on)
        if self._observers:
            self._assembly = connect(self._assembly or Assembly(), self._observers, self._call)
        else:
            self._assembly = None
        prompt = any(not isinstance(each, Quiet) for each in self._observers)
        hooks.deliver = self.deliver if prompt else None

    def _stop(self) -> None:
        hooks.deliver = None
        recorder, self._recorder, self._assembly = self._recorder, None, None
        monitor, self._monitor = self._monitor, None
        if recorder is not None:
            hooks.remove(recorder)
        if monitor is not None:
            monitor.stop()

    # Handing on

    def deliver(self, patience: float = PATIENCE) -> None:
        """Tell all observers what has happened up to now, unless this thread is about it."""
        recorder = self._recorder
        if recorder is None or self._delivering == get_ident() or not self._delivery.acquire(timeout=patience):
            return
        try:
            self._delivering = recorder.muted = get_ident()
            events = recorder.drained()
            for log in self._logs:
                log.keep(events)
            if self._assembly is not None:
                self._assembly.read(events)
        finally:
            self._delivering = recorder.muted = None
            self._delivery.release()
        if self._dropped:
            with self._lock:
                self._dropped = False
                self._switch()

    def _hand_on(self) -> None:
        """Tick: called by the monitor."""
        recorder = self._recorder
        if recorder is not None and (self._observers or len(recorder.fields) > MOST_FIELDS):
            self.deliver(0.0)

    def _call(self, observer: Observer, method: Callable[..., None], *facts: Any) -> None:
        if not any(each is observer for each in self._observers):
            return  # it raised before
        try:
            method(*facts)
        except Exception:
            logger.exception("the observer %r raised and is removed", observer)
            with self._lock:
                self._observers = tuple(each for each in self._observers if each is not observer)
                self._dropped = True


hub = Hub()
