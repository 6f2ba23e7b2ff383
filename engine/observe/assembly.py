"""Assembly: makes the recorder's tuples into records of ops. Pure: no clock, no lock, no engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CodeType
from typing import NamedTuple

from engine.failures import site as place_of
from engine.observe.events import OpRecord
from engine.observe.recorder import (
    ADMITTED,
    CALLED,
    DEMANDED,
    DISPATCHED,
    FINISHED,
    GROUPED,
    LAG,
    RAN,
    STALLED,
    STARTED,
    Failed,
    Raw,
)

MOST_ADDRESSES = 1_000_000
"""Cells that are remembered as possible operands."""


class Draft:
    """An op of which more may come to be known."""

    __slots__ = (
        *("code", "demanded_by", "device", "dispatched", "facts", "finished", "held", "id", "lasti"),
        *("members", "name", "needs", "operands", "ready", "run", "scope", "source", "started", "thread"),
    )

    def __init__(self, number: int, raw: Raw, needs: list[Draft]) -> None:
        _, self.dispatched, _, self.name, self.device, self.code, self.lasti, _, held, source = raw
        self.held: int = held
        self.source: str | None = source
        self.id = number
        self.needs = needs
        self.operands = tuple(each.id for each in needs)
        self.started: float | None = None
        self.finished: float | None = None
        self.ready: float | None = None
        self.thread: str | None = None
        self.run: int | None = None
        self.members = 1
        self.scope: int | None = None
        self.facts: int | Failed | None = None
        self.demanded_by: str | None = None

    def start(self, time: float, thread: str) -> None:
        """It runs. What it needs is let go of, or a chain of drafts would never be."""
        self.started = time
        self.thread = thread
        self._look_at_operands(time)

    def finish(self, time: float, facts: int | Failed) -> None:
        self.finished = time
        self.facts = facts
        if self.needs:
            self._look_at_operands(time)

    def share(self) -> float:
        """How long it ran: of a fusion group, an equal part of the time."""
        return 0.0 if self.started is None or self.finished is None else (self.finished - self.started) / self.members

    def _look_at_operands(self, time: float) -> None:
        ends = [time if need.finished is None else need.finished for need in self.needs]  # of a group: with it
        self.ready = min(time, max(ends, default=self.dispatched))
        self.needs = []


class Lag(NamedTuple):
    """How long a loop took to call back."""

    time: float
    loop: int
    seconds: float


class Stall(NamedTuple):
    """A loop did nothing else for so long."""

    time: float
    seconds: float
    site: str


class Assembly:
    """Reads the tuples of one time of observing, in their order."""

    def __init__(self) -> None:
        self.on_dispatched: Callable[[Draft], None] | None = None
        self.on_started: Callable[[Draft], None] | None = None
        self.on_finished: Callable[[Draft], None] | None = None
        self.on_lag: Callable[[Lag], None] | None = None
        self.on_stalled: Callable[[Stall], None] | None = None
        self._open: dict[int, Draft] = {}
        """Ops in flight, by the address of their cell."""
        self._last: dict[int, Draft] = {}
        """The last op at each address, which may be an operand."""
        self._scopes: dict[int, int] = {}
        """Scopes of ops that are about to be dispatched."""
        self._sites: dict[tuple[CodeType | None, int], str] = {}
        self._count = 0
        self._groups = 0
        self._readers: dict[int, Callable[[Raw], None]] = {
            DISPATCHED: self._dispatched,
            STARTED: self._started,
            FINISHED: self._finished,
            RAN: self._ran,
            CALLED: self._called,
            GROUPED: self._grouped,
            DEMANDED: self._demanded,
            ADMITTED: self._admitted,
            LAG: self._lag,
            STALLED: self._stalled,
        }

    def read(self, events: Iterable[Raw]) -> None:
        """Take in some events, and call back for each."""
        readers = self._readers
        for raw in events:
            readers[raw[0]](raw)

    def record(self, draft: Draft) -> OpRecord:
        """The facts known of an op now."""
        facts = draft.facts
        said = facts if isinstance(facts, tuple) else (None if facts is None else "done", None, True, None)
        outcome, error, own, note = said
        return OpRecord(
            id=draft.id,
            name=draft.name,
            device=draft.device,
            site=self.site(draft.code, draft.lasti),
            dispatched=draft.dispatched,
            started=draft.started,
            finished=draft.finished,
            outcome=outcome,
            thread=draft.thread,
            run=draft.run,
            nbytes=facts if isinstance(facts, int) else None,
            operands=draft.operands,
            ready=draft.ready,
            held_bytes=draft.held,
            source=draft.source,
            error=error,
            root=own,
            note=note,
            scope=draft.scope,
            demanded_by=draft.demanded_by,
        )

    def site(self, code: CodeType | None, lasti: int) -> str:
        place = (code, lasti)
        found = self._sites.get(place)
        if found is None:
            found = self._sites[place] = place_of(code, lasti)
        return found

    # One reader for each kind of event

    def _dispatched(self, raw: Raw) -> None:
        key, last = raw[2], self._last
        needs = raw[7] if raw[7].__class__ is tuple else (raw[7],)
        draft = Draft(self._count, raw, [last[each] for each in needs if each in last])
        self._count += 1
        if len(last) > MOST_ADDRESSES:
            last.clear()
        self._open[key] = last[key] = draft
        if self._scopes:
            draft.scope = self._scopes.pop(key, None)
        if self.on_dispatched is not None:
            self.on_dispatched(draft)

    def _started(self, raw: Raw) -> None:
        draft = self._open.get(raw[2])
        if draft is not None:
            draft.start(raw[1], raw[3])
            if self.on_started is not None:
                self.on_started(draft)

    def _finished(self, raw: Raw) -> None:
        draft = self._open.pop(raw[2], None)
        if draft is not None:
            draft.finish(raw[1], raw[3])
            if self.on_finished is not None:
                self.on_finished(draft)

    def _ran(self, raw: Raw) -> None:
        _, ended, key, began, thread, facts = raw
        self._started((STARTED, began, key, thread))
        self._finished((FINISHED, ended, key, facts))

    def _called(self, raw: Raw) -> None:
        _, ended, key, began, thread, facts, called, *where = raw
        self._dispatched((DISPATCHED, called, key, *where, 0, None))
        self._started((STARTED, began, key, thread))
        self._finished((FINISHED, ended, key, facts))

    def _grouped(self, raw: Raw) -> None:
        if len(raw[2]) < 2:
            return  # an op by itself, shared out among threads
        for key in raw[2]:
            draft = self._open.get(key)
            if draft is not None:
                draft.run, draft.members = self._groups, len(raw[2])
        self._groups += 1

    def _demanded(self, raw: Raw) -> None:
        _, _, keys, waiter, code, lasti = raw
        text = f"{waiter} at {self.site(code, lasti)}"
        for key in keys:
            draft = self._open.get(key)
            if draft is not None and draft.demanded_by is None:
                draft.demanded_by = text

    def _admitted(self, raw: Raw) -> None:
        self._scopes[raw[2]] = raw[3]

    def _lag(self, raw: Raw) -> None:
        if self.on_lag is not None:
            self.on_lag(Lag(*raw[1:]))

    def _stalled(self, raw: Raw) -> None:
        if self.on_stalled is not None:
            self.on_stalled(Stall(*raw[1:]))
