"""Jobs that block and that no slot is for, such as reading a value of a device: a few workers do them, in order."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable

from engine.threads.pool import workers

MOST = 32
"""Workers that block at once, at most."""


class Offload:
    """A line of jobs, worked off by as many workers as there are jobs, up to a bound."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)  # threads do not survive a fork, and callers ask again

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], object]] = deque()
        self._working = 0

    def submit(self, job: Callable[[], object]) -> None:
        """Run `job` on a worker; raises `RuntimeError` where the system has no thread for it."""
        with self._lock:
            self._jobs.append(job)
            if self._working >= MOST:
                return
            self._working += 1
        try:
            workers.submit(self._work)
        except BaseException:  # no thread, or an interrupt: the next job is given a worker
            with self._lock:
                self._working -= 1
                if job in self._jobs:
                    self._jobs.remove(job)
            raise

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._working -= 1
                    return
                job = self._jobs.popleft()
            try:
                job()
            except BaseException:  # noqa: BLE001 - a defect of the engine: show it, and go on
                sys.excepthook(*sys.exc_info())
            del job


offload = Offload()
