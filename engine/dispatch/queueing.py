"""The dispatcher of ASYNC mode: puts ops on the queue of their device and returns non-ready handles."""

from __future__ import annotations

from collections.abc import Sequence
from sys import _getframe as frame_at
from types import CodeType, FrameType
from typing import Any

import numpy as np

from engine.base.modes import DevicePolicy
from engine.base.op import Op, Params
from engine.devices.base import Device
from engine.devices.cpu import snapshot
from engine.dispatch.copies import copying_op, keep_copy, living_copy
from engine.dispatch.dispatcher import ABSENT, Dispatcher, check_open
from engine.dispatch.executor import Core
from engine.dispatch.records import handle_of, handles_of, make_record, new
from engine.failures import INTERNAL, user_frame
from engine.memory.snapshots import is_shared
from engine.queues.base import ARRAY
from engine.queues.device_queue import DeviceQueue
from engine.queues.operands import SCALARS, operand
from engine.settings.scope import DEFAULT_ERRSTATE, errstate
from handles.base import Handle
from handles.cell import PENDING, Cell, Group, pending_cell
from handles.pending import AsyncHandle

BYTES_COUNTED = 4096
"""Snapshots from this size on count against `max_pending_bytes`; smaller ones are bounded by the number of ops."""


class AsyncDispatcher(Dispatcher):
    """Queues the op and returns a non-ready handle."""

    def __init__(self, core: Core, policy: DevicePolicy, device: Device | None, group: Group | None) -> None:
        super().__init__(core, policy, device, group)
        self.queue = core.queues[core.default_device]
        self.plain = device is None and not core.config.log_device_placement
        self.look_at_hooks()

    def dispatch(self, op: Op, left: Any, right: Any = ABSENT, params: Params | None = None) -> Handle:
        queue = self.queue
        x1, x2 = left, right
        if x1.__class__ is AsyncHandle:
            x1 = x1._cell
            near = x1.home is queue or self.is_here(x1)
        else:
            near = x1.__class__ in SCALARS
            if x1.__class__ is ARRAY and self.plain and x1.nbytes < BYTES_COUNTED:
                x1, near = snapshot(x1), True
        if x2.__class__ is AsyncHandle:
            x2 = x2._cell
            near = near and (x2.home is queue or self.is_here(x2))
        elif x2.__class__ is ARRAY and near and self.plain and x2.nbytes < BYTES_COUNTED:
            x2 = snapshot(x2)
        elif x2 is not ABSENT:
            near = near and x2.__class__ in SCALARS
        if near and self.plain and op.plain and errstate() is DEFAULT_ERRSTATE:
            frame = frame_at(2)
            while INTERNAL in frame.f_globals and frame.f_back is not None:
                frame = frame.f_back
            cell = Cell()  # filled here, because a call of a function costs as much as all of this
            cell.op = op
            cell.args = (x1,) if x2 is ABSENT else (x1, x2)
            cell.params = params
            cell.home = queue
            cell.code = frame.f_code
            cell.lasti = frame.f_lasti
            cell.value = PENDING
            cell.waiters = cell.group = cell.rare = None
            pending = queue.pending
            group = self.group
            if len(pending) >= queue.room:
                self.core.make_room(queue, op.name, admitted=group is not None)
            if group is not None:
                group.admit(cell)
            tell = self.tell
            if tell is not None:
                tell(cell, cell.args)
            pending.append(cell)
            if not queue.scheduled:
                queue.schedule()
            handle = new(AsyncHandle)
            handle._cell = cell
            return handle
        return self.dispatch_any(op, (left,) if right is ABSENT else (left, right), params)

    def dispatch_any(self, op: Op, args: tuple[object, ...], params: Params | None = None) -> Handle:
        frame = user_frame(2)
        if not (self.plain and op.plain and errstate() is DEFAULT_ERRSTATE):
            return self.dispatch_slowly(op, args, params, frame)[0]
        operands, queue = self._all_on_one(args)
        if queue is None:
            return self.dispatch_slowly(op, args, params, frame)[0]
        cell = self.put(queue, op, operands, params, frame.f_code, frame.f_lasti)
        if not queue.scheduled:
            queue.schedule()
        return handle_of(cell, AsyncHandle)

    def dispatch_several(self, op: Op, args: tuple[object, ...], params: Params | None = None) -> tuple[Handle, ...]:
        frame = user_frame(2)
        if not (self.plain and op.known and errstate() is DEFAULT_ERRSTATE):
            return self.dispatch_slowly(op, args, params, frame)
        operands, queue = self._all_on_one(args)
        if queue is None:
            return self.dispatch_slowly(op, args, params, frame)
        record = make_record(op, operands, params, queue, frame.f_code, frame.f_lasti)
        handles = handles_of(record, AsyncHandle)
        self._submit(record, queue, ())
        return handles

    def dispatch_cells(self, op: Op, cells: tuple[Cell, ...]) -> tuple[AsyncHandle, ...] | None:
        """Dispatch an op of cells of one queue for the caller's caller; None where that takes more than a record."""
        queue = self.queue
        if cells[0].home is not queue or not (queue.on_host and self.plain) or errstate() is not DEFAULT_ERRSTATE:
            return None
        frame = user_frame(3)
        if op.outputs != 1:
            record = make_record(op, cells, None, queue, frame.f_code, frame.f_lasti)
            handles = handles_of(record, AsyncHandle)
            self._submit(record, queue, ())
            return handles
        cell = self.put(queue, op, cells, None, frame.f_code, frame.f_lasti)
        if not queue.scheduled:
            queue.schedule()
        return (handle_of(cell, AsyncHandle),)

    def put(
        self,
        queue: DeviceQueue,
        op: Op,
        operands: tuple[object, ...],
        params: Params | None,
        code: CodeType | None,
        lasti: int,
    ) -> Cell:
        """Put an op that needs nothing but its operands on a queue: `dispatch` has a copy of this on its fast path."""
        cell = pending_cell(op, operands, params, queue, code, lasti)
        if len(queue.pending) >= queue.room:
            self.core.make_room(queue, op.name, admitted=self.group is not None)
        if self.group is not None:
            self.group.admit(cell)
        if self.tell is not None:
            self.tell(cell, operands)
        queue.push(cell)
        return cell

    def _all_on_one(self, args: tuple[object, ...]) -> tuple[tuple[Any, ...], DeviceQueue | None]:
        """Take the cells of the operands, and their queue: the same for all handles; None where they are of several."""
        queue: Any = None
        operands = []
        for value in args:
            if value.__class__ is AsyncHandle:
                value = value._cell
                home: Any = value.home
                if queue is None and home.owner is self.core:
                    queue = home
                elif home is not queue:
                    if queue not in (None, self.queue) or not self.is_here(value):
                        return (), None
                    queue = self.queue
            elif value.__class__ is ARRAY and value.nbytes < BYTES_COUNTED:
                value = snapshot(value)
            elif value.__class__ not in SCALARS:
                return (), None
            operands.append(value)
        return tuple(operands), queue or self.queue

    def dispatch_slowly(
        self, op: Op, args: tuple[object, ...], params: Params | None, frame: FrameType
    ) -> tuple[Handle, ...]:
        check_open(self.core, op)
        operands = [operand(value, keep=True) for value in args]
        queue = self.core.queues[self._place(op, operands, frame)]
        context = not op.known or errstate() is not DEFAULT_ERRSTATE
        record = make_record(op, tuple(operands), params, queue, frame.f_code, frame.f_lasti, keeps_context=context)
        handles = handles_of(record, AsyncHandle)
        self._submit(record, queue, [each for each, given in zip(operands, args, strict=True) if each is not given])
        return handles

    def _submit(self, record: Cell, queue: DeviceQueue, made: Sequence[object]) -> None:
        """Put the record on the queue; `made` are the operands that live only for it."""
        op: Op = record.op
        if len(queue.pending) >= queue.room or self.core.flow.pending_bytes >= self.core.config.max_pending_bytes:
            self.core.make_room(queue, op.name, admitted=self.group is not None)
        copies = [each for each in made if isinstance(each, np.ndarray)]
        try:
            if sum(each.nbytes for each in copies) >= BYTES_COUNTED:
                shared = [each for each in copies if is_shared(each)]
                own = sum(each.nbytes for each in copies if not is_shared(each))
                self.core.flow.hold_bytes(record, own, shared)
            if self.group is not None:
                self.group.admit(record)
            self._log(op, queue.device)
            if self.tell is not None:
                self.tell(record, record.args)
            queue.push(record)
        except BaseException:  # an interrupt, a closed group
            self.core.flow.free_bytes(record)
            raise
        if not queue.scheduled:
            queue.schedule()

    def transfer(self, handle: Handle, device: Device, frame: FrameType) -> Handle:
        cell = operand(handle, keep=True)
        return handle_of(self.copy(cell, self.core.resolve(device, (cell.home.device,)), frame), AsyncHandle)

    def copy(self, cell: Cell, device: Device, frame: FrameType) -> Cell:
        queue = self.core.queues[device]
        # A copy made in a group is dropped with it, so no op outside may depend on it.
        copy = living_copy(cell, (queue, self.group), (queue, None))
        if copy is None:
            op, params = copying_op(cell, queue)
            copy = make_record(op, (cell,), params, queue, frame.f_code, frame.f_lasti, keeps_context=not op.known)
            keep_copy(cell, (queue, self.group), copy)
            self._submit(copy, queue, [])
        return copy
