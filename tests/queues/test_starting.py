"""Starting, built alone: which slots a record wants, that it gets all of them or none, and how it is handed over."""

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from engine.base.op import Op
from engine.queues import launch as launch_module, starting as starting_module
from engine.queues.backlog import Backlog
from engine.queues.demand import Demand
from engine.queues.launch import Job, Launched, Launcher
from engine.queues.records import entry_of
from engine.queues.starting import Starting
from engine.queues.states import Entry, State
from engine.threads.slots import Slots
from handles.cell import Cell, pending_cell, settle

CORES = 4
ADD = Op("add", np.add)
SORT = Op("sort", np.sort)
MATMUL = Op("matmul", np.matmul, blas=True)
CALL = Op("call", lambda x: x, ns=None)
TASK = Op("task", lambda x: x, ns=None, coroutine=True)


class Driver:
    """Counts how often it was told that a slot is free."""

    def __init__(self) -> None:
        self.called = 0

    def slot_free(self) -> None:
        self.called += 1


class Tasks:
    """Starts coroutines, where there is a loop."""

    def __init__(self, loop: bool) -> None:
        self.loop = loop
        self.started: list[Entry] = []

    def has_loop(self) -> bool:
        return self.loop

    def start(self, entry: Entry, values: list[Any]) -> bool:
        if self.loop:
            self.started.append(entry)
        return self.loop


class Workers:
    """Keeps the jobs that it was given; what hands records to a backend is done when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.launching: list[Callable[[], None]] = []
        self.error: BaseException | None = None

    def submit(self, call: Callable[[], None]) -> None:
        if self.error is not None:
            raise self.error
        owner = getattr(call, "__self__", None)
        if isinstance(owner, Job):
            self.jobs.append(owner)
        else:
            self.launching.append(call)

    def launch(self) -> None:
        while self.launching:
            self.launching.pop(0)()


class Backend:
    """Keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.error: BaseException | None = None
        self.ahead = 2

    def runs(self, name: str, kernel: object) -> bool:
        return True

    def lookahead(self) -> int:
        return self.ahead

    def submit(self, device: object, records: Sequence[Launched]) -> None:
        if self.error is not None:
            raise self.error
        self.batches.append([record.name for record in records])


