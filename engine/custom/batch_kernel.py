"""The kernel of the ops that run batches: stacks calls, calls the function, and gives each call its part.

A batch that fails is run again call by call, as the error does not say which of them is to blame. Results are given on
the thread that runs the op; the callers are told on their loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter, thread_time
from typing import Any

from engine.base.errors import OpCancelledError
from engine.base.loops import AbstractEventLoop, Waiter, call_soon
from engine.base.op import Op
from engine.custom.batches import Call, Counts, Pace, parts, stacked
from engine.custom.tickets import Ticket, Tickets
from engine.failures import failed
from engine.settings.scope import scope_var
from handles.base import Handle
from handles.cell import Failure, Home, pending_cell

SPAN = 0.005
"""Seconds after which an op that works off batches leaves the next one to another op."""


class BatchKernel:
    """Runs the batches of one function."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        coroutine: bool,
        axis: int,
        tickets: Tickets,
        pace: Pace,
        counts: Counts,
    ) -> None:
        self._function = function
        self._axis = axis
        self._tickets = tickets
        self._pace = pace
        self._counts = counts
        self.row = Op(name, self._run_async if coroutine else self._run, ns=None, view=True, coroutine=coroutine)

    def _run(self, ticket: Ticket) -> bool:
        """Run batches, one at least and no new one after a while. The kernel of a sync function."""
        ends = perf_counter() + SPAN
        while self._begin(ticket):
            calls = ticket.calls
            began, used = perf_counter(), thread_time()
            try:
                results = self._call(calls)
            except Exception as error:  # noqa: BLE001 - handed to the callers
                self._retry(calls, error)
            else:
                self.deliver(calls, results)
            now = perf_counter()
            self._pace.note(now - began, thread_time() - used)
            if now >= ends:
                break
        return True

    async def _run_async(self, ticket: Ticket) -> bool:
        """Run one batch. The kernel of an async function."""
        if self._begin(ticket):
            calls = ticket.calls
            try:
                results = await self._call_async(calls)
            except Exception as error:  # noqa: BLE001 - handed to the callers
                if len(calls) == 1 or isinstance(error, BatchResultError):
                    self.fail(calls, error, _kernel_home())
                else:
                    await self._retry_async(calls)
            else:
                self.deliver(calls, results)
        return True

    def _begin(self, ticket: Ticket) -> bool:
        """Settle which calls the next batch of a ticket has; False where none waits."""
        now = perf_counter()
        calls = self._tickets.begin(ticket)
        if calls:
            self._counts.begun(calls, now)
        return bool(calls)

    def _call(self, calls: Sequence[Call]) -> list[object]:
        args, options = stacked(calls, self._axis)
        result = self._function(*args, **options)
        return self._parts(result.result() if isinstance(result, Handle) else result, len(calls))

    async def _call_async(self, calls: Sequence[Call]) -> list[Any]:
        args, options = stacked(calls, self._axis)
        result = await self._function(*args, **options)
        return self._parts(await result if isinstance(result, Handle) else result, len(calls))

    def _parts(self, result: object, count: int) -> list[object]:
        try:
            return parts(result, count, self._axis)
        except ValueError as error:
            raise BatchResultError(f"{self.row.name!r} cannot be batched: {error}") from None

    def _retry(self, calls: Sequence[Call], error: Exception) -> None:
        if len(calls) == 1 or isinstance(error, BatchResultError):
            self.fail(calls, error, _kernel_home())
            return
        for call in self._to_retry(calls):
            try:
                results = self._call([call])
            except Exception as error:  # noqa: BLE001 - handed to the caller
                self.fail([call], error, _kernel_home())
            else:
                self.deliver([call], results)

    async def _retry_async(self, calls: Sequence[Call]) -> None:
        for call in self._to_retry(calls):
            try:
                results = await self._call_async([call])
            except Exception as error:  # noqa: BLE001 - handed to the caller
                self.fail([call], error, _kernel_home())
            else:
                self.deliver([call], results)

    def _to_retry(self, calls: Sequence[Call]) -> Iterable[Call]:
        """The calls of a batch that failed, one by one: which of them is to blame cannot be told from the error."""
        self._counts.retried()
        return (call for call in calls if not call.done)

    # Results

    def deliver(self, calls: Sequence[Call], results: Sequence[object]) -> None:
        """Give each call its result."""
        for call, value in zip(calls, results, strict=True):
            call.value = value
        self._end(calls, self._counts.done)

    def fail(self, calls: Sequence[Call], error: BaseException, home: Home | None) -> None:
        """Give each call the error, with a note of where it was called; copies, as each is raised in its own task."""
        for call in calls:
            if home is None:
                call.failure = Failure(error)
            else:
                place = pending_cell(self.row, (), None, home, *call.place)
                call.failure = failed(place, error)
                error = call.failure.error
        self._end(calls, self._counts.cancelled if isinstance(error, OpCancelledError) else self._counts.failed)

    def _end(self, calls: Sequence[Call], count: Callable[[int], None]) -> None:
        """The calls have what they wait for: count those whose callers are still there, and wake them."""
        ended = self._tickets.done(calls)
        count(len(ended))
        _wake(ended)


class BatchResultError(ValueError):
    """A result that has not one part for each call, which to retry would not mend."""


def _kernel_home() -> Home | None:
    """The queue of the op whose kernel this code is."""
    kernel = scope_var.get().kernel
    return None if kernel is None else kernel.home


def _wake(calls: Sequence[Call]) -> None:
    """Wake those who wait for the calls: one message for each loop."""
    by_loop: dict[AbstractEventLoop, list[Waiter]] = {}
    for call in calls:
        if call.loop is not None and call.waiter is not None:
            by_loop.setdefault(call.loop, []).append(call.waiter)
    for loop, waiters in by_loop.items():
        call_soon(loop, _wake_each, waiters)


def _wake_each(waiters: Sequence[Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()
