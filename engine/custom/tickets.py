"""Tickets: which calls of a batched function wait, and which op has taken or will take them. Pure but for its lock.

Purpose: while batches run, calls wait; a ticket stands for one op that runs batches, and settles which calls it has
when it begins, not when it is dispatched.

Invariants: a call waits, is in the batch of one ticket, or is done; at most one ticket is on its way. All of it is
guarded by the lock of `Tickets`, which is never held while the engine is called.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

from engine.base.loops import LOST
from engine.custom.batches import Call, Waiting
from engine.queues.demand import Demand
from engine.threads.blas import core_count
from handles.cell import Cell


class Ticket:
    """One op that runs batches; which calls they have is settled when they begin."""

    __slots__ = ("alone", "calls", "cell", "demand", "lost_after", "over")

    def __init__(self, alone: Call | None = None, lost_after: float = math.inf) -> None:
        self.alone = alone
        """The call that is to run by itself; None once it has begun, and for all other tickets."""
        self.calls: list[Call] = []
        """The calls of its batch."""
        self.cell: Callable[[], Cell | None] = lambda: None
        self.demand: Demand | None = None
        self.lost_after = lost_after
        """When it is taken to be lost, by the clock of the batcher; never once it is started.

        An interrupt may keep its caller, or the loop, from starting it.
        """
        self.over = False
        """True once its op has ended; where that was cancelled, its code may still run, and takes no more calls."""


class Tickets:
    """The calls of one function on one executor that wait, and its tickets."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._waiting = Waiting()
        self._coming: Ticket | None = None
        """The ticket that was dispatched and has not begun."""
        self._running: dict[Ticket, None] = {}

    def waiting(self) -> int:
        """Calls that wait for a batch."""
        return len(self._waiting)

    # For calls

    def enter(self, call: Call) -> tuple[Ticket | None, bool]:
        """Have a call wait; returns the ticket to start for it, if any, and whether a batch is full."""
        with self._lock:
            together = self._waiting.add(call)
            busy = len(self._running)
            full = together >= self._size and busy < core_count()
            return (self._next(call.began) if not busy or full else None), full

    def hurry(self, call: Call, now: float) -> Ticket | None:
        """Return the ticket to start for a call that has waited long enough for the batches that run."""
        with self._lock:
            if self._coming is not None and now > self._coming.lost_after:
                self._coming = None
            return self._next(now) if call.ticket is None and not call.done else None

    def leave(self, call: Call) -> bool:
        """The caller waits no longer: a batch that has not begun goes without it. Returns whether it was not done."""
        with self._lock:
            left = not call.done
            call.done = True
            self._waiting.remove(call)
            return left

    def awaited(self, call: Call) -> Ticket | None:
        """The ticket whose end a call waits for."""
        own: Ticket | None = call.ticket or self._coming
        return own or next(iter(self._running.copy()), None)

    def done(self, calls: Sequence[Call]) -> list[Call]:
        """Calls have what they wait for; returns those whose callers are still there."""
        with self._lock:
            ended = [call for call in calls if not call.done]
            for call in ended:
                call.done = True
            return ended

    # For tickets

    def _next(self, now: float = math.inf) -> Ticket | None:
        """Make the next ticket, unless one is on its way. Under the lock."""
        if self._coming is not None or not self._waiting:
            return None
        self._coming = Ticket(lost_after=now + LOST)
        return self._coming

    def begin(self, ticket: Ticket) -> list[Call]:
        """Settle which calls the next batch of a ticket has; none where none waits."""
        with self._lock:
            if self._coming is ticket:
                self._coming = None
            if ticket.over:
                ticket.calls = []
                return ticket.calls
            if ticket.alone is not None:
                ticket.calls, ticket.alone = [ticket.alone], None
            else:
                ticket.calls = self._waiting.take(self._size)
                self._running[ticket] = None
            for call in ticket.calls:
                call.ticket = ticket
            return ticket.calls

    def refused(self, ticket: Ticket, *, for_all: bool) -> list[Call]:
        """A ticket could not be dispatched; returns the calls that wait, where no other one can be either.

        After an interrupt it may have been: then it takes no more calls.
        """
        with self._lock:
            if self._coming is ticket:
                self._coming = None
            self._running.pop(ticket, None)
            ticket.over = True
            return self._waiting.drain() if for_all else []

    def ended(self, ticket: Ticket, *, all_cancelled: bool) -> tuple[list[Call], bool]:
        """A ticket has ended; returns its calls that are not done, and whether another ticket is to be started.

        `all_cancelled` says that its executor ends, or that all that is pending was cancelled: calls that wait as well.
        """
        with self._lock:
            self._running.pop(ticket, None)
            ticket.over = True
            if self._coming is ticket:
                self._coming = None
            calls = [call for call in ticket.calls if not call.done]
            if all_cancelled:
                calls += self._waiting.drain()
            return calls, bool(self._waiting) and self._coming is None

    def next_after_end(self) -> tuple[Ticket, Call] | None:
        """Return the ticket to start where none runs, and the call that came first, in whose context it is."""
        with self._lock:
            ticket = self._next() if not self._running else None
            head = self._waiting.first()
            return None if ticket is None or head is None else (ticket, head)

    def take_demand(self, ticket: Ticket) -> Demand | None:
        """Take what is demanded for a ticket, once."""
        with self._lock:
            demand, ticket.demand = ticket.demand, None
            return demand

    def start_over(self) -> None:
        """In a forked child: the threads, and the callers, stayed behind."""
        self._lock = threading.Lock()
        self._waiting.drain()
        self._coming = None
        self._running.clear()
