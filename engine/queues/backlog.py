"""The backlog of one device: which records wait for what, and which of them goes next. Pure.

Purpose: to decide. Events come in (a record was set aside, became ready, was started, ended; an operand arrived; a
task demands a handle, or does so no longer), and what may be done now comes out. There are no threads, no clock and no
event loop here, so that every decision can be tested by itself.

Invariants (`check` tells whether they hold):

* A record is in one state of `TRANSITIONS` (in `states`), and goes from one to the next along that table only. One
  that is still on the device's queue, where dispatch put it, has no entry here: its state is QUEUED.
* A PARKED record waits for at least one operand; the thread that ends that operand takes the record to those that have
  arrived. A READY record stands in the line of its lane, and in that of each demand for it.
* Demands of one priority take turns, higher ones go first. What no task waits for gets at least one turn in
  `PATIENCE` + 1, and so does a demand of a lower priority.

All of it is guarded by the lock of the queue, but `arrived`, which any thread may append to.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator

from engine.queues.demand import Demand
from engine.queues.lane import Lane
from engine.queues.records import NEVER, entry_of, pending_operands
from engine.queues.states import ENDS, TRANSITIONS, Entry, State
from handles.cell import PENDING, Cell, Failure, Rare

IN_ORDER = 4
"""Slices in which records on the queue are run in order before what is demanded is looked for among them."""
SHARED = 64
"""Demands that a record remembers; further ones of no higher priority rely on those."""


class Backlog:
    """The records of a device that were set aside, by what is being done with them."""

    def __init__(self) -> None:
        self.arrived: deque[Entry] = deque()
        """Records whose operand has ended, to be looked at again."""
        self.lanes: dict[Hashable, Lane] = {}
        self.running: set[Entry] = set()
        """RUNNING and LAUNCHED ones."""
        self.everything: list[int] = []
        """The priorities of the tasks that wait for all records there are."""
        self.aside = 0
        """Records that were set aside and have not ended."""
        self.slices = 0
        """Slices that were begun."""
        self.walking: dict[int, deque[Demand]] = {}
        self._walks_from = 0
        self._counts = dict.fromkeys(State, 0)
        self._made = 0
        self._first: Entry | None = None
        self._last: Entry | None = None

    # Events: what happens to a record

    def park(self, record: Cell, missing: Cell, demand: Demand | None = None, *, here: bool) -> Entry:
        """A record waits for the record of an operand; `here` says that this one is of the same device."""
        entry = self._entry(record, demand)
        if entry.state is not State.PARKED:
            self._move(entry, State.PARKED)
        entry.missing = missing
        if here:
            source: Entry = entry_of(missing)
            if source.dependents is None:
                source.dependents = [entry]
            else:
                source.dependents.append(entry)
        return entry

    def ready(self, record: Cell, key: Hashable, demand: Demand | None = None) -> Entry:
        """A record's operands are there, and it wants a slot."""
        entry = self._entry(record, demand)
        self._move(entry, State.READY)
        lane = entry.lane = self.lane(key)
        lane.add(entry)
        return entry

    def lane(self, key: Hashable) -> Lane:
        """The lane of records that want slots of one kind."""
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(key)
        return lane

    def start(self, entry: Entry, state: State = State.RUNNING) -> None:
        """A record is computed from now on."""
        if entry.lane is not None and entry.state is State.READY:
            entry.lane.started(entry)
        self._move(entry, state)
        self.running.add(entry)

    def join(self, entry: Entry, lane: Lane) -> None:
        """A parked record is launched together with what it waits for."""
        entry.missing = None  # what refers to a record keeps its result
        entry.lane = lane
        self._move(entry, State.LAUNCHED)
        self.running.add(entry)

    def made(self, record: Cell) -> Entry:
        """Make the entry of a record that is launched at once, by `launch`."""
        self._made += 1
        return Entry(record, self._made - 1)

    def launch(self, entry: Entry, lane: Lane) -> None:
        """A record that needs nothing but what is launched with it is launched right off the queue."""
        rare = entry.record.extend()
        entry.lane = lane
        entry.state = State.LAUNCHED  # of a new entry the only way there, which needs no look at the table
        self._counts[State.LAUNCHED] += 1
        self._link(entry, rare)
        self.running.add(entry)
        rare.running = True

    def put_back(self, entry: Entry) -> None:
        """Take back a record that was started and did not begin: an interrupt or a fork came."""
        self.running.discard(entry)
        if entry.lane is not None:
            self._move(entry, State.READY)
            entry.lane.add(entry)
        else:  # it was taken into a group: what it needs may have been computed there, and be put back as well
            self._move(entry, State.PARKED)
            self.arrived.append(entry)

    def park_again(self, entry: Entry, missing: Cell) -> None:
        """Take back a record that was launched together with an operand and did not begin."""
        self.running.discard(entry)
        self.park(entry.record, missing, here=True)

    def take(self, record: Cell) -> Entry:
        """A record that has no slot of its own runs together with one that has."""
        entry = self._entry(record, None)
        entry.missing = None  # what refers to a record keeps its result
        self._move(entry, State.RUNNING)
        self.running.add(entry)
        return entry

    def settled(self, entry: Entry) -> None:
        """A record has a value or an error: those that wait for it have arrived. What runs may go on running."""
        dependents, entry.dependents = entry.dependents, None
        if dependents is not None:
            self.arrived.extend(dependents)

    def end(self, entry: Entry, state: State) -> None:
        """A record has ended, and nothing computes it any more."""
        self.settled(entry)
        self._move(entry, state)
        self._ended(entry)

    def _ended(self, entry: Entry) -> None:
        self.running.discard(entry)
        self._unlink(entry)
        entry.record.extend().entry = None
        entry.record = NEVER  # lines that it still stands in must not keep its result
        entry.demands = []
        entry.relying = {}
        entry.missing = entry.lane = None

    def mend(self) -> list[Cell]:
        """Put in order what an interrupt may have left half done: all that does not run is to be looked at anew.

        Whether a record stands in the list of all changes in one step, and so does its own state; what follows from
        those is made anew. Returns the records that have a value: nobody may have been told.
        """
        for lane in self.lanes.values():
            lane.clear()
        ended = []
        for entry in list(self.entries()):
            record = entry.record
            if entry in self.running:
                continue
            for demand in entry.demands:
                demand.ready = None
            if record.value is not PENDING:
                self.settled(entry)
                entry.state = State.FAILED if record.value.__class__ is Failure else State.DONE
                self._ended(entry)
                ended.append(record)
            else:
                entry.state = State.PARKED
                entry.missing = entry.lane = None
                self.arrived.append(entry)
        counts = Counter(entry.state for entry in self.entries())
        self._counts.update({state: counts[state] for state in State if state not in ENDS})
        return ended

    # Events: what tasks wait for

    def demand(self, demand: Demand) -> None:
        """A task waits for some records, and for all that they need; or for everything."""
        if demand.everything and not demand.taken:
            self.everything.append(demand.priority)
        demand.taken = True
        if not demand.stack:
            return
        if not self.walking:
            self._walks_from = self.slices + IN_ORDER
        self.walking.setdefault(demand.priority, deque()).append(demand)

    def withdraw(self, demand: Demand) -> None:
        """It waits no longer."""
        demand.alive = False
        if demand.everything and demand.taken:
            self.everything.remove(demand.priority)
        demand.taken = False
        demand.stack = []
        demand.entered = demand.ready = None
        marked, demand.marked = demand.marked, None
        for entry in marked or ():
            if demand in entry.demands:
                entry.demands.remove(demand)
                self._promote(entry)
            elif demand in (relying := entry.relying.get(demand.priority, ())):
                self._rely_no_longer(entry, demand, relying)

    def _promote(self, entry: Entry) -> None:
        """Have one of the demands that relied on a withdrawn one, of the highest priority, look at a record itself."""
        while entry.relying:
            relying = entry.relying[max(entry.relying)]
            other = next(iter(relying))
            self._rely_no_longer(entry, other, relying)
            if other.alive:
                other.stack.append(entry.record)
                if len(other.stack) == 1:
                    self.demand(other)
                return

    def _rely_no_longer(self, entry: Entry, demand: Demand, relying: dict[Demand, None]) -> None:
        del relying[demand]
        if not relying:
            del entry.relying[demand.priority]

    # Decisions

    def walks(self, *, in_order: bool) -> bool:
        """Tell whether a demand has a step to do now.

        `in_order` says that records are on the queue: then they are run in order for a while, which is cheaper and
        settles most of what is demanded.
        """
        return bool(self.walking) and not (in_order and self.slices < self._walks_from)

    def next_demand(self) -> Demand | None:
        """The demand whose turn it is to walk; None where none has a step to do."""
        for priority in sorted(self.walking, reverse=True):
            turns = self.walking[priority]
            while turns:
                demand = turns[0]
                if demand.alive and demand.stack:
                    turns.rotate(-1)
                    return demand
                demand.entered = None  # what refers to a record keeps its result
                turns.popleft()
            del self.walking[priority]
        return None

    def walk(self, demand: Demand, home: object, steps: int) -> Cell | None:
        """Let a demand do up to so many steps: the record that it comes to, if any.

        A record that comes out is still queued, and what it needs was come to before.
        """
        stack, entered = demand.stack, demand.entered
        if entered is None:
            entered = demand.entered = set()
        for _ in range(steps):
            if not stack:
                return None
            record = stack[-1]
            if record.value is not PENDING:
                stack.pop()
            elif record.home is not home:
                demand.foreign = [*(demand.foreign or ()), stack.pop()]
            elif (entry := entry_of(record)) is not None:
                stack.pop()
                self._mark(entry, demand)
            elif record in entered:
                entered.discard(stack.pop())
                return record
            else:
                entered.add(record)
                stack.extend(reversed(pending_operands(record)))  # in dispatch order, so that they can be one group
        return None

    def _mark(self, entry: Entry, demand: Demand) -> None:
        """A demand has come to a record that was set aside: it is demanded, and so is what it waits for."""
        if demand in entry.demands:
            return
        demand.mark(entry)
        if len(entry.demands) >= SHARED and entry.rank >= demand.priority:
            entry.relying.setdefault(demand.priority, {})[demand] = None
            return
        entry.demands.append(demand)
        if entry.state is State.READY:
            assert entry.lane is not None
            entry.lane.want(entry, demand)
        elif entry.state is not State.LAUNCHED:  # what a launched one needs is launched, or has ended
            # One that runs may be put back, and in a group what it needs with it.
            demand.stack.extend(reversed(pending_operands(entry.record)))

    def top_priority(self) -> int | None:
        """The highest priority of the tasks that wait for everything."""
        return max(self.everything, default=None)

    # What there is

    def count(self, state: State) -> int:
        """Records in this state, of those that were set aside."""
        return self._counts[state]

    def entries(self) -> Iterator[Entry]:
        """All that have not ended, in the order in which they were set aside."""
        entry = self._first
        while entry is not None:
            behind = entry.behind
            yield entry
            entry = behind

    def after(self, entry: Entry) -> Iterator[Entry]:
        """Those that were set aside after this one and have not been started."""
        other = entry.behind
        while other is not None:
            behind = other.behind
            if other.state is State.PARKED or other.state is State.READY:
                yield other
            other = behind

    def check(self) -> None:
        """Raise `AssertionError` unless the invariants hold; where no thread is in a slice."""
        entries = list(self.entries())
        for state in State:
            if state not in ENDS:
                found = sum(entry.state is state for entry in entries)
                assert self._counts[state] == found, f"{self._counts[state]} counted as {state.value}, {found} found"
        for entry in entries:
            self._check_entry(entry)
        assert all(entry.state in (State.RUNNING, State.LAUNCHED) for entry in self.running)
        assert all(demand.alive or not demand.stack for turns in self.walking.values() for demand in turns)

    def _check_entry(self, entry: Entry) -> None:
        record, state = entry.record, entry.state
        assert entry_of(record) is entry, f"{entry} is not the entry of its record"
        assert state is not State.QUEUED, f"{entry} was set aside and has no state"
        assert (entry in self.running) == (state in (State.RUNNING, State.LAUNCHED)), f"{entry} is counted wrongly"
        assert state in (State.RUNNING, State.LAUNCHED) or not entry.grants, f"{entry} holds slots"
        if state is State.PARKED and entry not in self.arrived:
            assert entry.missing is not None, f"{entry} waits for nothing"
            assert entry.missing.value is PENDING, f"{entry} was not told that its operand has ended"
        if state is State.READY:
            assert entry.lane is not None, f"{entry} is in no lane"
        assert record.value is PENDING or state in (State.RUNNING, State.LAUNCHED), f"{entry} has ended"
        assert all(demand.alive for demand in entry.demands), f"{entry} is demanded by a task that waits no longer"

    # How it is done

    def _entry(self, record: Cell, demand: Demand | None) -> Entry:
        rare = record.extend()
        entry: Entry | None = rare.entry
        if entry is None:
            entry = Entry(record, self._made)
            self._made += 1
            self._counts[State.QUEUED] += 1
            self._link(entry, rare)
        if demand is not None and demand.alive and demand not in entry.demands:
            entry.demands.append(demand)
            demand.mark(entry)
        return entry

    def _link(self, entry: Entry, rare: Rare) -> None:
        rare.entry = entry  # nothing is called from here on, so no interrupt comes in between
        self.aside += 1
        entry.before = self._last
        if self._last is None:
            self._first = entry
        else:
            self._last.behind = entry
        self._last = entry

    def _unlink(self, entry: Entry) -> None:
        self.aside -= 1
        before, behind = entry.before, entry.behind
        if before is None:
            self._first = behind
        else:
            before.behind = behind
        if behind is None:
            self._last = before
        else:
            behind.before = before
        entry.before = entry.behind = None

    def _move(self, entry: Entry, state: State) -> None:
        if state not in TRANSITIONS[entry.state]:
            raise AssertionError(f"a record cannot go from {entry.state.value} to {state.value}: {entry.record.op}")
        self._counts[entry.state] -= 1
        self._counts[state] += 1
        entry.state = state
