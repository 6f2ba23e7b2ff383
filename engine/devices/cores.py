"""The cores of the machine as the engine shares them out: ops that run at once do not use more threads than those."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.devices.blas import core_count


class Cores:
    """How many threads the ops that run now may use together."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._claimed = 0

    @contextmanager
    def claimed(self, wanted: int) -> Iterator[int]:
        """Give an op about to run so many threads, 1 to `wanted`; leave the block before anybody can see its result.

        Whoever waits for it may dispatch the next op at once, which is to find the cores idle.
        """
        with self._lock:
            granted = max(1, min(wanted, core_count() - self._claimed))
            self._claimed += granted
        try:
            yield granted
        finally:
            with self._lock:
                self._claimed -= granted


cores = Cores()


def allowed_cores() -> set[int]:
    """The cores that this thread may run on; none where the system does not tell."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def apart(work: Callable[[], None], number: int, threads: int, shared: set[int]) -> None:
    """Call `work` as thread `number` of so many, each on a core of its own where that uses up the cores they share.

    Threads of one run wake each other whenever they pass the interpreter lock on. Where cores have no cache in common,
    as those of virtual machines seem, the system wakes a thread on the core of the one that wakes it, though its own
    is idle: after a pause all would share one core for tens of milliseconds. For threads of the engine only: an
    interrupt could leave the main thread where it is.
    """
    if len(shared) != threads or allowed_cores() != shared or not _keep_to({sorted(shared)[number]}):
        work()
        return
    try:
        work()
    finally:
        _keep_to(shared)


def _keep_to(cores: set[int]) -> bool:
    """Let this thread run on these cores only; False where it may not choose."""
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        return False
    return True
