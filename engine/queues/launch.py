"""Launched records: what a backend is given, and how it tells what came of it.

For the host that is a `Job`, which a worker of the engine computes. For any other device it is a `Launched` record, and
the queue's `Launcher` hands batches of them to the backend, on a worker: nothing of such a device runs on a loop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence, Set as AbstractSet
from contextvars import Context
from operator import attrgetter
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import getweakrefcount

import numpy as np

from engine.base.op import Op
from engine.devices.base import Array, Device, Record, loss
from engine.devices.cpu import lock
from engine.failures import failed
from engine.memory.references import HELD_BY_BATCH, others
from engine.queues.execution import call_elsewhere, wrong_value
from engine.queues.lane import Lane
from engine.queues.records import record_of
from engine.queues.states import Entry, State
from engine.threads.pool import workers
from engine.threads.slots import core_slots
from handles.cell import PENDING, Cell, Failure

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue

FEW = 8
"""Records that are chosen between looks at the clock."""

Outcome = Any
"""A value of the device, a tuple of them, or a `Failure`."""


class Job:
    """One op that a worker of the engine computes."""

    __slots__ = ("_queue", "entry", "operands", "void")

    def __init__(self, queue: DeviceQueue, entry: Entry, operands: list[Any]) -> None:
        self._queue = queue
        self.entry = entry
        self.operands = operands
        self.void = False
        """True where an interrupt came when it may have been given to a worker: the op is started another time."""

    @property
    def record(self) -> Cell:
        """The record as the engine has it."""
        return self.entry.record

    @property
    def threads(self) -> int:
        """Threads that the op may use, its own included."""
        return next((count for slots, count in self.entry.grants if slots is core_slots), 1)

    def run(self) -> None:
        """Compute the op with the engine's own threads: called on a worker."""
        # In a list, which the lane empties: the worker keeps this object as long as it goes on.
        self._queue.worker.begin([self])


class Launched(Record):
    """One op for a backend to compute. What it needs is held here: a cancelled cell lets go of it."""

    # There is one for each op, and thousands may be in flight: what can be shared is, or is made when it is asked for.

    def __init__(
        self, cell: Cell, operands: Sequence[Any], device: Device, told: Callable[[Any, Outcome, bool], None], by: Any
    ) -> None:
        """`told` is called once, with `by`, the outcome, and whether more follow."""
        op = cell.op
        self.name = op.name
        self.kernel = op.kernel
        self._params = cell.params
        self.operands = operands
        self._given = cell.args or operands
        self.outputs = op.outputs
        self.device = device
        self.cell = cell
        self.kept = True
        """True if anything but records of its batch reads the result: a handle, or a record that comes later."""
        self.skipped = False
        """True where it was never handed to the backend, as it was cancelled before."""
        self._context: Context | None = cell.rare.context if cell.rare is not None else None
        self.key = 0
        """Where it stands in its batch."""
        self._by = by
        self._told = told

    @property
    def params(self) -> dict[str, Any]:  # type: ignore[override]
        """The keyword arguments of the kernel."""
        return dict(self._params or {})

    @property
    def sources(self) -> tuple[Device | None, ...]:  # type: ignore[override]
        """For each operand the device that it is on; None for what is on none."""
        return tuple(None if each is None else self.device for each in map(_home_of, self._given))

    @property
    def abandoned(self) -> bool:
        """True when the result is not wanted any more."""
        return self.cell.value is not PENDING

    def call(self, *arrays: Any) -> Array | tuple[Array, ...]:
        """Call the kernel on arrays, as it would be called on the host."""
        return call_elsewhere(self.cell, self.kernel, arrays, self.params, self._context)

    def complete(self, value: Any, *, more: bool = False) -> None:
        """End it with its value, or with a tuple of them."""
        wrong = wrong_value(self.cell, self.device, value)
        self.end(value if wrong is None else failed(self.cell, wrong), more=more)

    def fail(self, error: BaseException, *, more: bool = False) -> None:
        """End it with an error."""
        problem: object = error  # a backend may give anything
        if not isinstance(problem, BaseException):
            problem = TypeError(f"Record.fail: error must be an exception, but the backend gave {problem!r}")
        self.end(failed(self.cell, problem), more=more)

    def fail_unended(self, error: BaseException) -> None:
        """End it with an error, unless it was ended."""
        if "_told" in vars(self):
            self.fail(error)

    def skip(self) -> None:
        """End it without its having been handed to the backend."""
        self.skipped = True
        self.end(None)

    def end(self, outcome: Outcome, *, more: bool = False) -> None:
        """End it with an outcome that needs no check. `more` says that another one follows at once: none is woken."""
        told = vars(self).pop("_told", None)  # atomic: of two threads one finds it
        if told is None:
            raise RuntimeError(
                f"the record of {self.name!r} on {self.device} was ended twice: a backend calls complete() or fail() "
                "once for each record"
            )
        told(self._by, outcome, more)

    def __repr__(self) -> str:
        return f"<record of {self.name!r} on {self.device}>"


