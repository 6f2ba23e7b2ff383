"""Large ops: run on workers, alone or together as a run, and after each one the worker goes on with the queue."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from time import perf_counter, thread_time_ns
from typing import Any

from engine.devices.cores import cores
from engine.devices.workers import workers
from engine.failures import failed
from engine.kernels.fused import execute_run
from engine.planning.liveness import give_up_operands, mark_kept
from engine.planning.op import SMALL_NS
from engine.planning.runs import LOOKAHEAD, Run, can_begin, collect
from engine.queues.backlog import SLICE
from engine.queues.driving import UNREADY, Driving, Job
from engine.queues.execution import execute_guarded, run_coroutine
from handles.cell import PENDING, Cell, Failure

WORKER_SLICE = 0.000_1
"""Seconds of small ops that a worker runs between large ones, before it leaves them to the loop."""

WORTH_NS = 500_000
"""Estimated nanoseconds above which an op is shared out among threads: waking one takes some ten thousand."""


def _operand_values(cell: Cell) -> list[Any]:
    return [operand.value if operand.__class__ is Cell else operand for operand in cell.args]


def _is_view_of(values: list[Any], cell: Cell) -> bool:
    """Whether the operands are there, and the result is made without looking at their elements."""
    op = cell.op
    if not (op.known and op.simple) or any(value.__class__ in UNREADY for value in values):
        return False
    try:
        return bool(op.cost(values, cell.params or {}) <= SMALL_NS)
    except Exception:  # noqa: BLE001 - the kernel will say what is wrong, in its turn
        return False


class LargeOps(Driving):
    """What workers do for a queue."""

    @abstractmethod
    def _start(self, cell: Cell, values: list[Any]) -> None:
        """Start an async op."""

    def _start_large(self, cell: Cell, values: list[Any], jobs: list[Job] | None) -> bool:
        """Start an op off the loop's thread; whether the caller, a worker, is to run it."""
        if cell in self._running or cell in self._tasks:
            return False  # an interrupt came when it had been started
        if cell.op.coroutine:
            self._start(cell, values)
            return False
        if jobs is None:
            self._hand_over(cell, values)
            return False
        self._hold(cell)
        jobs.append((cell, values))
        return True

    def _hand_over(self, cell: Cell, values: list[Any]) -> None:
        # In a list, which the worker empties: what is submitted lives as long as the worker goes on.
        jobs = [(cell, values)]
        try:
            self._hold(cell)
            workers.submit(partial(self._begin, jobs))
        except BaseException:  # an interrupt: the op stays where it was, whether a worker comes for it or not
            jobs.clear()
            self._let_go(cell)
            raise

    def _begin(self, offered: list[Job]) -> None:
        """On a worker: take what was offered, once the slice that did so has ended, and work it off."""
        with self._lock:
            jobs, offered[:] = offered[:], []
        self._work(jobs)

    def _work(self, jobs: list[Job]) -> None:
        """On a worker: run a large op, then go on with the queue."""
        while jobs:
            self._work_one(jobs)
        self._pass_on()

    def _work_one(self, jobs: list[Job]) -> None:
        try:
            run = self._collect(jobs)
        except Exception as error:  # noqa: BLE001 - a defect of the planning: whoever waits for the op is told
            cell, _ = jobs.pop()
            self._end_alone(cell, failed(cell, error), jobs)
            return
        if run is not None:
            self._work_run(run, jobs)
        else:
            self._work_alone(jobs)
        self._wake_listeners()

    def _work_alone(self, jobs: list[Job]) -> None:
        cell, values = jobs.pop()
        divisible = cell.op.parallel is not None and self.backend.on_host
        with cores.claimed(self.split if divisible else 1) as threads:
            outcome = self._outcome(cell, values, threads)
        values.clear()
        self._end_alone(cell, outcome, jobs)

    def _outcome(self, cell: Cell, values: list[Any], threads: int) -> Any:
        if cell.op.coroutine:
            return run_coroutine(cell, values, self.device, self.backend, self.threads)
        began = thread_time_ns()
        outcome = self._in_parallel(cell, values, threads) if threads > 1 else None
        if outcome is None:
            outcome = execute_guarded(cell, values, self.device, self.backend, self.threads)
        cell.op.took_elsewhere(thread_time_ns() - began)
        return outcome

    def _in_parallel(self, cell: Cell, values: list[Any], threads: int) -> Any:
        """The result of an op that several threads compute; None where it has to be run whole."""
        op, params = cell.op, cell.params or {}
        if op.parallel is None or (cell.rare is not None and cell.rare.context is not None):
            return None  # or it has an error state of its own
        try:
            return op.parallel(op, values, params, threads) if op.cost(values, params) > WORTH_NS else None
        except Exception:  # noqa: BLE001 - run whole, it gives NumPy's error, or NumPy's warning
            return None

    def _end_alone(self, cell: Cell, outcome: Any, jobs: list[Job]) -> None:
        with self._lock:
            self._running.discard(cell)
            self._conclude(cell, outcome)
            self._go_on(jobs)

    def _go_on(self, jobs: list[Job]) -> None:
        """Take the records that waited for an op, on the worker that has ended it."""
        self._slice(perf_counter() + (SLICE if self._loop is None else WORKER_SLICE), None, jobs)

    # Runs

    def _collect(self, jobs: list[Job]) -> Run | None:
        """The run that the next job begins, taken off the queue; None when the job is to be run by itself."""
        head = jobs[-1][0]
        if not self.backend.on_host or not can_begin(head.op):
            return None
        with self._lock:
            run = collect(head, self._ahead())
            if run is None:
                return None
            jobs.clear()
            del head
            self._take(run)
        return run

    def _ahead(self) -> list[Cell]:
        """The next records. Views of what is there already are made now, so that they do not cut the run in two."""
        ahead = [self.pending[index] for index in range(min(len(self.pending), LOOKAHEAD))]
        for cell in ahead:
            if cell.op.view and cell.value is PENDING:
                values = _operand_values(cell)
                if _is_view_of(values, cell):
                    self._run_in_place(cell, values, 1)
                    self.pending.remove(cell)
                    self.completed += 1
        return ahead

    def _take(self, run: Run) -> None:
        for cell in run.cells[1:]:
            self.pending.remove(cell)
            cell.extend().running = True
            self._taken.add(cell)

    def _work_run(self, run: Run, jobs: list[Job]) -> None:
        with cores.claimed(self.split) as threads:
            results = self._results_of(run, threads)
        if results is None:
            for cell in run.cells:
                self._run_again(cell)
        run.inputs.clear()
        with self._lock:
            for number, cell in enumerate(run.cells):
                self._running.discard(cell)
                self._taken.discard(cell)
                self._overwriting.discard(cell)
                if results is not None:
                    self._settle_taken(cell, results[number])
            del cell, results
            run.steps.clear()  # before anything else runs here: what refers to its results counts
            self._go_on(jobs)

    def _results_of(self, run: Run, threads: int) -> list[Any] | None:
        """What the run computes; None where its ops have to be run one by one."""
        try:
            with self._lock:
                mark_kept(run)
                give_up_operands(run)
                if run.overwrites:
                    self._overwriting.update(run.cells)
            return execute_run(run, threads)
        except Exception:  # noqa: BLE001 - a deviation, or a defect of the engine: one by one they come out right
            return None

    def _settle_taken(self, cell: Cell, outcome: Any) -> None:
        """Settle a record of a run; one whose operand was abandoned meanwhile has no value, whatever was computed."""
        failure = next((value for value in _operand_values(cell) if value.__class__ is Failure), None)
        if failure is not None:
            self._poison(cell, failure)
        elif isinstance(outcome, BaseException):
            self._conclude(cell, failed(cell, outcome))
        else:
            self._conclude(cell, outcome)

    def _run_again(self, cell: Cell) -> None:
        """Run a record of a run that did not go as planned by itself, and settle it for those after it."""
        with self._lock:  # a cancellation lets go of operands and parameters
            values = _operand_values(cell)
            if cell.value is not PENDING:
                return
        outcome = next((value for value in values if value.__class__ is Failure), None)
        if outcome is None:
            outcome = execute_guarded(cell, values, self.device, self.backend, self.threads)
        with self._lock:
            self._settle_taken(cell, outcome)
