"""The batcher: makes batches of the calls of one function on one executor, and runs them as ops.

Purpose: a call of an idle function starts a batch at once, at the end of the loop's turn. While batches run, calls
wait; the next batch takes those that wait when it begins, not when it is dispatched. A batch is an op like any other
user function: it runs on a worker (an `async def` on the loop), it is demanded with the priority of the first call, and
ends with its executor.

Guarantees: a call is in one batch at most, or it has left; each call that has not left gets a value or an error, also
where the executor closes. `_lock` guards the calls that wait, the tickets and the counts; it is never held while the
engine is called. A ticket ends on whichever thread its record ends on, where the queue's lock may be held: what
follows is left to another thread.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, thread_time
from types import FrameType
from typing import Any, cast

from engine.base.errors import OpCancelledError
from engine.base.loops import AbstractEventLoop, Waiter, asyncio_loop, call_soon, running_loop
from engine.base.op import Op
from engine.custom.batches import Call, Counts, Pace, Waiting, parts, stacked
from engine.dispatch.queueing import AsyncDispatcher
from engine.failures import failed, throw
from engine.queues.base import check_may_block
from engine.queues.demand import Demand
from engine.queues.device_queue import DeviceQueue
from engine.queues.waiting import block_until
from engine.settings.scope import scope_var
from engine.threads.blas import core_count
from engine.threads.offload import offload
from handles.base import Handle
from handles.cell import PENDING, Cell, Failure, Home, add_waiter, pending_cell

SPAN = 0.005
"""Seconds after which an op that works off batches leaves the next one to another op."""
LONGEST_GRACE = 1.0
"""Seconds after which a waiting call looks again, at least."""
POLL = 0.000_5


class Ticket:
    """One op that runs batches; which calls they have is settled when they begin."""

    __slots__ = ("alone", "calls", "cell", "demand")

    def __init__(self, alone: Call | None = None) -> None:
        self.alone = alone
        """The call that is to run by itself; None once it has begun, and for all other tickets."""
        self.calls: list[Call] = []
        """The calls of its batch."""
        self.cell: Callable[[], Cell | None] = lambda: None
        self.demand: Demand | None = None


class Batcher:
    """The calls of one function, or of a method of one instance, on one executor."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        coroutine: bool,
        size: int,
        wait: float,
        axis: int,
        counts: Counts,
    ) -> None:
        self._function = function
        self._size = size
        self._axis = axis
        self._counts = counts
        self._lock = threading.Lock()
        self._pace = Pace(wait)
        self._waiting = Waiting()
        self._coming: Ticket | None = None
        """The ticket that was dispatched and has not begun."""
        self._running: dict[Ticket, None] = {}
        self._row = Op(name, self._run_async if coroutine else self._run, ns=None, view=True, coroutine=coroutine)
        _all.add(self)
        counts.sums.watch(self)

    def waiting(self) -> int:
        """Calls that wait for a batch."""
        return len(self._waiting)

    # Calls

    def alone(self, call: Call) -> object:
        """Run a call by itself, now, on this thread: in SYNC mode, where no op waits for another."""
        self._counts.called()
        call.dispatcher.dispatch_slowly(self._row, (), {"ticket": Ticket(call)}, cast("FrameType", call.place))
        return self._outcome(call)

    async def run(self, call: Call) -> Any:
        """Have a call run in a batch, and wait for its result."""
        call.loop = loop = asyncio_loop()
        call.waiter = Waiter(loop)
        with self._entered(call) as patience:
            while not call.done:
                if not await call.waiter.woken(patience.seconds(call)):
                    call.waiter = Waiter(loop)
                    self._lose_patience(call, patience)
        return self._outcome(call)

    def block(self, call: Call) -> object:
        """The blocking twin of `run`."""
        check_may_block(None, f"{self._row.name}.call()", f"await {self._row.name}(...)")
        with self._entered(call) as patience:
            while not call.done:
                if not self._block_once(call, patience):
                    self._lose_patience(call, patience)
        return self._outcome(call)

    @contextmanager
    def _entered(self, call: Call) -> Iterator[Patience]:
        """A call waits inside the block; one that is left before its time leaves its batch."""
        core = call.dispatcher.core
        core.flow.expect(1)
        try:
            patience = Patience(self._pace.grace(), core.timeout)
            self._enter(call)
            yield patience
        finally:
            if not call.done:
                self._leave(call)
            core.flow.expect(-1)

    def _lose_patience(self, call: Call, patience: Patience) -> None:
        """A call has waited as long as it was told to."""
        if patience.is_over() and not call.done:
            state = "it waits for a batch" if call.ticket is None else "its batch runs"
            raise TimeoutError(f"a call of {self._row.name!r} was not ready after {patience.timeout:.3g} s: {state}")
        if call.ticket is None:
            self._hurry(call)
            patience.double()

    def _block_once(self, call: Call, patience: Patience) -> bool:
        """Block until a ticket has ended that the call waits for; False when that took too long."""
        own = call.ticket or self._coming
        ticket = own or next(iter(self._running.copy()), None)
        cell = None if ticket is None else ticket.cell()
        if cell is None or cell.value is not PENDING:
            time.sleep(POLL)  # the thread that ends it, or dispatches it, is about to say so
            return not patience.is_over()
        try:
            block_until(cell, patience.seconds(call))
        except TimeoutError:
            return call.done
        return True

    def _enter(self, call: Call) -> None:
        self._counts.called()
        with self._lock:
            together = self._waiting.add(call)
            busy = len(self._running)
            full = together >= self._size and busy < core_count()
            ticket = self._new_ticket() if not busy or full else None
        if ticket is None:
            return
        if call.loop is not None and not full:
            # Calls that come in the same turn of the loop, as those of requests that were read together, are in time.
            call.loop.call_soon(self._start, ticket, call)
        else:
            self._start(ticket, call)

    def _hurry(self, call: Call) -> None:
        """A call has waited long enough for the batches that run."""
        with self._lock:
            ticket = self._new_ticket() if call.ticket is None and not call.done else None
        if ticket is not None:
            self._start(ticket, call)

    def _leave(self, call: Call) -> None:
        """The caller waits no longer: a batch that has not begun goes without it."""
        with self._lock:
            left = not call.done
            call.done = True
            self._waiting.remove(call)
        self._counts.cancelled(left)

    def _outcome(self, call: Call) -> object:
        if call.failure is not None:
            throw(call.failure)
        return call.value

    # Tickets

    def _new_ticket(self) -> Ticket | None:
        """Under the lock: the next ticket, unless one is on its way."""
        if self._coming is not None or not self._waiting:
            return None
        self._coming = Ticket()
        return self._coming

    def _start(self, ticket: Ticket, head: Call) -> None:
        """Dispatch a ticket, in the context of a call."""
        try:
            head.context.copy().run(self._dispatch, ticket, head)
        except BaseException as error:
            with self._lock:
                if self._coming is ticket:
                    self._coming = None
                calls = self._waiting.drain()
            self._fail(calls, error, None)
            if not isinstance(error, Exception):
                raise

    def _dispatch(self, ticket: Ticket, head: Call) -> None:
        its = head.dispatcher
        dispatcher = AsyncDispatcher(its.core, its.policy, its.device, None)  # no scope: the calls are of several
        (handle,) = dispatcher.dispatch_slowly(self._row, (), {"ticket": ticket}, cast("FrameType", head.place))
        cell = handle._cell
        ticket.cell = weakref.ref(cell)

        def ended(cell: Cell) -> None:
            self._ended(ticket, cell)

        if not add_waiter(cell, ended):
            ended(cell)
            return
        home = cell.home
        assert isinstance(home, DeviceQueue)
        if home.driver.loop is not None and home.driver.loop is running_loop():
            ticket.demand = home.polling.begin([cell])
        else:
            ticket.demand = home.demand([cell], head.priority)
        if cell.value is not PENDING:
            self._withdraw(ticket, home)

    def _withdraw(self, ticket: Ticket, home: DeviceQueue) -> None:
        with self._lock:
            demand, ticket.demand = ticket.demand, None
        home.withdraw(demand)

    def _ended(self, ticket: Ticket, cell: Cell) -> None:
        """The record of a ticket has ended, on any thread: what was dropped with it gets its error."""
        home = cell.home
        if isinstance(home, DeviceQueue):
            self._withdraw(ticket, home)
        failure = cell.value if cell.value.__class__ is Failure else None
        with self._lock:
            self._running.pop(ticket, None)
            if self._coming is ticket:
                self._coming = None
            calls = [call for call in ticket.calls if not call.done]
            if failure is not None and failure.cancelled:  # its executor ends, or all that is pending was cancelled
                calls += self._waiting.drain()
            goes_on = bool(self._waiting) and self._coming is None
        if calls:
            error = OpCancelledError("its batch ended without it") if failure is None else failure.error
            self._fail(calls, error, home)
        if goes_on:
            offload.submit(self._go_on)

    def _go_on(self) -> None:
        with self._lock:
            ticket = self._new_ticket() if not self._running else None
            head = self._waiting.first()
        if ticket is not None and head is not None:
            self._start(ticket, head)

    # Kernels

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
                self._deliver(calls, results)
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
                if len(calls) == 1 or isinstance(error, _WrongResult):
                    self._fail(calls, error, _kernel_home())
                else:
                    await self._retry_async(calls)
            else:
                self._deliver(calls, results)
        return True

    def _begin(self, ticket: Ticket) -> bool:
        """Settle which calls the next batch of a ticket has; False where none waits."""
        now = perf_counter()
        with self._lock:
            if self._coming is ticket:
                self._coming = None
            if ticket.alone is not None:
                ticket.calls, ticket.alone = [ticket.alone], None
            else:
                ticket.calls = self._waiting.take(self._size)
                self._running[ticket] = None
            calls = ticket.calls
            for call in calls:
                call.ticket = ticket
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
            raise _WrongResult(f"{self._row.name!r} cannot be batched: {error}") from None

    def _retry(self, calls: Sequence[Call], error: Exception) -> None:
        if len(calls) == 1 or isinstance(error, _WrongResult):
            self._fail(calls, error, _kernel_home())
            return
        for call in self._to_retry(calls):
            try:
                results = self._call([call])
            except Exception as error:  # noqa: BLE001 - handed to the caller
                self._fail([call], error, _kernel_home())
            else:
                self._deliver([call], results)

    async def _retry_async(self, calls: Sequence[Call]) -> None:
        for call in self._to_retry(calls):
            try:
                results = await self._call_async([call])
            except Exception as error:  # noqa: BLE001 - handed to the caller
                self._fail([call], error, _kernel_home())
            else:
                self._deliver([call], results)

    def _to_retry(self, calls: Sequence[Call]) -> Iterable[Call]:
        """The calls of a batch that failed, one by one: which of them is to blame cannot be told from the error."""
        self._counts.retried()
        return (call for call in calls if not call.done)

    # Results

    def _deliver(self, calls: Sequence[Call], results: Sequence[object]) -> None:
        for call, value in zip(calls, results, strict=True):
            call.value = value
        self._end(calls, self._counts.done)

    def _fail(self, calls: Sequence[Call], error: BaseException, home: Home | None) -> None:
        """Give each call the error, with a note of where it was called; copies, as each is raised in its own task."""
        for call in calls:
            if home is None:
                call.failure = Failure(error)
            else:
                place = pending_cell(self._row, (), None, home, *call.place)
                call.failure = failed(place, error)
                error = call.failure.error
        self._end(calls, self._counts.cancelled if isinstance(error, OpCancelledError) else self._counts.failed)

    def _end(self, calls: Sequence[Call], count: Callable[[int], None]) -> None:
        """The calls have what they wait for: count those whose callers are still there, and wake them."""
        with self._lock:
            ended = [call for call in calls if not call.done]
            for call in ended:
                call.done = True
        count(len(ended))
        _wake(ended)

    def start_over(self) -> None:
        """In a forked child: the threads, and the callers, stayed behind."""
        self._lock = threading.Lock()
        self._counts.start_over()
        self._waiting.drain()
        self._coming = None
        self._running.clear()


