"""How many threads BLAS may use while an op runs, so that devices do not oversubscribe the cores.

The number is a setting of the whole process, so it is changed only where an op is given fewer threads than there are
cores, and put back when the last such op has ended.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import threadpoolctl  # type: ignore[import-untyped]


def core_count() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Limit:
    """The block of `BlasThreads.limited`: a class, because a generator sets attributes of errors that may be frozen."""

    __slots__ = ("_pool", "_threads")

    def __init__(self, pool: BlasThreads, threads: int) -> None:
        self._pool = pool
        self._threads = threads

    def __enter__(self) -> None:
        self._pool.add(self._threads)

    def __exit__(self, *_: object) -> None:
        self._pool.remove(self._threads)


class BlasThreads:
    """The ops that run with a limit now, and what BLAS had before."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._limits: list[int] = []
        self._libraries: list[Any] | None = None
        self._before: list[int] = []

    def limited(self, threads: int) -> Limit:
        """Give BLAS `threads` threads at most, in the whole process, as long as the block runs."""
        return Limit(self, threads)

    def add(self, threads: int) -> None:
        """Count an op that runs with this limit."""
        with self._lock:
            if not self._limits:
                self._before = [library.get_num_threads() for library in self._find()]
            self._limits.append(threads)
            self._apply()

    def remove(self, threads: int) -> None:
        """Count it no longer."""
        with self._lock:
            self._limits.remove(threads)
            self._apply()

    def _find(self) -> list[Any]:
        if self._libraries is None:
            self._libraries = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
        return self._libraries

    def _apply(self) -> None:
        least = min(self._limits, default=None)
        for library, before in zip(self._find(), self._before, strict=True):
            wanted = before if least is None else min(before, least)
            if library.get_num_threads() != wanted:
                _set(library, wanted)


def _set(library: Any, threads: int) -> None:
    """Set the number from whichever thread: threadpoolctl 3.8 ignores all but the first that did, while that lives."""
    give_up_control = getattr(library, "clear_controlling_thread", None)
    if give_up_control is not None:
        give_up_control(force=True)
    library.set_num_threads(threads)
    if give_up_control is not None:
        give_up_control()


blas_threads = BlasThreads()
