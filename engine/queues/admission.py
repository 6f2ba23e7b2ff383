"""Admission: tasks that wait for room in an executor before they begin, in order of priority, then of arrival.

One task at a time is let in; the next one is looked at when the loop has given that one a turn, so that what it
dispatches counts. Guarded by a lock, as room is made on any thread.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from engine.base.errors import QueueFullError
from engine.base.loops import AbstractEventLoop, Waiter, asyncio_loop, call_soon


class Ticket:
    """One task that waits, by its place in the order."""

    __slots__ = ("admitted", "loop", "order", "waiter")

    def __init__(self, priority: int, number: int, loop: AbstractEventLoop) -> None:
        self.order = (-priority, number)
        self.loop = loop
        self.waiter = Waiter(loop)
        self.admitted = False

    def __lt__(self, other: Ticket) -> bool:
        return self.order < other.order

    def __await__(self) -> Any:
        return self.waiter.wait(None)


class Admission:
    """The door of one executor."""

    def __init__(self, has_room: Callable[[], bool], describe: Callable[[], str]) -> None:
        self.waiting: list[Ticket] = []
        self._has_room = has_room
        self._describe = describe
        self._numbers = count()
        self._lock = threading.Lock()

    def is_open(self) -> bool:
        """Tell whether a task that comes now need not wait."""
        return not self.waiting and self._has_room()

    async def enter(self, priority: int, wait: bool) -> None:
        """Wait until there is room; without `wait`, raise `QueueFullError` where there is none."""
        if self.is_open():
            return
        if not wait:
            raise QueueFullError(
                f"the scope was not entered: {self._describe()}; enter it with wait=True, or try again later"
            )
        loop = asyncio_loop()
        ticket = Ticket(priority, next(self._numbers), loop)
        with self._lock:
            heapq.heappush(self.waiting, ticket)
        self.look()
        try:
            await ticket
        except BaseException:
            self._leave(ticket)
            raise
        loop.call_soon(self.look)

    def _leave(self, ticket: Ticket) -> None:
        """A task was cancelled while it waited; where it was let in already, the next one is."""
        with self._lock:
            if ticket in self.waiting:
                self.waiting.remove(ticket)
                heapq.heapify(self.waiting)
        if ticket.admitted:
            self.look()

    def look(self) -> None:
        """Let in the first task that waits, where there is room."""
        with self._lock:
            while self.waiting and self._has_room():
                ticket = heapq.heappop(self.waiting)
                ticket.admitted = True
                # Under the lock, and through the loop also on its own thread, so that tasks wake in their order.
                if call_soon(ticket.loop, ticket.waiter.wake):
                    return  # one whose loop is closed has gone: the next one is let in

    def start_over(self) -> None:
        """In a forked child: no task that waited is left."""
        self._lock = threading.Lock()
        self.waiting.clear()
