"""Figures of the live page: sums over all ops that have ended, and what runs at this moment."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, time
from types import CodeType
from typing import Any

from engine.memory.buffers import buffer_statistics
from engine.observe.assembly import Assembly, Draft, Lag, Stall
from engine.observe.events import OpRecord
from engine.observe.hub import hub
from engine.observe.monitor import device_queues
from engine.observe.wiring import Quiet

MOST_ROWS = 2_000
"""Ops and lines that are counted by themselves; of more, those that took least are forgotten."""
SHOWN = 12
"""Rows of a table."""
KEPT = 20
"""Errors and stalls."""
FRESH = 0.2
"""Seconds for which a state serves all pages that ask."""
WINDOW = 2.0
"""Seconds over which ops a second are counted."""

State = dict[str, Any]
Key = tuple[str, CodeType | None, int]


class Sums:
    """Sums of one op at one line."""

    __slots__ = ("count", "failed", "longest", "nbytes", "seconds", "waited")

    def __init__(self) -> None:
        self.count = self.failed = self.nbytes = 0
        self.seconds = self.waited = self.longest = 0.0

    def add(self, draft: Draft) -> None:
        """Count one that has ended."""
        self.count += 1
        facts = draft.facts
        if isinstance(facts, tuple):
            self.failed += facts[0] == "failed"
        elif facts is not None:
            self.nbytes += facts
        if draft.started is not None and draft.finished is not None:
            seconds = draft.share()
            self.seconds += seconds
            self.waited += draft.started - draft.dispatched
            if seconds > self.longest:
                self.longest = seconds

    def merge(self, other: Sums) -> None:
        """Add those of another line."""
        self.count += other.count
        self.failed += other.failed
        self.nbytes += other.nbytes
        self.seconds += other.seconds
        self.waited += other.waited
        self.longest = max(self.longest, other.longest)

    def row(self, label: str, site: str) -> State:
        """As the page gets it."""
        facts = {name: getattr(self, name) for name in self.__slots__}
        return {"label": label, "site": site, **facts}


class Live(Quiet):
    """Counts what happens; one for each application."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[Key, Sums] = {}
        self._running: dict[int, Draft] = {}
        self._place: Callable[[CodeType | None, int], str] = lambda code, lasti: ""
        self._ended = 0
        self._history: deque[tuple[float, int]] = deque(maxlen=200)
        self._errors: dict[tuple[str, str, str | None], State] = {}
        """The last ones, oldest first; what fails again and again is one."""
        self._stalls: deque[tuple[float, Stall]] = deque(maxlen=KEPT)
        self._lags: deque[Lag] = deque(maxlen=200)
        self._state: tuple[float, State] = (-1.0, {})
        self.sites: set[str] = set()
        """Places that the page has shown, and may ask for the code of."""

    # What happens

    def began(self, draft: Draft, assembly: Assembly) -> None:
        with self._lock:
            self._place = assembly.site
            self._running[draft.id] = draft

    def ended(self, draft: Draft, assembly: Assembly) -> None:
        key = (draft.name, draft.code, draft.lasti)
        with self._lock:
            self._running.pop(draft.id, None)
            self._ended += 1
            self._place = assembly.site
            sums = self._rows.get(key)
            if sums is None:
                sums = self._rows[key] = Sums()
                if len(self._rows) > 2 * MOST_ROWS:
                    self._tidy()
            sums.add(draft)
            if isinstance(draft.facts, tuple) and draft.facts[0] == "failed" and draft.facts[2]:
                self._note_error(assembly.record(draft))

    def _note_error(self, op: OpRecord) -> None:
        key = (op.name, op.site, op.error)
        before = self._errors.pop(key, {"count": 0})
        facts = {"name": op.name, "site": op.site, "error": op.error, "note": op.note}
        self._errors[key] = {"time": time(), "count": before["count"] + 1, **facts}
        if len(self._errors) > KEPT:
            del self._errors[next(iter(self._errors))]

    def _tidy(self) -> None:
        kept = sorted(self._rows.items(), key=lambda row: -row[1].seconds)[:MOST_ROWS]
        self._rows = dict(kept)

    def lagged(self, lag: Lag) -> None:
        with self._lock:
            self._lags.append(lag)

    def stalled(self, seconds: float, site: str) -> None:
        with self._lock:
            self._stalls.append((time(), Stall(perf_counter(), seconds, site)))

    # What is shown

    def state(self) -> State:
        """How it stands: made at most five times a second, however many pages ask."""
        made, state = self._state
        if perf_counter() - made > FRESH:
            hub.deliver()
            state = self._make()
            self._state = (perf_counter(), state)
        return state

    def _make(self) -> State:
        now = perf_counter()
        devices, pending_bytes = _devices()
        with self._lock:
            self._history.append((now, self._ended))
            self._show_running(devices, now)
            ops, lines = self._tables()
            state: State = {
                "time": time(),
                "ended": self._ended,
                "rate": self._rate(now),
                "devices": [devices[name] for name in sorted(devices)],
                "lag": max((lag.seconds for lag in self._lags if now - lag.time < WINDOW), default=0.0),
                "memory": resident_bytes(),
                "pending_bytes": pending_bytes,
                "buffers": buffer_statistics().cached_bytes,
                "ops": ops,
                "lines": lines,
                "errors": list(reversed(self._errors.values())),
                "stalls": [
                    {"time": moment, "seconds": stall.seconds, "site": stall.site}
                    for moment, stall in reversed(self._stalls)
                ],
            }
            self._note_sites(state)
        return state

    def _rate(self, now: float) -> float:
        """Ops a second, over the last two."""
        while len(self._history) > 2 and now - self._history[1][0] > WINDOW:
            self._history.popleft()
        since, ended = self._history[0]
        return (self._ended - ended) / (now - since) if now > since else 0.0

    def _show_running(self, devices: dict[str, State], now: float) -> None:
        for draft in sorted(self._running.values(), key=lambda each: each.started or now):
            device = devices.setdefault(draft.device, _device(draft.device))
            device["busy"] += 1
            if len(device["ops"]) < SHOWN:
                device["ops"].append(
                    {
                        "name": draft.name,
                        "site": self._place(draft.code, draft.lasti),
                        "seconds": now - (draft.started or now),
                    }
                )

    def _tables(self) -> tuple[list[State], list[State]]:
        """The ops, and the lines, that took longest."""
        by_name: dict[str, tuple[Sums, Key]] = {}
        by_line: dict[str, tuple[Sums, Key]] = {}
        for key, sums in self._rows.items():
            for found, label in ((by_name, key[0]), (by_line, self._place(key[1], key[2]))):
                if label not in found:
                    found[label] = (Sums(), key)
                found[label][0].merge(sums)
        return self._longest(by_name), self._longest(by_line)

    def _longest(self, found: dict[str, tuple[Sums, Key]]) -> list[State]:
        rows = sorted(found.items(), key=lambda row: -row[1][0].seconds)[:SHOWN]
        return [sums.row(label, self._place(key[1], key[2])) for label, (sums, key) in rows]

    def _note_sites(self, state: State) -> None:
        for part in ("ops", "lines", "errors", "stalls"):
            self.sites.update(row["site"] for row in state[part])
        for device in state["devices"]:
            self.sites.update(row["site"] for row in device["ops"])


def _device(name: str) -> State:
    return {"name": name, "queued": 0, "busy": 0, "ops": []}


def _devices() -> tuple[dict[str, State], int]:
    """The records on the queues, by device, and the bytes of operands copied for it."""
    devices: dict[str, State] = {}
    held: dict[int, int] = {}
    for queue in device_queues():
        name = str(queue.device)
        devices.setdefault(name, _device(name))["queued"] += queue.in_flight()
        held[id(queue.owner)] = queue.owner.pending_bytes
    return devices, sum(held.values())


def resident_bytes() -> int | None:
    """Memory that the process has resident; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
