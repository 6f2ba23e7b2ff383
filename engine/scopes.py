"""`engine.scope()`: a task group for ops.

Ops are counted as they are dispatched, on any thread; what follows from their end happens on the thread of the loop
that the scope was entered on. The body is interrupted as asyncio's own groups do it, which works inside anyio's too.
"""

from __future__ import annotations

import math
import operator
import threading
import weakref
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from engine.base.errors import OpCancelledError
from engine.base.loops import AbstractEventLoop, CancelledError, TimerHandle, Waiter, asyncio_loop, call_soon
from engine.queues.device_queue import DeviceQueue
from engine.queues.waiting import timed_out
from engine.runtime.current import queueing_core
from engine.runtime.interruption import Interruption
from engine.settings.scope import Block, scope_var
from engine.sync import demand_all
from handles.base import check_seconds
from handles.cell import PENDING, Cell, Failure

_AS_IT_IS = (CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
"""What leaves a block without a group around it: it is for those who run the task, or the program."""


class _Inherited(int):
    """The priority of a scope that names none: that of the scope around it, 0 outside all."""


_INHERITED = _Inherited(0)


def scope(timeout: float | None = None, *, priority: int = _INHERITED, wait: bool = True) -> OpScope:
    """A task group for ops: `async with engine.scope(timeout=seconds) as scope: ...`.

    Leaving it waits for all ops dispatched inside. The first failure, an exception in the body, the timeout or a
    cancelled task drops what has not started and abandons what runs. Failures, of ops and of the body, come out as an
    `ExceptionGroup`, the timeout as `TimeoutError`; `scope.cancel()` ends it in silence.

    Entering it waits for room while the executor in force is above its high-water marks, in order of priority, then
    of arrival; with `wait=False` it raises `QueueFullError` instead. The timeout counts from when it is entered, the
    wait included. `priority` is an integer, larger goes first; a scope inside another one has that one's unless it is
    given.

    Raises `ValueError` for a timeout that is negative or not a number, and `TypeError` for arguments of another type.
    """
    check_seconds("timeout", timeout)
    if isinstance(priority, bool) or not hasattr(priority, "__index__"):
        raise TypeError(f"priority must be an integer (a larger one goes first), but got {priority!r}")
    if not isinstance(wait, bool):
        raise TypeError(f"wait must be True (wait for room) or False (raise QueueFullError), but got {wait!r}")
    return OpScope(timeout, None if priority is _INHERITED else operator.index(priority), wait)


class OpScope:
    """What `engine.scope()` gives; use it with `async with`, once."""

    def __init__(self, timeout: float | None, priority: int | None, wait: bool) -> None:
        self._timeout = timeout
        self._priority = priority
        self._wait = wait
        self._lock = threading.Lock()
        self._open = False
        self._cancelled = False
        self._expired = False
        self._stopped = False
        """Whether the body, or the wait for the ops at its end, was told to end."""
        self._overdue = ""
        self._in_flight = 0
        self._records: list[weakref.ref[Cell]] = []
        self._failures: dict[Failure, None] = {}
        self._parent: OpScope | None = None
        self._block: Block | None = None
        self._interruption: Interruption | None = None
        self._timer: TimerHandle | None = None
        self._loop: AbstractEventLoop | None = None
        self._idle: Waiter | None = None

    @property
    def cancelled(self) -> bool:
        """Whether `cancel()` was called."""
        return self._cancelled

    @property
    def in_flight(self) -> int:
        """Ops dispatched inside that have not ended."""
        return self._in_flight

    def cancel(self) -> None:
        """Drop the ops that have not started, abandon those that run, and leave the block."""
        self._cancelled = True
        self._drop("its scope was cancelled")
        if self._loop is not None:
            call_soon(self._loop, self._stop)

    def _stop(self) -> None:
        """Have the body end, or the wait for its ops. The loop calls this, between two steps of the task."""
        self._stopped = True
        if self._interruption is not None:
            self._interruption.send()
        if self._idle is not None:
            self._idle.wake()

    def _expire(self) -> None:
        self._expired = True
        self._stop()

    # What dispatchers call

    def innermost_open(self) -> OpScope | None:
        """The scope that ops dispatched here are counted in: this one, or the nearest around it that is not left."""
        scope: OpScope | None = self
        while scope is not None and not scope._open:
            scope = scope._parent
        return scope

    def admit(self, cell: Cell) -> None:
        """Count an op that is being dispatched inside; after the end, inside the scope around this one."""
        if not self._open:
            around = self.innermost_open()
            if around is not None:
                around.admit(cell)
            return
        with self._lock:
            self._in_flight += 1
            if len(self._records) > 2 * self._in_flight + 64:
                self._records = [record for record in self._records if record() is not None]
            self._records.append(weakref.ref(cell))
        cell.waiters = [*(cell.waiters or ()), self._note]

    def _note(self, cell: Cell) -> None:
        """An op has ended, on any thread: what follows from it is left to the loop."""
        failure = cell.value if cell.value.__class__ is Failure and not cell.value.cancelled else None
        with self._lock:
            self._in_flight -= 1
            idle = self._in_flight == 0
            first = failure is not None and not self._failures
            if failure is not None:
                self._failures[failure] = None
        if (first or idle) and self._loop is not None:
            call_soon(self._loop, self._react, first)

    def _react(self, failed: bool) -> None:
        if failed and self._open:
            self._drop("another op of its scope failed")
            self._stop()
        if self._idle is not None and self._in_flight == 0:
            self._idle.wake()

    def _drop(self, why: str) -> None:
        with self._lock:
            records, self._records = self._records, []
        for reference in records:
            cell = reference()
            if cell is not None and cell.value is PENDING:
                home = cell.home
                assert isinstance(home, DeviceQueue)
                home.cancel(cell, why)

    # The block

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("a scope is entered once")
        self._loop = asyncio_loop()
        if self._timeout is not None and math.isfinite(self._timeout):
            self._timer = self._loop.call_later(self._timeout, self._expire)
        try:
            await self._wait_for_room()
            self._interruption = Interruption()
        except BaseException:
            self._stop_timer()
            raise
        before = scope_var.get()
        self._parent = None if before.group is None else before.group.innermost_open()
        self._block = Block(group=self, **({} if self._priority is None else {"priority": self._priority}))
        self._open = True
        if self._cancelled or self._expired:
            call_soon(self._loop, self._stop)
        return self

    async def _wait_for_room(self) -> None:
        """Wait until the executor in force takes the ops of another scope, unless this one ends before."""
        core = queueing_core()
        if core is None or self._cancelled:
            return
        priority = scope_var.get().priority if self._priority is None else self._priority
        self._interruption = Interruption()
        try:
            await core.admit(priority, self._wait)
        except BaseException as error:
            if not await self._interruption.take_back(error):
                raise
            if not self._cancelled:
                raise TimeoutError(f"a scope was not entered after {self._timeout:g} s: its executor is full") from None
        else:
            await self._interruption.take_back(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:  # not `bool`: type checkers would take what the body assigns for possibly unbound
        assert self._block is not None
        assert self._interruption is not None
        self._block.leave()
        if self._interruption.is_left_behind(error):
            # The consumer's ops are counted here too, so nothing is dropped; what fails is reported by the executor.
            self._open = False
            self._stop_timer()
            await self._interruption.take_back(error)
            return False
        try:
            if await self._interruption.take_back(error, dropped=self._stopped or bool(self._failures)):
                error = None
            elif error is None and self._in_flight:
                await self._wait_idle()
        except BaseException as interruption:  # noqa: BLE001 - raised below
            error = interruption
        finally:
            self._open = False
            self._stop_timer()
        if error is not None or self._stopped:
            self._drop("its scope was left")
        if isinstance(error, _AS_IT_IS):
            raise error
        self._raise(error)
        return True

    async def _wait_idle(self) -> None:
        self._idle = waiter = Waiter(asyncio_loop())
        demands = demand_all(self._pending())
        limit = min((home.owner.timeout for home, _ in demands if home.owner.timeout), default=None)
        try:
            ended = self._stopped or not self._in_flight or await waiter.woken(limit)
        finally:
            for home, demand in demands:
                home.withdraw(demand)
        if not ended:
            assert limit is not None
            self._overdue = next((timed_out(cell, limit) for cell in self._pending()), "")
            self._drop("its scope waited longer than Config.operation_timeout_in_ms")

    def _pending(self) -> Iterator[Cell]:
        """The ops that have not ended; nothing is kept alive by asking."""
        with self._lock:
            records = list(self._records)
        for record in records:
            cell = record()
            if cell is not None and cell.value is PENDING:
                yield cell

    def _raise(self, error: BaseException | None) -> None:
        """Raise what the body raised and what failed, together, or that the time was up."""
        if self._stopped and error is not None:
            error = _without_cancelled_ops(error)
        errors = [] if error is None else [error]
        raised = {id(error) for error in _leaves(errors)}
        for failure in self._failures:
            failure.seen = True
            if id(failure.error) not in raised:
                errors.append(failure.restored())
        if errors:
            raise BaseExceptionGroup("ops of a scope failed", errors)
        if self._overdue:
            raise TimeoutError(self._overdue)
        if self._expired and not self._cancelled:
            raise TimeoutError(
                f"the ops of a scope were not done after {self._timeout:g} s; those not started were dropped"
            )


def _without_cancelled_ops(error: BaseException) -> BaseException | None:
    """What is left of an error of the body where the scope has ended: not what came of the ops that it dropped."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(OpCancelledError)[1]
    return None if isinstance(error, OpCancelledError) else error


def _leaves(errors: Iterable[BaseException]) -> Iterator[BaseException]:
    """The errors that are not groups, at any depth."""
    for error in errors:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error.exceptions)
        else:
            yield error
