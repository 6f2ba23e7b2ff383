"""The recorder: writes what the hooks say down as plain tuples, which cost least, for others to read later.

Invariants: a tuple refers to no cell and to no value, so that observing changes neither what is kept in memory nor
which memory the engine may write over; an append is atomic, so the order of the tuples is that of the events. A cell is
known by its address: it lives from its dispatch to its end, so an address means the last op that was dispatched there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from threading import get_ident
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from engine.base.loops import current_task, running_loop
from engine.failures import user_frame
from engine.queues.reading import MOVE
from engine.queues.records import record_of
from handles.cell import Cell, Failure
from handles.eager import EagerHandle

DISPATCHED, STARTED, FINISHED, RAN, CALLED, GROUPED, DEMANDED, ADMITTED, LAG, STALLED = range(10)

Raw = tuple[Any, ...]
"""One event: which, when, and what it says."""

Needs = int | tuple[int, ...]
"""The addresses of the cells that an op reads: 0 of none, a number of one, as most ops have no more."""

ARRAY = np.ndarray
TRANSFER = MOVE.name
"""The name of the ops that copy a value to a device."""


class ScopeListener(Protocol):
    """A listener told of scopes at once, on the thread and in the context of the task that enters and leaves them."""

    def entered(self, scope: object) -> None: ...

    def left(self, scope: object, error: BaseException | None) -> None: ...


class Recorder:
    """Listens to the hooks."""

    never_raises = True

    def __init__(self) -> None:
        self.events: deque[Raw] = deque()
        self.append = self.events.append
        self.threads: dict[int, str] = {}
        """Names of the threads that were seen, by their identities."""
        self.muted: int | None = None
        """The thread that calls observers now: what it dispatches is not recorded."""
        self.scopes: ScopeListener | None = None

    def drained(self) -> list[Raw]:
        """Take away what was written down since."""
        take = self.events.popleft
        return [take() for _ in range(len(self.events))]

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
        if rare is None and name is not TRANSFER:
            self.append(
                (DISPATCHED, perf_counter(), id(record), name, home.device_name, record.code, record.lasti, needs)
            )
            return
        held = 0 if rare is None else rare.copied
        origin: Any = operands[0].home if name is TRANSFER and operands[0].__class__ is Cell else None
        more = (held, None if origin is None else origin.device_name)
        device, code, lasti = home.device_name, record.code, record.lasti
        self.append((DISPATCHED, perf_counter(), id(record), name, device, code, lasti, needs, *more))

    def started(self, record: Cell) -> None:
        self.append((STARTED, perf_counter(), id(record), self._thread()))

    def finished(self, record: Cell, outcome: Any) -> None:
        facts = outcome.nbytes if outcome.__class__ is ARRAY else facts_of(record, outcome)
        self.append((FINISHED, perf_counter(), id(record), facts))

    def ran(self, record: Cell, outcome: Any, began: float, ended: float) -> None:
        facts = outcome.nbytes if outcome.__class__ is ARRAY else facts_of(record, outcome)
        thread = get_ident()
        self.append((RAN, ended, id(record), began, thread if thread in self.threads else self._thread(), facts))

    def called(
        self, record: Cell, operands: Sequence[Any], outcome: Any, called: float, began: float, ended: float
    ) -> None:
        thread = get_ident()
        if self.muted == thread:
            return
        needs: Needs = 0
        for each in operands:
            if each.__class__ is EagerHandle:
                needs = and_one(needs, id(each._cell)) if needs else id(each._cell)
        facts = outcome.nbytes if outcome.__class__ is ARRAY else facts_of(record, outcome)
        if thread not in self.threads:
            self._thread()
        home: Any = record.home
        code, lasti, device = record.code, record.lasti, home.device_name
        begin = (DISPATCHED, called, id(record), record.op.name, device, code, lasti, needs)
        self.append((CALLED, ended, begin, began, thread, facts))

    def _thread(self) -> int:
        ident = get_ident()
        if ident not in self.threads:
            self.threads[ident] = threading.current_thread().name
        return ident

    # What hooks call now and then

    def grouped(self, records: Sequence[Cell]) -> None:
        self.append((GROUPED, perf_counter(), [id(record) for record in records]))

    def demanded(self, records: Sequence[Cell]) -> None:
        loop = running_loop()
        task = None if loop is None else current_task(loop)
        waiter = f"thread {threading.current_thread().name}" if task is None else f"task {task.get_name()}"
        frame = user_frame(1)
        self.append((DEMANDED, perf_counter(), [id(each) for each in records], waiter, frame.f_code, frame.f_lasti))

    def admitted(self, record: Cell, scope: object) -> None:
        self.append((ADMITTED, perf_counter(), id(record), id(scope)))

    def entered(self, scope: object) -> None:
        if self.scopes is not None:
            self.scopes.entered(scope)

    def left(self, scope: object, error: BaseException | None) -> None:
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
