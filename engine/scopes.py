"""`engine.scope()`: a task group for ops.

Purpose: wait for all ops dispatched inside a block, drop what is left of them when one fails, and say what failed.

Invariants: each op is counted once, in the innermost scope that is open when it is dispatched, and until its record
has ended. The body is interrupted at most once, and never after it has ended. Nothing is kept alive by being counted.

Ops are dispatched, and end, on any thread: `_Members` counts them under its lock. What follows from that (the first
failure, the last op) happens on the thread of the loop that the scope was entered on, between two steps of the task.
All other attributes of `OpScope` are touched on that thread only; `cancel()` may be called on any. The body is
interrupted as asyncio's own groups do it, which works inside anyio's too.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Self

from engine.base.errors import OpCancelledError
from engine.base.loops import AbstractEventLoop, CancelledError, TimerHandle, Waiter, asyncio_loop, call_soon
from engine.observe.progress import NO_BAR, Bar, NoBar, Progress, bar, check
from engine.queues.dropping import Droppable, drop_by_callbacks, drop_in_turns
from engine.queues.hooks import hooks, numbers
from engine.queues.leftovers import counted
from engine.queues.waiting import state_of, timed_out
from engine.runtime.current import queueing_core
from engine.runtime.interruption import Interruption
from engine.settings.scope import Block, scope_var
from engine.sync import demand_all
from handles.base import check_seconds
from handles.cell import Cell, Failure

_AS_IT_IS = (CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
"""Errors that leave a block without a group around them: they are for the code that runs the task, or the program."""


class _Inherited(int):
    """The class of the priority that stands for that of the scope around, 0 outside all."""


_INHERITED = _Inherited(0)


def scope(
    timeout: float | None = None, *, priority: int = _INHERITED, wait: bool = True, progress: Progress = None
) -> OpScope:
    """A task group for ops: `async with engine.scope(timeout=seconds) as scope: ...`.

    Leaving it waits for all ops dispatched inside. The first failure, an exception in the body, the timeout or a
    cancelled task drops what has not started and abandons what runs. Failures, of ops and of the body, come out as an
    `ExceptionGroup`, the timeout as `TimeoutError`; `scope.cancel()` ends it in silence.

    Entering it waits for room while the executor in force is above its high-water marks, in order of priority, then
    of arrival; with `wait=False` it raises `QueueFullError` instead. The timeout counts from when it is entered, the
    wait included. `priority` is an integer, larger goes first; a scope inside another one has that one's unless it is
    given. `progress` shows how many of its ops have ended: True, a label, or a tqdm class.

    Raises `ValueError` for a timeout that is negative or not a number, and `TypeError` for arguments of another type.

    >>> async with engine.scope(timeout=10.0):
    ...     parts = [ops.sum(ops.full(100, number)) for number in range(3)]
    >>> [part.is_ready() for part in parts]
    [True, True, True]
    """
    check_seconds("timeout", timeout)
    if isinstance(priority, bool) or not hasattr(priority, "__index__"):
        raise TypeError(f"priority must be an integer (a larger one goes first), but got {priority!r}")
    if not isinstance(wait, bool):
        raise TypeError(f"wait must be True (wait for room) or False (raise QueueFullError), but got {wait!r}")
    check(progress)
    return OpScope(timeout, None if priority is _INHERITED else operator.index(priority), wait, progress)


class _Members:
    """The ops of one scope: how many are in flight, which, and what failed. Guarded by its lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.records = Droppable(self._lock)
        self.in_flight = 0
        self.failures: dict[Failure, None] = {}

    def add(self, cell: Cell) -> None:
        """Count an op that is being dispatched."""
        with self._lock:
            self.in_flight += 1
            self.records.add(cell, self.in_flight)

    def note(self, cell: Cell) -> bool:
        """Count an op that has ended; returns if it is the first that failed."""
        value = cell.value
        with self._lock:
            if cell.group is None:
                return False
            cell.group = None
            self.in_flight -= 1
            if value.__class__ is not Failure or value.cancelled:
                return False
            first = not self.failures
            self.failures[value] = None
            return first


