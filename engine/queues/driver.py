"""The driver: which thread works on a queue next.

The executor's loop does in a callback (not a task: there is nothing to cancel at shutdown, and nothing in
`asyncio.all_tasks()`), an `await` does before it suspends, a thread that blocks in a sync does, a worker that has just
ended an op does. Where there is no loop, or a task or thread outside it waits, a worker is sent.

Guarantee: a thread that leaves work behind that could be done has called for the next drive, so progress never needs
one particular thread to be free. Guarded by the queue's lock: the slice; the rest are flags that any thread sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import Context
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING

from engine.base.loops import LOST, AbstractEventLoop, call_soon, kept_turning, running_loop
from engine.queues.slice import SLICE
from engine.settings.scope import DEFAULT_ERRSTATE, errstate
from engine.threads.pool import workers
from handles.cell import Cell

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue

GRACE = 0.001
"""Seconds that a worker leaves a thread without a loop to get to a sync point by itself."""


SAME_TURN = 0.000_1
"""Seconds after a drive of the loop within which a task that dispatches is taken to do so in the same turn."""


def _sent(drive: Callable[[], None]) -> bool:
    """Send a worker to drive; False where the system has no thread for one: then the thread that waits drives."""
    try:
        workers.submit(drive)
    except RuntimeError:
        return False
    return True


class Driver:
    """Sends a thread to a queue that has work, and bounds what it does there."""

    def __init__(self, queue: DeviceQueue, loop: AbstractEventLoop | None) -> None:
        self.loop = loop
        self._admission = queue.owner.admission
        self.turn_ends = 0.0
        """When this turn of the loop has been the engine's for a slice."""
        self._used = self._used_until = 0.0
        """Seconds that the drive of a turn took, and until when what comes is taken to be in the same turn."""
        self._queue = queue
        self._requests = queue.demands.requests
        self._outcomes = queue.outcomes.waiting
        self._guests: set[object] = set()
        """Tasks and threads outside the loop that wait for this queue."""
        self._worker_scheduled = False
        self._going_on: set[int] = set()
        """Workers that have ended an op and will look at the queue again, by their threads."""
        if loop is not None:
            kept_turning(loop).watch(self)

    # Calling for a drive

    def schedule(self) -> None:
        """Call for a drive: on the loop, or on a worker where there is none, or where the loop may be blocked."""
        if self._guests:
            self._schedule_worker()
        queue = self._queue
        if queue.scheduled:
            return
        queue.scheduled = True
        try:
            loop = self.loop
            if loop is not None and call_soon(loop, self._drive_on_loop):
                now = perf_counter()
                self.turn_ends = now + SLICE - (self._used if now < self._used_until else 0.0)
            elif not _sent(self._drive_later):
                queue.scheduled = False
        except BaseException:  # an interrupt: the next caller schedules again
            queue.scheduled = False
            raise

    def renew(self) -> None:
        """On the loop: call for a drive again where an interrupt has ended the one that was called for."""
        if self._queue.scheduled and perf_counter() > self.turn_ends + LOST:
            self._queue.scheduled = False
            self.schedule_next()

    def woken(self) -> None:
        """An operand that another queue computed is there, or a record was told so: call for a drive."""
        self._queue.bells.ring()
        self.schedule()

    def slot_free(self) -> None:
        """A slot that the queue waits for is free: a worker starts what wants it, even while the loop is blocked."""
        self._queue.starting.try_again()
        if not self._going_on:
            self._schedule_worker()

    def schedule_next(self) -> None:
        """Call for the next drive where there is something to do."""
        if self._queue.runnable():
            self.schedule()

    def _schedule_worker(self) -> None:
        if self._queue.runnable() and not self._worker_scheduled:
            self._worker_scheduled = True
            sent = False
            try:
                sent = _sent(self._drive_on_worker)
            finally:  # also after an interrupt
                if not sent:
                    self._worker_scheduled = False

    # Those who wait outside the loop

    def add_guest(self, guest: object) -> None:
        """A task or thread outside the loop waits from now on: workers drive, as the loop may be blocked."""
        self._guests.add(guest)
        self._schedule_worker()

    def has_guests(self) -> bool:
        """True while a task or thread outside the loop waits."""
        return bool(self._guests)

    def asked(self) -> None:
        """A caller polls, perhaps in a loop that never awaits."""
        loop = self.loop
        if loop is None:
            self.schedule()
        elif loop.is_closed():
            self._queue.detach()
            self.schedule()
        elif loop is not running_loop():
            self._schedule_worker()
        elif self.turn_is_over():
            self.drive(SLICE)

    def remove_guest(self, guest: object) -> None:
        """It waits no longer."""
        self._guests.discard(guest)

    def detach(self) -> None:
        """The loop is gone; what is pending stays for those who ask for it."""
        self.loop = None
        self._queue.scheduled = False
        if self._guests:
            self._schedule_worker()

    def start_over(self) -> None:
        """In a forked child: no loop, no worker and no guest is left."""
        self.loop = None
        self._queue.scheduled = self._worker_scheduled = False
        self._going_on.clear()
        self._guests.clear()

    # Driving

    def drive(self, seconds: float, until: Cell | None = None, *, patient: bool = False) -> bool:
        """Work on the queue for so long, or until a cell is settled; whether anything was done.

        When another thread drives, `patient` waits for its slice to end; otherwise there is nothing to do.
        """
        return (patient or not self._queue.lock.locked()) and self.drive_now(seconds, until)

    def drive_now(self, seconds: float, until: Cell | None, now: float | None = None) -> bool:
        """Drive, once the thread that drives now, if any, has ended its slice."""
        queue = self._queue
        # Taken by `with` only: an interrupt between a call of `acquire` and a `try` would leave it locked for good.
        try:
            with queue.lock:
                ends = (now or perf_counter()) + seconds
                if errstate() is DEFAULT_ERRSTATE:
                    return queue.slice.run(ends, until)
                # The error state of the thread is not that of the ops: those without a context have the default.
                return Context().run(queue.slice.run, ends, until)
        finally:
            if (
                queue.pending
                or queue.backlog.aside
                or queue.demands.requests
                or queue.outcomes.waiting
                or queue.starting.wanted
            ):
                self.schedule_next()
            if self._admission.waiting:
                self._admission.look()

    def admit(self) -> None:
        """Let in tasks that wait for room, where records have ended."""
        if self._admission.waiting:
            self._admission.look()

    def turn_is_over(self) -> bool:
        """True when this turn of the loop has been the engine's for a slice."""
        return self._queue.scheduled and perf_counter() >= self.turn_ends

    def _drive_on_loop(self) -> None:
        self._queue.scheduled = False
        began = perf_counter()
        self.drive(SLICE)
        ended = perf_counter()
        # A task that goes on in this turn, and dispatches again, has what is left of the slice.
        self._used, self._used_until = ended - began, ended + SAME_TURN

    def _drive_later(self) -> None:
        time.sleep(GRACE)
        self._queue.scheduled = False
        self._drive_until_idle()

    def _drive_on_worker(self) -> None:
        try:
            self._drive_until_idle()
        finally:  # also after a defect: else no worker would ever be sent again
            self._worker_scheduled = False
            if self._guests or self._queue.starting.wanted:
                self._schedule_worker()

    def _drive_until_idle(self) -> None:
        while self._queue.runnable() and self.drive(SLICE, patient=True):
            pass

    # Workers that go on

    def leaving_slots(self) -> None:
        """This worker gives slots back and will look at the queue itself: no other one is needed for them."""
        self._going_on.add(get_ident())

    def looked(self) -> None:
        """This worker has looked; a slot that came free since is for another one."""
        self._going_on.discard(get_ident())
        if self._queue.starting.wanted:
            self._schedule_worker()
