"""The core of an executor: the devices of one configuration, their queues, and what is in flight on them.

Purpose: hold together what lives as long as an executor: its devices, two queues for each (ASYNC and SYNC), the ledger
of failures, flow control, and the workers. It is made at the first op, bound to one loop or to none.

Invariants: `state` only moves on, from OPEN to CLOSED. A closed executor takes no op (the room of its queues is -1, so
that dispatch asks and is refused) but still answers for what it has computed.

Any thread may dispatch to a core and read it; each queue and `FlowControl` has a lock of its own. Closing and detaching
are done by the thread that leaves the executor's block, or by the loop that shuts down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from engine.base.config import Config
from engine.base.errors import ExecutorClosedError, closed_message
from engine.base.loops import AbstractEventLoop
from engine.base.op import Op
from engine.devices.base import Device
from engine.dispatch.flow import FlowControl
from engine.dispatch.holdings import Devices, Holdings
from engine.dispatch.spread import Spread
from engine.failures import Ledger, raise_together
from engine.fusion.native.helping import helper
from engine.queues.device_queue import DeviceQueue
from engine.queues.inline import InlineQueue
from engine.queues.records import BARRIER
from engine.threads.blas import core_count
from engine.threads.slots import Slots
from handles.cell import Cell, pending_cell
from handles.display import statistics_html
from handles.eager import EagerHandle


class State(Enum):
    """The life of an executor."""

    NEW = "not entered yet"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Statistics:
    """The work of an executor at one moment: what it has done, and what it is doing."""

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

    def _repr_html_(self) -> str:
        return statistics_html(self)


class Core:
    """The devices of one configuration and their queues."""

    def __init__(self, config: Config, loop: AbstractEventLoop | None) -> None:
        self.config = config
        self.loop = loop
        self.state = State.OPEN
        self.ledger = Ledger()
        self.timeout = config.operation_timeout_in_ms / 1000 or None
        """Seconds that a sync point may wait; None for any time."""
        self.devices = Devices(config)
        self.calls = Slots(lambda: min(32, core_count() + 4))
        """Slots of users' functions."""
        self.queues: dict[Device, DeviceQueue] = {}
        self.flow = FlowControl(config, self.queues)
        self.admission = self.flow.admission
        width, split = config.inter_op_parallelism_threads, config.intra_op_parallelism_threads or core_count()
        if split == 1:
            helper.refuse(self)
        for device, backend in self.devices.items():
            self.queues[device] = DeviceQueue(self, device, backend, loop, width=width, split=split)
        self.inline = {device: InlineQueue(self, device, backend) for device, backend in self.devices.items()}
        self._spread = Spread(self.queues)
        self._holdings = Holdings(self.devices)

    @property
    def default_device(self) -> Device:
        """The device of ops that nothing places."""
        return self.devices.default

    def resolve(self, device: Device, inputs: Sequence[Device | None] = ()) -> Device:
        """The device, if this executor has it; else CPU:0 under soft placement, or `UnknownDeviceError`.

        Where any device of a kind will do, it is the one that an input is on, else the least loaded one.
        """
        return self._spread.choose(device, inputs) or self.devices.resolve(device)

    # In flight

    @property
    def pending_bytes(self) -> int:
        """Bytes of operands that were copied for what is in flight."""
        return self.flow.pending_bytes

    async def admit(self, priority: int, wait: bool) -> None:
        """Wait until less is in flight than the high-water marks say; without `wait`, raise `QueueFullError`."""
        await self.admission.enter(priority, wait)

    def make_room(self, queue: DeviceQueue, op_name: str, *, admitted: bool = False) -> None:
        """Let `queue` take more records, as `FlowControl.make_room` does; raise where the executor takes none."""
        if self.state is not State.OPEN:
            raise ExecutorClosedError(closed_message(op_name, self.state.value))
        self.flow.make_room(queue, op_name, admitted=admitted)

    def in_flight(self) -> int:
        """Ops that were dispatched and have not ended."""
        return self.flow.in_flight()

    def statistics(self) -> Statistics:
        """Count what has ended and what is on its way."""
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
            running=self._running(),
            pending_bytes=self.flow.pending_bytes,
        )

    def _running(self) -> int:
        return sum(queue.running() for queue in self.queues.values())

    # Barriers

    def _queues_of(self, device: Device | None) -> Iterable[DeviceQueue]:
        return self.queues.values() if device is None else (self.queues[device],)

    def barriers(self, device: Device | None = None) -> list[Cell]:
        """Markers behind all that was dispatched so far, on one device or on all."""
        return [queue.barrier() for queue in self._queues_of(device) if queue.has_unsettled()]

    def unfinished(self, device: Device | None = None) -> list[Cell]:
        """The records in flight, on one device or on all."""
        queues = self.queues.values() if device is None else [self.queues[device]]
        return [cell for queue in queues for cell in queue.unfinished() if cell.op is not BARRIER]

    def raise_failures(self, device: Device | None = None) -> None:
        """Raise what failed and was not reported yet."""
        raise_together(self.ledger.take(device), "ops failed")

    # The end

    def cancel_pending(self, why: str, device: Device | None = None) -> int:
        """Drop what has not started, abandon what has, on one device or on all; returns how many ops that were."""
        count = 0
        for queue in self._queues_of(device):
            cells = queue.unfinished()
            count += queue.drop([cell for cell in cells if cell.op is not BARRIER], why)
            queue.drop(cells, why)  # those who wait behind them are told
        return count

    def close(self) -> None:
        """Take no more work."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        for queue in self.queues.values():
            queue.room = -1
        self._holdings.close_backends()
        self._holdings.release_workers(self._running)

    def detach(self) -> None:
        """The loop shuts down: what is pending stays, and is computed when a thread asks for it."""
        for queue in self.queues.values():
            queue.detach()
        self.loop = None
        if not self.in_flight():  # else backends may be asked for what is pending
            self._holdings.close_backends()
        self._holdings.release_workers(self._running)

    def start_over(self) -> None:
        """In a forked child: no thread holds a lock."""
        self.ledger.start_over()
        self.flow.start_over()

    # For handles

    def restorer(self) -> Callable[..., object]:
        """The function that unpickles a handle."""
        return restore


_CONSTANT = Op("asarray", np.asarray, view=True)


def restore(array: np.ndarray[Any, Any], device: str) -> EagerHandle:
    """Make the handle of an unpickled value: on the device of that name if there is one here, else on CPU:0."""
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