class _WrongResult(ValueError):
    """A result that has not one part for each call, which to retry would not mend."""


_all: weakref.WeakSet[Batcher] = weakref.WeakSet()


def _start_over() -> None:
    for each in list(_all):
        each.start_over()


os.register_at_fork(after_in_child=_start_over)


def _kernel_home() -> Home | None:
    """The queue of the op whose kernel this code is."""
    kernel = scope_var.get().kernel
    return None if kernel is None else kernel.home


class Patience:
    """How long one call waits: for a batch to begin, and for all of it."""

    __slots__ = ("_ends", "_grace", "timeout")

    def __init__(self, grace: float, timeout: float | None) -> None:
        self._grace = grace
        self.timeout = timeout
        self._ends = None if timeout is None else perf_counter() + timeout

    def seconds(self, call: Call) -> float | None:
        """Seconds until something is to be done about it; None where nothing is, but to wait."""
        grace = self._grace if call.ticket is None else None
        if self._ends is None:
            return grace
        left = max(0.0, self._ends - perf_counter())
        return left if grace is None else min(grace, left)

    def double(self) -> None:
        """It may have to wait for the next batch after all: look less often."""
        self._grace = min(2 * self._grace + POLL, LONGEST_GRACE)

    def is_over(self) -> bool:
        """Tell whether the time of `Config.operation_timeout_in_ms` is up."""
        return self._ends is not None and perf_counter() >= self._ends


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
