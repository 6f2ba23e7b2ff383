"""Completions: how records of a device end, and how many did in which way.

Guarantee: a failure is in the ledger before a reader can see it. All methods are called under the queue's lock.
"""

from __future__ import annotations

from typing import Any

from engine.devices.base import Device
from engine.failures import Ledger
from engine.queues.backlog import Backlog
from engine.queues.execution import finish
from engine.queues.hooks import hooks
from engine.queues.records import entry_of
from engine.queues.states import State
from handles.cell import PENDING, Cell, Failure


class Completions:
    """Settles the records of one device and counts them."""

    def __init__(self, device: Device, ledger: Ledger, backlog: Backlog) -> None:
        self.completed = 0
        """Records that ended with a value or an error."""
        self.failed = 0
        self.cancelled = 0
        self._device = device
        self._ledger = ledger
        self._backlog = backlog

    def counts(self) -> tuple[int, int, int]:
        """Ops that ended with a value, with an error, and that were cancelled."""
        return max(0, self.completed - self.failed), self.failed, self.cancelled

    def complete(self, cell: Cell, outcome: Any) -> None:
        """Settle a record with its value or its failure. The caller counts it as completed."""
        if outcome.__class__ is Failure:
            self.failed += 1
            self._ledger.add(self._device, outcome)
        self._settle(cell, outcome)

    def complete_started(self, cell: Cell, outcome: Any) -> None:
        """Settle a record that ran elsewhere, unless it was abandoned."""
        if cell.value is not PENDING:
            self._end(cell)
        elif outcome.__class__ is Failure and outcome.cancelled:
            self.cancel(cell, outcome)
            self._end(cell)
        else:
            self.completed += 1
            self.complete(cell, outcome)

    def fail_dependent(self, cell: Cell, failure: Failure) -> None:
        """Settle a record whose operand failed; the failure is known already."""
        if cell.value is PENDING:
            self.completed += 1
            self.failed += 1
            self._settle(cell, failure)
        else:
            self._end(cell)

    def cancel(self, cell: Cell, failure: Failure) -> None:
        """Settle a record that was cancelled; one that runs goes on, and its result is thrown away."""
        self.cancelled += 1
        entry = entry_of(cell)
        if hooks.listeners:
            hooks.finished(cell, failure)
        finish(cell, failure)
        if entry is None:
            return
        if entry in self._backlog.running:
            self._backlog.settled(entry)
        else:
            self._backlog.end(entry, State.CANCELLED)

    def _settle(self, cell: Cell, outcome: Any) -> None:
        entry = entry_of(cell)
        if hooks.listeners:
            hooks.finished(cell, outcome)
        finish(cell, outcome)
        if entry is not None:
            self._backlog.end(entry, State.FAILED if outcome.__class__ is Failure else State.DONE)

    def _end(self, cell: Cell) -> None:
        """A record that was settled before has stopped running."""
        entry = entry_of(cell)
        if entry is not None:
            self._backlog.end(entry, State.CANCELLED)
