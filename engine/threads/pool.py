"""Threads that run kernels: one cache for the process, so that idle executors hold none.

A worker belongs to the executor that submitted its job, and goes back to the cache when the job ends. When the last
executor has let go of the cache, idle workers end at once and busy ones when their job does. Threads are daemons: a
kernel that never ends cannot keep the interpreter from exiting.

Where the system has no more threads, a job waits for the first worker that is free.

`Workers._lock` guards which workers are idle, and which jobs wait; a job goes from the submitter to its worker through
the worker's inbox.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic, sleep

from engine.threads.cores import allowed_cores, apart

Job = Callable[[], None]


def _stay() -> None:
    """Where the system has no such call, its scheduler decides alone."""


give_way: Callable[[], None] = getattr(os, "sched_yield", _stay)
"""Let another thread have this core if one waits for it.

A thread that has just been woken keeps its core for milliseconds: the event loop, when all cores compute, would wake
as late. Called between blocks it costs a fraction of a microsecond.
"""

_HANDED_OVER = 20e-6
"""Seconds that a thread sleeps for to hand the interpreter lock over; the system makes some 70 µs of them."""

_LOOKS = 0.02
"""Seconds between looks whether a thread that is to end has taken up something after all."""
_PATIENCE = 1.0
"""Seconds after which threads that are to end are taken to be busy, with what may never end."""


def hand_over() -> None:
    """Let the interpreter lock go for long enough that a thread that waits for it, a loop's maybe, gets it.

    A thread that only lets it go for a moment has taken it back before the other one is awake. Called by threads that
    have just computed, or are about to compute, for milliseconds.
    """
    sleep(_HANDED_OVER)


class Worker:
    """One thread, not started yet, and the box that its next job is put into; None ends it."""

    __slots__ = ("ending", "inbox", "thread")

    def __init__(self, pool: Workers, number: int) -> None:
        self.ending = False
        """True once it was told to end with its job, and takes no further one."""
        self.inbox: SimpleQueue[Job | None] = SimpleQueue()
        self.thread = threading.Thread(target=pool.serve, args=(self,), name=f"eagerloop-{number}", daemon=True)


class Workers:
    """The cache of workers."""

    def __init__(self) -> None:
        self._users = 0
        self._reset()
        os.register_at_fork(after_in_child=self._reset)  # threads do not survive a fork

    def _reset(self) -> None:
        self._lock = threading.RLock()  # an executor may be collected, and let go of the cache, inside any of this
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._abandoned: set[Worker] = set()
        """Workers that were busy when their executor let go: their threads are not waited for."""
        self._waiting: deque[Job] = deque()
        """Jobs for which there was no thread: the next workers that are free take them."""
        self._started = 0

    def retain(self) -> None:
        """An executor will submit jobs."""
        with self._lock:
            self._users += 1

    def release(self, *, wait: bool, is_busy: Callable[[], bool] = lambda: False) -> None:
        """That executor is done. `wait` says that none of its jobs runs, and to wait for the threads if it is the last.

        Threads that are busy with what another executor has abandoned are not waited for; nor are those that have taken
        up something since: a worker that has ended one op may have begun the next, as `is_busy` tells of this executor,
        and as it does not come back in time of one that had let go before.
        """
        with self._lock:
            if not wait:
                self._abandoned |= self._all.difference(self._idle)
            self._users -= 1
            if self._users > 0:
                return
            idle, self._idle = self._idle, []
            workers = list(self._all - self._abandoned) if wait else []
            for worker in workers:  # one that went back to the cache could be waited for forever
                worker.ending = True
        for worker in idle:
            worker.inbox.put(None)
        ends = monotonic() + _PATIENCE
        for worker in workers:
            thread = worker.thread
            while thread is not threading.current_thread() and thread.is_alive():
                thread.join(_LOOKS)
                if thread.is_alive() and (is_busy() or monotonic() > ends):
                    with self._lock:
                        self._abandoned |= self._all.intersection(workers)
                    return

    def submit(self, job: Job) -> None:
        """Run `job` on a worker: on the first that is free, where the system has no more threads.

        Raises `RuntimeError` where it has none, and there is no worker that will be free.
        """
        try:
            self.start(job)
        except RuntimeError:
            with self._lock:
                if not self._give(job):
                    if self._all <= self._abandoned:
                        raise
                    self._waiting.append(job)

    def _give(self, job: Job) -> bool:
        """Give a job to an idle worker; False where there is none. Under the lock."""
        if not self._idle:
            return False
        self._idle[-1].inbox.put(job)  # first of all: an interrupt must not lose the worker
        self._idle.pop()
        return True

    def start(self, job: Job) -> None:
        """Run `job` on a worker at once; raises `RuntimeError` where none is idle and no thread can be started."""
        with self._lock:
            if self._give(job):
                return
            self._started += 1
            worker = Worker(self, self._started)
        worker.inbox.put(job)  # before there is a thread: after an interrupt it would wait for a job for ever
        # Outside the lock: the new thread may, before it says that it runs, collect an executor, which takes it.
        try:
            worker.thread.start()
        except RuntimeError as error:
            try:
                worker.inbox.get_nowait()  # nobody else will, and the job keeps its operands
            except Empty:  # the thread runs: an interrupt has upset the lock on which `threading` waits for it
                raise KeyboardInterrupt from error
            raise

    def serve(self, worker: Worker) -> None:
        with self._lock:
            self._all.add(worker)
        job = worker.inbox.get()
        while job is not None:
            with self._lock:
                if worker in self._idle:  # an interrupt came when the job had been put into the box
                    self._idle.remove(worker)
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - a defect of the engine: show it, keep the worker
                if not _at_the_end(error):
                    sys.excepthook(*sys.exc_info())
            job = None
            with self._lock:
                self._abandoned.discard(worker)
                if self._waiting:
                    job = self._waiting.popleft()
                    continue
                if self._users <= 0 or worker.ending:
                    break
                self._idle.append(worker)
            job = worker.inbox.get()
        with self._lock:
            self._all.discard(worker)


def _at_the_end(error: BaseException) -> bool:
    """Tell whether a worker needed another thread when the process was ending, which Python 3.12 and later refuse.

    Ops that then never run are reported at exit.
    """
    return isinstance(error, RuntimeError) and "at interpreter shutdown" in str(error)


workers = Workers()


def together(work: Job, threads: int) -> None:
    """Call `work`, which must not raise, on this thread and on `threads - 1` workers; returns when all calls have."""
    finished = threading.Semaphore(0)
    shared = allowed_cores()

    def help_out(number: int) -> None:
        try:
            apart(work, number, threads, shared)
        finally:
            finished.release()

    helpers = 0
    try:
        with suppress(RuntimeError):  # the system has no more threads: those that there are do it all
            for number in range(1, threads):
                workers.start(partial(help_out, number))
                helpers += 1
        apart(work, 0, threads, shared)
    finally:
        for _ in range(helpers):
            finished.acquire()