class _Deadline:
    """Calls back on the loop when so many seconds have passed; never where they are None or infinite."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.passed = False
        self._timer: TimerHandle | None = None

    def start(self, loop: AbstractEventLoop, passed: Callable[[], None]) -> None:
        def expire() -> None:
            self.passed = True
            passed()

        if self.seconds is not None and math.isfinite(self.seconds):
            self._timer = loop.call_later(self.seconds, expire)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Entry(NamedTuple):
    """The arguments of `engine.scope()` that say how it is entered."""

    priority: int | None
    """None for that of the scope around it."""
    wait: bool
    progress: Progress


class OpScope:
    """Returned by `engine.scope()`; use it with `async with`, once."""

    def __init__(self, timeout: float | None, priority: int | None, wait: bool, progress: Progress = None) -> None:
        self.number = next(numbers)
        self._deadline = _Deadline(timeout)
        self._overdue = ""
        """The first op that had not ended when the time was up, and its state."""
        self._entry = _Entry(priority, wait, progress)
        self._members = _Members()
        self._open = False
        self._cancelled = False
        self._stopped = False
        """True once the body, or the wait for the ops at its end, was told to end."""
        self._parent: OpScope | None = None
        self._block: Block | None = None
        self._interruption: Interruption | None = None
        self._loop: AbstractEventLoop | None = None
        self._idle: Waiter | None = None
        self._bar: Bar | NoBar = NO_BAR

    @property
    def cancelled(self) -> bool:
        """True after `cancel()` was called."""
        return self._cancelled

    @property
    def in_flight(self) -> int:
        """Ops dispatched inside that have not ended."""
        return self._members.in_flight

    def __repr__(self) -> str:
        state = "not entered yet" if self._loop is None else "open" if self._open else "left"
        return f"<OpScope {state}, {counted(self.in_flight)} in flight>"

    def cancel(self) -> None:
        """Drop the ops that have not started, abandon those that run, and leave the block. Callable on any thread."""
        self._cancelled = True
        self._drop("its scope was cancelled")
        if self._loop is not None:
            call_soon(self._loop, self._stop)

    def _drop(self, why: str) -> None:
        """Drop the ops: all of them now on another thread, some now and others when the loop has turned on its own."""
        if self._loop is not None:
            drop_by_callbacks(self._members.records, why, self._loop)

    def _expire(self) -> None:
        """The time is up: see what was not done, before it is dropped, and have the block end."""
        self._overdue = next(map(state_of, self._members.records.pending()), "")
        self._stop()

    def _stop(self) -> None:
        """Have the body end, or the wait for its ops. The loop calls this, between two steps of the task."""
        self._stopped = True
        if self._interruption is not None:
            self._interruption.send()
        if self._idle is not None:
            self._idle.wake()

    # Called by dispatchers

    def innermost_open(self) -> OpScope | None:
        """The scope that ops dispatched here are counted in: this one, or the nearest around it that is not left."""
        scope: OpScope | None = self
        while scope is not None and not scope._open:
            scope = scope._parent
        return scope

    def admit(self, cell: Cell) -> None:
        """Count an op that is being dispatched inside; after the end, inside the scope around this one."""
        scope = self if self._open else self.innermost_open()
        if scope is None:
            return
        scope._members.add(cell)
        cell.group = scope
        if scope._bar is not NO_BAR:
            scope._bar.added()
        if hooks.listeners:
            hooks.tell("admitted", cell, scope)

    def note(self, cell: Cell) -> None:
        """An op has ended, on any thread: what follows from it is left to the loop."""
        first = self._members.note(cell)
        if self._bar is not NO_BAR:
            self._bar.ended(cell)
        # The task that waits for the last op says so in `_idle` before it looks how many are left.
        if (first or (self._idle is not None and not self._members.in_flight)) and self._loop is not None:
            call_soon(self._loop, self._react, first)

    def _react(self, failed: bool) -> None:
        if failed and self._open:
            self._drop("another op of its scope failed")
            self._stop()
        if self._idle is not None and self._members.in_flight == 0:
            self._idle.wake()

    # The block

    if not TYPE_CHECKING:  # a type checker says so itself, as it finds no `__enter__`

        def __enter__(self) -> NoReturn:
            raise TypeError(
                "engine.scope() waits for its ops at the end, which only a coroutine can: write `async with "
                "engine.scope(...):`; in plain code dispatch the ops, then call engine.wait()"
            )

        def __exit__(self, *error: object) -> None: ...

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("a scope is entered once")
        self._loop = asyncio_loop()
        self._deadline.start(self._loop, self._expire)
        try:
            await self._wait_for_room()
            self._bar = bar(self._entry.progress, "scope")
            self._interruption = Interruption()
        except BaseException:
            self._deadline.stop()
            raise
        before = scope_var.get()
        self._parent = None if before.group is None else before.group.innermost_open()
        self._block = Block(group=self, **({} if self._entry.priority is None else {"priority": self._entry.priority}))
        self._open = True
        if hooks.listeners:
            hooks.tell("entered", self)
        if self._cancelled or self._deadline.passed:
            call_soon(self._loop, self._stop)
        return self

    async def _wait_for_room(self) -> None:
        """Wait until the executor in force takes the ops of another scope, unless this one ends before."""
        core = queueing_core()
        if core is None or self._cancelled:
            return
        priority = scope_var.get().priority if self._entry.priority is None else self._entry.priority
        self._interruption = Interruption()
        try:
            await core.admit(priority, self._entry.wait)
        except BaseException as error:
            if not await self._interruption.take_back(error):
                raise
            if not self._cancelled:
                raise TimeoutError(
                    f"a scope was not entered after {self._deadline.seconds:g} s: its executor is full"
                ) from None
        else:
            await self._interruption.take_back(None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:  # not `bool`: type checkers would take what the body assigns for possibly unbound
        assert self._block is not None
        assert self._interruption is not None
        self._block.leave()
        if self._interruption.is_left_behind(error):
            # The consumer's ops are counted here too, so nothing is dropped; what fails is reported by the executor.
            self._open = False
            self._end()
            self._tell_left(error)
            await self._interruption.take_back(error)
            return False
        overdue = ""
        try:
            if await self._interruption.take_back(error, dropped=self._stopped or bool(self._members.failures)):
                error = None
            elif error is None and self._members.in_flight:
                overdue = await self._wait_idle()
        except BaseException as interruption:  # noqa: BLE001 - raised below
            error = interruption
        finally:
            self._open = False
            self._end()
        if error is not None or self._stopped:
            error = await self._drop_the_rest(error)
        outcome = error if isinstance(error, _AS_IT_IS) else self._outcome(error, overdue)
        self._tell_left(outcome)
        if outcome is not None:
            raise outcome
        return True

    async def _drop_the_rest(self, error: BaseException | None) -> BaseException | None:
        """Drop what is left where the scope ends before its ops: the error of the block, or what interrupts this."""
        assert self._loop is not None
        why = "its scope was left"
        try:
            if isinstance(error, GeneratorExit):
                self._drop(why)  # the loop closes the task, which cannot wait
            else:
                await drop_in_turns(self._members.records, why, self._loop)
        except BaseException as interruption:  # noqa: BLE001 - raised by the caller
            return interruption
        return error

    def _end(self) -> None:
        """Leave nothing on the loop or on the screen."""
        self._bar.close()
        self._deadline.stop()

    def _tell_left(self, outcome: BaseException | None) -> None:
        if hooks.listeners:
            hooks.tell("left", self, outcome)

    async def _wait_idle(self) -> str:
        """Wait until all ops have ended, or the scope has; returns what to say if that took too long."""
        members = self._members
        loop = asyncio_loop()
        self._idle = waiter = Waiter(loop)
        demands = demand_all(members.records.pending())
        limit = min((home.owner.timeout for home, _ in demands if home.owner.timeout), default=None)
        try:
            ended = self._stopped or not members.in_flight or await waiter.woken(limit)
        finally:
            for home, demand in demands:
                home.withdraw(demand)
        if ended:
            return ""
        assert limit is not None
        overdue = next((timed_out(cell, limit) for cell in members.records.pending()), "")
        await drop_in_turns(members.records, "its scope waited longer than Config.operation_timeout_in_ms", loop)
        return overdue

    def _outcome(self, error: BaseException | None, overdue: str) -> BaseException | None:
        """Make the error to raise: what the body raised and what failed, together, or that the time was up."""
        if self._stopped and error is not None:
            error = _without_cancelled_ops(error)
        errors = [] if error is None else [error]
        raised = {id(error) for error in _leaves(errors)}
        for failure in self._members.failures:
            failure.seen = True
            if id(failure.error) not in raised:
                errors.append(failure.restored())
        if errors:
            return BaseExceptionGroup("ops of a scope failed", errors)
        if overdue:
            return TimeoutError(overdue)
        if self._deadline.passed and not self._cancelled:
            limit = f"after {self._deadline.seconds:g} s"
            if not self._overdue:
                return TimeoutError(f"the block of a scope had not ended {limit}")
            return TimeoutError(
                f"the ops of a scope were not done {limit}: {self._overdue}; those not started were dropped"
            )
        return None


def _without_cancelled_ops(error: BaseException) -> BaseException | None:
    """Leave out of an error of the body what came of the ops that the scope dropped when it ended."""
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
