"""The cores that threads run on: the threads of one op are kept apart while they work together."""

from __future__ import annotations

import os
from collections.abc import Callable


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
