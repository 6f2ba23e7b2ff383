"""The cores of the machine as the engine shares them out: ops that run at once do not use more threads than those."""

from __future__ import annotations

import os
import threading

from engine.devices.blas import core_count


class Cores:
    """How many threads the ops that run now may use together."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._claimed = 0

    def claim(self, wanted: int) -> int:
        """The number of threads, 1 to `wanted`, that an op about to run may use; give them back when it has ended."""
        with self._lock:
            granted = max(1, min(wanted, core_count() - self._claimed))
            self._claimed += granted
        return granted

    def give_back(self, granted: int) -> None:
        with self._lock:
            self._claimed -= granted


cores = Cores()
