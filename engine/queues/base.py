"""The home of cells: what both kinds of queues have in common, and who may block where."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NoReturn, Protocol

import numpy as np

from engine.base.errors import BlockingSyncError
from engine.base.inference import infer_cell
from engine.base.loops import running_loop
from engine.base.op import ShapeDtype
from engine.base.sites import hide_frames, program_site, render_apart
from engine.devices.base import Backend, Device
from engine.failures import Ledger, describe, throw
from engine.queues import reading
from engine.queues.hooks import hooks
from engine.settings.in_force import may_block
from engine.settings.scope import scope_var
from engine.settings.switch import program
from handles.cell import PENDING, Cell, Unready

ARRAY = np.ndarray  # of a module with a `__getattr__`, where a look-up takes long


class Owner(Protocol):
    """An executor, as its queues need it."""

    ledger: Ledger
    timeout: float | None
    """Seconds that a sync point may wait."""

    def restorer(self) -> Callable[..., Any]:
        """The function that unpickles a handle."""


class Queue:
    """The home of cells on one device of one executor: what it takes to read one that is settled."""

    any_elsewhere = False
    """True once this process has had a queue of a device that is not the host's."""

    def __init__(self, owner: Owner, device: Device, backend: Backend[Any]) -> None:
        self.owner = owner
        self.device = device
        self.device_name = str(device)
        self.backend = backend
        self.on_host = backend.on_host
        self.lost: str | None = None
        """Why the device is gone; None where it is not."""
        if not self.on_host:
            Queue.any_elsewhere = True
        self.namespace = program.namespace

    def host(self, cell: Cell) -> np.ndarray[Any, Any]:
        value = cell.value
        if hooks.deliver is not None:
            hooks.deliver()  # the reader may look at what an observer was told of the op
        if value.__class__ is not ARRAY:
            if isinstance(value, Unready):
                _raise(cell)
            if not self.on_host:
                array = reading.peek(cell)
                return array if array is not None else reading.block(self, cell, self.owner.timeout)
        return self.backend.to_host(value)

    def fetch(self, cell: Cell) -> Generator[Any, None, np.ndarray[Any, Any]]:
        """Suspend until a settled value of a device is on the host, and return it."""
        if isinstance(cell.value, Unready):
            _raise(cell)
        return (yield from reading.fetch(self, cell, self.owner.timeout))

    def peek(self, cell: Cell) -> np.ndarray[Any, Any] | None:
        """A settled value, None where reading it would take time."""
        return self.host(cell) if self.on_host else reading.peek(cell)

    def infer(self, cell: Cell, *, tell: bool = True) -> ShapeDtype:
        return infer_cell(cell, tell=tell)

    def reduce(self, cell: Cell) -> tuple[Any, ...]:
        if cell.value is PENDING:
            if running_loop() is not None and not may_block():
                raise ValueError(f"only ready handles can be pickled; await this one first: {describe(cell)}")
            cell.home.block(cell, None, "pickling")
        if not self.on_host and reading.peek(cell) is None:
            check_may_block(cell, "pickling")
        return self.owner.restorer(), (self.host(cell), str(self.device))


def _raise(cell: Cell) -> NoReturn:
    value = cell.value
    if value is PENDING:
        raise RuntimeError(f"the value was read before it was there: {describe(cell)}")
    throw(value)


def check_may_block(cell: Cell | None, what: str, instead: str = "await") -> None:
    """Raise `BlockingSyncError` where blocking would freeze a running loop, or wait for itself; says what to await."""
    scope = scope_var.get()
    if scope.kernel is None and (running_loop() is None or may_block()):
        return
    hide_frames()
    place = program_site()
    if place is not None:
        what = f"{what} (by a library, called at {place})"
    ready = cell is not None and cell.value is not PENDING
    kind = "a handle that is ready by now" if ready else "a non-ready handle"
    subject = f"{kind} ({describe(cell)})" if cell is not None else "pending work"
    if scope.kernel is not None:
        raise BlockingSyncError(
            f"{what} of {subject} inside the kernel of {scope.kernel.op.name!r}: a kernel that waits for the engine "
            "could wait for itself; pass the handle to the op as an argument instead"
        )
    when = " when it is not" if ready else ""
    error = BlockingSyncError(
        f"{what} of {subject} would block the running event loop{when}: use `{instead}`, or permit it with "
        "`with engine.allow_sync(): ...`, or move this code off the loop with asyncio.to_thread"
    )
    render_apart(error)
    raise error
