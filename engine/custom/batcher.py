"""The batcher: makes batches of the calls of one function on one executor, and runs them as ops.

Purpose: a call of an idle function starts a batch at once, at the end of the loop's turn. While batches run, calls
wait; the next batch takes those that wait when it begins, not when it is dispatched. A batch is an op like any other
user function: it runs on a worker (an `async def` on the loop), it is demanded with the priority of the first call, and
ends with its executor.

Guarantees: a call is in one batch at most, or it has left; each call that has not left gets a value or an error, also
where the executor closes. `Tickets` decides which calls go when, under its lock; here is what follows from that. A
ticket ends on the thread that its record ends on, where the queue's lock may be held: what follows is left to another
thread.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import Any, cast

from engine.base.errors import OpCancelledError
from engine.base.loops import Waiter, asyncio_loop, running_loop
from engine.custom.batch_kernel import BatchKernel
from engine.custom.batches import Call, Counts, Pace
from engine.custom.tickets import Ticket, Tickets
from engine.dispatch.queueing import AsyncDispatcher
from engine.failures import throw
from engine.queues.base import check_may_block
from engine.queues.device_queue import DeviceQueue
from engine.queues.waiting import block_until
from engine.threads.offload import offload
from handles.cell import PENDING, Cell, Failure, add_waiter

LONGEST_GRACE = 1.0
"""Seconds after which a waiting call looks again, at least."""
POLL = 0.000_5


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
        self._counts = counts
        self._pace = Pace(wait)
        self._tickets = Tickets(size)
        self._kernel = BatchKernel(function, name, coroutine, axis, self._tickets, self._pace, counts)
        self._row = self._kernel.row
        _all.add(self)
        counts.sums.watch(self)

    def waiting(self) -> int:
        """Calls that wait for a batch."""
        return self._tickets.waiting()

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
            ticket = self._tickets.hurry(call, perf_counter())
            if ticket is not None:
                self._start(ticket, call)
            patience.double()

    def _block_once(self, call: Call, patience: Patience) -> bool:
        """Block until a ticket has ended that the call waits for; False when that took too long."""
        ticket = self._tickets.awaited(call)
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
        ticket, full = self._tickets.enter(call)
        if ticket is None:
            return
        if call.loop is not None and not full:
            # Calls that come in the same turn of the loop, as those of requests that were read together, are in time.
            call.loop.call_soon(self._start, ticket, call)
        else:
            self._start(ticket, call)

    def _leave(self, call: Call) -> None:
        """The caller waits no longer: a batch that has not begun goes without it."""
        self._counts.cancelled(self._tickets.leave(call))

    def _outcome(self, call: Call) -> object:
        if call.failure is not None:
            throw(call.failure)
        return call.value

    # Tickets

    def _start(self, ticket: Ticket, head: Call) -> None:
        """Dispatch a ticket, in the context of a call."""
        try:
            ticket.lost_after = math.inf
            head.context.copy().run(self._dispatch, ticket, head)
        except Exception as error:  # noqa: BLE001 - the calls fail with it
            self._kernel.fail(self._tickets.refused(ticket, for_all=True), error, None)
        except BaseException:  # an interrupt of this caller, and of no other one
            self._tickets.refused(ticket, for_all=False)
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
        home.withdraw(self._tickets.take_demand(ticket))

    def _ended(self, ticket: Ticket, cell: Cell) -> None:
        """The record of a ticket has ended, on any thread: what was dropped with it gets its error."""
        home = cell.home
        if isinstance(home, DeviceQueue):
            self._withdraw(ticket, home)
        failure = cell.value if cell.value.__class__ is Failure else None
        cancelled = failure is not None and failure.cancelled
        calls, goes_on = self._tickets.ended(ticket, all_cancelled=cancelled)
        if calls:
            error = OpCancelledError("its batch ended without it") if failure is None else failure.error
            self._kernel.fail(calls, error, home)
        if goes_on:
            offload.submit(self._go_on)

    def _go_on(self) -> None:
        found = self._tickets.next_after_end()
        if found is not None:
            self._start(*found)

    def start_over(self) -> None:
        """In a forked child: the threads, and the callers, stayed behind."""
        self._counts.start_over()
        self._tickets.start_over()


_all: weakref.WeakSet[Batcher] = weakref.WeakSet()


def _start_over() -> None:
    for each in list(_all):
        each.start_over()


os.register_at_fork(after_in_child=_start_over)


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