def _home_of(operand: Any) -> Any:
    return operand.home if operand.__class__ is Cell else None


class Launcher:
    """Hands the records of one device to its backend, batch by batch, on a worker."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._queue = queue
        self._batches: deque[list[Launched]] = deque()
        self._working = False

    def put(self, batch: list[Launched]) -> None:
        """Under the queue's lock: have a batch submitted, after those before it."""
        self._batches.append(batch)
        if not self._working:
            self._working = True
            try:
                workers.submit(self._work)
            except BaseException as error:
                self._working = False
                if batch in self._batches:
                    self._batches.remove(batch)
                if not isinstance(error, RuntimeError):  # an interrupt: the records are launched another time
                    raise
                for record in batch:  # the system has no thread for them
                    record.fail_unended(error)

    def start_over(self) -> None:
        """In a forked child: the backend's threads stayed behind."""
        self._batches.clear()
        self._working = False

    def _work(self) -> None:
        while True:
            with self._queue.lock:
                if not self._batches:
                    self._working = False
                    return
                batch = self._batches.popleft()
            self._submit(batch)
            del batch

    def _submit(self, batch: list[Launched]) -> None:
        queue = self._queue
        wanted = [record for record in batch if not self._is_void(record)]
        if not wanted:
            return
        try:
            if queue.lost is not None:
                raise loss(queue.device, queue.lost)
            queue.backend.submit(queue.device, wanted)
        except BaseException as error:  # noqa: BLE001 - the ops fail with what the backend says
            for record in wanted:
                record.fail_unended(_own(error))

    def _is_void(self, record: Launched) -> bool:
        """Tell whether a record, or one that it reads, was cancelled, and is not to be submitted; it ends here."""
        void = record.abandoned or any(each.__class__ is Launched and each.skipped for each in record.operands)
        if void:
            record.skip()
        return void


def _own(error: BaseException) -> BaseException:
    """Turn what a backend raised into an op's error: an interrupt of a worker is none of the reader's."""
    if isinstance(error, Exception):
        return error
    problem = RuntimeError(f"the backend's submit raised {type(error).__name__}: {error}")
    problem.__cause__ = error
    return problem


DEPTH = 1 << 20
"""Factor between the number of a record and how many records of its batch stand before it for its sake, in a key: a
record stands in its batch in dispatch order, but behind what it reads."""


