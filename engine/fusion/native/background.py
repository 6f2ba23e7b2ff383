"""The compiling thread: runs jobs one after the other, as long as there are any.

It has the priority of others: with a low one it would get no core while all of them compute, and keep the interpreter
lock meanwhile, which the loop's thread waits for. LLVM, which needs no such lock, has a low one (`llvm`).

The lock guards the queue and whether there is a thread. No job is begun once the program has ended: the interpreter
waits for the one that runs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from engine.fusion.native.llvm import current, is_ending

Job = Callable[[], None]
"""Something to do that raises nothing."""

WAITING = 64
"""Jobs that wait, at most."""


class Background:
    """A queue of jobs, and the thread that works it off."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Forget all jobs: in a forked child, where the thread is not there."""
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def submit(self, job: Job) -> bool:
        """Have a job done; False where too many wait already, or none is begun any more."""
        with self._lock:
            if self._stopped or len(self._jobs) >= WAITING or is_ending():
                return False
            self._jobs.append(job)
            if self._thread is not None:
                return True
            thread = self._thread = threading.Thread(target=self._work, name="eagerloop-compiler", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads, or the interpreter is about to end
                self._thread = None
                self._jobs.pop()
                return False
        return True

    def _work(self) -> None:
        current.is_patient = True
        while True:
            with self._lock:
                if not self._jobs or self._stopped or is_ending():
                    self._thread = None
                    return
                job = self._jobs.popleft()
            job()
            del job

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do; return whether that is so."""
        with self._lock:
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def stop(self) -> None:
        """Begin no job any more."""
        self._stopped = True
