"""Sync points of many handles, or of everything: where errors surface.

Purpose: wait for what was dispatched, on the loop (`synchronize`, `drain`, `gather`, `as_completed`) or on a thread
that may block (`wait`), and raise what failed, each failure once.

Invariants: every waiting task has a waiter of its own, so cancelling one wakes no other. The ops that it waits for are
demanded while it waits, and not any longer.

Cells complete on any thread: `Completions._note` appends to a deque, which needs no lock, and wakes the waiter. All
else runs in the waiting task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from time import monotonic
from typing import Any

import numpy as np

from engine.base.errors import BlockingSyncError
from engine.base.loops import Waiter, asyncio_loop
from engine.devices.base import Device
from engine.dispatch.executor import Core
from engine.observe.progress import Progress, bar
from engine.queues.base import check_may_block
from engine.queues.demand import Demand
from engine.queues.device_queue import DeviceQueue
from engine.queues.hooks import hooks
from engine.queues.waiting import Settled, block_until, timed_out
from engine.runtime.current import current_core
from engine.settings.scope import scope_var
from handles.base import Handle, check_seconds
from handles.cell import PENDING, Cell, Failure, add_waiter, remove_waiter

Array = np.ndarray[Any, Any]


async def synchronize(device: str | Device | None = None, *, progress: Progress = None) -> None:
    """Wait for all that was dispatched before to the executor in force (on one device, where one is named).

    Then raises every failure that was not reported yet: one as itself, several as an `ExceptionGroup`. Each is
    raised once; a second call returns. `progress` shows how many of the ops have ended: True, a label, or a tqdm class.

    Raises `TimeoutError` after `Config.operation_timeout_in_ms`, what `engine.device` raises for a name, and
    `EagerNotEnabledError` where no executor is in force.

    >>> roots = [ops.sqrt(float(number)) for number in range(3)]
    >>> await engine.synchronize()
    >>> all(root.is_ready() for root in roots)
    True
    """
    core, where = _target(device)
    with bar(progress, "synchronize") as shown:
        if progress:
            shown.watch(core.unfinished(where))
        for barrier in core.barriers(where):
            await Settled(barrier)
    core.raise_failures(where)


def wait(device: str | Device | None = None, timeout: float | None = None) -> None:
    """The blocking twin of `synchronize`, for scripts and threads without a loop; `timeout` is in seconds.

    Raises what `synchronize` raises; `TimeoutError` after `timeout`, `ValueError` for a timeout that is negative or not
    a number, and `BlockingSyncError` on a thread whose event loop is running, in ASYNC mode.

    >>> def compute():
    ...     root = ops.sqrt(16.0)
    ...     engine.wait(timeout=10.0)
    ...     return root.is_ready()
    >>> await asyncio.to_thread(compute)
    True
    """
    check_seconds("timeout", timeout)
    check_may_block(None, "engine.wait()", "await engine.synchronize()")
    core, where = _target(device)
    limit = core.timeout if timeout is None else min(timeout, core.timeout or timeout)
    deadline = None if limit is None else monotonic() + limit
    for barrier in core.barriers(where):
        block_until(barrier, None if deadline is None else max(0.0, deadline - monotonic()))
    core.raise_failures(where)


def clear_errors() -> None:
    """Drop the failures of the executor in force that were not reported; their handles go on raising them.

    >>> inverse = ops.linalg.inv(ops.zeros((2, 2)))
    >>> async for _ in engine.as_completed([inverse]):
    ...     engine.clear_errors()
    >>> await engine.synchronize()  # would have raised LinAlgError
    """
    current_core().ledger.take()


def cancel_pending(device: str | Device | None = None) -> int:
    """Drop all that has not started on the executor in force, abandon what runs (on one device, where one is named).

    Returns how many ops that were. Their handles raise `OpCancelledError`; what runs keeps its device busy until it
    ends. Raises what `engine.device` raises for a name, and `UnknownDeviceError`.

    >>> with engine.testing.hold():
    ...     h = ops.add(1, 2)
    ...     engine.cancel_pending()
    1
    """
    core, where = _target(device)
    return core.cancel_pending("engine.cancel_pending() was called", where)


async def drain() -> None:
    """Wait until what is in flight is below the low-water mark, half of `Config.max_pending_ops` and bytes.

    As `StreamWriter.drain`: call it now and then in a loop that dispatches.

    >>> h = ops.zeros(())
    >>> for step in range(1_000):
    ...     h = h + 1
    ...     if step % 100 == 0:
    ...         await engine.drain()
    >>> await h
    np.float64(1000.0)
    """
    core = current_core()
    while (cell := core.flow.over_low_mark()) is not None:
        await Settled(cell)
    await Turn(core)


async def gather(*handles: Handle, progress: Progress = None) -> list[Array]:
    """The values of the handles, in the order given; the first failure in time is raised, the other ops go on.

    `progress` shows how many have ended: True, a label, or a tqdm class. Raises `TypeError` for an argument that is no
    handle; a list of handles is given as `*handles`.

    >>> await engine.gather(ops.add(1, 2), ops.sqrt(9.0))
    [np.int64(3), np.float64(3.0)]
    """
    async for handle in as_completed(handles, progress=progress):
        if handle._cell.value.__class__ is Failure:
            await handle
    return [await handle for handle in handles]


def _no_handle(index: int, argument: object) -> TypeError:
    """The error for an argument that is no handle; several at once are to be given one by one."""
    several = isinstance(argument, list | tuple | set | dict | Iterator)
    hint = ": give its handles one by one, as in `engine.gather(*handles)`" if several else ""
    return TypeError(f"argument {index} must be a handle, but got {type(argument).__name__}{hint}")


async def as_completed(handles: Iterable[Handle], *, progress: Progress = None) -> AsyncIterator[Handle]:
    """The handles, each when its op has ended; reading one that failed raises its error.

    `progress` shows how many have ended: True, a label, or a tqdm class. Raises `TypeError` for what is no handle.

    >>> async for handle in engine.as_completed([ops.add(1, 2), ops.add(3, 4)]):
    ...     assert await handle in (3, 7)
    """
    handles = tuple(handles)
    for index, handle in enumerate(handles):
        if not isinstance(handle, Handle):
            raise _no_handle(index, handle)
    waiting: dict[Cell, list[Handle]] = {}
    for handle in handles:
        waiting.setdefault(handle._cell, []).append(handle)
    shown = bar(progress, "ops", len(handles))
    completions = Completions(waiting)
    try:
        while waiting:
            cell = await completions.next()
            ready = waiting.pop(cell)
            for handle in ready:
                shown.ended(cell)
                yield handle
    finally:
        completions.close()
        shown.close()


class Completions:
    """Tells the cells of a set as they are settled."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._settled: deque[Cell] = deque()
        self._left: dict[Cell, None] = dict.fromkeys(cells)
        self._waiter: Waiter | None = None
        self._demands: list[tuple[DeviceQueue, Demand | None]] | None = None
        for cell in list(self._left):
            if not add_waiter(cell, self._note):
                self._settled.append(cell)

    def _note(self, cell: Cell) -> None:
        self._settled.append(cell)
        waiter = self._waiter
        if waiter is not None:
            waiter.wake()

    async def next(self) -> Cell:
        """The next cell that is settled."""
        while not self._settled:
            await self._more()
        cell = self._settled.popleft()
        self._left.pop(cell, None)
        return cell

    async def _more(self) -> None:
        self._waiter = waiter = Waiter(asyncio_loop())
        if self._demands is None:
            self._demands = demand_all(self._left)
        try:
            if not self._settled:
                await Woken(waiter, next(iter(self._left)))
        finally:
            self._waiter = None
            if hooks.deliver is not None:
                hooks.deliver()

    def close(self) -> None:
        """Wait for none of them any more."""
        for home, demand in self._demands or ():
            home.withdraw(demand)
        for cell in self._left:
            remove_waiter(cell, self._note)


