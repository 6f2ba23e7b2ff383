"""The worker lane: what a worker does for a queue of the host.

A worker that was given an op looks ahead for ops that can be computed with it, computes them, settles them, and goes on
with what became ready; only when there is nothing for it does it return. It gives its slots back before a result can be
seen, so that what a waiting task dispatches next finds them free.

Under the queue's lock: to look ahead, to settle, and to choose the next op. Without it: to compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from time import perf_counter, thread_time_ns
from typing import TYPE_CHECKING, Any

from engine.base.op import SMALL_NS
from engine.failures import failed
from engine.fusion.fused import execute_group
from engine.fusion.groups import LOOKAHEAD, FusionGroup, can_begin, collect
from engine.fusion.liveness import give_up_operands, mark_kept
from engine.queues.chained import ChainedGroup, chained_group
from engine.queues.execution import execute_guarded, run_coroutine
from engine.queues.hooks import hooks
from engine.queues.launch import Job
from engine.queues.records import entry_of
from engine.queues.slice import SLICE, UNREADY
from engine.queues.states import Entry
from engine.threads.pool import hand_over
from engine.threads.slots import BACKGROUND, core_slots
from handles.cell import PENDING, Cell, Failure

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue

WORKER_SLICE = 0.000_1
"""Seconds of small ops that a worker runs between large ones, before it leaves them to the loop."""

WORTH_NS = 500_000
"""Estimated nanoseconds above which an op is shared out among threads: waking one takes some ten thousand."""

LONG = 0.002
"""Seconds of work, after which a worker lets others have the interpreter lock before it goes on: the loop's thread may
be at an expression, whose ops are to come together."""


class Favour:
    """How much work that no task waits for may join the group of a demanded record: half as much as is demanded.

    It costs the waiting task time; but computed later, by itself, it would read its operands from memory again. A
    record that reads what the group computes finds it in cache, so it counts half. Nothing joins a single op.
    """

    SHARE = 0.5
    IN_CACHE = 0.5

    def __init__(self, head: Entry) -> None:
        self._rank = head.rank
        self._cells = {head.record}
        self._demanded = 1
        self._favoured = 0.0

    def allows(self, cell: Cell) -> bool:
        """Tell whether a record may be offered; one that is demanded as much always may."""
        if self._rank == BACKGROUND or self._is_demanded(cell):
            return True
        return self._demanded > 1 and self._favoured + self._weight(cell) <= self.SHARE * self._demanded

    def joined(self, cell: Cell) -> None:
        """A record has joined."""
        if self._is_demanded(cell):
            self._demanded += 1
        else:
            self._favoured += self._weight(cell)
        self._cells.add(cell)

    def _weight(self, cell: Cell) -> float:
        reads = any(arg.__class__ is Cell and arg in self._cells for arg in cell.args)
        return self.IN_CACHE if reads else 1.0

    def _is_demanded(self, cell: Cell) -> bool:
        entry = entry_of(cell)
        # A task that waits for the record itself has left a waiter, before its demand is taken up.
        return cell.waiters is not None or (entry is not None and entry.rank >= self._rank)


def _operand_values(cell: Cell) -> list[Any]:
    return [operand.value if operand.__class__ is Cell else operand for operand in cell.args]


def _is_view_of(values: list[Any], cell: Cell) -> bool:
    """Tell whether the operands are there, and the result is made without looking at their elements."""
    op = cell.op
    if not (op.known and op.simple) or any(value.__class__ in UNREADY for value in values):
        return False
    try:
        return bool(op.cost.estimate(values, cell.params or {}) <= SMALL_NS)
    except Exception:  # noqa: BLE001 - the kernel will say what is wrong, in its turn
        return False


def _threads(head: Entry) -> int:
    """How many threads the slots of a group's first record allow."""
    return sum(count for slots, count in head.grants if slots is core_slots)