class Outcomes:
    """What backends said."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Entry, Any]] = []

    def add(self, entry: Entry, outcome: Any, more: bool) -> None:
        self.waiting.append((entry, outcome))


class Slice:
    """Has dealt with no record that still stands on the queue."""

    early: frozenset[int] = frozenset()


class Queue:
    """What starting needs of a queue."""

    def __init__(self, *, width: int = 0, on_host: bool = True, calls: int = 3, loop: bool = True) -> None:
        self.on_host = on_host
        self.strict = width == 1
        self.lost: str | None = None
        self.pending: list[Cell] = []
        self.lock = threading.Lock()
        self.backlog = Backlog()
        self.driver = Driver()
        self.tasks = Tasks(loop)
        self.backend = Backend()
        self.device: Any = self
        self.room = 10
        self.outcomes = Outcomes()
        self.slice = Slice()
        self.calls = Slots(calls)
        self.launcher = Launcher(self)  # type: ignore[arg-type]
        self.starting = Starting(self, width=width, split=2, calls=self.calls)  # type: ignore[arg-type]

    def add(self, op: Op, *args: Any, demand: Demand | None = None) -> Entry:
        record = pending_cell(op, args, None, self, None, 0)  # type: ignore[arg-type]
        self.starting.add(record, demand)
        entry: Entry = entry_of(record)
        return entry

    def start(self) -> bool:
        moved = self.starting.start_ready(None, math.inf)
        self.backlog.check()
        return moved

    def end(self, entry: Entry) -> None:
        self.starting.release(entry)
        settle(entry.record, 0)
        self.backlog.end(entry, State.DONE)

    def states(self, *entries: Entry) -> list[str]:
        return [entry.state.value for entry in entries]


@pytest.fixture(autouse=True)
def pool(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """Workers that begin nothing by themselves."""
    pool = Workers()
    monkeypatch.setattr(starting_module, "workers", pool)
    monkeypatch.setattr(launch_module, "workers", pool)
    return pool


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> Slots:
    """The slots of a machine with four cores, whose BLAS uses two threads."""
    slots = Slots(CORES)
    monkeypatch.setattr(starting_module, "core_slots", slots)
    monkeypatch.setattr(starting_module, "blas_threads", lambda: 2)
    return slots


def taken(entry: Entry) -> list[int]:
    return [count for _, count in entry.grants]


def test_what_can_be_divided_takes_idle_cores_up_to_its_share(cores: Slots) -> None:
    queue = Queue()
    entries = [queue.add(ADD, np.ones(3), 1.0) for _ in range(2)]
    assert queue.start()
    assert [taken(entry) for entry in entries] == [[2], [2]]
    assert cores.taken == CORES
    assert not queue.start()


def test_what_cannot_be_divided_takes_one_core(cores: Slots) -> None:
    queue = Queue()
    entries = [queue.add(SORT, np.ones(3)) for _ in range(CORES + 2)]
    queue.start()
    assert queue.states(*entries) == ["running"] * CORES + ["ready"] * 2
    assert cores.taken == CORES


def test_an_op_of_blas_takes_as_many_cores_as_blas_has_threads_now(
    cores: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue()
    entries = [queue.add(MATMUL, np.ones((2, 2)), np.ones((2, 2))) for _ in range(3)]
    queue.start()
    assert queue.states(*entries) == ["running", "running", "ready"]
    queue.end(entries[0])
    queue.end(entries[1])
    monkeypatch.setattr(starting_module, "blas_threads", lambda: 8)
    queue.start()
    assert taken(entries[2]) == [CORES]
    queue.end(entries[2])
    monkeypatch.setattr(starting_module, "blas_threads", lambda: 1)
    more = [queue.add(MATMUL, np.ones((2, 2)), np.ones((2, 2))) for _ in range(CORES)]
    queue.start()
    assert queue.states(*more) == ["running"] * CORES


def test_functions_of_the_user_have_slots_of_their_own(cores: Slots) -> None:
    queue = Queue()
    calls = [queue.add(CALL, 1) for _ in range(4)]
    sorts = [queue.add(SORT, np.ones(3)) for _ in range(CORES)]
    queue.start()
    assert queue.states(*calls) == ["running"] * 3 + ["ready"]
    assert queue.states(*sorts) == ["running"] * CORES
    queue.end(calls[1])
    assert queue.driver.called == 1
    queue.start()
    assert queue.states(calls[3]) == ["running"]


def test_coroutines_take_no_slot_where_there_is_a_loop(cores: Slots, pool: Workers) -> None:
    queue = Queue(width=1, calls=1)
    entries = [queue.add(TASK, 1) for _ in range(5)]
    queue.start()
    assert queue.tasks.started == entries
    assert cores.taken == queue.calls.taken == 0
    assert pool.jobs == []


def test_without_a_loop_coroutines_are_calls(pool: Workers) -> None:
    queue = Queue(loop=False)
    entries = [queue.add(TASK, 1) for _ in range(5)]
    queue.start()
    assert queue.states(*entries) == ["running"] * 3 + ["ready"] * 2
    assert [job.entry for job in pool.jobs] == entries[:3]


def test_the_width_of_the_device_bounds_all_kinds_together() -> None:
    queue = Queue(width=2)
    entries = [queue.add(op, np.ones(3)) for op in (SORT, CALL, SORT, CALL)]
    queue.start()
    assert queue.backlog.count(State.RUNNING) == 2
    for entry in [entry for entry in entries if entry.state is State.RUNNING]:
        queue.end(entry)
    queue.start()
    assert queue.backlog.count(State.RUNNING) == 2
    assert queue.backlog.count(State.READY) == 0


def test_a_limit_bounds_the_calls_of_one_function_in_all_queues() -> None:
    limited = Op("limited", lambda x: x, ns=None, limit=Slots(2))
    queues = [Queue(), Queue()]
    entries = [[queue.add(limited, 1) for _ in range(2)] for queue in queues]
    for queue in queues:
        queue.start()
    assert queues[0].states(*entries[0]) == ["running", "running"]
    assert queues[1].states(*entries[1]) == ["ready", "ready"]
    queues[0].end(entries[0][0])
    assert queues[1].driver.called == 1
    queues[1].start()
    assert queues[1].states(*entries[1]) == ["running", "ready"]


def test_a_record_gets_all_its_slots_or_none() -> None:
    limit = Slots(2)
    limited = Op("limited", lambda x: x, ns=None, limit=limit)
    queue = Queue(calls=1)
    first, second = (queue.add(limited, 1) for _ in range(2))
    queue.start()
    assert queue.states(first, second) == ["running", "ready"]
    assert (limit.taken, queue.calls.taken) == (1, 1)
    assert second.grants == []
    queue.end(first)
    queue.start()
    queue.end(second)
    assert (limit.taken, queue.calls.taken) == (0, 0)


def test_functions_with_limits_do_not_hold_each_other_up() -> None:
    limits = [Slots(1), Slots(1)]
    one, other = (Op("limited", lambda x: x, ns=None, limit=limit) for limit in limits)
    queue = Queue()
    entries = [queue.add(op, 1) for op in (one, one, other, other)]
    queue.start()
    assert queue.states(*entries) == ["running", "ready", "running", "ready"]


def test_a_demand_decides_which_record_gets_the_slot() -> None:
    queue = Queue(calls=1)
    first, second = (queue.add(CALL, 1) for _ in range(2))
    demand = Demand([second.record])
    queue.backlog.demand(demand)
    assert queue.backlog.walk(demand, queue, 10) is None
    queue.start()
    assert queue.states(first, second) == ["ready", "running"]


def test_a_worker_that_asks_takes_the_first_op_and_the_others_are_submitted(pool: Workers) -> None:
    queue = Queue()
    entries = [queue.add(CALL, number) for number in range(3)]
    jobs: list[Job] = []
    queue.starting.start_ready(jobs, math.inf)
    assert [job.entry for job in jobs] == entries[:1]
    assert [job.operands for job in pool.jobs] == [[1], [2]]


def test_operands_are_handed_over_as_values(pool: Workers) -> None:
    queue = Queue()
    operand: Cell = pending_cell(CALL, (), None, queue, None, 0)  # type: ignore[arg-type]
    entry = queue.add(CALL, operand, 5)
    settle(operand, "value")
    queue.start()
    assert [job.operands for job in pool.jobs] == [["value", 5]]
    assert entry.record.extend().running
    assert queue.room == 0


@pytest.mark.parametrize("on_host", [True, False], ids=["on the host", "on another device"])
def test_what_an_interrupt_kept_from_starting_is_started_another_time(
    cores: Slots, pool: Workers, on_host: bool
) -> None:
    queue = Queue(on_host=on_host)
    entry = queue.add(SORT, np.ones(3))
    pool.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        queue.start()
    assert queue.states(entry) == ["ready"]
    assert not entry.record.extend().running
    assert queue.starting.wanted
    assert cores.taken == 0
    pool.error = None
    assert queue.start()
    assert queue.states(entry) == ["running" if on_host else "launched"]


def test_a_queue_with_nothing_ready_waits_for_no_slot() -> None:
    queue, other = Queue(calls=1), Queue(calls=1)
    queue.starting._calls = other.starting._calls = calls = Slots(1)
    running, dropped = (queue.add(CALL, 1) for _ in range(2))
    queue.start()
    waiting = other.add(CALL, 1)
    other.start()
    settle(dropped.record, None)
    queue.backlog.end(dropped, State.CANCELLED)
    queue.start()
    assert len(calls._waiting) == 1
    queue.end(running)
    assert queue.driver.called == 0
    assert other.driver.called == 1
    other.start()
    assert waiting.state is State.RUNNING


def test_a_claim_is_given_up_when_its_turn_comes_and_its_op_runs_in_a_group() -> None:
    queue, other = Queue(calls=1), Queue(calls=1)
    queue.starting._calls = other.starting._calls = calls = Slots(1)
    running, taken_along = (queue.add(CALL, 1) for _ in range(2))
    queue.start()
    queue.backlog.take(taken_along.record)
    waiting = other.add(CALL, 1)
    other.start()
    queue.end(running)
    queue.starting.try_again()
    queue.starting.try_again()
    assert queue.starting.wanted
    assert not queue.start()
    assert other.driver.called == 1
    other.start()
    assert waiting.state is State.RUNNING
    assert calls.taken == 1


def test_a_queue_whose_ready_ops_have_joined_a_group_waits_for_no_slot(cores: Slots) -> None:
    queue, other = Queue(), Queue()
    heads = [queue.add(SORT, np.ones(3)) for _ in range(CORES)]
    joining = queue.add(SORT, np.ones(3))
    queue.start()
    waiting = other.add(SORT, np.ones(3))
    other.start()
    queue.backlog.take(joining.record)
    for entry in (*heads, joining):
        queue.end(entry)
    queue.starting.try_again()
    assert queue.starting.wanted
    queue.start()
    assert other.driver.called == 1
    other.start()
    assert waiting.state is State.RUNNING
    assert not cores._waiting


def test_a_device_that_is_held_waits_for_no_slot() -> None:
    queue = Queue(calls=1)
    for _ in range(2):
        queue.add(CALL, 1)
    queue.start()
    assert bool(queue.calls._waiting)
    queue.starting.give_up()
    assert not bool(queue.calls._waiting)


def test_other_devices_get_all_that_is_ready_as_many_at_once_as_they_like(cores: Slots, pool: Workers) -> None:
    queue = Queue(on_host=False)
    entries = [queue.add(op, 1) for op in (ADD, CALL, SORT, MATMUL, ADD)]
    queue.start()
    pool.launch()
    assert queue.backend.batches == [["add", "call"], ["sort", "matmul"], ["add"]]
    assert queue.states(*entries) == ["launched"] * 5
    assert cores.taken == 0


def test_a_backend_that_refuses_fails_the_records(pool: Workers) -> None:
    queue = Queue(on_host=False)
    entries = [queue.add(ADD, 1) for _ in range(3)]
    queue.backend.error = OSError("no device")
    queue.start()
    pool.launch()
    assert [entry for entry, _ in queue.outcomes.waiting] == entries
    assert [str(outcome.error) for _, outcome in queue.outcomes.waiting] == ["no device"] * 3
