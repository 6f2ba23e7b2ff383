"""The backlog of a device: a random slice drives it beside a model of plain sets, and each rule has its own test."""

import random
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest

from engine.base.op import Op
from engine.queues import backlog as backlog_module
from engine.queues.backlog import SHARED, Backlog
from engine.queues.demand import Demand
from engine.queues.records import entry_of
from engine.queues.states import TRANSITIONS, Entry, State
from engine.threads.slots import PATIENCE
from handles.cell import PENDING, Cell, pending_cell, settle

OP = Op("step", lambda *operands: operands)
HOME: Any = object()
"""The queue of most records."""
ELSEWHERE: Any = object()
"""Another queue, with some of their operands."""
SET_ASIDE = (State.PARKED, State.READY, State.LAUNCHED, State.RUNNING)
ENDS = (State.DONE, State.FAILED, State.CANCELLED)
LANES = ("cores", "calls")


def record(*operands: Cell, home: Any = HOME) -> Cell:
    return pending_cell(OP, operands, None, home, None, 0)


def chain(length: int) -> list[Cell]:
    """Records of which each needs the one before it."""
    records = [record()]
    while len(records) < length:
        records.append(record(records[-1]))
    return records


class Machine:
    """Plays what a slice does to a backlog, and knows by itself what is to be expected.

    The model keeps the graph as it was dispatched, the state of each record and the targets of each demand; all else
    (what is demanded, what has to wait, in which order) is worked out from those whenever it is asked for.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.backlog = Backlog()
        self.pending: deque[Cell] = deque()
        self.states: dict[Cell, State] = {}
        """The records that were set aside, in that order, and have not ended."""
        self.operands: dict[Cell, tuple[Cell, ...]] = {}
        self.targets: dict[Demand, list[Cell]] = {}
        """The demands that were not withdrawn."""
        self.abroad: list[Cell] = []
        self.waiting_abroad: list[tuple[Cell, Entry]] = []
        self.events: Counter[str] = Counter()

    # Events

    def dispatch(self) -> None:
        known = [cell for cell in self.operands if self.random.random() < 0.9][-12:]
        operands = self.random.sample(known, min(len(known), self.random.randrange(4)))
        if self.random.random() < 0.1:
            self.abroad.append(record(home=ELSEWHERE))
            operands.append(self.abroad[-1])
        cell = record(*operands)
        self.operands[cell] = tuple(operands)
        self.pending.append(cell)

    def take_first(self) -> None:
        if self.pending:
            self.deal_with(self.pending[0])
            self.pending.popleft()

    def take_arrived(self) -> None:
        arrived = self.backlog.arrived
        while arrived:
            entry = arrived[0]
            if entry.state is State.PARKED and (entry.missing is None or entry.missing.value is not PENDING):
                entry.missing = None
                self.look_at(entry.record, None)
            arrived.popleft()

    def settle_abroad(self) -> None:
        if self.abroad:
            cell = self.abroad.pop(self.random.randrange(len(self.abroad)))
            settle(cell, 0)
            self.backlog.arrived.extend(entry for missing, entry in self.waiting_abroad if missing is cell)

    def demand(self) -> None:
        targets = [cell for cell in self.operands if cell.value is PENDING and self.random.random() < 0.1]
        priority = self.random.choice((0, 0, 0, 1, 7))
        demand = Demand(list(targets), priority, everything=self.random.random() < 0.1)
        self.targets[demand] = targets
        self.backlog.demand(demand)

    def withdraw(self) -> None:
        if self.targets:
            demand = self.random.choice(list(self.targets))
            del self.targets[demand]
            self.backlog.withdraw(demand)

    def walk(self) -> None:
        demand = self.backlog.next_demand()
        if demand is not None:
            assert demand in self.targets
            cell = self.backlog.walk(demand, HOME, self.random.randrange(1, 5))
            if cell is not None:
                self.deal_with(cell, demand)

    def walk_out(self) -> None:
        while (demand := self.backlog.next_demand()) is not None:
            cell = self.backlog.walk(demand, HOME, 3)
            if cell is not None:
                self.deal_with(cell, demand)
        self.check_demands()

    def start(self) -> None:
        for lane in self.backlog.lanes.values():
            entry = lane.next(self.backlog.top_priority())
            if entry is not None and self.random.random() < 0.7:
                state = self.random.choice((State.RUNNING, State.LAUNCHED))
                self.backlog.start(entry, state)
                self.states[entry.record] = state

    def take(self) -> None:
        """A record that needs nothing but what runs joins it."""
        running = {cell for cell, state in self.states.items() if state is State.RUNNING}
        for cell in self.operands:
            state = self.states.get(cell, State.QUEUED)
            fits = state in (State.QUEUED, State.PARKED, State.READY) and self.missing(cell) <= running
            if running and cell.value is PENDING and fits and self.random.random() < 0.3:
                if state is State.QUEUED:
                    self.pending.remove(cell)
                self.backlog.take(cell)
                self.states[cell] = State.RUNNING
                return

    def end(self) -> None:
        running = [entry for entry in self.backlog.running if not self.missing(entry.record)]
        if running:
            entry = self.random.choice(running)
            cell = entry.record
            abandoned = not settle(cell, 0)
            self.backlog.end(entry, State.CANCELLED if abandoned else self.random.choice((State.DONE, State.FAILED)))
            del self.states[cell]

    def put_back(self) -> None:
        interrupted = [entry for entry in self.backlog.running if entry.record.value is PENDING]
        if interrupted:
            entry = self.random.choice(interrupted)
            self.backlog.put_back(entry)
            self.states[entry.record] = entry.state
            assert entry.state is (State.PARKED if entry.lane is None else State.READY)

    def cancel(self) -> None:
        cells = [cell for cell in self.operands if cell.value is PENDING]
        if not cells:
            return
        cell = self.random.choice(cells)
        entry = entry_of(cell)
        settle(cell, None)
        if entry is None:
            return
        if entry in self.backlog.running:
            self.backlog.settled(entry)
        else:
            self.backlog.end(entry, State.CANCELLED)
            del self.states[cell]

    def mend(self) -> None:
        """An interrupt has left half done what follows from states; all that waits is looked at anew."""
        backlog = self.backlog
        waiting = [entry for entry in backlog.entries() if entry not in backlog.running]
        for state in self.random.sample(SET_ASIDE, 2):
            backlog._counts[state] += self.random.choice((-1, 1))
        for lane in backlog.lanes.values():
            if lane._by_age and self.random.random() < 0.5:
                lane._by_age.popleft()
        settled = self.random.sample(waiting, min(len(waiting), self.random.randrange(2)))
        for entry in settled:
            settle(entry.record, 0)
        told = [entry.record for entry in settled]
        for entry in waiting:
            self.states[entry.record] = State.PARKED
        for cell in told:
            del self.states[cell]
        assert backlog.mend() == told
        assert all(entry in backlog.arrived for entry in waiting if entry not in settled)

    # What a slice does with a record

    def deal_with(self, cell: Cell, demand: Demand | None = None) -> None:
        if cell.value is PENDING and entry_of(cell) is None:
            self.look_at(cell, demand)

    def look_at(self, cell: Cell, demand: Demand | None) -> None:
        missing = next((operand for operand in cell.args if operand.value is PENDING), None)
        if missing is not None:
            entry = self.backlog.park(cell, missing, demand, here=missing.home is HOME)
            assert missing.home is ELSEWHERE or entry_of(missing) is not None, "a record came before what it needs"
            if missing.home is ELSEWHERE:
                self.waiting_abroad.append((missing, entry))
            self.states[cell] = State.PARKED
        elif self.random.random() < 0.3:
            settle(cell, 0)
            if entry_of(cell) is not None:
                self.backlog.end(entry_of(cell), State.DONE)
                del self.states[cell]
        else:
            self.backlog.ready(cell, self.random.choice(LANES), demand)
            self.states[cell] = State.READY

    # The model

    def missing(self, cell: Cell) -> set[Cell]:
        return {operand for operand in self.operands.get(cell, ()) if operand.value is PENDING}

    def needed(self, targets: Iterable[Cell]) -> set[Cell]:
        """All that has to be computed for these records, those included."""
        needed: set[Cell] = set()
        stack = [cell for cell in targets if cell.value is PENDING]
        while stack:
            cell = stack.pop()
            if cell not in needed:
                needed.add(cell)
                stack.extend(self.missing(cell))
        return needed

    def behind(self, targets: Iterable[Cell]) -> set[Cell]:
        """All that was ever needed for these records: what a cancelled one needed may still be demanded."""
        behind: set[Cell] = set()
        stack = list(targets)
        while stack:
            cell = stack.pop()
            if cell not in behind:
                behind.add(cell)
                stack.extend(self.operands.get(cell, ()))
        return behind

    def check(self) -> None:
        backlog = self.backlog
        backlog.check()
        assert [entry.record for entry in backlog.entries()] == list(self.states)
        assert {entry.record: entry.state for entry in backlog.entries()} == self.states
        assert backlog.aside == len(self.states)
        for state in SET_ASIDE:
            assert backlog.count(state) == sum(each is state for each in self.states.values())
        needed = {demand: self.behind(targets) for demand, targets in self.targets.items()}
        for entry in backlog.entries():
            assert all(entry.record in needed[demand] for demand in entry.demands)
            if entry.state is State.PARKED and not self.missing(entry.record):
                assert entry in backlog.arrived, "a record was not told that its operands are there"
        for lane in backlog.lanes.values():
            ready = [entry for entry in backlog.entries() if entry.state is State.READY and entry.lane is lane]
            following = lane.next(backlog.top_priority())
            assert following in ready if ready else following is None
        assert backlog.top_priority() == max(
            (demand.priority for demand in self.targets if demand.everything), default=None
        )

    def check_demands(self) -> None:
        """Once all demands have walked, each record that one needs was set aside, and ranks as high as that one."""
        for demand, targets in self.targets.items():
            for cell in self.needed(targets):
                if cell.home is HOME:
                    entry = entry_of(cell)
                    assert entry is not None, "a demand has not come to a record that it needs"
                    assert demand in entry.demands or entry.rank >= demand.priority

    def step(self) -> None:
        name = self.random.choice(EVENTS)
        self.events[name] += 1
        getattr(self, name)()
        self.check()

    def finish(self) -> None:
        """Do all that is left to do."""
        while self.abroad:
            self.settle_abroad()
        while self.pending or self.states:
            before = len(self.pending), len(self.states), Counter(self.states.values())
            for event in (self.take_arrived, self.walk_out, self.take_first, self.start, self.start, self.end):
                event()
            progress = len(self.pending), len(self.states), Counter(self.states.values())
            assert progress != before or self.backlog.count(State.READY), "records are left that nothing will start"
            self.check()


EVENTS = (
    *("dispatch", "take_first", "take_arrived", "start", "end", "walk", "demand") * 3,
    *("withdraw", "settle_abroad", "take", "put_back", "cancel", "walk_out") * 2,
    "mend",
)


@pytest.mark.parametrize("shared", [1, 3, SHARED])
@pytest.mark.parametrize("seed", range(25))
def test_any_sequence_of_events_leaves_the_backlog_as_the_model_has_it(
    seed: int, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "SHARED", shared)
    machine = Machine(seed)
    for _ in range(300):
        machine.step()
    assert set(machine.events) == set(EVENTS)
    machine.finish()
    assert all(cell.value is not PENDING for cell in machine.operands)
    for demand in list(machine.targets):
        machine.backlog.withdraw(demand)
    assert machine.backlog.next_demand() is None
    assert not machine.backlog.everything


# ---------------------------------------------------------------------------------------------------------------------
# States


def in_state(backlog: Backlog, state: State) -> Entry:
    """A record that was set aside and has come to this state."""
    if state is State.PARKED:
        return backlog.park(record(), record(home=ELSEWHERE), here=False)
    entry = backlog.ready(record(), "cores")
    if state in (State.RUNNING, State.LAUNCHED):
        backlog.start(entry, state)
    elif state in ENDS:
        backlog.end(entry, state)
    return entry


TO: dict[State, Callable[[Backlog, Entry], object]] = {
    State.LAUNCHED: lambda backlog, entry: backlog.start(entry, State.LAUNCHED),
    State.RUNNING: lambda backlog, entry: backlog.start(entry, State.RUNNING),
    State.DONE: lambda backlog, entry: backlog.end(entry, State.DONE),
    State.FAILED: lambda backlog, entry: backlog.end(entry, State.FAILED),
    State.CANCELLED: lambda backlog, entry: backlog.end(entry, State.CANCELLED),
}
"""The events that take a record that was set aside to a state."""

REFUSED = [(source, target) for source in State for target in TO if target not in TRANSITIONS[source]]


@pytest.mark.parametrize(
    ("source", "target"), [pair for pair in REFUSED if pair[0] is not State.QUEUED], ids=lambda state: state.value
)
def test_a_transition_outside_the_table_is_refused(source: State, target: State) -> None:
    backlog = Backlog()
    entry = in_state(backlog, source)
    with pytest.raises(AssertionError, match=f"from {source.value} to {target.value}"):
        TO[target](backlog, entry)


def test_a_record_whose_operands_were_there_is_not_parked() -> None:
    backlog = Backlog()
    entry = in_state(backlog, State.READY)
    with pytest.raises(AssertionError, match="from ready to parked"):
        backlog.park(entry.record, record(home=ELSEWHERE), here=False)


def test_what_was_launched_with_its_operand_and_did_not_begin_waits_for_it_again() -> None:
    backlog = Backlog()
    first, second = chain(2)
    source = backlog.ready(first, "device")
    entry = backlog.park(second, first, here=True)
    backlog.start(source, State.LAUNCHED)
    assert source.lane is not None
    backlog.join(entry, source.lane)
    backlog.check()
    backlog.put_back(source)
    backlog.park_again(entry, first)
    backlog.check()
    assert (source.state, entry.state, backlog.running) == (State.READY, State.PARKED, set())
    settle(first, 0)
    backlog.end(source, State.DONE)
    assert entry in backlog.arrived


@pytest.mark.parametrize("source", [State.READY, State.RUNNING, State.LAUNCHED], ids=lambda state: state.value)
def test_a_record_does_not_become_ready_twice(source: State) -> None:
    backlog = Backlog()
    entry = in_state(backlog, source)
    if source is State.READY:
        with pytest.raises(AssertionError, match="from ready to ready"):
            backlog.ready(entry.record, "cores")
    else:
        backlog.put_back(entry)
        assert entry.state is State.READY


@pytest.mark.parametrize("source", [State.RUNNING, State.LAUNCHED], ids=lambda state: state.value)
def test_a_record_that_runs_is_not_taken_into_a_group(source: State) -> None:
    backlog = Backlog()
    entry = in_state(backlog, source)
    with pytest.raises(AssertionError, match=f"from {source.value} to running"):
        backlog.take(entry.record)


def test_every_state_is_in_the_table_and_ends_are_final() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(not TRANSITIONS[state] for state in ENDS)
    assert all(set(ENDS) <= TRANSITIONS[state] for state in State if state not in ENDS)
    assert not any(State.QUEUED in following for following in TRANSITIONS.values())


def test_a_group_that_a_fork_cut_short_waits_for_its_operands_again() -> None:
    backlog = Backlog()
    head, member, last = records = chain(3)
    backlog.start(backlog.ready(head, "cores"))
    backlog.park(last, member, here=False)
    entries = [entry_of(head), backlog.take(member), backlog.take(last)]
    for entry in reversed(entries):
        backlog.put_back(entry)
        backlog.check()
    assert [entry.state for entry in entries] == [State.READY, State.PARKED, State.PARKED]
    assert set(backlog.arrived) == {entry_of(member), entry_of(last)}
    assert [entry.record for entry in backlog.entries()] == [head, last, member]
    assert backlog.lanes["cores"].next() is entry_of(records[0])


def test_a_record_that_was_demanded_while_it_ran_is_demanded_when_it_is_put_back() -> None:
    backlog = Backlog()
    first, second = (backlog.ready(record(), "cores") for _ in range(2))
    backlog.start(second)
    demand = Demand([second.record], priority=3)
    backlog.demand(demand)
    walk_out(backlog)
    backlog.put_back(second)
    assert backlog.lanes["cores"].next() is second
    assert second.rank == 3
    assert first.state is State.READY
    backlog.check()


# ---------------------------------------------------------------------------------------------------------------------
# Whose turn it is


def walk_out(backlog: Backlog, at_once: int = 1) -> int:
    """Let all demands walk to their ends, records that they come to being ready; how many turns that took."""
    turns = 0
    while (demand := backlog.next_demand()) is not None:
        turns += 1
        cell = backlog.walk(demand, HOME, at_once)
        if cell is not None:
            missing = next((each for each in cell.args if each.value is PENDING), None)
            if missing is None:
                backlog.ready(cell, "cores", demand)
            else:
                backlog.park(cell, missing, demand, here=True)
    return turns


def starts(backlog: Backlog, count: int | None = None, lane: str = "cores") -> Iterator[Cell]:
    """The records of a lane in the order in which they are started; each ends at once."""
    while count is None or count > 0:
        entry = backlog.lanes[lane].next(backlog.top_priority())
        if entry is None:
            return
        cell = entry.record
        backlog.start(entry)
        settle(cell, 0)
        backlog.end(entry, State.DONE)
        backlog.check()
        yield cell
        count = None if count is None else count - 1


def demanded(backlog: Backlog, cells: Sequence[Cell], priority: int = 0) -> Demand:
    demand = Demand([*reversed(cells)], priority)  # the one that stands last is looked at first
    backlog.demand(demand)
    return demand


def ready(backlog: Backlog, count: int) -> list[Cell]:
    cells = [record() for _ in range(count)]
    for cell in cells:
        backlog.ready(cell, "cores")
    return cells


def test_what_no_task_waits_for_starts_in_the_order_in_which_it_became_ready() -> None:
    backlog = Backlog()
    cells = ready(backlog, 20)
    assert list(starts(backlog)) == cells


def test_what_a_task_waits_for_goes_first() -> None:
    backlog = Backlog()
    cells = ready(backlog, 20)
    demanded(backlog, [cells[-1]])
    walk_out(backlog)
    assert list(starts(backlog)) == [cells[-1], *cells[:-1]]


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_tasks_of_one_priority_take_turns(tasks: int) -> None:
    backlog = Backlog()
    shares = [ready(backlog, 4 * (tasks - index)) for index in range(tasks)]
    for share in shares:
        demanded(backlog, share)
    walk_out(backlog)
    owner = {cell: index for index, share in enumerate(shares) for cell in share}
    order = [owner[cell] for cell in starts(backlog, 4 * tasks)]
    # The one that waits longest is among those that are demanded: its turns by age come on top.
    for index in range(1, tasks):
        turns = [at for at, each in enumerate(order) if each == index]
        assert len(turns) >= 3
        assert all(later - earlier <= tasks + 1 for earlier, later in pairwise(turns))


def test_the_higher_priority_goes_first() -> None:
    backlog = Backlog()
    cells = ready(backlog, 3 * (PATIENCE - 1))
    third = len(cells) // 3
    low, high, rest = cells[:third], cells[third : 2 * third], cells[2 * third :]
    demanded(backlog, low, 0)
    demanded(backlog, high, 5)
    walk_out(backlog)
    order = list(starts(backlog))
    assert set(order[:third]) == set(high)
    assert set(order[third : 2 * third]) == set(low)
    assert order[2 * third :] == rest


def test_a_record_that_two_tasks_need_is_started_once_in_the_turn_of_either() -> None:
    backlog = Backlog()
    first, second, shared = ready(backlog, 3)
    demanded(backlog, [shared, first])
    demanded(backlog, [shared, second])
    walk_out(backlog)
    assert list(starts(backlog)) == [shared, second, first]


@pytest.mark.parametrize("priority", [0, 9])
@pytest.mark.parametrize("tasks", [1, 3])
def test_an_endless_stream_of_demands_does_not_starve_what_no_task_waits_for(tasks: int, priority: int) -> None:
    backlog = Backlog()
    waiting = ready(backlog, 3)
    order: list[Cell] = []
    streams = [iter(lambda: record(), None) for _ in range(tasks)]
    for _ in range(10 * PATIENCE):
        for stream in streams:
            cell = next(stream)
            backlog.ready(cell, "cores", demanded(backlog, [cell], priority))
        order.extend(starts(backlog, 1))
    ranks = [order.index(cell) for cell in waiting]
    assert ranks == [PATIENCE, 2 * PATIENCE + 1, 3 * PATIENCE + 2]


def test_an_endless_stream_of_a_higher_priority_does_not_starve_a_lower_one() -> None:
    backlog = Backlog()
    (low,) = ready(backlog, 1)
    demanded(backlog, [low], 0)
    walk_out(backlog)
    order: list[Cell] = []
    while low.value is PENDING:
        cell = record()
        backlog.ready(cell, "cores", demanded(backlog, [cell], 5))
        order.extend(starts(backlog, 1))
    assert len(order) == PATIENCE + 1


def everything(backlog: Backlog, priority: int = 0) -> Demand:
    demand = Demand([], priority, everything=True)
    backlog.demand(demand)
    return demand


def test_a_task_that_waits_for_all_takes_turns_with_one_that_waits_for_some() -> None:
    backlog = Backlog()
    cells = ready(backlog, 20)
    all_of_them = everything(backlog)
    demanded(backlog, cells[10:])
    walk_out(backlog)
    order = list(starts(backlog, 10))
    assert sorted(map(cells.index, order)) == [*range(5), *range(10, 15)]
    backlog.withdraw(all_of_them)
    assert cells.index(next(starts(backlog))) >= 10


@pytest.mark.parametrize(("mine", "others", "first"), [(5, 0, 0), (0, 5, 19)])
def test_a_task_that_waits_for_all_goes_by_its_priority(mine: int, others: int, first: int) -> None:
    backlog = Backlog()
    cells = ready(backlog, 20)
    everything(backlog, mine)
    demanded(backlog, [cells[-1]], others)
    walk_out(backlog)
    assert cells.index(next(starts(backlog))) == first


def test_a_task_that_waits_for_all_is_counted_once_and_leaves_nothing() -> None:
    backlog = Backlog()
    demand = everything(backlog, 4)
    backlog.demand(demand)
    assert backlog.everything == [4]
    backlog.withdraw(demand)
    backlog.withdraw(demand)
    assert backlog.top_priority() is None


def test_lanes_do_not_wait_for_each_other() -> None:
    backlog = Backlog()
    call = record()
    backlog.ready(call, "calls")
    cells = ready(backlog, 3)
    assert list(starts(backlog)) == cells
    assert list(starts(backlog, lane="calls")) == [call]


def test_demands_walk_in_turns_and_by_priority() -> None:
    backlog = Backlog()
    first, second, urgent = (demanded(backlog, [chain(3)[-1]], priority) for priority in (0, 0, 2))
    turns = []
    while (demand := backlog.next_demand()) is not None:
        turns.append(demand)
        cell = backlog.walk(demand, HOME, 1)
        if cell is not None:
            settle(cell, 0)
    steps = turns.count(urgent)
    assert turns[:steps] == [urgent] * steps
    assert turns[steps:] == [first, second] * (len(turns[steps:]) // 2)


def test_operands_come_before_what_needs_them_each_once() -> None:
    backlog = Backlog()
    first, second = record(), record()
    both = record(first, second, first)
    top = record(both, second, both)
    demand = demanded(backlog, [top, both])
    order = []
    while (cell := backlog.walk(demand, HOME, 100)) is not None:
        order.append(cell)
        settle(cell, 0)
    assert sorted(map(id, order)) == sorted(map(id, (first, second, both, top)))
    assert order.index(both) > max(order.index(first), order.index(second))
    assert order[-1] is top


def test_an_expression_is_walked_in_dispatch_order() -> None:
    """`(x - y) ** 2 + abs(x)`: what comes first is what was dispatched first, so all the rest comes after it."""
    backlog = Backlog()
    difference = record()
    square, size = record(difference, difference), record()
    dispatched = [difference, square, size, record(square, size)]
    demanded(backlog, [dispatched[-1]])
    walk_out(backlog)
    assert [entry.record for entry in backlog.entries()] == dispatched
    assert list(starts(backlog)) == [difference, size]


def test_a_record_of_another_queue_is_handed_out_not_walked() -> None:
    backlog = Backlog()
    far = record(record(home=ELSEWHERE), home=ELSEWHERE)
    near = record(far)
    demand = demanded(backlog, [near])
    assert backlog.walk(demand, HOME, 100) is near
    assert demand.foreign == [far]


# ---------------------------------------------------------------------------------------------------------------------
# Demands that go away


def test_a_demand_that_is_withdrawn_leaves_nothing() -> None:
    backlog = Backlog()
    cells = ready(backlog, 5)
    parked = record(cells[0])
    backlog.park(parked, cells[0], here=True)
    queued = record(parked)
    demand = demanded(backlog, [cells[-1], parked, queued])
    backlog.walk(demand, HOME, 2)
    reference = weakref.ref(queued)
    backlog.withdraw(demand)
    backlog.check()
    assert not any((demand.stack, demand.entered, demand.ready, demand.marked))
    assert all(not entry.demands for entry in backlog.entries())
    assert backlog.next_demand() is None
    del queued
    assert reference() is None
    assert list(starts(backlog)) == cells


def test_a_demand_may_be_withdrawn_before_it_was_taken_up_and_twice() -> None:
    backlog = Backlog()
    demand = Demand([record()], everything=True)
    for _ in range(2):
        backlog.withdraw(demand)
        backlog.check()
    assert not backlog.everything


@pytest.fixture
def two_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records remember two demands."""
    monkeypatch.setattr(backlog_module, "SHARED", 2)


