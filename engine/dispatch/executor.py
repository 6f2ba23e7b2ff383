"""The core of an executor: the devices of one configuration, their queues, and what is in flight on them."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from engine.base.config import Config
from engine.base.errors import ExecutorClosedError, QueueFullError, UnknownDeviceError, closed_message
from engine.base.loops import AbstractEventLoop, running_loop
from engine.base.op import Op
from engine.devices.base import Device
from engine.devices.registry import make_devices
from engine.failures import Ledger, raise_together, site, user_frame
from engine.queues.admission import Admission
from engine.queues.bell import Bell
from engine.queues.device_queue import DeviceQueue
from engine.queues.inline import InlineQueue
from engine.queues.records import BARRIER
from engine.queues.slice import SLICE
from engine.queues.states import State as Waits
from engine.queues.waiting import RECHECK, blockers
from engine.settings.libraries import meet_libraries
from engine.threads.blas import core_count
from engine.threads.pool import workers
from engine.threads.slots import Slots
from handles.cell import PENDING, CancelOutcome, Cell, pending_cell
from handles.eager import EagerHandle

logger = logging.getLogger("engine.placement")
flow = logging.getLogger("engine.flow")

inline_places: set[tuple[object, int]] = set()
"""Call sites that a warning of inline execution was given for."""


class State(Enum):
    """The life of an executor."""

    NEW = "not entered yet"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Statistics:
    """What an executor has done and is doing, at one moment."""

    state: str
    """`not entered yet`, `open` or `closed`."""
    completed: int
    """Ops that ended with a value, SYNC ones apart."""
    failed: int
    """Ops that ended with an error, dependents of failed ones included."""
    cancelled: int
    """Ops that were cancelled."""
    pending: int
    """Ops in flight: queued, waiting for operands, or running."""
    running: int
    """Ops that run on workers or as tasks of the loop."""
    pending_bytes: int
    """Bytes of snapshotted operands in flight."""


def _parked(queue: DeviceQueue) -> list[Cell]:
    """The records of a queue that wait for operands."""
    return [entry.record for entry in list(queue.backlog.entries()) if entry.state is Waits.PARKED]


def _moves(queue: DeviceQueue) -> bool:
    """Whether something can run on a queue, or runs and will end by itself."""
    return queue.runnable() or any(not entry.record.op.external for entry in queue.backlog.running.copy())


def _is_blocked_outside(queue: DeviceQueue) -> bool:
    """Whether what is in flight waits for code that only the dispatching thread may get to run."""
    return bool(queue.held) or any(entry.record.op.external for entry in queue.backlog.running.copy())


class Core:
    """The devices of one configuration and their queues; made at the first op, bound to one loop or to none."""

    def __init__(self, config: Config, loop: AbstractEventLoop | None) -> None:
        self.config = config
        self.loop = loop
        self.state = State.OPEN
        self.ledger = Ledger()
        self.timeout = config.operation_timeout_in_ms / 1000 or None
        self.pending_bytes = 0
        self._missed: set[Device] = set()  # devices that were asked for and do not exist, each logged once
        self._bytes_lock = threading.Lock()
        self.devices = make_devices(config.device_count)
        split = config.intra_op_parallelism_threads or core_count()
        self.calls = Slots(lambda: min(32, core_count() + 4))
        self.admission = Admission(lambda: self._free() > 0, self._describe_load)
        self.queues = {
            device: DeviceQueue(self, device, backend, loop, width=config.inter_op_parallelism_threads, split=split)
            for device, backend in self.devices.items()
        }
        self.inline = {device: InlineQueue(self, device, backend) for device, backend in self.devices.items()}
        self.default_device = next(iter(self.devices))
        self.on_host = all(backend.on_host for backend in self.devices.values())
        """Whether each device runs an op's own kernel, so that several ops may be made one."""
        elsewhere = {id(backend): backend for backend in self.devices.values() if not backend.on_host}
        self._open_backends = list(elsewhere.values())
        self.low_mark = max(1, config.max_pending_ops // 2)
        workers.retain()
        meet_libraries()
        self._release = weakref.finalize(self, workers.release, wait=False)
        self._release.atexit = False

    async def admit(self, priority: int, wait: bool) -> None:
        """Wait until less is in flight than the high-water marks say; without `wait`, raise `QueueFullError`."""
        await self.admission.enter(priority, wait)

    def start_over(self) -> None:
        """In a forked child: no thread holds a lock."""
        self._bytes_lock = threading.Lock()
        self.ledger.start_over()
        self.admission.start_over()

    # In flight

    def in_flight(self) -> int:
        return sum(queue.in_flight() for queue in self.queues.values())

    def statistics(self) -> Statistics:
        queues = self.queues.values()
        completed, failed, cancelled = (
            sum(column) for column in zip(*(queue.completions.counts() for queue in queues), strict=True)
        )
        return Statistics(
            state=self.state.value,
            completed=completed,
            failed=failed,
            cancelled=cancelled,
            pending=self.in_flight(),
            running=sum(queue.running() for queue in queues),
            pending_bytes=self.pending_bytes,
        )

    def hold_bytes(self, cell: Cell, nbytes: int) -> None:
        """Count the snapshots of a record against the high-water mark until it is settled."""
        cell.extend().nbytes = nbytes
        with self._bytes_lock:
            self.pending_bytes += nbytes
        cell.waiters = [*(cell.waiters or ()), self.free_bytes]

    def free_bytes(self, cell: Cell) -> None:
        """Count them no longer; to say so again changes nothing."""
        rare = cell.extend()
        with self._bytes_lock:
            self.pending_bytes -= rare.nbytes
            rare.nbytes = 0

    def over_low_mark(self) -> Cell | None:
        """An unsettled record to wait for, when more is in flight than the low-water marks say.

        What was cancelled counts until its queue gets to it, and cannot be waited for: a marker behind it can.
        """
        over = self.in_flight() - self.low_mark
        if over < 0 and self.pending_bytes <= self.config.max_pending_bytes // 2:
            return None
        for queue in sorted(self.queues.values(), key=DeviceQueue.in_flight, reverse=True):
            cells = queue.unfinished()
            at = max(over // len(self.queues), 0)
            for cell in (*cells[at:], *reversed(cells[:at])):
                if cell.value is PENDING:
                    return cell
            if queue.pending:
                return queue.barrier()
        return None

    def make_room(self, queue: DeviceQueue, op_name: str, *, admitted: bool = False) -> None:
        """Let `queue` take more records: below the high-water marks at once, past them by executing what is queued.

        `admitted` says that the op is of a scope that waited for room when it was entered: it may go twice as far, or
        the loop's thread would have to wait after all for what the scope itself dispatched.
        """
        if self.state is not State.OPEN:
            raise ExecutorClosedError(closed_message(op_name, self.state.value))
        free = self._free()
        if free <= 0:
            if admitted and self._free(2) > 0:
                return
            self._log_inline(op_name)
            while (free := self._free(1 + admitted)) <= 0:
                self._execute_inline(op_name)
        queue.room = len(queue.pending) + max(1, free // len(self.queues))

    def _log_inline(self, op_name: str) -> None:
        """Say that the loop's thread works off the queue inside a dispatch: once for each place in the program."""
        if running_loop() is None:
            return
        frame = user_frame(2)
        place = (frame.f_code, frame.f_lasti)
        if place not in inline_places:
            inline_places.add(place)
            flow.warning(
                "%r at %s was dispatched past the high-water marks, so the loop's thread executes queued work first: "
                "%s. Enter `async with engine.scope():` or `await engine.drain()` before dispatching.",
                op_name,
                site(*place),
                self._describe_load(),
            )

    def _describe_load(self) -> str:
        config = self.config
        return (
            f"{self.in_flight()} ops with {self.pending_bytes} bytes are pending (Config.max_pending_ops is "
            f"{config.max_pending_ops}, max_pending_bytes is {config.max_pending_bytes})"
        )

    def _free(self, times: int = 1) -> int:
        """Ops that may be dispatched before so many times the high-water marks are reached."""
        if self.pending_bytes >= times * self.config.max_pending_bytes:
            return 0
        return times * self.config.max_pending_ops - self.in_flight()

    def _execute_inline(self, op_name: str) -> None:
        moved = [queue.drive(SLICE, patient=True) for queue in self.queues.values()]
        if any(moved):
            return  # those of other executors are looked for only where these stand still: it takes long behind a chain
        bell = Bell()
        queues = self._needed_queues()
        for queue in queues:
            queue.listen(bell, True)
        try:
            moved = [queue.drive(SLICE, patient=True) for queue in queues]
            if any(moved) or any(queue.runnable() for queue in queues):
                return
            if self._is_stuck(queues):
                raise QueueFullError(
                    f"{op_name!r} was not dispatched: {self._describe_load()} and none can be executed here; "
                    "`await engine.drain()` first"
                )
            bell.wait(RECHECK)
        finally:
            for queue in queues:
                queue.listen(bell, False)

    def _is_stuck(self, queues: list[DeviceQueue]) -> bool:
        """Whether no op will end before the dispatching thread has gone on."""
        moving = any(_moves(queue) for queue in queues)
        return not moving and any(_is_blocked_outside(queue) for queue in queues) and self._free() <= 0

    def _needed_queues(self) -> list[DeviceQueue]:
        """The queues of this executor, and those of others that ops of it wait for."""
        needed: dict[Any, None] = dict.fromkeys(self.queues.values())
        for queue in self.queues.values():
            needed.update((record.home, None) for record in blockers(*_parked(queue)))
        return list(needed)

    # Barriers

    def barriers(self, device: Device | None = None) -> list[Cell]:
        """Markers behind all that was dispatched so far, on one device or on all."""
        queues = self.queues.values() if device is None else [self.queues[device]]
        return [queue.barrier() for queue in queues if queue.has_unsettled()]

    def raise_failures(self, device: Device | None = None) -> None:
        """Raise what failed and was not reported yet."""
        raise_together(self.ledger.take(device), "ops failed")

    # The end

    def cancel_pending(self, why: str, device: Device | None = None) -> int:
        """Drop what has not started, abandon what has, on one device or on all; how many ops that were."""
        count = 0
        for queue in self.queues.values() if device is None else [self.queues[device]]:
            for cell in queue.unfinished():
                count += queue.cancel(cell, why) is not CancelOutcome.TOO_LATE and cell.op is not BARRIER
        return count

    def close(self) -> None:
        """Take no more work."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        for queue in self.queues.values():
            queue.room = -1
        self._close_backends()
        self.let_go()

    def _close_backends(self) -> None:
        """Tell the backends of other kinds of devices, once, that no record will come. On workers: it may block."""
        backends, self._open_backends = self._open_backends, []
        for backend in backends:
            workers.submit(backend.close)

    def let_go(self) -> None:
        """Give the workers back, once."""
        if self._release.detach() is not None:
            busy = any(queue.running() for queue in self.queues.values())
            workers.release(wait=not busy and self.on_host)

    def detach(self) -> None:
        """The loop shuts down: what is pending stays for whoever asks for it."""
        for queue in self.queues.values():
            queue.detach()
        self.loop = None
        if not self.in_flight():  # else they may be asked for what is pending
            self._close_backends()
        self.let_go()

    # Devices

    def resolve(self, device: Device) -> Device:
        """The device where this executor has it; CPU:0 under soft placement, logged once; else `UnknownDeviceError`."""
        if device in self.devices:
            return device
        known = ", ".join(map(str, self.devices))
        if not self.config.allow_soft_placement:
            raise UnknownDeviceError(
                f"device {device} does not exist; this executor has {known} (Config.device_count says how many; "
                "Config.allow_soft_placement=True falls back to CPU:0)"
            )
        logger.warning(
            "device %s does not exist, using %s instead; this executor has %s", device, self.default_device, known
        )
        return self.default_device

    # What handles need

    def restorer(self) -> Callable[..., Any]:
        return restore


_CONSTANT = Op("asarray", np.asarray, view=True)


def restore(array: np.ndarray[Any, Any], device: str) -> EagerHandle:
    """The handle of an unpickled value: on the device of that name where there is one here, else on CPU:0."""
    global _restored
    if _restored is None:
        _restored = Core(Config(), None)
        _restored.close()
    queue = _restored.inline.get(Device(device)) or _restored.inline[_restored.default_device]
    cell = pending_cell(_CONSTANT, (), None, queue, None, 0)
    cell.value = array
    handle = object.__new__(EagerHandle)
    handle._cell = cell
    return handle


_restored: Core | None = None
