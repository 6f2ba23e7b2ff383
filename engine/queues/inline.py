"""The queue of SYNC mode: by the time an op is handed over, it has run."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from engine.devices.base import Backend, Device
from engine.queues.base import Owner, Queue
from engine.queues.execution import execute, finish, run_coroutine
from handles.cell import CancelOutcome, Cell


class InlineQueue(Queue):
    """Runs each op on the calling thread; its cells are settled before anybody sees them."""

    def __init__(self, owner: Owner, device: Device, backend: Backend, threads: int) -> None:
        super().__init__(owner, device, backend)
        self.threads = threads

    def run(self, cell: Cell, values: Sequence[Any]) -> None:
        """Run the op of `cell`; its failure is in the cell."""
        op = cell.op
        run = run_coroutine if op.coroutine else execute
        finish(cell, run(cell, values, self.device, self.backend, self.threads))

    def wait(self, cell: Cell) -> Generator[Any, None, None]:
        yield from ()

    def block(self, cell: Cell, timeout: float | None, what: str) -> None:
        """Nothing to wait for."""

    def nudge(self, cell: Cell) -> None:
        """Nothing to hurry."""

    def cancel(self, cell: Cell) -> CancelOutcome:
        return CancelOutcome.TOO_LATE
