"""How many threads BLAS may use while an op runs, so that devices do not oversubscribe the cores.

The number is a setting of the whole process, so it is changed only where an op is given fewer threads than there are
cores, and put back when the last such op has ended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import threadpoolctl  # type: ignore[import-untyped]


def core_count() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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

    @contextmanager
    def limited(self, threads: int) -> Iterator[None]:
        """Give BLAS `threads` threads at most, in the whole process, as long as the block runs."""
        with self._lock:
            if not self._limits:
                self._before = [library.get_num_threads() for library in self._find()]
            self._limits.append(threads)
            self._apply()
        try:
            yield
        finally:
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
                library.set_num_threads(wanted)


blas_threads = BlasThreads()