def demand_all(cells: Iterable[Cell]) -> list[tuple[DeviceQueue, Demand | None]]:
    """A task of the running loop waits for all these cells: demand them of their queues, and drive those a little."""
    by_home: dict[DeviceQueue, list[Cell]] = {}
    for cell in cells:
        home = cell.home
        if isinstance(home, DeviceQueue):
            if cell.value is PENDING:
                by_home.setdefault(home, []).append(cell)
        else:
            home.poll(cell)  # what cannot be waited for says so
    return [(home, home.polling.begin(those)) for home, those in by_home.items()]


class Woken:
    """Awaits a waiter; `cell` is one of those that it is for."""

    __slots__ = ("_cell", "_waiter")

    def __init__(self, waiter: Waiter, cell: Cell) -> None:
        self._waiter = waiter
        self._cell = cell

    def __await__(self) -> Generator[object, None, None]:
        home = self._cell.home
        assert isinstance(home, DeviceQueue)
        limit = home.owner.timeout
        if not (yield from self._waiter.wait(limit)):
            assert limit is not None
            raise TimeoutError(timed_out(self._cell, limit))


def _target(device: str | Device | None) -> tuple[Core, Device | None]:
    if scope_var.get().kernel is not None:
        raise BlockingSyncError("a kernel cannot wait for everything that was dispatched: that includes itself")
    core = current_core()
    given: object = device
    if isinstance(given, Handle):
        raise TypeError(
            "device must be a name such as 'CPU:0', an engine.Device or None, but got a handle: for the value of one "
            "handle write `await h`, or `h.result()` where a thread may wait; for several, `await engine.gather(...)`"
        )
    return core, None if device is None else core.resolve(Device(device))


class Turn:
    """Awaits nothing, but lets the rest of the program run when this turn of the loop has lasted long enough."""

    __slots__ = ("_core",)

    def __init__(self, core: Core) -> None:
        self._core = core

    def __await__(self) -> Generator[None, None, None]:
        if any(queue.driver.turn_is_over() for queue in self._core.queues.values()):
            yield
