"""Starting: which ready record gets a slot, and where it runs.

Three kinds of work want slots: the engine's own ops share the cores of the machine, and one that uses BLAS wants as
many as BLAS has threads at that moment; users' functions have slots of their own in each executor, since they may
compute or wait; coroutines want none. `max_concurrency` of a function and `inter_op_parallelism_threads` are further
slots that a record wants as well. All under the queue's lock.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

from engine.base.op import Op
from engine.devices.base import Backend
from engine.failures import failed
from engine.fusion.groups import can_begin
from engine.queues.demand import Demand
from engine.queues.execution import is_part_of_call
from engine.queues.hooks import hooks
from engine.queues.lane import Lane
from engine.queues.launch import Batch, Job
from engine.queues.reading import MOVE
from engine.queues.records import pending_operands
from engine.queues.states import Entry, State
from engine.queues.straight import Straight
from engine.threads.blas import blas_threads
from engine.threads.pool import workers
from engine.threads.slots import Slots, core_slots
from handles.cell import Cell

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue
    from engine.queues.driver import Driver

CORES = "cores"
CALLS = "calls"
TASKS = "tasks"
DEVICE = "device"


class LaneClaim:
    """The claim of one lane of one queue: what slots call when its turn has come."""

    __slots__ = ("_driver", "slots")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.slots: Slots | None = None
        """The slots that it waits for."""

    def slot_free(self) -> None:
        """Have the queue looked at."""
        self._driver.slot_free()

    def wait_for(self, slots: Slots | None) -> None:
        """Wait for these slots only; for none, where there is nothing to start."""
        if self.slots is not None and self.slots is not slots:
            self.slots.leave(self)
        self.slots = slots


class Starting:
    """Starts the ready records of one queue as far as there are slots."""

    def __init__(self, queue: DeviceQueue, *, width: int, split: int, calls: Slots) -> None:
        self._queue = queue
        self._backlog = queue.backlog
        self._split = split
        self._calls = calls
        self._width = Slots(width) if width else None
        self._claims: dict[Lane, LaneClaim] = {}
        self._blocked: set[Lane] = set()
        """Lanes whose next record got no slot."""
        self._batch: Batch | None = None
        """The batch that was begun in an earlier slice, and is not complete."""
        self.straight = Straight(queue, self)
        self.wanted = False
        """True when something may be started that was not tried since."""

    def add(self, cell: Cell, demand: Demand | None) -> None:
        """A record is ready and a worker's."""
        entry = self._backlog.ready(cell, self._lane_of(cell.op), demand)
        if demand is not None or entry.lane not in self._blocked:
            self.wanted = True

    def _lane_of(self, op: Op) -> Hashable:
        if op.limit is not None:
            return op
        if self._runs_on_device(op):
            return DEVICE
        if op.coroutine:
            return TASKS
        return CORES if op.computes else CALLS

    def _runs_on_device(self, op: Op) -> bool:
        """Tell whether the backend of another kind of device computes an op: not what moves values, nor a coroutine."""
        queue = self._queue
        return not (queue.on_host or op is MOVE or op.coroutine) and _runs(queue.backend, op)

    # Slots

    def _claim(self, lane: Lane, entry: Entry) -> bool:
        """Claim the slots that a record wants: all or none."""
        claim = self._claims.get(lane)
        if claim is None:
            claim = self._claims[lane] = LaneClaim(self._queue.driver)
        rank = entry.rank
        for slots, need, most in self._wants(entry):
            if not slots.claim(claim, need, most, rank, noted=entry.grants):
                claim.wait_for(slots)
                self.release(entry)
                return False
        claim.wait_for(None)
        return True

    def _wants(self, entry: Entry) -> list[tuple[Slots, int, int | None]]:
        op: Op = entry.record.op
        wants: list[tuple[Slots, int, int | None]] = []
        if self._width is not None and not op.coroutine:
            wants.append((self._width, 1, 1))
        if op.limit is not None and not is_part_of_call(entry.record):
            wants.append((op.limit, 1, 1))
        if (op.coroutine and self._queue.tasks.has_loop()) or self._runs_on_device(op):
            return wants
        if not (op.computes and self._queue.on_host):
            wants.append((self._calls, 1, 1))
        elif op.cost.blas:
            threads = blas_threads()
            wants.append((core_slots, threads, threads))
        else:
            divisible = can_begin(op) or op.cost.parallel is not None
            wants.append((core_slots, 1, self._split if divisible else 1))
        return wants

    def release(self, entry: Entry) -> None:
        """Give back what a record held. Before its result is seen: what comes next is to find the slots free."""
        grants, entry.grants = entry.grants, []
        for slots, count in grants:
            slots.release(count)

    def keep_one(self, entry: Entry) -> None:
        """Give back the cores that an op cannot use, as it runs on one thread after all."""
        if not entry.record.op.cost.blas:
            for index, (slots, count) in enumerate(entry.grants):
                if slots is core_slots and count > 1:
                    entry.grants[index] = (slots, 1)
                    slots.release(count - 1)

    def try_again(self) -> None:
        """Have what is ready tried at the next look, as a slot may be free. On any thread.

        Also where nothing is ready: a lane whose ready records have joined a group still waits for a slot, and keeps
        others from it until it is looked at.
        """
        self._blocked.clear()
        if self._backlog.count(State.READY) > 0 or any(
            claim.slots is not None for claim in list(self._claims.values())
        ):
            self.wanted = True

    def mend(self) -> None:
        """Put in order what an interrupt may have left half done: no lane waits, and all that is ready is tried again.

        What was begun and not given to a thread or a backend was taken back where the interrupt came.
        """
        for entry in self._backlog.entries():
            if entry.grants and entry not in self._backlog.running:
                self.release(entry)
        for lane, claim in self._claims.items():
            limit = lane.key.limit if isinstance(lane.key, Op) else None
            for slots in filter(None, (core_slots, self._calls, self._width, limit)):  # it may wait for any of them
                slots.leave(claim)
            claim.slots = None
        self._blocked.clear()
        self.wanted = True

    def start_over(self) -> None:
        """In a forked child: what was to be launched will not be."""
        self._batch = None
        self.straight.start_over()

    def give_up(self) -> None:
        """Wait for no slot any more: the device is held."""
        for claim in self._claims.values():
            claim.wait_for(None)

    def tidy(self) -> None:
        """Records were cancelled: lanes that have none left wait for no slot."""
        for lane, claim in self._claims.items():
            if claim.slots is not None and lane.next() is None:
                claim.wait_for(None)

    # Starting

    def start_ready(self, jobs: list[Job] | None, ends: float) -> bool:
        """Start what is ready, as long as there are slots; whether anything was started.

        A worker that calls takes the first op itself, in `jobs`; the others are handed to further workers. A batch for
        a device is chosen until `ends`, and then in the next slice.
        """
        self.wanted = False
        self._blocked.clear()
        moved = False
        for lane in list(self._backlog.lanes.values()):
            moved = self._start_lane(lane, jobs, ends) or moved
        return moved

    def _start_lane(self, lane: Lane, jobs: list[Job] | None, ends: float) -> bool:
        moved = False
        if lane.key is DEVICE:
            return self._launch(lane, ends)
        while (entry := lane.next(self._backlog.top_priority())) is not None:
            if not self._claim(lane, entry):
                self._blocked.add(lane)
                return moved
            moved = True
            self._start(entry, jobs)
        self._tidy(lane)
        return moved

    def _tidy(self, lane: Lane) -> None:
        claim = self._claims.get(lane)
        if claim is not None:
            claim.wait_for(None)

    def _start(self, entry: Entry, jobs: list[Job] | None) -> None:
        """Have a record run: as a task of the loop, on the worker that asks, on another one, or on the device."""
        if self._runs_on_device(entry.record.op):
            self._launch_one(entry)
            return
        job: Job | None = None
        try:
            values = self._begin(entry, State.RUNNING)
            if entry.record.op.coroutine and self._queue.tasks.start(entry, values):
                return  # the loop, or the worker, tells listeners when it begins
            job = Job(self._queue, entry, values)
            if jobs is not None and not jobs:
                jobs.append(job)
                return
            try:
                workers.submit(job.run)
            except RuntimeError as error:  # the system has no thread for it
                self._queue.outcomes.add(entry, failed(entry.record, error))
        except BaseException:  # an interrupt: the op is started another time
            if job is not None:
                job.void = True
            self._take_back(entry)
            raise

    def _begin(self, entry: Entry, state: State) -> list[Any]:
        record = entry.record
        self._backlog.start(entry, state)
        self._begun(record)
        return [each.value if each.__class__ is Cell else each for each in record.args]

    def _begun(self, record: Cell) -> None:
        record.extend().running = True
        self._queue.room = min(self._queue.room, 0)

    def _take_back(self, entry: Entry) -> None:
        if entry in self._backlog.running:
            entry.record.extend().running = False
            self.release(entry)
            missing = next(iter(pending_operands(entry.record)), None)
            if missing is None:
                self._backlog.put_back(entry)
            else:
                self._backlog.park_again(entry, missing)
        self.wanted = True

    # Other devices

    def is_worthwhile(self) -> bool:
        """Tell whether to start what is ready now; else what is pending is looked at first, and may join the batch."""
        queue = self._queue
        if self._batch is not None or not queue.pending or queue.is_taken():
            return True
        return self._backlog.count(State.READY) >= self.lookahead()

    def _launch(self, lane: Lane, ends: float) -> bool:
        """Have ready records submitted to the backend, as many at once as it likes; whether there were any."""
        moved = False
        while True:
            batch, self._batch = self._batch or self.new_batch(lane), None
            try:
                complete = batch.choose(self._begin_launch, self.may_join, ends)
                moved = moved or bool(batch.entries)
                if not complete:
                    self._batch, self.wanted = batch, True
                    return True
                if not batch.entries:
                    return moved
                self._queue.launcher.put(batch.launched())
            except BaseException:  # an interrupt: they are launched another time
                self._batch = None
                self.take_back(batch.entries)
                raise

    def new_batch(self, lane: Lane) -> Batch:
        """An empty batch for the device."""
        return Batch(self._queue, lane, self.lookahead())

    def take_back(self, entries: Iterable[Entry]) -> None:
        """Records were begun and are not launched after all: they are launched another time."""
        for entry in entries:
            self._take_back(entry)

    def lookahead(self) -> int:
        """How many records the backend likes at once; where it does not tell, one."""
        try:
            return max(1, int(self._queue.backend.lookahead()))
        except Exception:  # noqa: BLE001
            return 1

    def device_lane(self) -> Lane:
        """The lane of the records for the device."""
        return self._backlog.lane(DEVICE)

    def is_choosing(self) -> bool:
        """Tell whether a batch of ready records is being chosen, slice by slice."""
        return self._batch is not None

    def _launch_one(self, entry: Entry) -> None:
        """Have a record submitted that has a slot of its function's own."""
        assert entry.lane is not None
        try:
            self._begin(entry, State.LAUNCHED)
            _tell(entry.record)
            batch = Batch(self._queue, entry.lane, 1)
            batch.add(entry)
            self._queue.launcher.put(batch.launched())
        except BaseException:
            self._take_back(entry)
            raise

    def _begin_launch(self, entry: Entry, lane: Lane) -> None:
        if entry.state is State.PARKED:
            self._backlog.join(entry, lane)
        else:
            self._backlog.start(entry, State.LAUNCHED)
        self._begun(entry.record)
        _tell(entry.record)

    def may_join(self, op: Op) -> bool:
        """Tell whether a record of an op that is parked may be launched with what it waits for."""
        return not self._queue.strict and self._lane_of(op) is DEVICE


def _tell(record: Cell) -> None:
    """Tell listeners that a device has a record."""
    if hooks.listeners:
        hooks.started(record)


def _runs(backend: Backend[Any], op: Op) -> bool:
    """Ask the backend; where it raises, `submit` will say what is wrong."""
    try:
        return bool(backend.runs(op.name, op.kernel))
    except Exception:  # noqa: BLE001
        return True
