"""The queue of SYNC mode: by the time an op is handed over, it has run."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from contextvars import copy_context
from typing import Any

from engine.devices.base import Backend, Device, loss
from engine.devices.registry import losers
from engine.failures import describe, failed
from engine.queues import reading
from engine.queues.base import Owner, Queue
from engine.queues.execution import execute, finish, holding, run_coroutine
from engine.queues.hooks import hooks
from engine.queues.launch import Launched, alone, operands_of
from engine.queues.waiting import cancellation
from engine.settings.scope import DEFAULT_ERRSTATE, errstate, scope_var
from handles.cell import CancelOutcome, Cell, Failure


def _tell_of(cell: Cell, operands: Sequence[Any]) -> None:
    """Tell listeners that an op is dispatched, and starts."""
    group = scope_var.get().group
    group = group and group.innermost_open()
    if group is not None:
        hooks.tell("admitted", cell, group)
    hooks.dispatched(cell, operands)
    hooks.started(cell)


class _Outcome:
    """The outcome of a record, from a backend or from the loss of its device: the first one counts."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.there = threading.Event()
        self.value: Any = None
        self._lock = threading.Lock()

    def set(self, value: Any, more: bool = False) -> None:
        """Say it, on any thread."""
        with self._lock:
            if not self.there.is_set():
                self.value = value
                self.there.set()


class InlineQueue(Queue):
    """Runs each op on the calling thread; its cells are settled before the caller sees them."""

    def __init__(self, owner: Owner, device: Device, backend: Backend[Any]) -> None:
        super().__init__(owner, device, backend)
        self._submitted: set[_Outcome] = set()
        if not self.on_host:
            losers.add(self)

    def run(self, cell: Cell, values: Sequence[Any], operands: Sequence[Any] = ()) -> None:
        """Run the op of `cell`; its failure is in the cell. `operands` is what listeners are told that it was given."""
        op = cell.op
        if hooks.listeners:
            _tell_of(cell, operands)
        limited = op.limit is not None and op.limit not in holding.get()
        with op.limit.held() if limited else nullcontext():
            if op.coroutine:
                outcome = run_coroutine(cell, values, self.device, self.backend)
            elif self.on_host or op is reading.MOVE or not self.backend.runs(op.name, op.kernel):
                outcome = execute(cell, values, self.device, self.backend)
            else:
                outcome = self._run_on_device(cell, values)
            if hooks.listeners:
                hooks.finished(cell, outcome)
            finish(cell, outcome)
        if hooks.deliver is not None:
            hooks.deliver()

    def _run_on_device(self, cell: Cell, values: Sequence[Any]) -> Any:
        """Submit the op and block until it has ended: its outcome."""
        if self.lost is not None:
            return failed(cell, loss(self.device, self.lost))
        if errstate() is not DEFAULT_ERRSTATE and cell.extend().context is None:
            cell.extend().context = copy_context()
        outcome = _Outcome(cell)
        record = Launched(cell, operands_of(values, alone), self.device, _Outcome.set, outcome)
        self._submitted.add(outcome)
        try:
            self._submit(record)
            if not outcome.there.wait(self.owner.timeout):
                text = f"not ready after {self.owner.timeout:.3g} s: {describe(cell)}; the device has it"
                return failed(cell, TimeoutError(text))
        except BaseException:
            finish(cell, cancellation(cell, "waiting for it was interrupted"))  # so that it counts as abandoned
            raise
        finally:
            self._submitted.discard(outcome)
        return outcome.value

    def _submit(self, record: Launched) -> None:
        try:
            self.backend.submit(self.device, [record])
        except Exception as error:  # noqa: BLE001 - the op fails with what the backend says
            record.fail_unended(error)

    def lose(self, reason: str) -> None:
        """On any thread: the device is gone, and what the backend was given with it."""
        self.lost = reason
        for outcome in list(self._submitted):
            outcome.set(failed(outcome.cell, loss(self.device, reason)))

    def poll(self, cell: Cell) -> bool:
        """Nothing to do: the cell is settled."""
        return True

    def wait(self, cell: Cell) -> Generator[Any, None, None]:
        """Wait for nothing."""
        yield from ()

    def block(self, cell: Cell, timeout: float | None, what: str) -> None:
        """Wait for nothing, but that a value of a device is on the host."""
        if not self.on_host and not isinstance(cell.value, Failure):
            limits = [limit for limit in (timeout, self.owner.timeout) if limit is not None]
            reading.block(self, cell, min(limits, default=None))

    def keep_going(self, cell: Cell) -> None:
        """Nothing is on its way."""

    def cancel(self, cell: Cell) -> CancelOutcome:
        """Too late: the op has run."""
        return CancelOutcome.TOO_LATE