@pytest.mark.usefixtures("two_shared")
def test_demands_that_rely_on_others_are_looked_at_when_those_are_withdrawn() -> None:
    backlog = Backlog()
    operand, *others = ready(backlog, 4)
    target = record(operand)
    backlog.park(target, operand, here=True)
    demands = [demanded(backlog, [target]) for _ in range(5)]
    walk_out(backlog)
    entry = entry_of(target)
    assert len(entry.demands) == 2
    while len(demands) > 1:
        backlog.withdraw(demands.pop(0))
        walk_out(backlog)
        backlog.check()
        assert entry.demands
        assert set(entry.demands) <= set(demands)
        assert entry_of(operand).demands == entry.demands
    assert next(starts(backlog)) is operand
    assert others[0].value is PENDING


@pytest.mark.usefixtures("two_shared")
def test_of_demands_that_rely_on_others_the_highest_takes_over() -> None:
    backlog = Backlog()
    target, other = ready(backlog, 2)
    urgent = demanded(backlog, [target], 9)
    for priority in (0, 0, 5, 0):
        demanded(backlog, [target], priority)
    demanded(backlog, [other], 3)
    walk_out(backlog)
    backlog.withdraw(urgent)
    walk_out(backlog)
    assert entry_of(target).rank == 5


@pytest.mark.usefixtures("two_shared")
def test_a_demand_that_relied_on_others_leaves_nothing() -> None:
    backlog = Backlog()
    (target,) = ready(backlog, 1)
    for _ in range(2):
        demanded(backlog, [target])
    walk_out(backlog)
    for _ in range(20):
        demand = demanded(backlog, [target])
        walk_out(backlog)
        assert entry_of(target).relying
        backlog.withdraw(demand)
        assert not entry_of(target).relying


