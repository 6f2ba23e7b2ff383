"""How many threads BLAS uses: read, and never set, because the number is a setting of the whole process."""

from __future__ import annotations

import os
from functools import cache
from typing import Protocol

import threadpoolctl  # type: ignore[import-untyped]


class _Library(Protocol):
    """A BLAS library as threadpoolctl gives it."""

    def get_num_threads(self) -> int | None: ...


def core_count() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def blas_threads() -> int:
    """Threads that an op of linear algebra will use if it starts now."""
    return max((library.get_num_threads() or 1 for library in _libraries()), default=1)


@cache
def _libraries() -> list[_Library]:
    return list(threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers)
