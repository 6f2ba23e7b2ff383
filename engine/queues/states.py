"""States: what may be done with a record, one after the other, and the entry of a record that was set aside. Pure."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from engine.queues.demand import Demand
from engine.threads.slots import BACKGROUND, Grant
from handles.cell import Cell

if TYPE_CHECKING:
    from engine.queues.lane import Lane


class State(Enum):
    """The state of a record: what is being done with it."""

    __hash__ = object.__hash__  # members are single objects; that of an enumeration is a Python function

    QUEUED = "queued"
    """Where dispatch put it; no slice has come to it."""
    PARKED = "parked"
    """It waits for an operand."""
    READY = "ready"
    """Its operands are there; it waits for a slot."""
    LAUNCHED = "launched"
    """A backend has it, and will complete it."""
    RUNNING = "running"
    """A worker computes it, or it is a task of the loop."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDS = frozenset({State.DONE, State.FAILED, State.CANCELLED})
"""The states from which none follows."""

TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.PARKED, State.READY, State.LAUNCHED, State.RUNNING, *ENDS}),
    State.PARKED: frozenset({State.READY, State.LAUNCHED, State.RUNNING, *ENDS}),
    State.READY: frozenset({State.LAUNCHED, State.RUNNING, *ENDS}),
    State.LAUNCHED: frozenset({State.READY, State.PARKED, *ENDS}),
    State.RUNNING: frozenset({State.PARKED, State.READY, *ENDS}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
"""From each state those that may follow.

A PARKED record may be launched together with what it waits for, a QUEUED one right off the queue. Back to READY, or to
PARKED, goes what an interrupt or a fork kept from being done.
"""


class Entry:
    """A record that was set aside, and what is being done with it."""

    __slots__ = (
        *("before", "behind", "demands", "dependents", "grants", "lane"),
        *("missing", "number", "record", "relying", "state"),
    )

    def __init__(self, record: Cell, number: int) -> None:
        self.record = record
        self.number = number
        """How many records were set aside before it."""
        self.state = State.QUEUED
        self.before: Entry | None = None
        """The record that was set aside before this one, of those that have not ended."""
        self.behind: Entry | None = None
        """The one that was set aside after it."""
        self.lane: Lane | None = None
        self.missing: Cell | None = None
        """The record of the operand that it is parked for."""
        self.dependents: list[Entry] | None = None
        """Records of the same device that are parked for this one."""
        self.demands: list[Demand] = []
        """The demands that need it."""
        self.relying: dict[int, dict[Demand, None]] = {}
        """Further ones, by priority, which rely on those."""
        self.grants: list[Grant] = []
        """Slots that it holds."""

    @property
    def rank(self) -> int:
        """The highest priority of the demands that need it."""
        return max((demand.priority for demand in self.demands if demand.alive), default=BACKGROUND)
