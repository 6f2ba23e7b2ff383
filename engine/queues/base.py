"""What every queue is: the home of the cells dispatched to it, on one device of one executor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any, NoReturn, Protocol

import numpy as np

from engine.ambient import may_block, program, scope_var
from engine.devices.base import Backend, Device
from engine.errors import BlockingSyncError
from engine.failures import Ledger, describe, throw
from engine.loops import running_loop
from engine.planning.inference import infer_cell
from engine.planning.op import ShapeDtype
from engine.queues.bell import Bell
from handles.cell import PENDING, CancelOutcome, Cell, Unready

ARRAY = np.ndarray  # of a module with a `__getattr__`, where a look-up takes long


class Owner(Protocol):
    """What a queue needs of the executor that it belongs to."""

    ledger: Ledger
    timeout: float | None
    """Seconds that a sync point may wait."""

    def restorer(self) -> Callable[..., Any]:
        """The function that unpickles a handle."""


class Queue(ABC):
    """A home of cells. The inline queue has run an op when it has taken it; the device queue takes it and goes on."""

    def __init__(self, owner: Owner, device: Device, backend: Backend) -> None:
        self.owner = owner
        self.device = device
        self.backend = backend
        self.on_host = backend.on_host
        self.namespace = program.namespace

    def assist(self, cell: Cell) -> None:
        """Help with a cell that is about to be awaited."""
        return

    def help(self, cell: Cell) -> bool:
        """Settle a cell that is about to be awaited, where this turn of the loop has time for that."""
        return False

    @abstractmethod
    def wait(self, cell: Cell) -> Generator[Any, None, None]: ...

    @abstractmethod
    def cancel(self, cell: Cell) -> CancelOutcome: ...

    @abstractmethod
    def nudge(self, cell: Cell) -> None: ...

    @abstractmethod
    def block(self, cell: Cell, timeout: float | None, what: str) -> None: ...

    def waiting_for(self, cell: Cell) -> list[Cell]:
        """The cells that a record has been set aside for; none when it is up to this queue to run it."""
        return []

    def awaited_by(self, cell: Cell) -> Cell:
        """The op to name when waiting for a cell took too long: the cell's own, or the oldest one before a marker."""
        return cell

    def drive(self, seconds: float, until: Cell | None = None, *, patient: bool = False) -> bool:
        """Run what can run now; whether anything was done."""
        return False

    def listen(self, bell: Bell, listening: bool) -> None:
        """Have `bell` rung whenever an op of this queue ends, or no longer."""
        return

    def hurry(self, guest: object, waiting: bool) -> None:
        """While a guest, somebody who is not on this queue's loop, waits: have workers drive this queue."""
        return

    def check_can_end(self, record: Cell) -> None:
        """Raise `BlockingSyncError` when the record cannot end while this thread is blocked."""
        return

    def host(self, cell: Cell) -> np.ndarray[Any, Any]:
        value = cell.value
        if value.__class__ is not ARRAY and isinstance(value, Unready):
            _raise(cell)
        return self.backend.to_host(value)

    def infer(self, cell: Cell, *, tell: bool = True) -> ShapeDtype:
        return infer_cell(cell, tell=tell)

    def reduce(self, cell: Cell) -> tuple[Any, ...]:
        if cell.value is PENDING:
            raise ValueError(f"only ready handles can be pickled; await this one first: {describe(cell)}")
        return self.owner.restorer(), (self.host(cell), str(self.device))


def _raise(cell: Cell) -> NoReturn:
    value = cell.value
    if value is PENDING:
        raise RuntimeError(f"the value was read before it was there: {describe(cell)}")
    throw(value)


def check_may_block(cell: Cell | None, what: str) -> None:
    """Raise `BlockingSyncError` where blocking would freeze a running loop, or wait for itself."""
    scope = scope_var.get()
    subject = f"a non-ready handle ({describe(cell)})" if cell is not None else "pending work"
    if scope.kernel is not None:
        raise BlockingSyncError(
            f"{what} of {subject} inside the kernel of {scope.kernel.op.name!r}: a kernel that waits for the engine "
            "could wait for itself; pass the handle to the op as an argument instead"
        )
    if running_loop() is not None and not may_block():
        raise BlockingSyncError(
            f"{what} of {subject} would block the running event loop: use `await`, or permit it with "
            "`with engine.allow_sync(): ...`, or move this code off the loop with asyncio.to_thread"
        )
