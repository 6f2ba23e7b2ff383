"""Dispatch: from an op and its operands to a record on a queue (ASYNC) or a result (SYNC), and a handle of it.

Purpose: decide where an op runs, convert its operands, make its record, and hand that to a queue. There is one
dispatcher for each combination of executor, mode, device policy, device and group in force; `runtime.current` finds it.
Here stands what both modes share; `queueing` has that of ASYNC mode, `inline` that of SYNC mode.

Invariants: a call makes one record, or raises and makes none. Operands are snapshots, so no later write changes what
the op sees. `dispatch` and `dispatch_any` are fast paths for what nearly every op is, with operands that need no
decision: handles of the same queue, values that are in this host's memory, small arrays, Python scalars. On all else
they call `dispatch_slowly`, and give the same results as it would.

Any number of threads may call one dispatcher: it has no state of its own that a call changes. A record goes to a queue
by one append, which is atomic; what has to be counted (bytes, groups) is guarded by its counter. No lock is taken here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

import numpy as np

from engine.base.errors import ExecutorClosedError, UnknownShapeError, closed_message
from engine.base.inference import infer_cell
from engine.base.modes import DevicePolicy
from engine.base.op import Op, Params
from engine.devices.base import Device
from engine.dispatch.executor import Core, State
from engine.dispatch.placement import Placement, check_copies, describe_copy, place
from engine.failures import describe_op, site, user_frame
from engine.queues.base import ARRAY, Queue
from engine.queues.hooks import hooks
from handles.base import Handle
from handles.cell import Cell, Group

logger = logging.getLogger("engine.placement")

ABSENT: Any = object()
"""Stands for the second operand of an op that has one only."""

OPEN = State.OPEN


class Dispatcher:
    """Where ops go that are called in one particular set of scopes."""

    def __init__(self, core: Core, policy: DevicePolicy, device: Device | None, group: Group | None) -> None:
        self.core = core
        self.policy = policy
        self.device = device
        self.group = group

        self.plain = False
        """True if an op that needs nothing but its operands may go the fast way."""
        self.tell: Callable[[Cell, Sequence[Any]], None] | None = None
        """Tells listeners of each record; None while there is no listener."""
        hooks.register(self)

    def look_at_hooks(self) -> None:
        """Have listeners told of every record from now on, or nothing told while there is none."""
        self.tell = hooks.dispatched if hooks.listeners else None

    def dispatch(self, op: Op, left: Any, right: Any = ABSENT, params: Params | None = None) -> Handle:
        """Dispatch an op of one operand or two and one result, that user code called through one function."""
        return self.dispatch_any(op, (left,) if right is ABSENT else (left, right), params)

    def dispatch_any(self, op: Op, args: tuple[object, ...], params: Params | None = None) -> Handle:
        """The same for any number of operands."""
        return self.dispatch_slowly(op, args, params, user_frame(2))[0]

    def dispatch_slowly(
        self, op: Op, args: tuple[object, ...], params: Params | None, frame: FrameType
    ) -> tuple[Handle, ...]:
        """Dispatch any op: convert and place its operands, keep its context, tell its group."""
        raise NotImplementedError

    def dispatch_several(self, op: Op, args: tuple[object, ...], params: Params | None = None) -> tuple[Handle, ...]:
        """Dispatch an op of several results."""
        return self.dispatch_slowly(op, args, params, user_frame(2))

    # What both modes share

    def is_here(self, cell: Cell) -> bool:
        """Tell whether a value of another executor is in this host's memory already, on the device of plain ops."""
        home: Any = cell.home
        return home.device is self.core.default_device and home.on_host and cell.value.__class__ is ARRAY

    def _place(self, op: Op, operands: list[Any], frame: FrameType) -> Device:
        """Decide the device; replace operands that are elsewhere by copies."""
        core = self.core
        inputs = [each.home.device if each.__class__ is Cell else None for each in operands]
        known = [None if where is None else core.resolve(where) for where in inputs]
        requested = None if self.device is None else core.resolve(self.device, known)
        placement = place(known, requested, core.default_device)
        if placement.copies:
            check_copies(op.name, placement, known, self.policy, lambda index: _is_int32(operands[index]))
            for index in placement.copies:
                if self.policy is DevicePolicy.WARN:
                    self._warn(op, placement, known, index, frame)
                operands[index] = self.copy(operands[index], placement.device, frame)
        if Queue.any_elsewhere:
            self._bring_strays(operands, placement.device, frame)
        return placement.device

    def _bring_strays(self, operands: list[Any], device: Device, frame: FrameType) -> None:
        """Copy the values of other executors' devices that have the same name as one of this executor's.

        Such a device is not the same one, so no policy speaks of it.
        """
        backend = self.core.devices[device]
        for index, each in enumerate(operands):
            home: Any = each.home if each.__class__ is Cell else None
            if home is not None and not home.on_host and home.backend is not backend:
                operands[index] = self.copy(each, device, frame)

    def copy(self, cell: Cell, device: Device, frame: FrameType) -> Cell:
        """Bring the cell's value to another device; a copy that still lives is used again."""
        raise NotImplementedError

    def transfer(self, handle: Handle, device: Device, frame: FrameType) -> Handle:
        """Make a handle of the value on another device, under any policy."""
        raise NotImplementedError

    def _warn(self, op: Op, placement: Placement, inputs: list[Device | None], index: int, frame: FrameType) -> None:
        call = (frame.f_code, frame.f_lasti, index)
        if call in warned:
            return
        warned.add(call)
        logger.warning(
            "before computing %r at %s %s. This triggers a copy, which can be a performance bottleneck.",
            op.name,
            site(frame.f_code, frame.f_lasti),
            describe_copy(placement, inputs, index),
        )

    def _log(self, op: Op, device: Device) -> None:
        if self.core.config.log_device_placement:
            logger.info("%s: %s", op.name, device)


warned: set[tuple[CodeType, int, int]] = set()
"""Call sites that a placement warning was given for."""


def _is_int32(operand: Cell) -> bool:
    """True if an input is of dtype int32; of an op that fails there is nothing to copy, and its error comes later."""
    try:
        return infer_cell(operand, tell=False).dtype == np.int32
    except UnknownShapeError:
        return False
    except Exception:  # noqa: BLE001 - the failure of an op is raised where a result is read, not here
        return True


def check_open(core: Core, op: Op) -> None:
    """Raise `ExecutorClosedError` unless the executor takes work."""
    if core.state is not OPEN:
        raise ExecutorClosedError(closed_message(op.name, core.state.value))


def note(op: Op, device: Device, frame: FrameType) -> str:
    """Word the note of an op that failed inline."""
    return describe_op(op.name, device, frame.f_code, frame.f_lasti)