@pytest.mark.usefixtures("two_shared")
def test_a_higher_priority_does_not_rely_on_lower_ones() -> None:
    backlog = Backlog()
    target, other = ready(backlog, 2)
    for _ in range(4):
        demanded(backlog, [target], 0)
    demanded(backlog, [other], 1)
    demanded(backlog, [target], 2)
    walk_out(backlog)
    assert entry_of(target).rank == 2
    assert next(starts(backlog)) is target


# ---------------------------------------------------------------------------------------------------------------------
# What is kept alive, and how long it takes


@pytest.mark.parametrize("end", ENDS, ids=lambda state: state.value)
def test_nothing_keeps_a_record_that_has_ended(end: State) -> None:
    backlog = Backlog()
    cells = ready(backlog, 3)
    last = record(cells[-1])
    parked = backlog.park(last, cells[-1], here=True)
    demand = demanded(backlog, [last])
    everything(backlog)
    walk_out(backlog)
    references = [weakref.ref(cell) for cell in (*cells, last)]
    for entry in list(backlog.entries()):
        if entry is parked:
            parked.missing = None
            backlog.ready(parked.record, "cores")
        backlog.start(entry)
        settle(entry.record, 0)
        backlog.end(entry, end)
    del cells, last, entry
    assert [reference() for reference in references] == [None] * 4
    assert demand.alive
    assert backlog.aside == 0


