"""`engine.scope()`: a task group for ops, carried by an anyio task group and its cancel scope."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextvars import Token
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import anyio

from engine.ambient import Scope as Ambient, scope_var
from engine.context import leave
from engine.loops import AbstractEventLoop, asyncio_loop, call_soon, kept_turning, running_loop
from engine.queues.base import Queue
from engine.queues.device_queue import DeviceQueue
from engine.queues.waiting import timed_out
from handles.base import check_seconds
from handles.cell import PENDING, Cell, Failure


def scope(timeout: float | None = None) -> OpScope:
    """A task group for ops: `async with engine.scope(timeout=seconds) as scope: ...`.

    Leaving it waits for all ops dispatched inside. The first failure, an exception in the body, the timeout or a
    cancelled task drops what has not started and abandons what runs. Failures, of ops and of the body, come out as an
    `ExceptionGroup`, the timeout as `TimeoutError`; `scope.cancel()` ends it in silence.
    """
    check_seconds("timeout", timeout)
    return OpScope(timeout)


class OpScope:
    """What `engine.scope()` gives; use it with `async with`, once."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._open = False
        self._cancelled = False
        self._overdue = ""
        self._in_flight = 0
        self._records: list[weakref.ref[Cell]] = []
        self._failures: dict[Failure, None] = {}
        self._parent: Any = None
        self._ambient: Ambient | None = None
        self._token: tuple[Token[Ambient], Ambient] | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._loop: AbstractEventLoop | None = None
        self._idle: anyio.Event | None = None

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
            if self._loop is running_loop():
                self._leave_body()
            else:
                call_soon(self._loop, self._leave_body)

    def _leave_body(self) -> None:
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

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
            self._leave_body()
        if self._idle is not None and self._in_flight == 0:
            self._idle.set()

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
        if self._tasks is not None:
            raise RuntimeError("a scope is entered once")
        self._loop = asyncio_loop()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        if self._cancelled:
            self._leave_body()
        if self._timeout is not None:
            self._tasks.cancel_scope.deadline = anyio.current_time() + self._timeout
        before = scope_var.get()
        self._parent = before.group
        self._ambient = replace(before, group=self)
        self._token = scope_var.set(self._ambient), before
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert self._tasks is not None
        assert self._token is not None
        leave(*self._token)
        try:
            if error is None and self._in_flight:
                await self._wait_idle()
        except BaseException as interruption:  # noqa: BLE001 - handed to the task group
            kind, error, trace = type(interruption), interruption, interruption.__traceback__
        finally:
            self._open = False
        if error is not None:
            self._drop("its scope was left")
        caught = await self._leave_tasks(kind, error, trace)
        self._raise(caught, expired=error is not None and not caught and not self._failures and not self._cancelled)
        return True

    async def _wait_idle(self) -> None:
        self._idle = anyio.Event()
        homes = self._homes()
        limit = min((home.owner.timeout for home in homes if home.owner.timeout), default=math.inf)
        for home in homes:
            home.hurry(self, True)
        try:
            with kept_turning(asyncio_loop()), anyio.move_on_after(limit) as waiting:
                if self._in_flight:
                    await self._idle.wait()
        finally:
            for home in homes:
                home.hurry(self, False)
        if waiting.cancelled_caught:
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

    def _homes(self) -> set[Queue]:
        return {cell.home for cell in self._pending() if isinstance(cell.home, Queue)}

    async def _leave_tasks(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> list[BaseException]:
        """What the body raised; a cancellation from outside passes through."""
        assert self._tasks is not None
        try:
            await self._tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            return list(group.exceptions)
        return []

    def _raise(self, caught: list[BaseException], *, expired: bool) -> None:
        errors = list(caught)
        raised = {id(error) for error in _leaves(caught)}
        for failure in self._failures:
            failure.seen = True
            if id(failure.error) not in raised:
                errors.append(failure.restored())
        if errors:
            raise BaseExceptionGroup("ops of a scope failed", errors)
        if self._overdue:
            raise TimeoutError(self._overdue)
        if expired:
            raise TimeoutError(
                f"the ops of a scope were not done after {self._timeout:g} s; those not started were dropped"
            )


def _leaves(errors: Iterable[BaseException]) -> Iterator[BaseException]:
    """The errors that are not groups, at any depth."""
    for error in errors:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error.exceptions)
        else:
            yield error
