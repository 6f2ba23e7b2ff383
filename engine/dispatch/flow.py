"""Flow control: what one executor holds in flight, and what happens at its high-water marks.

Purpose: bounded memory, however much a program dispatches. Past the marks a dispatch executes queued work itself, a
scope waits before it is entered, and `drain` waits until half is left.

Invariants: the bytes counted are those of the records that have not ended, each counted once and taken off once, and a
snapshot that records share is counted once for all of them. `DeviceQueue.room` is never larger than what the marks
leave, so a queue asks here before it goes past them.

`make_room` is called by the thread that dispatches; `free_bytes` by the thread on which an op ends. `_bytes_lock`
guards `pending_bytes`, `_uses` and `_expected`; the numbers of ops are read from the queues without a lock, so they may
be a moment old.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence

from engine.base.config import Config
from engine.base.errors import QueueFullError
from engine.base.loops import running_loop
from engine.devices.base import Array, Device
from engine.failures import site, user_frame
from engine.queues.admission import Admission
from engine.queues.bell import Bell
from engine.queues.device_queue import DeviceQueue
from engine.queues.slice import SLICE
from engine.queues.states import State as Waits
from engine.queues.waiting import RECHECK, blockers
from handles.cell import PENDING, Cell

logger = logging.getLogger("engine.flow")

inline_places: set[tuple[object, int]] = set()
"""Call sites that a warning of inline execution was given for."""


class FlowControl:
    """Counts what is in flight on the queues of one executor, and makes room for more."""

    def __init__(self, config: Config, queues: Mapping[Device, DeviceQueue]) -> None:
        """`queues` may still be empty: they are looked at when an op is dispatched."""
        self._config = config
        self._queues = queues
        self._low_mark = max(1, config.max_pending_ops // 2)
        self._bytes_lock = threading.Lock()
        self.pending_bytes = 0
        self._uses: dict[int, int] = {}
        """For each shared snapshot, by its identity, how many records that have not ended hold it."""
        self._expected = 0
        self.admission = Admission(lambda: self._free() > self._expected, self._describe_load)

    def start_over(self) -> None:
        """In a forked child: no thread holds a lock."""
        self._bytes_lock = threading.Lock()
        self.admission.start_over()

    # In flight

    def in_flight(self) -> int:
        """Ops that were dispatched and have not ended."""
        return sum(queue.in_flight() for queue in self._queues.values())

    def hold_bytes(self, cell: Cell, nbytes: int, shared: Sequence[Array] = ()) -> None:
        """Count the snapshots of a record against the high-water mark until it has ended.

        `nbytes` are the bytes of those that are its own; `shared` are the ones that other records may hold, too.
        """
        rare = cell.extend()
        rare.shared = tuple(shared)  # they live until they are counted no longer: an identity means one array
        with self._bytes_lock:
            for each in shared:
                uses = self._uses.get(id(each), 0)
                self._uses[id(each)] = uses + 1
                if not uses:
                    rare.copied += each.nbytes
            self.pending_bytes += nbytes + rare.copied
        rare.nbytes = nbytes
        rare.copied += nbytes
        cell.waiters = [*(cell.waiters or ()), self.free_bytes]

    def free_bytes(self, cell: Cell) -> None:
        """Count them no longer; a second call changes nothing."""
        rare = cell.extend()
        with self._bytes_lock:
            shared, rare.shared = rare.shared, ()
            for each in shared:
                uses = self._uses.pop(id(each), 0)
                if uses > 1:
                    self._uses[id(each)] = uses - 1
                elif uses:
                    self.pending_bytes -= each.nbytes
            self.pending_bytes -= rare.nbytes
            rare.nbytes = 0

    def expect(self, calls: int) -> None:
        """So many more calls wait that will be ops: they count where tasks ask for room."""
        with self._bytes_lock:
            self._expected += calls
        if calls < 0 and self.admission.waiting:
            self.admission.look()

    def over_low_mark(self) -> Cell | None:
        """An op to wait for, when more is in flight than the low-water marks say.

        What was cancelled counts until its queue gets to it, and cannot be waited for: a marker behind it can.
        """
        over = self.in_flight() - self._low_mark
        if over < 0 and self.pending_bytes <= self._config.max_pending_bytes // 2:
            return None
        for queue in sorted(self._queues.values(), key=DeviceQueue.in_flight, reverse=True):
            cells = queue.unfinished()
            at = max(over // len(self._queues), 0)
            for cell in (*cells[at:], *reversed(cells[:at])):
                if cell.value is PENDING:
                    return cell
            if queue.pending:
                return queue.barrier()
        return None

    # The high-water marks

    def make_room(self, queue: DeviceQueue, op_name: str, *, admitted: bool = False) -> None:
        """Let `queue` take more records: below the high-water marks at once, past them by executing what is queued.

        `admitted` says that the op is of a scope that waited for room when it was entered: it may go twice as far, or
        the loop's thread would have to wait after all for what the scope itself dispatched.

        Raises `QueueFullError` when nothing of what is pending can be executed here.
        """
        free = self._free()
        if free <= 0:
            if admitted and self._free(2) > 0:
                return
            self._log_inline(op_name)
            while (free := self._free(1 + admitted)) <= 0:
                self._execute_inline(op_name)
        queue.room = len(queue.pending) + max(1, free // len(self._queues))

    def _free(self, times: int = 1) -> int:
        """Ops that may be dispatched before so many times the high-water marks are reached."""
        if self.pending_bytes >= times * self._config.max_pending_bytes:
            return 0
        return times * self._config.max_pending_ops - self.in_flight()

    def _log_inline(self, op_name: str) -> None:
        """Say that the loop's thread works off the queue inside a dispatch: once for each place in the program."""
        if running_loop() is None:
            return
        frame = user_frame(2)
        place = (frame.f_code, frame.f_lasti)
        if place not in inline_places:
            inline_places.add(place)
            logger.warning(
                "%r at %s was dispatched past the high-water marks, so the loop's thread executes queued work first: "
                "%s. Enter `async with engine.scope():` or `await engine.drain()` before dispatching.",
                op_name,
                site(*place),
                self._describe_load(),
            )

    def _describe_load(self) -> str:
        config = self._config
        return (
            f"{self.in_flight()} ops with {self.pending_bytes} bytes are pending (Config.max_pending_ops is "
            f"{config.max_pending_ops}, max_pending_bytes is {config.max_pending_bytes})"
        )

    def _execute_inline(self, op_name: str) -> None:
        """Drive the queues for a slice each, or wait until something has ended elsewhere."""
        moved = [queue.drive(SLICE, patient=True) for queue in self._queues.values()]
        if any(moved):
            return  # those of other executors are looked for only where these stand still: it takes long behind a chain
        bell = Bell()
        queues = _needed_queues(self._queues.values())
        for queue in queues:
            queue.listen(bell, True)
        try:
            moved = [queue.drive(SLICE, patient=True) for queue in queues]
            if any(moved) or any(queue.runnable() for queue in queues):
                return
            if _are_stuck(queues) and self._free() <= 0:
                raise QueueFullError(
                    f"{op_name!r} was not dispatched: {self._describe_load()} and none can be executed here; "
                    "`await engine.drain()` first"
                )
            bell.wait(RECHECK)
        finally:
            for queue in queues:
                queue.listen(bell, False)


def _needed_queues(queues: Iterable[DeviceQueue]) -> list[DeviceQueue]:
    """The queues, and those of other executors that ops of them wait for."""
    needed = dict.fromkeys(queues)
    for queue in list(needed):
        for record in blockers(*_parked(queue)):
            home = record.home
            assert isinstance(home, DeviceQueue)
            needed[home] = None
    return list(needed)


def _parked(queue: DeviceQueue) -> list[Cell]:
    """The records of a queue that wait for operands."""
    return [entry.record for entry in list(queue.backlog.entries()) if entry.state is Waits.PARKED]


def _are_stuck(queues: Iterable[DeviceQueue]) -> bool:
    """True if no op will end before the dispatching thread has gone on."""
    queues = list(queues)
    return not any(map(_moves, queues)) and any(map(_is_blocked_outside, queues))


def _moves(queue: DeviceQueue) -> bool:
    """True if something can run on a queue, or runs and will end by itself."""
    return queue.runnable() or any(not entry.record.op.external for entry in queue.backlog.running.copy())


def _is_blocked_outside(queue: DeviceQueue) -> bool:
    """True if what is in flight waits for code that only the dispatching thread may get to run."""
    return bool(queue.held) or any(entry.record.op.external for entry in queue.backlog.running.copy())