def test_a_demand_that_has_walked_keeps_no_record() -> None:
    backlog = Backlog()
    cells = chain(5)
    demand = demanded(backlog, [cells[-1]])
    references = [weakref.ref(cell) for cell in cells]
    while (cell := backlog.walk(demand, HOME, 4)) is not None or demand.stack:
        if cell is not None:
            settle(cell, 0)
    assert backlog.next_demand() is None
    del cells, cell
    assert [reference() for reference in references] == [None] * 5


LENGTHS = (200, 400)


def grows(count: Callable[[int], int]) -> float:
    """How much more steps twice the records take."""
    few, many = map(count, LENGTHS)
    return many / few


def test_a_loop_that_awaits_each_step_of_what_is_set_aside_stays_linear() -> None:
    def steps(length: int) -> int:
        backlog = Backlog()
        (first,) = ready(backlog, 1)
        backlog.start(entry_of(first))
        taken, cell = 0, first
        for _ in range(length):
            cell = record(cell)
            demanded(backlog, [cell])
            taken += walk_out(backlog)
        backlog.check()
        return taken

    # Each task would walk the whole chain: past `SHARED` of them they rely on each other.
    assert grows(steps) < 2.5


def test_a_loop_that_awaits_each_step_as_it_ends_takes_as_many_steps_for_each() -> None:
    def steps(length: int) -> int:
        backlog = Backlog()
        taken, cell = 0, record()
        settle(cell, 0)
        for _ in range(length):
            cell = record(cell)
            demand = demanded(backlog, [cell])
            taken += walk_out(backlog)
            assert list(starts(backlog)) == [cell]
            backlog.withdraw(demand)
        return taken

    assert grows(steps) == 2


@pytest.mark.parametrize(("length", "tasks"), [(100_000, 1), (5_000, 3)])
def test_long_chains_are_walked_without_recursion_each_record_once(length: int, tasks: int) -> None:
    cells = chain(length)
    backlog = Backlog()
    for _ in range(tasks):
        demanded(backlog, [cells[-1]])
    turns = walk_out(backlog, 1 if tasks > 1 else 64)
    assert backlog.aside == length
    assert turns <= 3 * tasks * length
    order = 0
    while backlog.aside:
        order += sum(1 for _ in starts_unchecked(backlog))
        while backlog.arrived:
            entry = backlog.arrived.popleft()
            entry.missing = None
            backlog.ready(entry.record, "cores")
    assert order == length
    while cells:
        cells.pop()  # from its end: the chain itself would be let go of recursively


def starts_unchecked(backlog: Backlog) -> Iterator[Cell]:
    """As `starts`, where to check the whole backlog each time would take long."""
    while (entry := backlog.lanes["cores"].next(None)) is not None:
        cell = entry.record
        backlog.start(entry)
        settle(cell, 0)
        backlog.end(entry, State.DONE)
        yield cell
