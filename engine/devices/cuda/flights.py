"""Flights: what was launched and has not landed, in order, with all that must stay alive until it has.

A flight is some records that were launched one after the other, with one event behind them. Their values are complete
when the event has passed, and not before: until then nothing of this process may take them for computed. Memory that
another stream allocated (operands from elsewhere, uploads) is referred to by the flight for as long, because it goes
back to a stream that does not know of this one.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import Any

from engine.devices.base import Record
from engine.devices.cuda.runtime import Event, GpuArray

_eagerloop_internal = True  # its frames are not the user's

RECORDS = 32
"""Records of one flight: few enough that the first results of a long batch come early."""


class Flight:
    """Records on their way, and what is kept alive for them."""

    __slots__ = ("event", "held", "landings")

    def __init__(self) -> None:
        self.landings: list[tuple[Record, Any]] = []
        """Records, and the values that they will be completed with."""
        self.held: list[GpuArray] = []
        """Arrays that were allocated on other streams, and are read on this one."""
        self.event: Event | None = None

    def land(self) -> None:
        """The event has passed: complete the records."""
        for record, value in self.landings:
            try:
                record.complete(value)
            except Exception:  # noqa: BLE001 - a defect of the engine: it is shown, and the others are completed
                sys.excepthook(*sys.exc_info())
        self.landings.clear()

    def crash(self, error: BaseException) -> None:
        """The event will not pass: fail the records."""
        for record, _ in self.landings:
            record.fail(error)
        self.landings.clear()


class Flights:
    """The flights of one stream, oldest first. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Flight] = deque()
        self._watched = False

    def depart(self, flight: Flight) -> bool:
        """Add a flight, whose event was recorded; whether a watcher has to be started for it."""
        with self._lock:
            self._waiting.append(flight)
            start, self._watched = not self._watched, True
            return start

    def next(self) -> Event | None:
        """The event that the watcher is to wait for; with None it is to end, as nothing is on its way."""
        with self._lock:
            if not self._waiting:
                self._watched = False
                return None
            return self._waiting[0].event

    def land(self) -> None:
        """Complete all whose events have passed. Raises what an event raises; that flight and later ones stay."""
        while True:
            flight = self._first()
            if flight is None or flight.event is None or not flight.event.passed():
                return
            if self._take(flight):
                flight.land()

    def land_at(self, event: Event) -> None:
        """Complete the oldest flight, whose event is this one and has passed; none where another thread did."""
        flight = self._first()
        if flight is not None and flight.event is event and self._take(flight):
            flight.land()

    def _first(self) -> Flight | None:
        with self._lock:
            return self._waiting[0] if self._waiting else None

    def crash_at(self, event: Event, error: BaseException) -> None:
        """Fail the records of the oldest flight, whose event is this one; none where another thread took it."""
        flight = self._first()
        if flight is not None and flight.event is event and self._take(flight):
            flight.crash(error)

    def unwatched(self) -> None:
        """No watcher could be started: the next flight is to start one."""
        with self._lock:
            self._watched = False

    def abandon(self) -> None:
        """The device is lost: the engine has failed the records, and nothing can be read or written any more."""
        with self._lock:
            self._waiting.clear()

    def __len__(self) -> int:
        return len(self._waiting)

    def _take(self, flight: Flight) -> bool:
        """Take the oldest flight, unless another thread did; what it held is let go of before that thread goes on."""
        with self._lock:
            if not self._waiting or self._waiting[0] is not flight:
                return False
            self._waiting.popleft()
            flight.held.clear()
            return True
