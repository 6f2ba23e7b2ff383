"""Leftovers: ops that never ran when the interpreter exits, named in one line on stderr."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterable

from engine.failures import describe
from engine.queues import forking
from engine.queues.records import BARRIER
from handles.cell import PENDING, Cell


class Leftovers:
    """How many ops were left, and where the first of them was dispatched."""

    def __init__(self) -> None:
        self.count = 0
        self.oldest = ""

    def add(self, cells: Iterable[Cell]) -> None:
        """Count those of a queue that were not begun, oldest first."""
        for cell in cells:
            begun = cell.rare is not None and cell.rare.running
            if cell.value is PENDING and cell.op is not BARRIER and not begun:
                self.count += 1
                self.oldest = self.oldest or describe(cell)

    def report(self) -> None:
        """Write what was left to stderr, once."""
        for queue in list(forking.queues):
            self.add(queue.unfinished())
        if self.count:
            ops = "1 op never ran" if self.count == 1 else f"{self.count} ops never ran, the oldest"
            sys.stderr.write(f"eagerloop: at exit {ops}: {self.oldest}; await its handle, or call engine.wait()\n")
        self.forget()

    def forget(self) -> None:
        """Count anew."""
        self.count = 0
        self.oldest = ""


leftovers = Leftovers()
atexit.register(leftovers.report)
