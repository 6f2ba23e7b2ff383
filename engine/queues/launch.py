"""Launched records: what a backend is given, and how it tells what came of it.

For the host that is a `Job`, which a worker of the engine computes. For any other device it is a `Launched` record, and
the queue's `Launcher` hands batches of them to the backend, on a worker: nothing of such a device runs on a loop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import getweakrefcount

import numpy as np

from engine.devices.base import Array, Device, Record
from engine.devices.cpu import lock
from engine.devices.registry import loss
from engine.failures import failed
from engine.memory.references import HELD_BY_BATCH, others
from engine.queues.backlog import Backlog
from engine.queues.execution import call_elsewhere, wrong_value
from engine.queues.lane import Lane
from engine.queues.records import pending_operands, record_of
from engine.queues.states import Entry, State
from engine.threads.pool import workers
from engine.threads.slots import core_slots
from handles.cell import PENDING, Cell, Failure

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue

Outcome = Any
"""A value of the device, a tuple of them, or a `Failure`."""


class Job:
    """One op that a worker of the engine computes."""

    __slots__ = ("_queue", "entry", "operands")

    def __init__(self, queue: DeviceQueue, entry: Entry, operands: list[Any]) -> None:
        self._queue = queue
        self.entry = entry
        self.operands = operands

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

    def __init__(self, cell: Cell, operands: Sequence[Any], device: Device, end: Callable[[Outcome], None]) -> None:
        op = cell.op
        self.name = op.name
        self.kernel = op.kernel
        self.params = dict(cell.params or {})
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
        self._open = [end]

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

    def complete(self, value: Any) -> None:
        """End it with its value, or with a tuple of them."""
        wrong = wrong_value(self.cell, self.device, value)
        self._end(value if wrong is None else failed(self.cell, wrong))

    def fail(self, error: BaseException) -> None:
        """End it with an error."""
        problem: object = error  # a backend may give anything
        if not isinstance(problem, BaseException):
            problem = TypeError(f"Record.fail: error must be an exception, but the backend gave {problem!r}")
        self._end(failed(self.cell, problem))

    def fail_unended(self, error: BaseException) -> None:
        """End it with an error, unless it was ended."""
        if self._open:
            self.fail(error)

    def skip(self) -> None:
        """End it without its having been handed to the backend."""
        self.skipped = True
        self._end(None)

    def _end(self, outcome: Outcome) -> None:
        try:
            end = self._open.pop()  # atomic: of two threads one finds it
        except IndexError:
            raise RuntimeError(
                f"the record of {self.name!r} on {self.device} was ended twice: a backend calls complete() or fail() "
                "once for each record"
            ) from None
        end(outcome)

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
            except BaseException:  # an interrupt: the records are launched another time
                self._working = False
                if batch in self._batches:
                    self._batches.remove(batch)
                raise

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
        void = record.abandoned or any(isinstance(each, Launched) and each.skipped for each in record.operands)
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


class Batch:
    """Records that are submitted together: what is ready, and what needs nothing but those."""

    def __init__(self, backlog: Backlog, lane: Lane, most: int) -> None:
        self._backlog = backlog
        self._lane = lane
        self._most = most
        self._keys: dict[Entry, tuple[int, int]] = {}
        self._by_record: dict[Cell, Entry] = {}
        self._waiting: dict[Cell, list[Entry]] = {}

    def entries(self) -> list[Entry]:
        """The records chosen, in dispatch order, operands first."""
        return sorted(self._keys, key=self._keys.__getitem__)

    def choose(self, begin: Callable[[Entry, Lane], None], may_join: Callable[[Cell], bool]) -> None:
        """Choose up to `most` records, none where nothing is ready, and begin each."""
        while len(self._keys) < self._most:
            entry = self._lane.next(self._backlog.top_priority())
            if entry is None:
                break
            self._add(entry, (entry.number, 0))
            begin(entry, self._lane)
        line = deque(self._keys if self._most > 1 else ())
        while line and len(self._keys) < self._most:
            for entry in self._candidates(line.popleft()):
                if len(self._keys) < self._most and self._may_add(entry) and may_join(entry.record):
                    self._add(entry, self._key_of(entry))
                    begin(entry, self._lane)
                    line.append(entry)

    def _add(self, entry: Entry, key: tuple[int, int]) -> None:
        self._keys[entry] = key
        self._by_record[entry.record] = entry

    def _candidates(self, source: Entry) -> list[Entry]:
        """Records that wait for one of the batch. Of one with several results, which is meant cannot be said."""
        if source.record.op.outputs != 1:
            return []
        return [*(source.dependents or ()), *self._waiting.pop(source.record, ())]

    def _may_add(self, entry: Entry) -> bool:
        """Tell whether a record waits for nothing but records of the batch."""
        if entry.state is not State.PARKED or entry in self._keys:
            return False
        for operand in entry.record.args:
            if operand.__class__ is not Cell:
                continue
            if operand.value.__class__ is Failure:
                return False
            if operand.value is PENDING:
                record = record_of(operand)
                if record.op.outputs != 1:
                    return False
                if record not in self._by_record:
                    self._waiting.setdefault(record, []).append(entry)
                    return False
        return True

    def _key_of(self, entry: Entry) -> tuple[int, int]:
        """Where it stands in the batch: in dispatch order, but behind what it reads."""
        sources = [self._keys[self._by_record[record]] for record in pending_operands(entry.record)]
        number, depth = max(sources, default=(entry.number, -1))
        return max((entry.number, 0), (number, depth + 1))


def launched(queue: DeviceQueue, entries: Sequence[Entry]) -> list[Launched]:
    """Make the records of a batch as a backend gets them."""
    batch: dict[Cell, Launched] = {}
    for entry in entries:
        operands = operands_of(entry.record.args, batch)
        batch[entry.record] = Launched(entry.record, operands, queue.device, partial(queue.outcomes.add, entry))
    if len(entries) > 1:
        _mark_kept(batch, queue.slice.early)
    return list(batch.values())


def _mark_kept(batch: Mapping[Cell, Launched], queued: AbstractSet[int]) -> None:
    """Tell which results only records of the batch refer to; `queued` are those that still stand on the queue."""
    inside = Counter(id(arg) for record in batch for arg in record.args if arg.__class__ is Cell)
    for record in batch.values():  # not its items, each of which would be a further reference
        cell = record.cell
        if record.outputs == 1:
            known = HELD_BY_BATCH + inside[id(cell)] + (id(cell) in queued)
            record.kept = others(cell, known) or bool(getweakrefcount(cell))


def operands_of(args: Sequence[Any], batch: Mapping[Cell, Launched]) -> list[Any]:
    """Operands as a backend gets them: values, earlier records of the batch, arrays that cannot be written to."""
    operands: list[Any] = []
    for each in args:
        if each.__class__ is Cell:
            each = batch[record_of(each)] if each.value is PENDING else each.value
        elif isinstance(each, np.ndarray):
            lock(each)
        operands.append(each)
    return operands
