"""Running steps: each becomes a record on the queues of an executor, as if its op were called there and then.

A step that needs nothing but its operands is put on the queue by the dispatcher's `put`, as a call on its fast path
is; any other goes through `dispatch_slowly`, in the scopes around the run.

`slots` is written by the thread that dispatches only. Results are found through the cells in it, on any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import perf_counter
from types import CodeType
from typing import Any

from engine.devices.base import Device
from engine.dispatch.copies import TRANSFER
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.executor import Core, State
from engine.dispatch.queueing import AsyncDispatcher
from engine.graph.schedule import Schedule
from engine.graph.steps import Slots, Step
from engine.queues.device_queue import DeviceQueue
from engine.queues.records import pending_operands, record_of
from engine.queues.slice import SLICE
from engine.queues.waiting import block_until
from engine.settings.in_force import mode_in_force
from engine.settings.scope import DEFAULT_ERRSTATE, Scope, errstate, scope_var
from handles.cell import PENDING, Cell, Failure, add_waiter, pending_cell, settle

CHUNK = 128
"""Steps that are dispatched before the loop, or the marks, are looked at."""
AHEAD = 512
"""Records that may be queued before a run works some off: enough to plan with, and few enough to die young.

A hundred thousand queued records would outlive the young generations of the garbage collector, which then looks at all
there is, the graph included.
"""


class Place:
    """Where a step was made, in the form of the frame that dispatch would look at."""

    __slots__ = ("f_code", "f_lasti")

    def __init__(self, code: CodeType | None, lasti: int) -> None:
        self.f_code = code
        self.f_lasti = lasti


class GraphRun:
    """One run of some steps. `slots` holds what they read: values, and the cells of what is being computed."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        schedule: Schedule,
        slots: Slots,
        nbytes: int = 0,
        moved: Mapping[int, int] | None = None,
    ) -> None:
        """`moved` are slots that get their values from others, which steps write to."""
        self.core: Core = dispatcher.core
        self._moved = moved or {}
        self.slots = slots
        self._nbytes = nbytes
        self._steps, self._frees = schedule
        self._ids: list[int] = []
        self._dispatchers: dict[Device | None, Dispatcher] = {None: dispatcher}
        self._scope = Scope(
            executor=self.core,
            mode=mode_in_force(),
            policy=dispatcher.policy,
            device=dispatcher.device,
            group=dispatcher.group,
            kernel=scope_var.get().kernel,
        )

    def chunks(self) -> Iterator[Cell | None]:
        """Dispatch all steps in chunks, and yield None after each.

        Before a chunk, yield the cells to wait for so that what is in flight stays below the marks.
        """
        plain, core = self._is_plain(), self.core
        most = core.config.max_pending_ops
        size = min(CHUNK, max(1, most // 4))
        for start in range(0, len(self._steps), size):
            while core.in_flight() > most - size and (cell := core.flow.over_low_mark()) is not None:
                yield cell
            if plain:
                self._push(start, start + size)
            else:
                self._dispatch(start, start + size)
            yield None
        for slot, source in self._moved.items():
            self.slots[slot] = self.slots[source]
        if self._nbytes and self._steps:
            self._hold_bytes(self._steps[-1])

    def _hold_bytes(self, last: Step) -> None:
        """Count what was fed against the high-water mark until the last step has run."""
        core = self.core
        ticket = pending_cell(last.op, (), None, core.queues[core.default_device], None, 0)
        core.flow.hold_bytes(ticket, self._nbytes)

        def release(_: Cell) -> None:
            settle(ticket, None)

        for slot in last.outputs():
            cell = self.slots[slot]
            if cell.__class__ is Cell and add_waiter(cell, release):
                return
        settle(ticket, None)

    def drive(self, ends: float, *, patient: bool) -> None:
        """Drive queues that are far ahead, until `ends` at most; `patient` waits for another thread that drives."""
        for queue in self.core.queues.values():
            if len(queue.pending) > AHEAD:
                queue.drive(max(0.0, ends - perf_counter()), patient=patient)

    def push_all(self) -> None:
        """Dispatch all steps; past the marks that executes queued work, as dispatch does."""
        if self._is_plain():
            self._push(0, len(self._steps))
        else:
            self._dispatch(0, len(self._steps))
        self.schedule()

    def schedule(self) -> None:
        """Have the loop, or a worker, drive what is queued: for a caller that does not wait for it."""
        for queue in self.core.queues.values():
            if not queue.scheduled and queue.runnable():
                queue.schedule()

    def launch(self) -> None:
        """Dispatch all steps, blocking while too much is in flight."""
        for cell in self.chunks():
            if cell is None:
                self.drive(perf_counter() + SLICE, patient=True)
            else:
                block_until(cell, self.core.timeout)

    def _is_plain(self) -> bool:
        """True if a step is no more than a record on the one queue that there is."""
        dispatcher, core = self._dispatchers[None], self.core
        return (
            isinstance(dispatcher, AsyncDispatcher)
            and dispatcher.plain
            and len(core.queues) == 1
            and core.state is State.OPEN
            and core.config.allow_soft_placement
            and errstate() is DEFAULT_ERRSTATE
        )

    def _push(self, begin: int, end: int) -> None:
        core, slots, note = self.core, self.slots, self._ids.append
        dispatcher = self._dispatchers[None]
        assert isinstance(dispatcher, AsyncDispatcher)
        queue, put = core.queues[core.default_device], dispatcher.put
        here = (None, queue.device)
        for index in range(begin, min(end, len(self._steps))):
            step = self._steps[index]
            op = step.op
            if not op.known or op.outputs != 1 or step.device not in here:
                self._dispatch(index, index + 1)
                continue
            cell = put(queue, op, step.getter(slots), step.params, step.code, step.lasti)
            note(id(cell))
            slots[step.slot] = cell
            for slot in self._frees[index]:
                slots[slot] = None

    def _dispatch(self, begin: int, end: int) -> None:
        token = scope_var.set(self._scope)
        try:
            for step, frees in zip(self._steps[begin:end], self._frees[begin:end], strict=True):
                cells = self._dispatch_one(step)
                self._ids.append(id(record_of(cells[0])))
                self.slots[step.slot : step.slot + len(cells)] = cells
                for slot in frees:
                    self.slots[slot] = None
        finally:
            scope_var.reset(token)

    def _dispatch_one(self, step: Step) -> list[Cell]:
        dispatcher = self._dispatcher(step.device)
        operands = step.getter(self.slots)
        place: Any = Place(step.code, step.lasti)
        if step.op is TRANSFER and operands[0].__class__ is Cell:
            assert step.device is not None
            return [dispatcher.copy(operands[0], self.core.resolve(step.device), place)]
        try:
            handles = dispatcher.dispatch_slowly(step.op, operands, step.params, place)
        except Exception as error:
            error.add_note(f"node {step.name!r}")
            raise
        return [handle._cell for handle in handles]

    def _dispatcher(self, device: Device | None) -> Dispatcher:
        dispatcher = self._dispatchers.get(device)
        if dispatcher is None:
            around = self._dispatchers[None]
            dispatcher = type(around)(self.core, around.policy, device, around.group)
            self._dispatchers[device] = dispatcher
        return dispatcher

    # How it ends

    def failed_step(self, failure: Failure) -> Step | None:
        """The step whose op failed, if it is one of this run."""
        wanted = id(failure.record)
        for index in range(len(self._ids) - 1, -1, -1):  # a number is used again once its cell is gone
            if self._ids[index] == wanted:
                return self._steps[index]
        return None

    def cancel(self, why: str) -> None:
        """Drop what has not started, and abandon what runs."""
        mine = set(self._ids)
        stack = [record_of(value) for value in self.slots if value.__class__ is Cell]
        seen: set[Cell] = set()
        while stack:
            record = stack.pop()
            if record in seen or record.value is not PENDING or id(record) not in mine:
                continue
            seen.add(record)
            stack.extend(pending_operands(record))
        for record in seen:
            home = record.home
            if isinstance(home, DeviceQueue):
                home.cancel(record, why)
        self.schedule()  # what was dropped is taken off the queues

    def acknowledge(self) -> list[BaseException]:
        """The errors of this run that have not been reported; from now on they count as reported."""
        mine = set(self._ids)
        return self.core.ledger.acknowledge(lambda failure: id(failure.record) in mine)
