"""Demand: what one waiting task needs, found step by step. Pure.

A demand begins with the records that the task waits for, and walks from them to what they need. It walks a bounded
number of steps at a time, because what stands behind a handle may be long, and gives its turn to others meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

from handles.cell import Cell


class Demand:
    """That a task waits for some records. Withdrawn when it waits no longer."""

    __slots__ = (
        *("alive", "children", "entered", "everything", "foreign", "marked", "priority", "ready", "stack", "taken"),
    )

    def __init__(self, targets: list[Cell], priority: int = 0, *, everything: bool = False) -> None:
        self.priority = priority
        self.everything = everything
        """True where the task waits for all records there are."""
        self.alive = True
        self.taken = False
        """True once a slice has taken it up."""
        self.stack = targets
        """Records that were not looked at yet; the next one stands last."""
        # The rest is made when it is needed: most of what tasks wait for is there before a demand has its turn.
        self.entered: set[Cell] | None = None
        """Records on the stack whose operands are there, too."""
        self.ready: dict[Hashable, deque[Any]] | None = None
        """The entries that it found ready, by lane."""
        self.marked: list[Any] | None = None
        """The entries that it found set aside."""
        self.foreign: list[Cell] | None = None
        """Records of other queues that it needs; the queue asks those for them."""
        self.children: list[tuple[Any, Demand]] | None = None
        """Its demands of other queues."""

    def line(self, lane: Hashable) -> deque[Any]:
        """The entries that it found ready in a lane."""
        if self.ready is None:
            self.ready = {}
        line = self.ready.get(lane)
        if line is None:
            line = self.ready[lane] = deque()
        return line

    def mark(self, entry: Any) -> None:
        """It has come to an entry."""
        if self.marked is None:
            self.marked = []
        self.marked.append(entry)

    def __repr__(self) -> str:
        facts = f"priority={self.priority} alive={self.alive} stack={len(self.stack)} marked={len(self.marked or ())}"
        return f"<Demand {facts}>"
