"""Lanes: ready records that want slots of the same kind, and whose turn it is among the demands for them. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from engine.queues.demand import Demand
from engine.queues.states import Entry, State
from engine.threads.slots import PATIENCE


class Lane:
    """The ready records of one kind, which want slots of the same kind, and whose turn it is."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.passed = 0
        """Records that were started out of turn since the one that waits longest had its turn."""
        self._by_age: deque[Entry] = deque()
        self._turns: dict[int, deque[Demand]] = {}

    def clear(self) -> None:
        """Forget all records, and what demands have found here."""
        self._by_age.clear()
        for turns in self._turns.values():
            for demand in turns:
                demand.ready = None
        self._turns.clear()
        self.passed = 0

    def add(self, entry: Entry) -> None:
        """Take a record that is ready."""
        self._by_age.append(entry)
        for demand in entry.demands:
            self.want(entry, demand)

    def want(self, entry: Entry, demand: Demand) -> None:
        """A ready record is demanded."""
        line = demand.line(self.key)
        line.append(entry)
        if len(line) == 1:
            self._turns.setdefault(demand.priority, deque()).append(demand)

    def next(self, everything: int | None = None) -> Entry | None:
        """The record that is to be started next; None where there is none.

        `everything` is the priority of a task that waits for all records there are: the line by age then takes turns
        with the demands of that priority, and goes before those of a lower one.
        """
        oldest = self._first(self._by_age)
        if oldest is None:
            return None
        demand = self._next_demand()
        if demand is None:
            return oldest
        owed = PATIENCE
        if everything is not None and everything >= demand.priority:
            owed = len(self._turns[demand.priority]) if everything == demand.priority else 0
        return oldest if self.passed >= owed else demand.line(self.key)[0]

    def started(self, entry: Entry) -> None:
        """A record of this lane was started: the next demand has its turn."""
        if self._by_age and self._by_age[0] is entry:
            self.passed = 0
        else:
            self.passed += 1
        for turns in self._turns.values():
            if turns[0] in entry.demands:
                turns.rotate(-1)

    def _next_demand(self) -> Demand | None:
        for priority in sorted(self._turns, reverse=True):
            turns = self._turns[priority]
            while turns:
                demand = turns[0]
                if demand.alive and self._first(demand.line(self.key)) is not None:
                    return demand
                turns.popleft()
            del self._turns[priority]
        return None

    def _first(self, line: deque[Entry]) -> Entry | None:
        """The first record of a line that is still ready."""
        while line:
            if line[0].state is State.READY:
                return line[0]
            line.popleft()
        return None