class WorkerLane:
    """Computes large ops of one queue."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._queue = queue
        self._backlog = queue.backlog
        self._completions = queue.completions

    def begin(self, offered: list[Job]) -> None:
        """Take what was offered, once the slice that did so has ended, and work it off."""
        with self._queue.lock:
            jobs, offered[:] = [job for job in offered if not job.void], []
        while jobs:
            self._queue.driver.schedule_next()  # the loop's thread may have met the lock, and gone on
            began = perf_counter()
            self._work_one(jobs)
            if jobs and perf_counter() - began > LONG:
                hand_over()  # to end one and to plan the next takes most of a millisecond
        self._queue.driver.schedule_next()

    def _work_one(self, jobs: list[Job]) -> None:
        try:
            group = self._collect(jobs)
        except Exception as error:  # noqa: BLE001 - a defect of the planning: a task that waits for the op is told
            job = jobs.pop()
            self._end_alone(job, failed(job.record, error), jobs)
            return
        if isinstance(group, FusionGroup):
            self._work_group(group, jobs)
        elif group is not None:
            self._work_chain(group, jobs)
        else:
            self._work_alone(jobs.pop(), jobs)
        self._queue.bells.ring()
        self._queue.driver.admit()

    # One op

    def _work_alone(self, job: Job, jobs: list[Job]) -> None:
        if hooks.listeners:
            hooks.started(job.record)
        outcome = self._outcome(job, job.record, job.operands)
        job.operands.clear()
        self._end_alone(job, outcome, jobs)

    def _outcome(self, job: Job, cell: Cell, values: list[Any]) -> Any:
        queue, threads = self._queue, job.threads
        if cell.op.coroutine:
            return run_coroutine(cell, values, queue.device, queue.backend)
        began = thread_time_ns()
        outcome = self._in_parallel(cell, values, threads) if threads > 1 else None
        if outcome is None:
            queue.starting.keep_one(job.entry)
            outcome = execute_guarded(cell, values, queue.device, queue.backend)
        queue.slice.costs.took_elsewhere(cell.op, thread_time_ns() - began)
        return outcome

    def _in_parallel(self, cell: Cell, values: list[Any], threads: int) -> Any:
        """The result of an op that several threads compute; None where it has to be run whole."""
        op, params = cell.op, cell.params or {}
        if op.cost.parallel is None or (cell.rare is not None and cell.rare.context is not None):
            return None  # or it has an error state of its own
        try:
            return (
                op.cost.parallel(op, values, params, threads) if op.cost.estimate(values, params) > WORTH_NS else None
            )
        except Exception:  # noqa: BLE001 - run whole, it gives NumPy's error, or NumPy's warning
            return None

    def _end_alone(self, job: Job, outcome: Any, jobs: list[Job]) -> None:
        entry = job.entry
        self._queue.driver.leaving_slots()
        try:
            self._queue.starting.release(entry)
            with self._queue.lock:
                self._completions.complete_started(entry.record, outcome)
                self._go_on(jobs)
        finally:
            self._queue.driver.looked()

    def _go_on(self, jobs: list[Job]) -> None:
        """Take the records that waited for an op, on the worker that has ended it."""
        self._queue.starting.try_again()
        self._queue.slice.run(perf_counter() + (SLICE if self._queue.driver.loop is None else WORKER_SLICE), None, jobs)

    # Groups

    def _collect(self, jobs: list[Job]) -> FusionGroup | ChainedGroup | None:
        """The group that the next job begins; None when the job is to be run by itself."""
        head = jobs[-1].entry
        if not can_begin(head.record.op):
            return None
        with self._queue.lock:
            records = [head.record, *self._ahead(head)]
            chained = chained_group(head, records, Favour, self._queue.slice.early)
            if chained is not None:
                records.clear()
                self._take_all(chained.found.cells, jobs)
                return chained
            group = collect(records[0], records[1:], Favour(head))
            records.clear()
            if group is None:
                return None
            self._take_all(group.cells, jobs)
            group.entry = head
        return group

    def _take_all(self, cells: Sequence[Cell], jobs: list[Job]) -> None:
        """Take the records of a group that the next job begins."""
        for cell in cells[1:]:
            self._take(cell)
        if hooks.listeners:
            for cell in cells:
                hooks.started(cell)
        jobs.pop().operands.clear()  # what refers to an operand keeps its memory

    def _take(self, cell: Cell) -> None:
        if entry_of(cell) is None:
            self._queue.pending.remove(cell)
        cell.extend().running = True
        self._backlog.take(cell)

    def _ahead(self, head: Entry) -> Iterator[Cell]:
        """The next records. Views of what is there already are made now, so that they do not cut the group in two."""
        aside = [entry.record for entry in islice(self._backlog.after(head), LOOKAHEAD)]
        pending = self._queue.pending
        ahead = (pending[index] for index in range(min(len(pending), LOOKAHEAD - len(aside))))
        queued = [cell for cell in ahead if entry_of(cell) is None]  # a demanded one may have been set aside
        for cell in (*aside, *queued):
            if cell.op.memory.view and cell.value is PENDING:
                values = _operand_values(cell)
                if _is_view_of(values, cell):
                    self._queue.slice.run_in_place(cell, values)
        return iter([*aside, *queued])

    def _work_group(self, group: FusionGroup, jobs: list[Job]) -> None:
        head: Entry = group.entry
        results = self._results_of(group, _threads(head))
        cells = group.cells
        if results is None:
            for cell in cells:
                self._run_again(cell)
            del cell
        group.inputs.clear()
        group.steps.clear()
        self._end_group(head, cells, results, jobs)

    def _work_chain(self, group: ChainedGroup, jobs: list[Job]) -> None:
        """Compute a group that was planned before; where NumPy would have warned, its ops are run one by one."""
        head, cells = group.head, list(group.found.cells)
        results = group.computed(_threads(head))
        if results is None:
            for cell in cells:
                self._run_again(cell)
            del cell
        group.found.let_go()
        self._end_group(head, cells, results, jobs)

    def _end_group(self, head: Entry, cells: list[Cell], results: list[Any] | None, jobs: list[Job]) -> None:
        """Complete the records of a group, and go on with what became ready; `cells` and `results` are emptied."""
        self._queue.driver.leaving_slots()
        try:
            self._queue.starting.release(head)
            with self._queue.lock:
                if results is not None and hooks.listeners:
                    hooks.tell("grouped", cells)
                for number, cell in enumerate(cells):
                    self._queue.overwriting.discard(cell)
                    if results is not None:
                        self._settle_taken(cell, results[number])
                del cell
                if results is not None:
                    results.clear()
                cells.clear()  # before anything else runs here: what refers to its results counts
                self._go_on(jobs)
        finally:
            self._queue.driver.looked()

    def _results_of(self, group: FusionGroup, threads: int) -> list[Any] | None:
        """Compute the group and return its results; None where its ops have to be run one by one."""
        try:
            with self._queue.lock:
                mark_kept(group, self._queue.slice.early)
                give_up_operands(group, self._queue.slice.early)
                if group.overwrites:
                    self._queue.overwriting.update(group.cells)
            return execute_group(group, threads)
        except Exception:  # noqa: BLE001 - a deviation, or a defect of the engine: one by one they come out right
            return None

    def _settle_taken(self, cell: Cell, outcome: Any) -> None:
        """Complete a record of a group; where its operand was abandoned meanwhile, it has no value all the same."""
        failure = next((value for value in _operand_values(cell) if value.__class__ is Failure), None)
        if failure is not None:
            self._completions.fail_dependent(cell, failure)
        elif isinstance(outcome, BaseException):
            self._completions.complete_started(cell, failed(cell, outcome))
        else:
            self._completions.complete_started(cell, outcome)

    def _run_again(self, cell: Cell) -> None:
        """Run a record of a group that did not go as planned by itself, and settle it for those after it."""
        queue = self._queue
        with queue.lock:  # a cancellation lets go of operands and parameters
            values = _operand_values(cell)
            if cell.value is not PENDING:
                self._completions.complete_started(cell, None)
                return
        outcome = next((value for value in values if value.__class__ is Failure), None)
        if outcome is None:
            outcome = execute_guarded(cell, values, queue.device, queue.backend)
        with queue.lock:
            self._settle_taken(cell, outcome)
