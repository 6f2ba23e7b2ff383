"""The recorder: writes what the hooks say down in one list, field after field, for others to read later.

That costs least: a list is extended by a tuple that is gone at once, where tuples that were kept would have the
interpreter collect garbage again and again while ops are dispatched.

Invariants: what is written refers to no cell and to no value, so that observing changes neither what is kept in memory
nor which memory the engine may write over; a list is extended by a tuple atomically, so events are whole, and in their
order. A cell is known by its address: it lives from its dispatch to its end, so an address means the last op that was
dispatched there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from threading import get_ident
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from engine.base.loops import current_task, running_loop
from engine.failures import user_frame
from engine.queues.hooks import Numbered
from engine.queues.reading import MOVE
from engine.queues.records import record_of
from handles.cell import Cell, Failure
from handles.eager import EagerHandle

DISPATCHED, STARTED, FINISHED, RAN, CALLED, GROUPED, DEMANDED, ADMITTED, LAG, STALLED = range(10)

WIDTHS = {
    DISPATCHED: 10,
    STARTED: 4,
    FINISHED: 4,
    RAN: 6,
    CALLED: 12,
    GROUPED: 3,
    DEMANDED: 6,
    ADMITTED: 4,
    LAG: 4,
    STALLED: 4,
}
"""The fields of an event of each kind."""

Raw = tuple[Any, ...]
"""One event: which, when, and what it says."""

Needs = int | tuple[int, ...]
"""The addresses of the cells that an op reads: 0 of none, a number of one, as most ops have no more."""

ARRAY = np.ndarray
TRANSFER = MOVE.name
"""The name of the ops that copy a value to a device."""


class ScopeListener(Protocol):
    """A listener told of scopes at once, on the thread and in the context of the task that enters and leaves them."""

    def entered(self, scope: Numbered) -> None: ...

    def left(self, scope: Numbered, error: BaseException | None) -> None: ...


class Thread(threading.local):
    """The running thread: made anew for each, since the number of one that has ended is given to another."""

    def __init__(self) -> None:
        self.name = threading.current_thread().name


class Recorder:
    """Listens to the hooks."""

    never_raises = True

    def __init__(self) -> None:
        self.fields: list[Any] = []
        self.write = self.fields.extend
        """Writes an event down, on any thread."""
        self._here = Thread()
        self.muted: int | None = None
        """The thread that calls observers now: what it dispatches is not recorded."""
        self.scopes: ScopeListener | None = None

    def drained(self) -> list[Raw]:
        """Take away the events that were written down since; one thread at a time."""
        taken = self.fields[:]
        del self.fields[: len(taken)]
        events: list[Raw] = []
        start = 0
        while start < len(taken):
            end = start + WIDTHS[taken[start]]
            events.append(tuple(taken[start:end]))
            start = end
        return events

    # What hooks call, for each op

    def dispatched(self, record: Cell, operands: Sequence[Any]) -> None:
        if self.muted is not None and self.muted == get_ident():
            return
        needs: Needs = 0
        for each in operands:
            if each.__class__ is Cell:
                need = id(each if each.rare is None else record_of(each))
                needs = and_one(needs, need) if needs else need
        home: Any = record.home
        name, rare = record.op.name, record.rare
        held = 0 if rare is None else rare.copied
        origin: Any = operands[0].home if name is TRANSFER and operands[0].__class__ is Cell else None
        source = None if origin is None else origin.device_name
        device, code, lasti = home.device_name, record.code, record.lasti
        self.write((DISPATCHED, perf_counter(), id(record), name, device, code, lasti, needs, held, source))

    def started(self, record: Cell) -> None:
        self.write((STARTED, perf_counter(), id(record), self._here.name))

    def finished(self, record: Cell, outcome: Any) -> None:
        facts = outcome.nbytes if outcome.__class__ is ARRAY else facts_of(record, outcome)
        self.write((FINISHED, perf_counter(), id(record), facts))

    def ran(self, record: Cell, outcome: Any, began: float, ended: float) -> None:
        facts = outcome.nbytes if outcome.__class__ is ARRAY else facts_of(record, outcome)
        self.write((RAN, ended, id(record), began, self._here.name, facts))

    def called(
        self, record: Cell, operands: Sequence[Any], outcome: Any, called: float, began: float, ended: float
    ) -> None:
        if self.muted is not None and self.muted == get_ident():
            return
        needs: Needs = 0
        for each in operands:
            if each.__class__ is EagerHandle:
                cell = each._cell
                need = id(cell if cell.rare is None else record_of(cell))
                needs = and_one(needs, need) if needs else need
        facts = outcome.nbytes if outcome.__class__ is ARRAY else facts_of(record, outcome)
        home: Any = record.home
        code, lasti, device = record.code, record.lasti, home.device_name
        name = record.op.name
        self.write((CALLED, ended, id(record), began, self._here.name, facts, called, name, device, code, lasti, needs))

    # What hooks call now and then

    def grouped(self, records: Sequence[Cell]) -> None:
        self.write((GROUPED, perf_counter(), [id(record) for record in records]))

    def demanded(self, records: Sequence[Cell]) -> None:
        loop = running_loop()
        task = None if loop is None else current_task(loop)
        waiter = f"thread {threading.current_thread().name}" if task is None else f"task {task.get_name()}"
        frame = user_frame(1)
        self.write((DEMANDED, perf_counter(), [id(each) for each in records], waiter, frame.f_code, frame.f_lasti))

    def admitted(self, record: Cell, scope: Numbered) -> None:
        if self.muted is None or self.muted != get_ident():
            self.write((ADMITTED, perf_counter(), id(record), scope.number))

    def entered(self, scope: Numbered) -> None:
        if self.scopes is not None:
            self.scopes.entered(scope)

    def left(self, scope: Numbered, error: BaseException | None) -> None:
        if self.scopes is not None:
            self.scopes.left(scope, error)


def and_one(needs: Needs, more: int) -> Needs:
    """Add an address to others."""
    return (*needs, more) if isinstance(needs, tuple) else (needs, more)


Failed = tuple[str, str, bool, str | None]
"""The outcome, class and message of the error, whether it is the op's own, and the note of its place."""


def facts_of(record: Cell, outcome: Any) -> int | Failed:
    """Reduce an outcome to what is kept of it: the bytes of a value, or what is to be said of a failure."""
    if isinstance(outcome, Failure):
        text = _words(outcome.error)
        own = outcome.record is None or outcome.record is record
        note = str(outcome.notes[-1]) if outcome.notes else None
        return "cancelled" if outcome.cancelled else "failed", text, own, note
    if isinstance(outcome, tuple):
        return sum(_nbytes(each) for each in outcome)
    return _nbytes(outcome)


def _words(error: BaseException) -> str:
    """Its class and message, on one line."""
    name = type(error).__name__
    try:
        return " ".join(f"{name}: {error}".split())[:300]
    except Exception:  # noqa: BLE001 - code of users
        return name


def _nbytes(value: Any) -> int:
    try:
        return int(getattr(value, "nbytes", 0))
    except Exception:  # noqa: BLE001 - a value of a device is of a class that we do not know
        return 0