class Batch:
    """Records that are submitted together: what is ready, and what needs nothing but those.

    It is chosen a few at a time, in as many slices as that takes. What is chosen counts as launched at once; what is
    cancelled meanwhile is launched all the same, and skipped there.
    """

    def __init__(self, queue: DeviceQueue, lane: Lane, most: int) -> None:
        self.lane = lane
        self._queue = queue
        self._most = most
        self._told = queue.outcomes.add
        self._chosen: dict[Cell, Launched] = {}
        self._entries: list[Entry] = []
        self._inside: dict[int, int] = {}
        """How often records of the batch refer to a cell, by the identities of the cells."""
        self._joining = False
        """True once all that was ready has been chosen: then what needs nothing but that joins."""
        self._looked_at = 0
        """Records of the batch whose dependents were looked at."""
        self._candidates: deque[Entry] = deque()
        self._waiting: dict[Cell, list[Entry]] = {}
        self._may: dict[Op, bool] = {}

    @property
    def entries(self) -> Sequence[Entry]:
        """The entries of the records chosen."""
        return self._entries

    def choose(
        self, begin: Callable[[Entry, Lane], None], may_join: Callable[[Op], bool], ends: float = math.inf
    ) -> bool:
        """Choose records and begin each, until then; whether the batch is complete. Nothing may be ready at all."""
        while len(self._entries) < self._most:
            found = self._next(may_join)
            if found is None:
                return True
            self.add(*found)
            begin(found[0], self.lane)
            if not len(self._entries) % FEW and perf_counter() > ends:
                return False
        return True

    def _next(self, may_join: Callable[[Op], bool]) -> tuple[Entry, int] | None:
        if not self._joining:
            entry = self.lane.next(self._queue.backlog.top_priority())
            if entry is not None:
                return entry, entry.number * DEPTH
            self._joining = True
        while True:
            while self._candidates:
                entry = self._candidates.popleft()
                key = self._key_of(entry)
                if key is not None and self._may_join(entry.record.op, may_join):
                    return entry, key
            if self._looked_at == len(self._entries):
                return None
            self._candidates.extend(self._dependents(self._entries[self._looked_at]))
            self._looked_at += 1

    def _may_join(self, op: Op, may_join: Callable[[Op], bool]) -> bool:
        """Ask once for each op of the batch."""
        found = self._may.get(op)
        if found is None:
            found = self._may[op] = may_join(op)
        return found

    def add(self, entry: Entry, key: int = 0) -> None:
        """Take a record into the batch."""
        record = entry.record
        self.put(entry, operands_of(record.args, self._chosen.get), key)

    def is_full(self) -> bool:
        """Tell whether it has as many records as the backend likes."""
        return len(self._entries) >= self._most

    def operands_within(self, record: Cell, may_join: Callable[[Op], bool]) -> list[Any] | None:
        """The operands of a record that needs nothing but values and records of the batch; None of any other one."""
        if not self._may_join(record.op, may_join):
            return None
        chosen = self._chosen
        operands: list[Any] = []
        for each in record.args:
            if each.__class__ is Cell:
                each = chosen.get(each) if each.value is PENDING else each.value  # one of several results is no record
                if each is None or each.__class__ is Failure:
                    return None
            elif isinstance(each, np.ndarray):
                lock(each)
            operands.append(each)
        return operands

    def put(self, entry: Entry, operands: list[Any], key: int) -> None:
        """Take a record into the batch, whose operands are these."""
        record = entry.record
        made = Launched(record, operands, self._queue.device, self._told, entry)
        made.key = key
        inside = self._inside
        for each in record.args:
            if each.__class__ is Cell:
                inside[id(each)] = inside.get(id(each), 0) + 1
        self._chosen[record] = made
        self._entries.append(entry)

    def _dependents(self, source: Entry) -> Sequence[Entry]:
        """Records that wait for one of the batch. Of one with several results, which is meant cannot be said."""
        if source.record.op.outputs != 1:
            return ()
        parked = source.dependents or ()
        return [*parked, *self._waiting.pop(source.record, ())] if self._waiting else parked

    def _key_of(self, entry: Entry) -> int | None:
        """Where a record would stand; None for one that waits for anything but records of the batch."""
        if entry.state is not State.PARKED:
            return None
        key = entry.number * DEPTH
        for operand in entry.record.args:
            if operand.__class__ is not Cell:
                continue
            if operand.value.__class__ is Failure:
                return None
            if operand.value is PENDING:
                record = record_of(operand)
                if record.op.outputs != 1:
                    return None
                source = self._chosen.get(record)
                if source is None:
                    self._waiting.setdefault(record, []).append(entry)
                    return None
                key = max(key, source.key + 1)
        return key

    def launched(self) -> list[Launched]:
        """The records as the backend gets them, operands first, when all are chosen."""
        if len(self._chosen) > 1:
            self._mark_kept(self._queue.slice.early)
        return sorted(self._chosen.values(), key=attrgetter("key"))

    def _mark_kept(self, queued: AbstractSet[int]) -> None:
        """Tell which results only records of the batch refer to; `queued` are those that still stand on the queue."""
        for record in self._chosen.values():  # not its items, each of which would be a further reference
            cell = record.cell
            if record.outputs == 1:
                known = HELD_BY_BATCH + self._inside.get(id(cell), 0) + (id(cell) in queued)
                record.kept = others(cell, known) or bool(getweakrefcount(cell))


def operands_of(args: Sequence[Any], of_batch: Callable[[Cell], Launched | None]) -> list[Any]:
    """Operands as a backend gets them: values, earlier records of the batch, arrays that cannot be written to."""
    operands: list[Any] = []
    for each in args:
        if each.__class__ is Cell:
            each = of_batch(record_of(each)) or each.value
        elif isinstance(each, np.ndarray):
            lock(each)
        operands.append(each)
    return operands


def alone(_: Cell) -> None:
    """Find no record, as the one that asks is launched alone."""
