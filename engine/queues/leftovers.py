"""Leftovers: ops that have not run, or not to their end, when the interpreter exits: one line on stderr says so."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterable

from engine.failures import describe
from engine.queues import forking
from engine.queues.records import BARRIER
from handles.cell import PENDING, Cell


class Leftovers:
    """How many ops were left, how many of them had begun, and where the first one was dispatched."""

    def __init__(self) -> None:
        self.count = 0
        self.begun = 0
        self.oldest = ""

    def add(self, cells: Iterable[Cell]) -> None:
        """Count those of a queue that have not ended, oldest first."""
        for cell in cells:
            if cell.value is PENDING and cell.op is not BARRIER:
                self.count += 1
                self.begun += cell.rare is not None and cell.rare.running
                self.oldest = self.oldest or describe(cell)

    def report(self) -> None:
        """Write what was left to stderr, once."""
        for queue in list(forking.queues):
            self.add(queue.unfinished())
        if self.count:
            sys.stderr.write(
                f"eagerloop: at exit {self._said()}: {self.oldest}; await its handle, or call engine.wait()\n"
            )
        self.forget()

    def _said(self) -> str:
        """Word the numbers. What a worker was given may not have begun, and what has begun is cut off."""
        idle = self.count - self.begun
        said = f"{counted(idle)} never ran" if idle else f"{counted(self.begun)} had not ended"
        if idle and self.begun:
            said += f" and {self.begun} had not ended"
        return said if self.count == 1 else f"{said}, the oldest"

    def forget(self) -> None:
        """Count anew."""
        self.count = self.begun = 0
        self.oldest = ""


def counted(count: int, form: str = "") -> str:
    """Word so many ops, the number in this format: "1 op", "2 ops"."""
    return f"{count:{form}} {'op' if count == 1 else 'ops'}"


leftovers = Leftovers()
atexit.register(leftovers.report)
